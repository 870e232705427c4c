"""`holdfast compact` of many sessions into a folder, here or on a fleet. Loads no model library by itself.

A session whose content and options stand in the folder's log, with its output, is not compacted again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from holdfast import __version__
from holdfast.cli import console, outputs
from holdfast.errors import BadInput, BadOption, Failed, HoldfastError
from holdfast.eval.rows import append_row, read_lines
from holdfast.parallel import RayCluster, Work, run_tasks

if TYPE_CHECKING:
    from holdfast.compaction.plan import Plan
    from holdfast.engine.chat import Chat
    from holdfast.text.rewrite import TextPlan

LOG = "compacted.jsonl"
OURS = (".holdfast", ".holdfast.jsonl", LOG)
"""Ends of names of files that Holdfast writes beside sessions."""
Evidence = dict[str, Any]
Compact = Callable[["Order"], Evidence]
"""Compacts a session file into another file."""


class Compacted(BaseModel):
    """One session that was compacted: a line of the folder's log."""

    model_config = ConfigDict(extra="allow", frozen=True)

    version: str
    created: str
    file: str
    sha256: str
    """Of the session's file as it was read."""
    output: str
    """Name in the folder."""
    options: dict[str, Any]
    evidence: Evidence
    """The numbers; a .holdfast file holds all of it."""

    @property
    def key(self) -> tuple[str, str, str]:
        """What was made of what."""
        return self.file, self.sha256, json.dumps(self.options, sort_keys=True)


@dataclass(frozen=True)
class Sessions:
    """What the command was given, and where it goes."""

    given: tuple[Path, ...]
    output: Path
    lenient: bool = False
    as_json: bool = False
    fleet: RayCluster | None = None
    force: bool = False

    @property
    def many(self) -> bool:
        """Whether the output is a folder."""
        first = self.given[0]
        return bool(self.fleet) or len(self.given) > 1 or first.is_dir() or _is_pattern(first)

    def files(self) -> list[Path]:
        """Every session once, as absolute paths. Raises BadInput where something given is not there."""
        found = [path for given in self.given for path in _matching(given)]
        return list(dict.fromkeys(path.absolute() for path in found))


@dataclass(frozen=True)
class Order:
    """One session to be compacted."""

    file: Path
    output: Path
    sha256: str
    options: str
    """JSON."""
    force: bool = False
    """Whether what stands at `output` may be overwritten."""

    @property
    def key(self) -> tuple[str, str, str]:
        return str(self.file), self.sha256, self.options


def compact_latent(sessions: Sessions, plan: Plan, model: tuple[str, str, str]) -> None:
    """Compact into `.holdfast` files; every worker loads the model once."""
    from holdfast.methods.registry import build

    build(plan.latent)
    name = str(Path(model[0]).absolute()) if Path(model[0]).is_dir() else model[0]
    opened = partial(_latent, plan, (name, *model[1:]), sessions.lenient)
    _compact(sessions, ".holdfast", asdict(plan) | {"model": name, "dtype": model[1]}, opened)


def compact_text(sessions: Sessions, plan: TextPlan, chat: Chat | None) -> None:
    """Rewrite as text, each into a file of its own name and format."""
    from holdfast.methods.registry import build_text

    build_text(plan.method)
    options = asdict(plan) | {"compactor": chat.name if chat else ""}
    _compact(sessions, "", options, partial(_text, plan, chat, sessions.lenient))


def _latent(plan: Plan, model: tuple[str, str, str], lenient: bool) -> Work[Order, Compacted | str]:
    from holdfast.compaction.compact import compact
    from holdfast.transcript.read import read

    engine = console.engine(*model)

    def one(order: Order) -> Evidence:
        context = compact(read(order.file, lenient=lenient), engine, plan)
        outputs.save_context(context, order.output, engine, order.force)
        lost = [atoms["lost"] for atoms in context.evidence.get("gate", {}).get("atoms", {}).values()]
        return {**context.evidence, "lost": sum(lost)}

    return partial(_done, one)


def _text(plan: TextPlan, chat: Chat | None, lenient: bool) -> Work[Order, Compacted | str]:
    from holdfast.cli.compact_text import evidence
    from holdfast.text.file_log import compact_file

    def one(order: Order) -> Evidence:
        made = compact_file(order.file, plan, order.output, chat, lenient=lenient, force=order.force).rewritten
        return {**evidence(made), "lost": made.report.total("lost") if made.report else 0}

    return partial(_done, one)


def _done(compact: Compact, order: Order) -> Iterator[Compacted | str]:
    """The line for one session, or why there is none."""
    try:
        outputs.check_output(order.output, order.file, force=order.force)
        evidence = compact(order)
    except HoldfastError as error:
        yield str(error)
        return
    yield Compacted(
        version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        file=str(order.file),
        sha256=order.sha256,
        output=order.output.name,
        options=json.loads(order.options),
        evidence={name: value for name, value in evidence.items() if isinstance(value, int | float | str)},
    )


def _compact(
    sessions: Sessions, suffix: str, options: dict[str, Any], opened: Callable[[], Work[Order, Compacted | str]]
) -> None:
    """Compact what is missing, then tell. Raises Failed at the end where sessions were left out."""
    folder = _folder(sessions.output)
    told = json.dumps(options, sort_keys=True, default=str)
    orders = _orders(sessions.files(), folder, suffix, told)
    missing = [_forced(order, sessions.force) for order in _missing(orders, folder)]
    failed: dict[str, str] = {}
    with console.progress() as report, closing(run_tasks(missing, opened, sessions.fleet)) as everything:
        for number, done in enumerate(everything):
            report("session", number, len(missing), done.task.file.name)
            for made in (done.trouble,) if done.trouble else done.results:
                if isinstance(made, Compacted):
                    append_row(folder / LOG, made)
                else:
                    failed[str(done.task.file)] = made
                    console.say(f"{done.task.file.name}: left out: {made}")
    facts = {"output": str(folder), "sessions": len(orders), "before": len(orders) - len(missing), "failed": failed}
    facts["written"] = len(missing) - len(failed)
    if sessions.as_json:
        console.emit(facts)
    else:
        console.line(
            f"{facts['written']} of {len(orders)} sessions compacted into {folder}, {facts['before']} were done before"
        )
    if failed:
        raise Failed(f"{len(failed)} of {len(orders)} sessions were left out; the same command tries them again")


def _orders(files: Sequence[Path], folder: Path, suffix: str, options: str) -> list[Order]:
    """Raise BadOption where two sessions, or a session and its output, would be one file."""
    sources: dict[Path, Path] = {}
    for file in files:
        output = folder / (file.name + suffix)
        if output in sources:
            raise BadOption(f"{sources[output]} and {file} would both become {output}; give each its own -o FOLDER")
        if output.exists() and any(output.samefile(given) for given in files if given.name == output.name):
            raise BadOption(f"{output} is an input; give another folder for the output")
        sources[output] = file
    return [Order(file, output, _sha256(file), options) for output, file in sources.items()]


def _missing(orders: Sequence[Order], folder: Path) -> list[Order]:
    log = folder / LOG
    lines = read_lines(log, Compacted, "", console.say) if log.exists() and b"\n" in log.read_bytes() else []
    newest = {line.output: line.key for line in lines}  # the same output may have been made with other options since
    return [order for order in orders if newest.get(order.output.name) != order.key or not order.output.is_file()]


def _forced(order: Order, force: bool) -> Order:
    """The order, which may overwrite what Holdfast made itself: an older output, or that of a run that was killed."""
    from holdfast.text.file_log import log_path

    return replace(order, force=force or order.output.name.endswith(OURS) or log_path(order.output).exists())


def _folder(output: Path) -> Path:
    """Made where it is missing. Raises BadOption for what cannot be a folder."""
    if (output.exists() and not output.is_dir()) or not output.absolute().parent.is_dir():
        raise BadOption(f"{output}: many sessions need a folder for the output, in a folder that exists")
    output.mkdir(exist_ok=True)
    return output.absolute()


def _matching(given: Path) -> list[Path]:
    if given.is_dir():
        found = sorted(path for path in given.iterdir() if path.is_file())
    elif _is_pattern(given):
        root = Path(given.anchor)
        found = sorted(path for path in root.glob(str(given.relative_to(root))) if path.is_file())
    else:
        found = [given] if given.is_file() else []
    found = [path for path in found if not path.name.startswith(".") and not path.name.endswith(OURS)]
    if not found:
        raise BadInput(
            f"{given}: no sessions there; give files, a folder of files, or a pattern such as 'logs/*.jsonl'"
        )
    return found


def _is_pattern(given: Path) -> bool:
    return not given.exists() and any(sign in str(given) for sign in "*?[")


def _sha256(file: Path) -> str:
    """Empty for a file that cannot be read, which whoever compacts it will tell."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return ""
