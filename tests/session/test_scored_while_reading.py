"""A session whose method scores tokens while they are read is compacted without a pass of the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from conftest import small_session
from holdfast.compaction.plan import Plan, Policy
from holdfast.compaction.train_surrogate import SurrogateTraining, train_surrogate
from holdfast.context.segments import StateSegment
from holdfast.engine import kv_context
from holdfast.engine.kv_context import KVContext
from holdfast.methods.latent.surrogate import find_surrogate, predict_scores
from holdfast.methods.reference_queries import QueryRecorder
from holdfast.methods.surrogate_network import save_network
from holdfast.session.session import Session
from holdfast.storage.store import Store
from tolerance import PASS, close

TURNS = small_session().turns
NEAR = 3  # tokens on each side of an edge between two passes, whose queries do not see each other


@pytest.fixture(scope="module")
def pair(tiny):
    return tiny("llama")


@pytest.fixture(scope="module")
def weights(pair, tmp_path_factory):
    ids = torch.randint(3, 200, (900,), generator=torch.Generator().manual_seed(0)).tolist()
    path = tmp_path_factory.mktemp("surrogate") / "tiny.safetensors"
    save_network(train_surrogate([ids], pair.engine, SurrogateTraining(windows=8, window=64, hidden=8, epochs=1)), path)
    return path


def plan(weights, storage=""):
    return Plan(f"surrogate:weights={weights}{storage}", 4, policy=Policy(keep_recent=1))


def fresh_scores(pair, weights, ids):
    """Scores of `ids` read at once."""
    live, record = KVContext(pair.model), QueryRecorder()
    live.feed(ids, observer=record)
    states = live.newest_states(torch.tensor(ids), torch.empty(len(ids), 0), None)
    return predict_scores(find_surrogate(str(weights), pair.engine), pair.model, states, record)


@contextmanager
def passes(model) -> Iterator[list[int]]:
    """Counts the tokens of every pass of the model."""
    seen: list[int] = []
    hook = model.hf.get_input_embeddings().register_forward_hook(lambda module, args, out: seen.append(out.shape[-2]))
    try:
        yield seen
    finally:
        hook.remove()


@pytest.mark.parametrize("storage", ["", ",storage=int8"])
def test_a_compaction_in_place_needs_no_pass_and_keeps_what_a_fresh_reading_scores_highest(pair, weights, storage):
    session = Session(pair.engine, plan(weights, storage))
    session.append(TURNS)
    ids = [i for block in session.cache.blocks for i in block.ids]
    with passes(pair.model) as seen:
        session.compact()
    assert not seen
    fresh = fresh_scores(pair, weights, ids)
    for segment in session.cache.segments:
        if not isinstance(segment, StateSegment) or not segment.scores:
            continue
        for layer, slots in enumerate(segment.layers):
            at = slots.positions.long()
            heads = torch.arange(len(slots.lengths)).repeat_interleave(torch.tensor(slots.lengths))
            assert close(segment.scores[layer], fresh[layer][heads, at], PASS)


@pytest.mark.parametrize("at_once", [8, 1024])
def test_turns_answers_rewinds_and_forks_leave_every_token_with_its_score(pair, weights, at_once, monkeypatch):
    monkeypatch.setattr(kv_context, "SCORED_AT_ONCE", at_once)
    monkeypatch.setattr(kv_context, "UNSCORED", at_once)
    session = Session(pair.engine, plan(weights))
    session.append(TURNS[:4])
    answer = session.answer(limit=12)
    answer.text()
    session.commit(answer)
    session.append(TURNS[4:6])
    session.rewind(6)
    session = session.fork()
    session.append(TURNS[6:8])
    blocks = session.cache.blocks
    ids, edges = [i for block in blocks for i in block.ids], set()
    for block in blocks:
        edges |= {near for near in range(block.origin.tokens[0] - NEAR, block.origin.tokens[0] + NEAR)}
    found, fresh = session.cache.live.tail_scores(slice(0, len(ids))), fresh_scores(pair, weights, ids)
    assert found is not None
    inner = [at for at in range(len(ids)) if at not in edges]
    if at_once > len(ids):
        assert len(inner) > len(ids) / 2
        assert all(close(found[layer][:, inner], fresh[layer][:, inner], PASS) for layer in fresh)
    with passes(pair.model) as seen:
        session.compact()
    assert not seen


def test_a_second_compaction_scores_what_came_since_and_undo_and_resume_still_compact(pair, weights, tmp_path):
    store = Store(tmp_path)
    session = Session(pair.engine, plan(weights), store=store, name="s")
    session.append(TURNS[:6])
    session.compact()
    session.append(TURNS[6:])
    with passes(pair.model) as seen:
        session.compact()
    assert not seen
    session.undo()
    session.undo()
    session.save()
    resumed = Session.resume("s", pair.engine, Store(tmp_path), plan(weights))
    slots = resumed.cache.slots
    resumed.compact()  # its scores are not stored, so that it reads the span again
    assert resumed.cache.slots < slots


def test_another_method_than_the_plans_reads_the_span_itself(pair, weights):
    session = Session(pair.engine, plan(weights))
    session.append(TURNS)
    other = session.fork()
    with passes(pair.model) as seen:
        session.compact(replace(session.plan, latent="kvzip"))
    assert seen
    plain = Session(pair.engine, replace(session.plan, latent="kvzip"))
    plain.append(TURNS)
    plain.compact()
    assert close(
        plain.engine.next_logits(plain.cache.live, [40]), session.engine.next_logits(session.cache.live, [40]), PASS
    )
    assert other.cache.live.tail_scores(slice(0, 4)) is not None


def test_what_waits_for_a_score_is_bounded_and_counts_as_memory(pair, weights):
    scored, plain = (Session(pair.engine, made) for made in (plan(weights), replace(plan(weights), latent="kvzip")))
    for turn in TURNS:
        scored.append((turn,))
        plain.append((turn,))
        live = scored.cache.live
        assert scored.cache.footprint - plain.cache.footprint == live.score_nbytes > 0
        assert sum(count for _, count in live._unscored) < kv_context.UNSCORED
