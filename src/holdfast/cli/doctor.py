"""`holdfast doctor`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli import console
from holdfast.cli.options import AsJson

if TYPE_CHECKING:
    from holdfast.doctor import Checkup, RecordedCompaction

SHOWN = 8  # kinds, files, facts or problems that are told without --json
WIDTH = 76


def doctor(
    file: Annotated[Path, typer.Argument(help="A session.")],
    prices: Annotated[
        str, typer.Option(help="Model whose prices are taken. Default: the one that the file names.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Looks a session over: what is in it, what past compactions lost, who would take it, what could be saved."""
    from holdfast.doctor import examine_session

    found = examine_session(file, prices)
    if as_json:
        console.emit({"file": str(file), **_evidence(found)})
        return
    console.line(f"{file}: {found.format}, {found.turns} turns, {found.tokens:,} tokens")
    _legal(found)
    for number, compacted in enumerate(found.compactions, 1):
        _compaction(number, compacted)
    for event in found.logged:
        lost = len(event.gate.get("lost", ()))
        console.line(
            f"  {f'event {event.number}':<12}{event.kind}, {event.tokens_before:,} tokens -> {event.tokens:,}; "
            f"{lost} facts lost; `holdfast diff --event {event.number}` shows it"
        )
    _rows("tokens", [(f"{tokens:>9,}", f"{_share(tokens, found)}  {kind}") for kind, tokens in found.kinds.items()])
    _rows("biggest", [(f"{big.tokens:>9,}", f"turn {big.turn}, {big.what}") for big in found.biggest])
    _rows(
        "read again",
        [(f"{r.tokens:>9,}", f"{r.path}: {r.times} times, {r.unchanged} unchanged") for r in found.rereads],
    )
    _rows(
        "at utmost", [(f"{tokens:>9,}", f"{_share(tokens, found)}  {name}") for name, tokens in found.savings.items()]
    )
    _money(found)
    for line in found.skipped:
        console.say(f"skipped {line}")


def _legal(found: Checkup) -> None:
    takers = [name for name, problems in found.problems.items() if not problems]
    console.line(f"  {'legal for':<11} {', '.join(takers) or 'nobody'}")
    refusing: dict[str, list[str]] = {}
    for name, problems in found.problems.items():
        told = "; ".join(f"turn {problem.turn + 1}: {problem.message}" for problem in problems[:2])
        more = f"; and {len(problems) - 2} more" if len(problems) > 2 else ""
        refusing.setdefault(told + more, []).append(name)
    for told, names in refusing.items():
        if told:
            console.line(f"  {'refused by':<11} {', '.join(names)}: {told}")


def _compaction(number: int, found: RecordedCompaction) -> None:
    live, held = found.live.total(), found.held.total()
    console.line(
        f"  {f'compaction {number}':<12}{found.turns} turns, {found.tokens_before:,} tokens -> {found.tokens:,}; "
        f"{held:,} of {live:,} facts held, {len(found.invented)} sentences that no turn bears out"
    )
    counts = [f"{kind} {n - found.held[kind]}/{n}" for kind, n in found.live.most_common() if n > found.held[kind]]
    if counts:
        console.line(f"    lost      {', '.join(counts)}")
    for fact in found.lost[:SHOWN]:
        console.line(
            f"      {fact.kind.value:<11} {_short(fact.text)!r} of turn {fact.turn + 1} ({fact.speaker.value})"
        )
    for struck in found.invented[:SHOWN]:
        console.line(f"    invented  {_short(struck.sentence)!r}: {struck.reason}")


def _rows(title: str, rows: list[tuple[str, str]]) -> None:
    for at, (tokens, what) in enumerate(rows[:SHOWN]):
        console.line(f"  {title if at == 0 else '':<11}{tokens}  {_short(what)}")
    if len(rows) > SHOWN:
        console.line(f"  {'':<11}{'':>9}  and {len(rows) - SHOWN} more: --json lists them")


def _money(found: Checkup) -> None:
    cost = found.cost
    if cost is None:
        return
    console.line(
        f"  {'cost':<11}{f'${cost.money:.4f}':>9}  {cost.model}, {len(cost.calls)} calls, prompt cache {cost.basis}; "
        f"${cost.uncached:.4f} without a cache"
    )


def _share(tokens: int, found: Checkup) -> str:
    return f"{tokens / max(found.tokens, 1):>4.0%}"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"


def _evidence(found: Checkup) -> dict[str, Any]:
    cost = found.cost
    return {
        "format": found.format,
        "turns": found.turns,
        "tokens": found.tokens,
        "kinds": found.kinds,
        "biggest": [asdict(big) for big in found.biggest],
        "rereads": [asdict(reread) for reread in found.rereads],
        "compactions": [_compaction_as_json(one) for one in found.compactions],
        "problems": {
            name: [{"turn": p.turn + 1, "rule": p.rule, "message": p.message} for p in problems]
            for name, problems in found.problems.items()
        },
        "savings": found.savings,
        "cost": cost
        and {
            "model": cost.model,
            "basis": cost.basis,
            "calls": len(cost.calls),
            "usd": cost.money,
            "usd_uncached": cost.uncached,
            "usage": asdict(cost.usage),
        },
        "logged": [{"event": e.number, "kind": e.kind, "gate": dict(e.gate)} for e in found.logged],
        "skipped": list(found.skipped),
    }


def _compaction_as_json(found: RecordedCompaction) -> dict[str, Any]:
    return {
        "turns": found.turns,
        "tokens_before": found.tokens_before,
        "tokens": found.tokens,
        "live": dict(found.live),
        "held": dict(found.held),
        "lost": [
            {"kind": f.kind.value, "text": f.text, "turn": f.turn + 1, "speaker": f.speaker.value} for f in found.lost
        ],
        "invented": [{"sentence": s.sentence, "reason": s.reason} for s in found.invented],
    }
