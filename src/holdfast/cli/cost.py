"""`holdfast cost`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast import outputs
from holdfast.cli import console
from holdfast.cli.options import AsJson, Force, OneOf, read_share
from holdfast.errors import BadOption, BadTranscript

if TYPE_CHECKING:
    from holdfast.cost.cache import Life
    from holdfast.cost.calls import Session
    from holdfast.cost.compaction import Terms
    from holdfast.cost.planner import Advice
    from holdfast.cost.prices import Caching, Prices
    from holdfast.cost.replay import Run
    from holdfast.cost.replay_state import Progress
    from holdfast.cost.strategy import Strategy

DEFAULT_STRATEGIES = "none,cache,truncate,cache+truncate,plan+truncate"


def cost(
    file: Annotated[Path, typer.Argument(help="The session.")],
    prices: Annotated[str, typer.Option(help="Model whose prices are taken, e.g. claude-sonnet-4-5 or gpt-5.")],
    strategies: Annotated[
        str,
        typer.Option(
            help="none, cache, METHOD, cache+METHOD, plan+METHOD (the planner says when) or best+METHOD (the best "
            "schedule in hindsight), each with @TRIGGER or @TRIGGER/BUDGET; the first is the baseline."
        ),
    ] = DEFAULT_STRATEGIES,
    price_file: Annotated[Path | None, typer.Option(help="TOML or JSON with prices of models.")] = None,
    compactor: Annotated[str | None, typer.Option(help="Model that compacts. Default: the same.")] = None,
    trigger: Annotated[int, typer.Option(help="Tokens above which a session is compacted.")] = 12_000,
    budget: Annotated[int | None, typer.Option(help="Tokens after it. Default: a quarter of the trigger.")] = None,
    ttl: Annotated[str, typer.Option(help="Life of the prompt cache: 5m or 1h.")] = "5m",
    caching: Annotated[str, typer.Option(help="explicit, automatic, or auto: what the prices are for.")] = "auto",
    keep_recent: Annotated[int, typer.Option(help="Newest exchanges that stay verbatim.")] = 3,
    gate: Annotated[bool, typer.Option("--gate/--no-gate", help="Put back what would be lost.")] = True,
    answer: Annotated[str, typer.Option(help="How much of what a compactor reads it writes.")] = "10%",
    reread: Annotated[
        str, typer.Option(help="How much of what is taken out the agent reads again, with one more call each time.")
    ] = "0%",
    risk: Annotated[str, typer.Option(help="What the planner may spend ahead of its savings.")] = "0%",
    remaining: Annotated[
        int | None, typer.Option(help="Calls that the planner expects. Default: as many again.")
    ] = None,
    seconds_per_turn: Annotated[float, typer.Option(help="Between calls, where the file has no times.")] = 15.0,
    plot: Annotated[Path | None, typer.Option(help="PNG of the prompts' tokens, call by call.")] = None,
    lenient: Annotated[bool, typer.Option("--lenient", help="Skip malformed lines instead of failing.")] = False,
    session: OneOf = 0,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Says what a recorded session costs behind an API, under caching and compaction."""
    from holdfast.cost.cache import Rules
    from holdfast.cost.compaction import Terms
    from holdfast.cost.prices import read_prices as price_list
    from holdfast.cost.strategy import parse_strategies as rows_of

    if plot:
        outputs.check_output(plot, file, force=force)
    listed = price_list(prices, price_file)
    terms = Terms(
        listed,
        compactor=price_list(compactor, price_file) if compactor else None,
        rules=Rules(_choice(caching, listed.caching), _life(ttl)),
        keep_recent=keep_recent,
        gate=gate,
        answer=read_share(answer, "--answer"),
        reread=read_share(reread, "--reread"),
        risk=read_share(risk, "--risk"),
        remaining=remaining,
    )
    recorded, runs = _replay(file, rows_of(strategies, trigger, budget), terms, seconds_per_turn, lenient, session)
    if plot:
        _draw(plot, file, runs, force)
    if as_json:
        console.emit(as_rows(file, recorded, terms, runs))
    else:
        print_table(file, recorded, terms, runs)


def _replay(
    file: Path, rows: Sequence[Strategy], terms: Terms, seconds_per_turn: float, lenient: bool, session: int
) -> tuple[Session, list[Run]]:
    from holdfast.cost.calls import read_session
    from holdfast.cost.replay import replay
    from holdfast.transcript.read import read

    recorded = read_session(read(file, lenient=lenient, session=session), seconds_per_turn)
    if not recorded.calls:
        raise BadTranscript(
            "no turn of an assistant: no model was called, so there is nothing to price", path=str(file)
        )
    with console.progress("replaying") as report:

        def follow(row: Strategy) -> Progress:
            return lambda done, total: report("call", done, total, row.spec)

        return recorded, [replay(recorded, row, terms, follow(row)) for row in rows]


def _draw(plot: Path, file: Path, runs: Sequence[Run], force: bool) -> None:
    from holdfast.eval.report.curves import curves

    prompts = {run.strategy.spec: [step.usage.prompt for step in run.steps] for run in runs}
    outputs.write_output(plot, curves(f"{file.name}: what each call sends", prompts).png, force)
    console.say(f"{plot} written")


def _choice(caching: str, own: Caching) -> Caching:
    known: dict[str, Caching] = {"auto": own, "explicit": "explicit", "automatic": "automatic"}
    if caching not in known:
        raise BadOption(f"--caching must be one of {', '.join(known)}, got {caching!r}")
    return known[caching]


def _life(ttl: str) -> Life:
    known: dict[str, Life] = {"5m": "5m", "1h": "1h"}
    if ttl not in known:
        raise BadOption(f"--ttl must be one of {', '.join(known)}, got {ttl!r}")
    return known[ttl]


def as_rows(file: Path, recorded: Session, terms: Terms, runs: Sequence[Run]) -> dict[str, Any]:
    """Returns everything, for scripts."""
    return {
        "file": str(file),
        "calls": len(recorded.calls),
        "tokens_outside_the_file": recorded.overhead,
        "tokens_per_counted": recorded.scale,
        "timed": recorded.timed,
        "terms": asdict(terms),
        "baseline": runs[0].strategy.spec,
        "strategies": [_row(run, runs[0]) for run in runs],
    }


def _row(run: Run, baseline: Run) -> dict[str, Any]:
    return {
        **asdict(run.strategy),
        "usd": run.money,
        "share_of_baseline": run.money / baseline.money if baseline.money else None,
        **asdict(run.usage),
        "compactor": {**asdict(run.compactor), "usd": run.compactor_money},
        "turns": len(run.steps),
        "compactions": [
            {
                "before_turn": step.turn + 1,
                "from_turn": step.made.cut + 1,
                "freed": step.made.freed,
                "instead": step.made.instead,
            }
            for step in run.steps
            if step.made
        ],
        "prompts": [step.usage.prompt for step in run.steps],
        "usd_per_call": [step.money for step in run.steps],
        "advice": _advice_as_json(run.advice) if run.advice else None,
    }


def _advice_as_json(advice: Advice) -> dict[str, Any]:
    """Returns an advice without the session that it would make."""
    expected = {key: asdict(getattr(advice, key)) for key in ("now", "later", "never")}
    cut = advice.option.made.cut + 1 if advice.option else None
    return {"when": advice.when, "from_turn": cut, "reason": advice.reason, "calls": advice.calls, "expected": expected}


def print_table(file: Path, recorded: Session, terms: Terms, runs: Sequence[Run]) -> None:
    """Prints the session, the prices, a line per strategy, and what the figures rest on."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    counted = "no usage in it: tokens are counted"
    if recorded.measured:
        outside = f"{recorded.overhead:,} tokens of every prompt stand outside it"
        counted = f"{outside}, 1 counted token is {recorded.scale:.2f} of theirs"
    console.line(f"{file}: {len(recorded.calls)} calls; {counted}")
    console.line(_price_line(terms))
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("strategy", overflow="fold", min_width=min(24, max(len(run.strategy.spec) for run in runs)))
    columns = ("USD", f"of {runs[0].strategy.spec}", "input", "cached", "written", "out")
    for column in (*columns, "compactor\nin + out", "calls", "com-\npactions"):
        table.add_column(column, justify="right")
    for run in runs:
        table.add_row(*map(Text, _cells(run, runs[0])))
    console.print_whole(table)
    for run in runs:
        if instead := [step.made.instead for step in run.compactions if step.made and step.made.instead]:
            console.line(
                f"{run.strategy.spec}: {len(instead)} of {len(run.compactions)} by another method: {instead[0]}"
            )
        if run.advice:
            console.line(_advice_line(run.strategy.spec, run.advice))
    console.line(_assumptions(recorded, terms))


def _price_line(terms: Terms) -> str:
    def describe(prices: Prices) -> str:
        r = prices.rates
        write = f"{r.cache_write if terms.rules.life == '5m' else r.cache_write_1h:g} write ({terms.rules.life}), "
        listed = f"{r.input:g} input, {r.cache_read:g} read, {write if terms.rules.caching == 'explicit' else ''}"
        notes = f"; {'; '.join(prices.notes)}" if prices.notes else ""
        return f"{prices.model} {listed}{r.output:g} output USD per MTok ({prices.source}{notes})"

    own = f"; compactor {describe(terms.compactor)}" if terms.compactor else ""
    return f"prices: {describe(terms.prices)}{own}"


def _cells(run: Run, baseline: Run) -> tuple[str, ...]:
    usage, spent = run.usage, run.compactor
    tokens = (usage.input, usage.cached, usage.written + usage.written_1h, usage.output)
    share = f"{run.money / baseline.money:.0%}" if baseline.money else "-"
    counts = (*(f"{n:,}" for n in tokens), f"{spent.prompt:,} + {spent.output:,}")
    return (run.strategy.spec, f"{run.money:.3f}", share, *counts, str(len(run.steps)), str(len(run.compactions)))


def _advice_line(spec: str, advice: Advice) -> str:
    cut = f" from turn {advice.option.made.cut + 1} on" if advice.option else ""
    costs = ", ".join(
        f"{name} {spent.money:.3f} USD and {spent.seconds:.0f} s"
        for name, spent in (("now", advice.now), ("later", advice.later), ("never", advice.never))
    )
    what = f"{spec}, before a next call: compact {advice.when}{cut} ({advice.reason})"
    return f"{what}; expected over {advice.calls} calls: {costs}"


def _assumptions(recorded: Session, terms: Terms) -> str:
    times = "times as recorded" if recorded.timed else "times not recorded: assumed"
    again = f"{terms.reread:.0%} of what is taken out is read again" if terms.reread else "nothing is read again"
    gate = "what would be lost is put back" if terms.gate else "the gate is off"
    return (
        f"Replayed with the recorded calls and answers ({gate}; {again}; {times}); no model was called: one that "
        f"compacts is taken to write {terms.answer:.0%} of what it reads. USD holds the compactor's tokens."
    )
