"""The command that compacts, and how evidence is told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli import console, outputs, ray_options
from holdfast.cli.console import AsJson, Config, Device, Dtype, Model

if TYPE_CHECKING:
    from holdfast.cli.compact_many import Sessions
    from holdfast.compaction.plan import Plan
    from holdfast.text.rewrite import TextPlan

DEFAULT_MODEL = "smollm2-135m"
DEFAULT_METHOD = "informed"
DEFAULT_PINS = "system,task,user"
DEFAULT_RATIO = 8.0
SHOWN = 8  # losses that are told without being asked for


def add_to(app: typer.Typer) -> None:
    """Register the commands of this file."""
    for command in (compact, calibrate):
        app.command()(command)


def compact(
    files: Annotated[list[Path], typer.Argument(help="The session; or several, a folder or a pattern of them.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Where the context goes, e.g. out.holdfast; a folder for several.")
    ],
    latent: Annotated[
        str | None, typer.Option(help="NAME or NAME:key=value,… (see `holdfast methods`).", show_default=DEFAULT_METHOD)
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
    by_turn: Annotated[bool | None, typer.Option("--by-turn/--at-once", help="Default: what the method does.")] = None,
    budget: Annotated[
        int | None, typer.Option(help="Slots of the context (tokens with --text), all included; instead of --ratio.")
    ] = None,
    gate: Annotated[bool, typer.Option("--gate/--no-gate", help="Measure what was lost, and repair it.")] = True,
    allow_over: Annotated[str, typer.Option(help="Room for repair beyond the budget, e.g. 10%.")] = "0%",
    strict: Annotated[bool, typer.Option("--strict", help="Fail where a fact would still be lost.")] = False,
    lenient: Annotated[bool, typer.Option("--lenient", help="Skip malformed lines instead of failing.")] = False,
    config: Config = None,
    model: Model = DEFAULT_MODEL,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    ray: ray_options.Ray = False,
    ray_address: ray_options.Address = "",
    task_timeout: ray_options.Timeout = ray_options.SECONDS,
    force: outputs.ForceInPlace = False,
    as_json: AsJson = False,
) -> None:
    """Compact sessions into .holdfast files, or with --text into session files of their own format."""
    from holdfast.cli.compact_many import Sessions

    over = _checked(ratio, budget, gate, strict, allow_over)
    workers = ray_options.of(ray, ray_address, task_timeout, "cpu" if text else device)
    sessions = Sessions(tuple(files), output, lenient, as_json, workers, force)
    if text is not None:
        from holdfast.cli.compact_text import plan_of

        defaults = {"pin": DEFAULT_PINS, "model": DEFAULT_MODEL, "dtype": "float32", "device": "cpu"}
        given = {"pin": pin, "model": model, "dtype": dtype, "device": device}
        changed = {name: value for name, value in given.items() if value != defaults[name]}
        _refuse_latent_options(latent=latent, window=window, by_turn=by_turn, **changed)
        _compact_text(sessions, plan_of(text, budget, ratio, keep_recent, (gate, strict, over)), config)
        return
    _refuse_config(config)
    from holdfast.compaction.plan import Plan, Policy
    from holdfast.gate.latent.gate import Gate

    asked = console.checked_ratio(DEFAULT_RATIO if ratio is None else ratio)
    policy = Policy(console.kinds(pin), keep_recent=1 if keep_recent is None else keep_recent, window=window)
    checks = Gate(allow_over=over, strict=strict) if gate else None
    into = Plan(latent or DEFAULT_METHOD, asked, by_turn, policy, checks, budget)
    _compact_latent(sessions, into, (model, dtype, device))


def _checked(ratio: float | None, budget: int | None, gate: bool, strict: bool, allow_over: str) -> float:
    """How far the gate may go over the budget. Raises BadOption for options that exclude each other."""
    from holdfast.errors import BadOption

    if ratio is not None and budget is not None:
        raise BadOption("give either --ratio or --budget")
    over = console.share(allow_over)
    if not gate and (strict or over):
        raise BadOption("--strict and --allow-over are of the gate; leave out --no-gate")
    return over


def _refuse_config(config: Path | None) -> None:
    from holdfast.errors import BadOption

    if config:
        raise BadOption("--config names the models that --text asks; leave it out, or give --text")


def _refuse_latent_options(**given: object) -> None:
    """Raise BadOption for an option that a text method has no use for."""
    from holdfast.errors import BadOption

    for name, value in given.items():
        if value is not None:
            raise BadOption(f"--{name.replace('_', '-')} is not for --text; leave one of them out")


def _compact_text(sessions: Sessions, plan: TextPlan, config: Path | None) -> None:
    from holdfast.cli import compact_many, compact_text

    if sessions.many:
        compact_many.compact_text(sessions, plan, compact_text.chat_of(plan.method, config))
        return
    (file,) = sessions.given
    compact_text.compact_text(
        compact_text.Job(file, sessions.output, plan, sessions.lenient, sessions.as_json, config, sessions.force)
    )


def _compact_latent(sessions: Sessions, plan: Plan, model: tuple[str, str, str]) -> None:
    from holdfast.cli import compact_many
    from holdfast.compaction.compact import compact as compact_session
    from holdfast.methods.registry import build
    from holdfast.transcript.read import read as read_transcript

    if sessions.many:
        compact_many.compact_latent(sessions, plan, model)
        return
    (file,), output = sessions.given, sessions.output
    build(plan.latent)
    outputs.check_output(output, file, force=sessions.force)
    transcript = read_transcript(file, lenient=sessions.lenient)
    engine = console.engine(*model)
    with console.progress() as report:
        context = compact_session(transcript, engine, plan, report)
    outputs.save_context(context, output, engine, sessions.force)
    if sessions.as_json:
        console.emit({"output": str(output), **context.evidence, "recipe": context.recipe})
        return
    print_evidence(context.evidence)
    console.line(f'{output} written; ask it: holdfast ask {output} "…"')


def calibrate(
    sessions: Annotated[list[Path], typer.Argument(help="Sessions like those that will be compacted.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Default: where the model's are looked for.")
    ] = None,
    latent: Annotated[str, typer.Option(help="Method whose scores say what a head deserves.")] = DEFAULT_METHOD,
    window: Annotated[int, typer.Option(help="Tokens of a window.")] = 2048,
    limit: Annotated[int, typer.Option(help="Most windows to read.")] = 8,
    model: Model = DEFAULT_MODEL,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    force: outputs.Force = False,
    as_json: AsJson = False,
) -> None:
    """Learn which share of the budget each head of a model deserves (for allocation=learned)."""
    from holdfast.compaction.calibrate import calibrate as learn
    from holdfast.context.allocation import save_shares, shares_json
    from holdfast.methods.eviction import shares_path
    from holdfast.methods.registry import build
    from holdfast.transcript.read import read as read_transcript

    build(latent)
    if output:
        outputs.check_output(output, *sessions, force=force)
    transcripts = [read_transcript(path) for path in sessions]
    engine = console.engine(model, dtype, device)
    with console.progress() as report:
        shares = learn(transcripts, engine, latent, window, limit, report)
    path = output or shares_path("", engine)
    if output:
        outputs.write_output(output, shares_json(engine.model.digest, shares), force)
    else:
        save_shares(path, engine.model.digest, shares)
    flat = sorted((x for row in shares.values() for x in row), reverse=True)
    facts = {"output": str(path), "heads": len(flat), "largest_over_mean": flat[0] * len(flat)}
    facts["top_tenth_holds"] = sum(flat[: max(1, len(flat) // 10)])
    if as_json:
        console.emit(facts)
        return
    console.line(
        f"{path}: {len(flat)} heads; the largest gets {facts['largest_over_mean']:.1f} times the mean, the top tenth "
        f"{facts['top_tenth_holds']:.0%} of all; use it: --latent snapkv:allocation=learned"
    )


def print_evidence(evidence: Mapping[str, Any]) -> None:
    """What a context holds and what it lost, in a few lines."""
    try:
        full, held = evidence["bytes_full"], evidence["bytes"]
        console.line(
            f"  {evidence['tokens']:,} tokens, {evidence['tokens_compacted']:,} of them compacted; "
            f"KV {full / 1e6:.1f} MB -> {held / 1e6:.1f} MB ({full / max(held, 1):.1f}x smaller in real bytes); "
            f"compaction {evidence['seconds_compact']:.1f} s"
        )
    except (KeyError, TypeError, ValueError):  # a context that was made in Python says what its maker wrote
        console.line(f"  evidence  {dict(evidence)}")
    if evidence.get("tokens_left_out"):
        console.say(f"{evidence['tokens_left_out']} older tokens are outside the window and were left out")
    if gate := evidence.get("gate"):
        try:
            _print_gate(gate)
        except (KeyError, TypeError, ValueError, AttributeError):  # so may this part of it
            console.line(f"  gate      {gate}")


def _print_gate(gate: Mapping[str, Any]) -> None:
    atoms = gate["atoms"].values()
    found, lost, repaired = (sum(counts[what] for counts in atoms) for what in ("found", "lost", "repaired"))
    console.line(
        f"  gate      {found} facts found, {found - lost - repaired} kept, {repaired} repaired, {lost} lost; "
        f"{gate['tokens_lost']} of {gate['tokens']} tokens lost ({gate['seconds']:.1f} s)"
    )
    for loss in sorted(gate["lost"], key=lambda x: -x["nats"])[:SHOWN]:
        text = loss["text"] if len(loss["text"]) <= 60 else loss["text"][:57] + "…"
        console.line(f"    lost    {loss['kind']:<11} {text!r} of turn {loss['turn'] + 1} ({loss['nats']:.1f} nats)")
    if lost > SHOWN:
        console.line(f"    … and {lost - SHOWN} more: holdfast show FILE --json")
