"""Survival of a session's live facts under each text strategy, with the gate off and on.

    python benchmarks/survival.py FILES... [--ratios 2,5,10] [--rounds 1,5,10] [--strategies truncate,tiered] [--json]

A session is given in as many parts as there are rounds, and compacted after each to the budget that the ratio leaves of
the whole. A cell is the share of the live facts of the whole session that stand in the result word for word, and in
brackets the share of the user's prohibitions; `fits` is the share of sessions whose result is within the budget.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from holdfast.facts.fact import FactKind
from holdfast.facts.occurrences import SearchableText, visible_text
from holdfast.facts.prohibitions import RULE_KINDS
from holdfast.facts.session_facts import SessionFacts, collect_facts
from holdfast.methods.registry import TEXT
from holdfast.text.rewrite import TextPlan, rewrite_again
from holdfast.transcript.cuts import legal_cuts
from holdfast.transcript.draft import Draft, Piece, new_draft
from holdfast.transcript.read import read
from holdfast.transcript.token_estimate import estimate_tokens
from holdfast.transcript.turn import Role, Transcript

MODELS = ("summarize", "prune_tokens", "retrieve")
"""Strategies that need a model; left out unless asked for by name."""


@dataclass(frozen=True)
class Row:
    session: str
    strategy: str
    ratio: float
    rounds: int
    gate: bool
    live: int
    survived: int
    prohibitions: int
    prohibitions_survived: int
    tokens: int
    budget: int
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--ratios", default="2,5,10")
    parser.add_argument("--rounds", default="1,5,10")
    parser.add_argument("--strategies", default=",".join(name for name in TEXT if name not in MODELS))
    parser.add_argument("--keep-recent", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one row a line")
    options = parser.parse_args()
    rows = []
    for row in measure(options):
        rows.append(row)
        if options.json:
            print(json.dumps(asdict(row)), flush=True)
        else:
            print(f"{row.session} {row.strategy} {row.ratio:g}x {row.rounds} rounds", end="   \r", file=sys.stderr)
    if not options.json:
        print(table(rows))


def measure(options: argparse.Namespace) -> Iterator[Row]:
    for path in options.files:
        whole = read(path)
        known = collect_facts(whole)
        for strategy in options.strategies.split(","):
            for ratio in map(float, options.ratios.split(",")):
                for rounds in map(int, options.rounds.split(",")):
                    for gate in (False, True):
                        plan = TextPlan(
                            strategy,
                            int(new_draft(whole).size(estimate_tokens) / ratio),
                            keep_recent=options.keep_recent,
                            gate=gate,
                        )
                        began = time.perf_counter()
                        made = compact_rounds(whole, plan, rounds)
                        yield row(path.stem, made, known, plan, (ratio, rounds, time.perf_counter() - began))


def compact_rounds(whole: Transcript, plan: TextPlan, rounds: int) -> Draft:
    """Returns the session after `rounds` compactions, each as the session grew."""
    cuts = legal_cuts(whole)
    held: Draft | None = None
    for number in range(1, rounds + 1):
        stop = cuts[(len(cuts) - 1) * number // rounds]
        raw = Transcript(whole.turns[:stop], whole.format)
        if not raw.turns:
            continue
        fresh = tuple(Piece(turn, (at,)) for at, turn in enumerate(raw.turns))
        held = Draft(raw, (*held.pieces, *fresh[len(held.raw.turns) :])) if held else new_draft(raw)
        held = rewrite_again(held, plan).draft
    assert held is not None
    return held


def row(session: str, made: Draft, known: SessionFacts, plan: TextPlan, ran: tuple[float, int, float]) -> Row:
    """Counts the facts that the result holds; a rule counts only if someone with the authority said it."""
    said = SearchableText("\n".join(visible_text(turn) for turn in made.turns))
    ruled = SearchableText(
        "\n".join(visible_text(turn) for turn in made.turns if turn.role in (Role.USER, Role.SYSTEM))
    )
    there = [f for f in known.live if (ruled if f.kind in RULE_KINDS else said).contains(f.text, f.kind)]
    rules, kept = ([f for f in facts if f.kind is FactKind.PROHIBITION] for facts in (known.live, there))
    ratio, rounds, seconds = ran
    return Row(
        session,
        plan.method,
        ratio,
        rounds,
        plan.gate,
        len(known.live),
        len(there),
        len(rules),
        len(kept),
        made.size(estimate_tokens),
        plan.budget or 0,
        seconds,
    )


def table(rows: Sequence[Row]) -> str:
    """Returns the facts of all sessions together, one line per strategy and ratio, one column per rounds and gate."""
    columns = sorted({(row.rounds, row.gate) for row in rows})
    head = [f"{rounds} round{'s' * (rounds > 1)}, gate {'on' if gate else 'off'}" for rounds, gate in columns]
    lines = ["| strategy | ratio | " + " | ".join(head) + " | fits |", "|---|--:|" + "--:|" * (len(head) + 1)]
    for strategy, ratio in dict.fromkeys((row.strategy, row.ratio) for row in rows):
        here = [row for row in rows if (row.strategy, row.ratio) == (strategy, ratio)]
        cells = [_cell([row for row in here if (row.rounds, row.gate) == column]) for column in columns]
        fits = sum(row.tokens <= row.budget for row in here) / len(here)
        lines.append(f"| {strategy} | {ratio:g}x | " + " | ".join(cells) + f" | {fits:.0%} |")
    sessions = len({row.session for row in rows})
    facts = sum({row.session: row.live for row in rows}.values())
    rules = sum({row.session: row.prohibitions for row in rows}.values())
    return "\n".join(
        [*lines, "", f"{sessions} sessions, {facts} live facts, {rules} of them prohibitions of the user."]
    )


def _cell(rows: Sequence[Row]) -> str:
    live, survived = sum(row.live for row in rows), sum(row.survived for row in rows)
    rules, kept = sum(row.prohibitions for row in rows), sum(row.prohibitions_survived for row in rows)
    return f"{survived / max(live, 1):.0%} ({kept / rules:.0%})" if rules else f"{survived / max(live, 1):.0%}"


if __name__ == "__main__":
    main()
