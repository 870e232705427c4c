"""Prints the evidence of a compaction: its size, and what was lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from holdfast.cli import console

if TYPE_CHECKING:
    from holdfast.facts.fact import Fact
    from holdfast.gate.text.gate import TextReport
    from holdfast.text.rewrite import Rewritten

SHOWN = 8  # losses that are listed without --json


def count_from_one(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """Returns stored evidence, whose turns count from 0, as it is shown: from 1, as everywhere that a person reads."""
    gate = evidence.get("gate")
    if not isinstance(gate, Mapping):
        return dict(evidence)
    lists = {name: [_from_one(fact) for fact in gate[name]] for name in ("lost", "repaired") if name in gate}
    return {**evidence, "gate": {**gate, **lists}}


def _from_one(fact: Any) -> Any:
    """Returns a fact with its turn counted from 1; what is no fact of ours as it is."""
    shifts = isinstance(fact, dict) and isinstance(fact.get("turn"), int)
    return {**fact, "turn": fact["turn"] + 1} if shifts else fact


def describe_bytes(evidence: Mapping[str, Any]) -> str:
    """Returns the size of a context against a bfloat16 cache; of an older file, against a cache of its own dtype."""
    base = evidence.get("bytes_base", "")
    full, compact = (evidence[f"base_{name}" if base else name] for name in ("bytes_full", "bytes"))
    smaller = f"KV {full / 1e6:.1f} MB -> {compact / 1e6:.1f} MB ({full / max(compact, 1):.1f}x smaller"
    against = f" than a {base} cache" if base else ""
    wider = f"; {evidence['bytes'] / 1e6:.1f} MB as this model holds it" if compact != evidence["bytes"] else ""
    return f"{smaller}{against}{wider})"


def print_evidence(evidence: Mapping[str, Any]) -> None:
    """Prints what a `.holdfast` context holds and what it lost, in a few lines."""
    try:
        console.line(
            f"  {evidence['tokens']:,} tokens, {evidence['tokens_compacted']:,} of them compacted; "
            f"{describe_bytes(evidence)}; compaction {evidence['seconds_compact']:.1f} s"
        )
    except (KeyError, TypeError, ValueError):  # a context that was made in Python says what its maker wrote
        console.line(f"  evidence  {dict(evidence)}")
    if evidence.get("tokens_left_out"):
        console.say(f"{evidence['tokens_left_out']:,} older tokens are outside the window and were left out")
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
    forbids = [loss for loss in gate["lost"] if loss["kind"] == "prohibition"]
    if forbids:
        console.line(f"  {len(forbids)} of the user's prohibitions, which stand first below", "  LOST    ", "bold red")
    for loss in sorted(gate["lost"], key=lambda x: (x["kind"] != "prohibition", -x["nats"]))[:SHOWN]:
        text = _short(loss["text"])
        style = "red" if loss in forbids else ""
        what = f"{loss['kind']:<11} {text!r} of turn {loss['turn'] + 1} ({loss['nats']:.1f} nats)"
        console.line(what, "    lost    ", style)
    if lost > SHOWN:
        console.line(f"    … and {lost - SHOWN} more: holdfast show FILE --json")


def print_rewrite(rewritten: Rewritten) -> None:
    """Prints what a rewrite as text did and what it lost, in a few lines."""
    turns, pieces = len(rewritten.draft.raw.turns), len(rewritten.draft.pieces)
    console.line(
        f"  {rewritten.tokens_before:,} tokens -> {rewritten.tokens:,} of {rewritten.budget:,} "
        f"({rewritten.tokens_before / max(rewritten.tokens, 1):.1f}x smaller, {turns} turns -> {pieces}); "
        f"{rewritten.method or 'left as it is'}, {rewritten.seconds:.1f} s"
    )
    if rewritten.report:
        _print_report(rewritten.report)
    for note in rewritten.notes:
        console.line(f"  note      {note}")


def _print_report(report: TextReport) -> None:
    total = {what: report.total(what) for what in ("live", "kept", "restored", "lost", "superseded")}
    console.line(
        f"  gate      {total['live']} facts in what was compacted: {total['kept']} kept, {total['restored']} put back "
        f"({report.section:,} tokens), {total['lost']} lost; {total['superseded']} superseded; "
        f"{len(report.struck)} sentences struck"
    )
    for struck in report.struck[:SHOWN]:
        console.line(f"    struck  {_short(struck.sentence)!r}: {struck.reason}")
    for fact in report.lost[:SHOWN]:
        console.line(f"    lost    {_fact(fact)}")
    if len(report.lost) > SHOWN:
        console.line(f"    … and {len(report.lost) - SHOWN} more: --json lists them")


def _fact(fact: Fact) -> str:
    return f"{fact.kind.value:<11} {_short(fact.text)!r} of turn {fact.turn + 1} ({fact.speaker.value})"


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "…"
