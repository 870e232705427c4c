"""`holdfast compact`: one session or many, inside a model or as text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast import outputs
from holdfast.cli import console
from holdfast.cli.evidence import count_from_one, print_evidence, print_rewrite
from holdfast.cli.options import (
    DEFAULT_METHOD,
    DEFAULT_MODEL,
    DEFAULT_PINS,
    DEFAULT_RATIO,
    TASK_SECONDS,
    AsJson,
    Config,
    Device,
    Dtype,
    ForceInPlace,
    Model,
    OneOf,
    Ray,
    RayAddress,
    TaskTimeout,
    Verbatim,
    check_ratio,
    ray_cluster,
    read_kinds,
    read_share,
)
from holdfast.errors import BadOption, Failed

if TYPE_CHECKING:
    from holdfast.batch import Batch, BatchResult
    from holdfast.compaction.forecast import Forecast
    from holdfast.compaction.plan import Plan
    from holdfast.engine.routing import RoutedChat
    from holdfast.parallel import RayCluster
    from holdfast.text.rewrite import Rewritten, TextPlan

DEFAULT_KEEP_RECENT = 3  # with --text


@dataclass(frozen=True)
class Sessions:
    """The sessions that the command was given, and the place of the output."""

    given: tuple[Path, ...]
    output: Path
    lenient: bool = False
    session: int = 0
    """The number of the session in a file of several, from 1."""
    as_json: bool = False
    cluster: RayCluster | None = None
    force: bool = False

    @property
    def many(self) -> bool:
        """True if the output is a folder."""
        from holdfast.batch import is_pattern
        from holdfast.transcript.sources import is_event_folder

        first = self.given[0]
        folder = first.is_dir() and not is_event_folder(first)
        return bool(self.cluster) or len(self.given) > 1 or folder or is_pattern(first)


def compact(
    files: Annotated[list[Path], typer.Argument(help="The session; or several, a folder or a pattern of them.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Where the context goes, e.g. out.holdfast; a folder for several.")
    ],
    latent: Annotated[
        str | None,
        typer.Option(
            help="NAME or NAME:key=value,… (see `holdfast methods`); NAME+gate:key=value,… sets the gate.",
            show_default=DEFAULT_METHOD,
        ),
    ] = None,
    text: Annotated[str | None, typer.Option(help="Instead: rewrite the session as text by this method.")] = None,
    ratio: Annotated[
        float | None, typer.Option(help="Tokens per slot of what is compacted.", show_default=f"{DEFAULT_RATIO:g}")
    ] = None,
    keep_recent: Annotated[
        int | None, typer.Option(help="Newest exchanges that stay verbatim.", show_default="1, with --text 3")
    ] = None,
    window: Annotated[int | None, typer.Option(help="Use only the newest so many tokens of the session.")] = None,
    pin: Annotated[str, typer.Option(help="Kinds of block that stay verbatim: KIND,KIND,… or none.")] = DEFAULT_PINS,
    verbatim: Verbatim = "model",
    by_turn: Annotated[bool | None, typer.Option("--by-turn/--at-once", help="Default: what the method does.")] = None,
    budget: Annotated[
        int | None, typer.Option(help="Slots of the context (tokens with --text), all included; instead of --ratio.")
    ] = None,
    gate: Annotated[bool, typer.Option("--gate/--no-gate", help="Measure what was lost, and repair it.")] = True,
    allow_over: Annotated[str, typer.Option(help="Room for repair beyond the budget, e.g. 10%.")] = "0%",
    strict: Annotated[bool, typer.Option("--strict", help="Fail where a fact would still be lost.")] = False,
    lenient: Annotated[bool, typer.Option("--lenient", help="Skip malformed lines instead of failing.")] = False,
    session: OneOf = 0,
    config: Config = None,
    model: Model = DEFAULT_MODEL,
    dtype: Dtype = "auto",
    device: Device = "cpu",
    ray: Ray = False,
    ray_address: RayAddress = "",
    task_timeout: TaskTimeout = TASK_SECONDS,
    force: ForceInPlace = False,
    as_json: AsJson = False,
) -> None:
    """Compacts sessions into .holdfast files, or with --text into session files of their own format."""
    over = _check_budget(ratio, budget, gate, strict, allow_over)
    cluster = ray_cluster(ray, ray_address, task_timeout, "cpu" if text else device)
    sessions = Sessions(tuple(files), output, lenient, session, as_json, cluster, force)
    if text is not None:
        defaults = {"pin": DEFAULT_PINS, "verbatim": "model", "model": DEFAULT_MODEL, "dtype": "auto", "device": "cpu"}
        given = {"pin": pin, "verbatim": verbatim, "model": model, "dtype": dtype, "device": device}
        changed = {name: value for name, value in given.items() if value != defaults[name]}
        _refuse_latent_options(latent=latent, window=window, by_turn=by_turn, **changed)
        _compact_text(sessions, _text_plan(text, budget, ratio, keep_recent, (gate, strict, over)), config)
        return
    if config:
        raise BadOption("--config names the models that --text asks; leave it out, or give --text")
    from holdfast.compaction.plan import Plan, Policy
    from holdfast.gate.latent.gate import Gate, split_gate_spec

    per_slot = check_ratio(DEFAULT_RATIO if ratio is None else ratio)
    recent = 1 if keep_recent is None else keep_recent
    policy = Policy(read_kinds(pin), recent, window, verbatim)
    method, told = split_gate_spec(latent or DEFAULT_METHOD)
    if told and not gate:
        raise BadOption(f"--no-gate and the gate of --latent {latent} exclude each other; leave one of them out")
    told = told or Gate()
    checks = replace(told, strict=strict or told.strict, allow_over=over or told.allow_over) if gate else None
    plan = Plan(method, per_slot, by_turn, policy, checks, budget)
    _compact_latent(sessions, plan, (model, dtype, device))


def _check_budget(ratio: float | None, budget: int | None, gate: bool, strict: bool, allow_over: str) -> float:
    """Returns how far the gate may exceed the budget. Raises BadOption for options that exclude each other."""
    if ratio is not None and budget is not None:
        raise BadOption("give either --ratio or --budget")
    over = read_share(allow_over)
    if not gate and (strict or over):
        raise BadOption("--strict and --allow-over are of the gate; leave out --no-gate")
    return over


def _refuse_latent_options(**given: object) -> None:
    """Raises BadOption for an option that a text method has no use for."""
    for name, value in given.items():
        if value is not None:
            raise BadOption(f"--{name.replace('_', '-')} is not for --text; leave one of them out")


def _text_plan(
    method: str, budget: int | None, ratio: float | None, keep_recent: int | None, gate: tuple[bool, bool, float]
) -> TextPlan:
    """Returns the plan of the options; `gate` is whether it is on, whether it is strict, and its room."""
    from holdfast.text.rewrite import TextPlan

    if budget is None and ratio is None:
        raise BadOption("--text needs --budget in tokens or --ratio, e.g. --ratio 5")
    recent = DEFAULT_KEEP_RECENT if keep_recent is None else keep_recent
    return TextPlan(method, budget, ratio, recent, *gate)


def _compact_text(sessions: Sessions, plan: TextPlan, config: Path | None) -> None:
    """Rewrites a session file, into another or in place; `undo` takes it back."""
    from holdfast.batch import compact_text, rewrite_evidence
    from holdfast.methods.registry import build_text
    from holdfast.text.file_log import compact_file

    build_text(plan.method)
    if sessions.many:
        chat = compactor_for(plan.method, config)
        _run_batch(sessions, lambda batch: compact_text(batch, plan, chat))
        return
    (file,), output = sessions.given, sessions.output
    in_place = output.resolve() == file.resolve()  # another name of the file would not be written
    if not in_place:
        outputs.check_output(output, file, force=sessions.force)
    chat = compactor_for(plan.method, config)
    target = None if in_place else output
    if plan.gate:
        plan = replace(plan, lookup=lookup_in_file(output))
    with console.progress(f"compacting {file.name}") as report:
        result = compact_file(
            file,
            plan,
            target,
            chat,
            session=sessions.session,
            lenient=sessions.lenient,
            force=sessions.force,
            progress=report,
        )
    rewritten = result.rewritten
    if sessions.as_json:
        cost = _cost(chat, rewritten)
        console.emit({"output": str(output), **rewrite_evidence(rewritten), "usd_of_compactor": cost})
        return
    print_rewrite(rewritten)
    if in_place and result.event is None:
        console.line(f"{output} stays as it is: it fits")
        return
    console.line(f"{output} written; see it: holdfast diff {output}; take it back: holdfast undo {output}")
    console.line(
        f"  old turns, word for word: holdfast expand {output} TURN; for the agent to search: holdfast mcp {output}"
    )


def lookup_in_file(path: Path) -> str:
    """Returns the words in a compacted session that say how a turn of it is read in full."""
    return f"Turn N in full: `holdfast expand FILE N`; to search: `holdfast mcp FILE`; FILE is {path.name}"


def compactor_for(method: str, config: Path | None) -> RoutedChat | None:
    """Returns the model of holdfast.toml that the method asks, or None for a method that asks none."""
    from holdfast.facts.notes import NOTES_WRITER as SUMMARY

    if method.partition(":")[0] != SUMMARY:
        return None
    from holdfast.engine.routing import Task, chat_for_task

    return chat_for_task(Task.COMPACTOR, config)


def _cost(chat: RoutedChat | None, rewritten: Rewritten) -> float | None:
    """Returns the USD that the compactor's answers cost, or None if its prices are not known."""
    if not chat or not rewritten.replies:
        return 0.0
    from holdfast.cost.prices import route_prices
    from holdfast.cost.usage import Usage

    try:
        prices = route_prices(chat.route)
    except (BadOption, Failed):  # an own endpoint's model, or no price library: the tokens are printed all the same
        return None
    return sum(prices.money(Usage(input=one.tokens_in, output=one.tokens_out)) for one in rewritten.replies)


def _compact_latent(sessions: Sessions, plan: Plan, model: tuple[str, str, str]) -> None:
    from holdfast.batch import compact_latent
    from holdfast.compaction.compact import compact as compact_session
    from holdfast.compaction.forecast import forecast
    from holdfast.methods.registry import build
    from holdfast.transcript.read import read

    build(plan.latent)
    if sessions.many:
        from holdfast.model.dtype import choose_dtype

        name = str(Path(model[0]).absolute()) if Path(model[0]).exists() else model[0]
        dtype = choose_dtype(model[1], model[2])  # here, so that every worker computes in the same
        load = partial(console.engine, name, dtype, model[2])
        _run_batch(sessions, lambda batch: compact_latent(batch, plan, load, {"model": name, "dtype": dtype}))
        return
    (file,), output = sessions.given, sessions.output
    outputs.check_output(output, file, force=sessions.force)
    transcript = read(file, lenient=sessions.lenient, session=sessions.session)
    engine = console.engine(*model)
    _announce(forecast(transcript, engine, plan), file)
    with console.progress(f"compacting {file.name}") as report:
        context = compact_session(transcript, engine, plan, report)
        outputs.save_context(context, output, engine, sessions.force, report)
    if sessions.as_json:
        console.emit({"output": str(output), **count_from_one(context.evidence), "recipe": context.recipe})
        return
    print_evidence(context.evidence)
    console.line(f'{output} written; ask it: holdfast ask {output} "…"')


def _announce(expected: Forecast, file: Path) -> None:
    """Says, before a compaction begins, what is in it, what is not and what to do about it, and how long it takes."""
    least, most = expected.seconds
    console.say(
        f"{expected.session:,} tokens: {expected.compacted:,} are compacted, {expected.verbatim:,} stay word for word, "
        f"{expected.left_out:,} are left out; about {least:,.0f} to {most:,.0f} s on this machine"
    )
    if expected.left_out:
        console.say(
            f"{expected.left_out:,} tokens are older than --window: take a larger one (this model reads "
            f"{expected.longest:,}), or rewrite the whole session as text: "
            f"holdfast compact {file} --text tiered --ratio 8 -o OUTPUT"
        )


def _run_batch(sessions: Sessions, run: Callable[[Batch], BatchResult]) -> None:
    """Compacts many sessions and prints how many. Raises Failed at the end if sessions were left out."""
    from holdfast.batch import Batch, find_sessions

    with console.progress("compacting") as report:
        files = tuple(find_sessions(sessions.given))
        named = frozenset(path.absolute() for path in sessions.given if path.is_file())
        batch = Batch(files, sessions.output, named, sessions.lenient, sessions.force, sessions.cluster)
        result = run(replace(batch, progress=report, note=console.say))
    if sessions.as_json:
        console.emit(asdict(result) | {"output": str(result.output)})
    else:
        console.line(
            f"{result.written} of {result.sessions} sessions compacted into {result.output}, "
            f"{result.before} were done before"
        )
    if result.failed:
        raise Failed(
            f"{len(result.failed)} of {result.sessions} sessions were left out; the same command tries them again"
        )
