"""Compacts many sessions into one folder, here or on a cluster; an interrupted run goes on where it stopped.

The folder's log (`compacted.jsonl`) holds a line for each session that is done. A session whose content and options
stand there, with its output, is not compacted again. Loads no model library by itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from holdfast import __version__, outputs
from holdfast.errors import BadInput, BadOption, HoldfastError, NotASession
from holdfast.parallel import RayCluster, Work, run_tasks
from holdfast.storage.json_lines import append_line, read_lines

if TYPE_CHECKING:
    from holdfast.compaction.plan import Plan
    from holdfast.engine.chat import Chat
    from holdfast.engine.local import LocalEngine
    from holdfast.text.rewrite import Rewritten, TextPlan

LOG = "compacted.jsonl"
OWN_SUFFIXES = (".holdfast", ".holdfast.jsonl", LOG)
"""Ends of names of files that Holdfast writes beside sessions."""
Evidence = dict[str, Any]
CompactFile = Callable[["Order"], Evidence]
"""Compacts a session file into another file."""


class BatchEntry(BaseModel):
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
        """The session, its content and the options."""
        return self.file, self.sha256, json.dumps(self.options, sort_keys=True)


@dataclass(frozen=True)
class Batch:
    """Sessions that go into one folder, and who is told about it."""

    files: tuple[Path, ...]
    """Absolute, as `find_sessions` returns them."""
    output: Path
    """A folder; it is created in a folder that exists."""
    named: frozenset[Path] = frozenset()
    """Those of `files` that must be sessions; of the others, what is no session is skipped."""
    lenient: bool = False
    force: bool = False
    """Overwrite also outputs that Holdfast did not make."""
    cluster: RayCluster | None = None
    """A Ray cluster; None stays in this process."""
    progress: Callable[[str, int, int, str], None] = lambda *_: None
    """Called with the kind of work, how many are done, how many there are, and a note."""
    note: Callable[[str], object] = lambda _: None
    """Called with a line for each session that is left out."""


@dataclass(frozen=True)
class BatchResult:
    """Numbers of sessions of one run, and the reasons for those that were left out."""

    output: Path
    sessions: int
    before: int
    """Sessions that an earlier run had compacted."""
    failed: dict[str, str]
    """Reasons by file."""
    written: int
    skipped: dict[str, str]
    """Reasons by file, for files of a folder or pattern that are no sessions."""


@dataclass(frozen=True)
class Refusal:
    """The reason for which a session was not compacted."""

    reason: str
    not_a_session: bool = False


@dataclass(frozen=True)
class Order:
    """One session to be compacted."""

    file: Path
    output: Path
    sha256: str
    options: str
    """JSON."""
    force: bool = False
    """Overwrite what stands at `output`."""

    @property
    def key(self) -> tuple[str, str, str]:
        """Equals the key of the entry that the order becomes."""
        return str(self.file), self.sha256, self.options


def find_sessions(given: Iterable[Path]) -> list[Path]:
    """Returns every session of files, folders and patterns once, as absolute paths.

    Raises BadInput if one of them matches nothing.
    """
    return list(dict.fromkeys(path.absolute() for one in given for path in _match(one)))


def is_pattern(given: Path) -> bool:
    """Returns True for a pattern such as `logs/*.jsonl`; a file of that very name is none."""
    return not given.exists() and any(sign in str(given) for sign in "*?[")


def compact_latent(batch: Batch, plan: Plan, load: Callable[[], LocalEngine], model: dict[str, str]) -> BatchResult:
    """Compacts into `.holdfast` files. Every worker loads the model once, with `load`; `model` names it in the log."""
    from holdfast.methods.registry import build

    build(plan.latent)
    return _run(batch, ".holdfast", asdict(plan) | model, partial(_prepare_latent, plan, load, batch.lenient))


def compact_text(batch: Batch, plan: TextPlan, chat: Chat | None = None) -> BatchResult:
    """Rewrites as text, each session into a file of its own name and format; `chat` is the model that summarizes."""
    from holdfast.methods.registry import build_text

    build_text(plan.method)
    options = asdict(plan) | {"compactor": chat.name if chat else ""}
    return _run(batch, "", options, partial(_prepare_text, plan, chat, batch.lenient))


def rewrite_evidence(rewritten: Rewritten) -> Evidence:
    """Returns what a rewrite did, as JSON: its method, sizes, seconds and, with a gate, every loss."""
    return {
        "method": rewritten.method,
        "tokens_before": rewritten.tokens_before,
        "tokens": rewritten.tokens,
        "budget": rewritten.budget,
        "seconds": round(rewritten.seconds, 3),
        "turns_before": len(rewritten.draft.raw.turns),
        "turns": len(rewritten.draft.pieces),
        "tokens_of_compactor": sum(reply.tokens_in + reply.tokens_out for reply in rewritten.replies),
        "notes": list(rewritten.notes),
        **({"gate": rewritten.report.as_evidence()} if rewritten.report else {}),
    }


def _prepare_latent(plan: Plan, load: Callable[[], LocalEngine], lenient: bool) -> Work[Order, BatchEntry | Refusal]:
    from holdfast.compaction.compact import compact
    from holdfast.transcript.read import read

    engine = load()

    def compact_one(order: Order) -> Evidence:
        context = compact(read(order.file, lenient=lenient), engine, plan)
        outputs.save_context(context, order.output, engine, order.force)
        lost = [atoms["lost"] for atoms in context.evidence.get("gate", {}).get("atoms", {}).values()]
        return {**context.evidence, "lost": sum(lost)}

    return partial(_execute, compact_one)


def _prepare_text(plan: TextPlan, chat: Chat | None, lenient: bool) -> Work[Order, BatchEntry | Refusal]:
    from holdfast.text.file_log import compact_file

    def compact_one(order: Order) -> Evidence:
        compaction = compact_file(order.file, plan, order.output, chat, lenient=lenient, force=order.force)
        rewritten = compaction.rewritten
        return {**rewrite_evidence(rewritten), "lost": rewritten.report.total("lost") if rewritten.report else 0}

    return partial(_execute, compact_one)


def _execute(compact_one: CompactFile, order: Order) -> Iterator[BatchEntry | Refusal]:
    """Yields the entry for one session, or the reason for there being none."""
    try:
        outputs.check_output(order.output, order.file, force=order.force)
        evidence = compact_one(order)
    except HoldfastError as error:
        yield Refusal(str(error), isinstance(error, NotASession))
        return
    yield BatchEntry(
        version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        file=str(order.file),
        sha256=order.sha256,
        output=order.output.name,
        options=json.loads(order.options),
        evidence={name: value for name, value in evidence.items() if isinstance(value, int | float | str)},
    )


def _run(
    batch: Batch, suffix: str, options: dict[str, Any], prepare: Callable[[], Work[Order, BatchEntry | Refusal]]
) -> BatchResult:
    folder = _create_folder(batch.output)
    orders = _orders(batch.files, folder, suffix, json.dumps(options, sort_keys=True, default=str))
    missing = [_allow_overwrite(order, batch.force) for order in _missing(orders, folder, batch.note)]
    failed: dict[str, str] = {}
    skipped: dict[str, str] = {}
    with closing(run_tasks(missing, prepare, batch.cluster)) as everything:
        for number, done in enumerate(everything):
            file = done.task.file
            batch.progress("session", number, len(missing), file.name)
            for result in (Refusal(done.failure),) if done.failure else done.results:
                if isinstance(result, BatchEntry):
                    append_line(folder / LOG, result)
                elif result.not_a_session and file not in batch.named:
                    skipped[str(file)] = result.reason
                    batch.note(f"{file.name}: skipped, no session")
                else:
                    failed[str(file)] = result.reason
                    batch.note(f"{file.name}: left out: {result.reason}")
    written = len(missing) - len(failed) - len(skipped)
    before = len(orders) - len(missing)
    return BatchResult(folder, len(orders) - len(skipped), before, failed, written, skipped)


def _orders(files: Sequence[Path], folder: Path, suffix: str, options: str) -> list[Order]:
    """Returns an order for each file. Raises BadOption if two sessions, or a session and an output, would be one file.

    The content of a file that cannot be read counts as empty; whoever compacts it will say so.
    """
    sources: dict[Path, Path] = {}
    for file in files:
        output = folder / (file.name + suffix)
        if output in sources:
            raise BadOption(f"{sources[output]} and {file} would both become {output}; give each its own -o FOLDER")
        if output.exists() and any(output.samefile(given) for given in files if given.name == output.name):
            raise BadOption(f"{output} is an input; give another folder for the output")
        sources[output] = file
    return [Order(file, output, _sha256(file), options) for output, file in sources.items()]


def _missing(orders: Sequence[Order], folder: Path, note: Callable[[str], object]) -> list[Order]:
    log = folder / LOG
    entries = read_lines(log, BatchEntry, note) if log.exists() else []
    newest = {entry.output: entry.key for entry in entries}  # an output may be of other options since
    return [order for order in orders if newest.get(order.output.name) != order.key or not order.output.is_file()]


def _allow_overwrite(order: Order, force: bool) -> Order:
    """Lets an order overwrite what Holdfast made itself: an older output, or that of a run that was killed."""
    from holdfast.text.file_log import log_path

    own = order.output.name.endswith(OWN_SUFFIXES) or log_path(order.output).exists()
    return replace(order, force=force or own)


def _create_folder(output: Path) -> Path:
    """Creates the folder if it is missing. Raises BadOption for what cannot be a folder."""
    if (output.exists() and not output.is_dir()) or not output.absolute().parent.is_dir():
        raise BadOption(f"{output}: many sessions need a folder for the output, in a folder that exists")
    output.mkdir(exist_ok=True)
    return output.absolute()


def _match(given: Path) -> list[Path]:
    if given.is_dir():
        paths = sorted(path for path in given.iterdir() if path.is_file())
    elif is_pattern(given):
        root = Path(given.anchor)
        paths = sorted(path for path in root.glob(str(given.relative_to(root))) if path.is_file())
    else:
        paths = [given] if given.is_file() else []
    paths = [path for path in paths if not path.name.startswith(".") and not path.name.endswith(OWN_SUFFIXES)]
    if not paths:
        raise BadInput(
            f"{given}: no sessions there; give files, a folder of files, or a pattern such as 'logs/*.jsonl'"
        )
    return paths


def _sha256(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return ""
