"""`holdfast doctor`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli import console
from holdfast.cli.options import AsJson, OneOf

if TYPE_CHECKING:
    from holdfast.doctor import Checkup, RecordedCompaction

SHOWN = 8  # kinds, files, facts or problems that are told without --json
WIDTH = 76
LABEL = 18  # columns of the words in front of a line


def doctor(
    file: Annotated[Path, typer.Argument(help="A session.")],
    prices: Annotated[
        str, typer.Option(help="Model whose prices are taken. Default: the one that the file names.")
    ] = "",
    summary: Annotated[
        Path | None, typer.Option(help="Text that is to stand for the session: says what it loses and makes up.")
    ] = None,
    session: OneOf = 0,
    as_json: AsJson = False,
) -> None:
    """Looks a session over: what is in it, what past compactions lost, who would take it, what could be saved."""
    from holdfast.doctor import examine_session
    from holdfast.transcript.read import decode_text, read_bytes

    console.ticker.set(f"examining {file.name}")
    stands = "" if summary is None else decode_text(read_bytes(summary), summary)
    found = examine_session(file, prices, stands, session)
    if as_json:
        console.emit({"file": str(file), **_evidence(found)})
        return
    console.line(f": {found.format}, {found.turns} turns, {found.tokens:,} tokens", str(file), "bold")
    _print_takers(found)
    for number, compaction in enumerate(found.compactions, 1):
        _print_compaction(number, compaction)
    for event in found.logged:
        lost = len(event.gate.get("lost", ()))
        _print_label(
            f"change {event.number}",
            f"{event.kind}, {event.tokens_before:,} tokens -> {event.tokens:,}; "
            f"{lost} facts lost; `holdfast diff {file} --event {event.number}` shows it",
        )
    _print_rows(
        "tokens", [(tokens, f"{_share(tokens, found)}  {_short(kind)}") for kind, tokens in found.kinds.items()]
    )
    _print_rows("opaque", [(part.tokens, f"{part.parts} {name}") for name, part in found.opaque.items()], "yellow")
    _print_rows("largest", [(big.tokens, _short(f"turn {big.turn}, {big.what}")) for big in found.biggest])
    _print_rows(
        "read again",
        [(r.tokens, _short(f"{r.path}: {r.times} times, {r.unchanged} of them unchanged")) for r in found.rereads],
    )
    _print_savings(found)
    _print_cost(found)
    for line in found.skipped:
        console.say(f"skipped {line}")


def _print_label(label: str, text: str, style: str = "bold") -> None:
    console.line(f" {text}", f"  {label:<{LABEL}}", style)


def _print_takers(found: Checkup) -> None:
    """Prints to which providers the session can be sent, and why the others would refuse it."""
    takers = [name for name, problems in found.problems.items() if not problems]
    _print_label("can be sent to", ", ".join(takers) or "nobody", "green" if takers else "red")
    refusing: dict[str, list[str]] = {}
    for name, problems in found.problems.items():
        reasons = "; ".join(f"turn {problem.turn + 1}: {problem.message}" for problem in problems[:2])
        more = f"; and {len(problems) - 2} more" if len(problems) > 2 else ""
        refusing.setdefault(reasons + more, []).append(name)
    for reasons, names in refusing.items():
        if reasons:
            _print_label("refused by", f"{', '.join(names)}: {reasons}", "red")


def _print_compaction(number: int, found: RecordedCompaction) -> None:
    live, held = found.live.total(), found.held.total()
    _print_label(
        f"compaction {number}",
        f"{found.turns} turns, {found.tokens_before:,} tokens -> {found.tokens:,}; "
        f"{held:,} of {live:,} facts are still in it, {len(found.invented)} sentences say what no turn says",
    )
    counts = [f"{kind} {n - found.held[kind]}/{n}" for kind, n in found.live.most_common() if n > found.held[kind]]
    if counts:
        _print_label("  lost", ", ".join(counts), "red")
    for fact in found.lost[:SHOWN]:
        _print_label("", f"{fact.kind.value:<11} {_short(fact.text)!r} of turn {fact.turn + 1} ({fact.speaker.value})")
    for struck in found.invented[:SHOWN]:
        _print_label("  made up", f"{_short(struck.sentence)!r}: {struck.reason}", "red")


def _print_savings(found: Checkup) -> None:
    """Prints the tokens that each method without a model could take away, at the smallest budget."""
    rows = sorted(((found.tokens - left, name) for name, left in found.savings.items()), reverse=True)
    _print_rows("could save at most", [(n, f"{_share(n, found)}  --text {name}") for n, name in rows], "yellow")


def _print_rows(title: str, rows: list[tuple[int, str]], style: str = "bold") -> None:
    for at, (tokens, what) in enumerate(rows[:SHOWN]):
        _print_label(title if at == 0 else "", f"{tokens:>9,}  {what}", style)
    if len(rows) > SHOWN:
        _print_label("", f"{'':>9}  and {len(rows) - SHOWN} more: --json lists them")


def _print_cost(found: Checkup) -> None:
    cost = found.cost
    if cost is not None:
        _print_label(
            "cost",
            f"{f'${cost.money:.4f}':>9}  {cost.model}, {len(cost.calls)} calls, prompt cache {cost.basis}; "
            f"${cost.uncached:.4f} without a cache",
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
        "opaque": {name: asdict(part) for name, part in found.opaque.items()},
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
