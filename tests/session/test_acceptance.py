"""A prepared compaction is scored on the steps that were really taken."""

from __future__ import annotations

import pytest
import torch

from conftest import build_pair, small_session
from holdfast.blocks.block import Kind
from holdfast.compaction.plan import Plan, Policy
from holdfast.errors import Conflict
from holdfast.session.acceptance import LEAST_SUPPLY, Acceptance, score_steps
from holdfast.session.session import Session
from tolerance import PASS, close

TURNS = small_session().turns


def session(turns: int, ratio: float = 4) -> Session:
    held = Session(build_pair("llama").engine, Plan(latent="kvzip", ratio=ratio, policy=Policy(keep_recent=1)))
    held.append(TURNS[:turns])
    return held


def reference(held: Session, first: int, over: Session) -> torch.Tensor:
    """The log-probability of the agent's words behind block `first`, token by token."""
    blocks = held.cache.blocks[first:]
    ids = [i for block in blocks for i in block.ids]
    said = [block.kind is Kind.ACTION for block in blocks for _ in block.ids]
    after = held.engine.next_logits(over.cache.crop(first).live, ids).log_softmax(-1)
    assert not said[0]
    return torch.stack([after[at - 1, ids[at]] for at in range(1, len(ids)) if said[at]]).sum()


def test_steps_since_are_scored_as_the_engine_scores_them() -> None:
    held = session(7)
    made, first = held.prepare(), len(held.cache.blocks)
    held.append(TURNS[7:])
    score = score_steps(made, held.cache, accept=1.0)
    assert score is not None
    assert score.since
    assert close(torch.tensor(score.full), reference(held, first, held), terms=PASS)
    after = session(7)
    after.adopt(after.prepare())
    assert close(torch.tensor(score.compact), reference(held, first, after), terms=PASS)


def test_without_a_step_since_the_newest_one_before_is_scored() -> None:
    held = session(len(TURNS))
    score = score_steps(held.prepare(), held.cache, accept=1.0)
    assert score is not None
    assert (score.since, score.steps) == (False, 1)


def test_a_memory_that_lost_nothing_retains_everything() -> None:
    held = session(7, ratio=1)
    made = held.prepare()
    held.append(TURNS[7:])
    score = score_steps(made, held.cache, accept=0.98)
    assert score is not None
    assert score.nothing is None
    assert score.retained > 0.98


def test_a_session_that_went_another_way_is_not_scored() -> None:
    held = session(7)
    made = held.prepare()
    held.rewind(2)
    with pytest.raises(Conflict):
        score_steps(made, held.cache, accept=0.98)


def test_a_share_is_of_what_the_old_text_supplies() -> None:
    def share(compact: float, nothing: float | None) -> float:
        return Acceptance(1, 9, True, -10.0, compact, nothing, 0.0).retained

    assert share(-10.0, -30.0) == 1
    assert share(-15.0, -30.0) == 0.75
    assert share(-30.0, -30.0) == 0
    assert share(-10.5, -10.1) == share(-10.5, None) == 1 - 0.5 / LEAST_SUPPLY
