"""The compaction conformance kit against us: five rounds, nothing flagged, every budget kept."""

from __future__ import annotations

import re
from itertools import product
from typing import Any

import pytest

pytest.importorskip("compaction_kit", reason="compaction-conformance-kit is not installed")

from compaction_kit.benchmark import DEFAULT_BUDGETS, run_budget_benchmark
from compaction_kit.compacted import CompactedContext
from compaction_kit.compactors import LossyTruncationCompactor, NaiveSummaryCompactor, SummaryTailCompactor
from compaction_kit.corpus import build_random_session
from compaction_kit.semantic_corpus import build_semantic_heldout_session, build_semantic_session
from compaction_kit.testing import assert_no_flags, check_compactor

from holdfast.text.rewrite import TextPlan, rewrite
from holdfast.transcript.draft import Draft
from holdfast.transcript.turn import Role, Transcript, Turn

_SPEAKER = re.compile(r"^\[(system|user|assistant|tool)\] ", re.MULTILINE)


def read(turns: list[Any]) -> Transcript:
    """The kit's turns; from the second round on they are one, with the text that was made in the round before."""
    text = turns[0].text if len(turns) == 1 else "\n".join(f"[{turn.role}] {turn.text}" for turn in turns)
    parts = _SPEAKER.split(text)
    return Transcript(
        tuple(Turn(Role(who), said.rstrip("\n")) for who, said in zip(parts[1::2], parts[2::2], strict=True))
    )


def shown(held: Draft) -> str:
    return "\n".join(f"[{turn.role}] {turn.text}" for turn in held.turns)


class Holdfast:
    """Budgets of the kit are hard and in characters: where the user's rules alone exceed one, the gate, which puts
    them back whatever it costs, is off."""

    def __init__(self, method: str = "user_words", tokens: int = 900) -> None:
        self.name, self.method, self.tokens = f"holdfast-{method}", method, tokens

    def compact(self, turns: list[Any], round_num: int = 1, budget_chars: int | None = None) -> CompactedContext:
        session = read(turns)
        text = self._made(session, self.tokens, True) if budget_chars is None else self._fitted(session, budget_chars)
        return CompactedContext(text=text, compactor_name=self.name, round_num=round_num)

    def _fitted(self, session: Transcript, limit: int) -> str:
        for gate in (True, False):
            made = [text for tokens in _descending(limit) if len(text := self._made(session, tokens, gate)) <= limit]
            if made:
                return max(made, key=len)
        raise AssertionError(f"nothing fits into {limit} characters")

    def _made(self, session: Transcript, tokens: int, gate: bool) -> str:
        return shown(rewrite(session, TextPlan(self.method, budget=tokens, keep_recent=0, gate=gate)).draft)


def _descending(characters: int) -> list[int]:
    """Token budgets to try: four characters a token, more or less."""
    return [max(1, characters * share // 100) for share in range(32, 11, -2)]


@pytest.mark.parametrize("budget", [None, *DEFAULT_BUDGETS])
def test_the_seeded_session_survives_five_rounds_without_a_flag(budget):
    report = check_compactor(Holdfast(), rounds=5, budget_fraction=budget)
    assert_no_flags(report)
    assert [check.compliant for check in report.budget_checks] == [True] * (budget is not None)


SESSIONS = [lambda seed: (*build_random_session(seed), None), build_semantic_session, build_semantic_heldout_session]


@pytest.mark.parametrize(("build", "seed"), [*product(SESSIONS, (1, 2))])
def test_other_sessions_survive_five_rounds_without_a_flag(build, seed):
    session, canaries, _ = build(seed)
    assert_no_flags(check_compactor(Holdfast(), session=session, canaries=canaries, budget_fraction=0.2))


def test_at_every_budget_more_survives_than_with_a_cut_or_a_free_summary():
    rivals = (LossyTruncationCompactor, NaiveSummaryCompactor, SummaryTailCompactor)
    rows = run_budget_benchmark({"ours": Holdfast, **{kit.name: kit for kit in rivals}}, seeds=(1,), rounds=2)[
        "entries"
    ]
    assert {row["budget_fraction"] for row in rows} == set(DEFAULT_BUDGETS)
    for row in (row for row in rows if row["compactor"] == "ours"):
        assert row["budget_compliant"]
        others = [other for other in rows if other["budget_fraction"] == row["budget_fraction"] and other is not row]
        best = max(other["randomized"]["overall_final_survival"] for other in others)
        assert row["randomized"]["overall_final_survival"] > best


def test_the_kit_flags_what_does_lose():
    report = check_compactor(Holdfast("keep_recent", tokens=60), rounds=2)
    assert report.flagged_types
