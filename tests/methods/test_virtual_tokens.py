"""Virtual tokens: every choice of the recipe runs, tuning helps, and what is stated of them holds."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from holdfast.blocks.block import Block, Kind, Origin
from holdfast.context.budget import Budget
from holdfast.context.segments import SoftSegment, StateSegment
from holdfast.engine.kv_context import KVContext
from holdfast.errors import BadOption
from holdfast.methods.base import Span
from holdfast.methods.latent.baselines import virtual_tokens as vt
from holdfast.methods.latent.baselines.virtual_tokens import VirtualTokens, pooling_matrix, uniqueness
from holdfast.model.states import States
from tolerance import PASS, close, near

BEFORE, LENGTH, SLOTS = 9, 24, 6


def span_of(ids):
    half = len(ids) // 2
    blocks = []
    for turn, (a, b) in enumerate(((0, half), (half, len(ids)))):
        origin = Origin(turn, Kind.OBSERVATION, (a, b), (BEFORE + a, BEFORE + b))
        blocks.append(Block(tuple(ids[a:b].tolist()), origin))
    return Span(tuple(blocks), BEFORE)


@pytest.fixture
def run(ids):
    """`run(pair, **options)`: the segments of one span, and the progress that was reported."""

    def go(pair, slots=SLOTS, length=LENGTH, **options):
        past = KVContext(pair.model)
        with torch.no_grad():
            past.feed(ids(BEFORE, seed=1))
        seen = []
        method = VirtualTokens(**({"steps": 4} | options))
        study = method.study(span_of(ids(length, seed=2)), past, pair.engine)
        made = method.compress(study, Budget(slots), lambda *step: seen.append(step))
        return made, seen, study

    return go


def losses(seen):
    return [float(note.removeprefix("loss ").split()[0]) for _, _, _, note in seen]


@pytest.mark.parametrize("target", ["v", "kv", "kv_pre_rope", "final"])
def test_tuning_lowers_the_loss_of_every_target(two, run, target):
    _, seen, _ = run(two, target=target, steps=30, lr=0.05)
    told = losses(seen)
    assert told[-1] < 0.9 * told[0]
    assert told == sorted(told, reverse=True)  # the best so far is what is told and kept


@pytest.mark.parametrize("option", [(k, v) for k, allowed in vt.CHOICES.items() for v in allowed], ids="=".join)
def test_every_choice_runs_and_keeps_to_its_budget(two, run, option):
    key, value = option
    extra = {"question": "Which port?"} if value == "attention" else {}
    made, _, _ = run(two, **{key: value}, **extra)
    assert sum(map(len, made)) == SLOTS
    assert isinstance(made[-1], SoftSegment)
    assert made[-1].embeds.shape[1] == two.model.family.d_model
    assert torch.isfinite(made[-1].embeds).all()


@pytest.mark.parametrize("option", [(k, v) for k, allowed in vt.CHOICES.items() for v in allowed[1:]], ids="=".join)
def test_every_choice_makes_a_difference(tiny, run, option):
    key, value = option
    extra = {"question": "Which port?"} if value == "attention" else {}
    (*_, usual), (*_, other) = run(tiny("llama"))[0], run(tiny("llama"), **{key: value}, **extra)[0]
    same = usual.embeds.shape == other.embeds.shape and torch.equal(usual.embeds, other.embeds)
    assert not (same and torch.equal(usual.positions, other.positions))


def test_no_steps_return_the_start(two, run):
    made, seen, study = run(two, steps=0)
    pooled = study.embeds.view(SLOTS, LENGTH // SLOTS, -1).mean(1)
    assert close(made[0].embeds, pooled, PASS)
    assert not seen


def test_a_weighted_start_weighs_by_surprisal_and_a_token_start_takes_the_heaviest(tiny, run):
    pair = tiny("llama")
    weighted, _, study = run(pair, steps=0, start="weighted")
    weights = study.weights.view(SLOTS, -1)
    embeds = study.embeds.view(SLOTS, LENGTH // SLOTS, -1)
    want = (weights[..., None] * embeds).sum(1) / weights.sum(1)[:, None]
    assert close(weighted[0].embeds, want, PASS)
    token, _, _ = run(pair, steps=0, start="token")
    assert torch.equal(token[0].embeds, embeds[torch.arange(SLOTS), weights.argmax(1)])


def test_the_start_is_scaled_as_the_model_scales_its_embeddings(tiny, run):
    pair = tiny("gemma3_text")
    _, _, study = run(pair, steps=0)
    rows = pair.plain.get_input_embeddings().weight[study.span.ids] * math.sqrt(64)
    assert close(study.embeds, rows, PASS)


def test_interpolated_positions_cover_the_span_and_end_with_it(two, run):
    made, _, _ = run(two)
    positions = made[0].positions
    assert positions.tolist() == pytest.approx(torch.linspace(BEFORE, BEFORE + LENGTH - 1, SLOTS).tolist())


def test_consecutive_positions_begin_with_the_span(two, run):
    made, _, _ = run(two, positions="consecutive")
    assert made[0].positions.tolist() == list(range(BEFORE, BEFORE + SLOTS))


@pytest.mark.parametrize("verbatim", ["uniqueness", "perplexity"])
def test_a_hybrid_keeps_its_share_with_their_own_states_and_positions(two, run, verbatim):
    made, _, study = run(two, verbatim=verbatim, slots=8)
    kept, soft = made
    count = math.floor(0.15 * LENGTH)
    score = study.states.surprisal if verbatim == "perplexity" else uniqueness(study.states)
    chosen = score.topk(count).indices.sort().values
    assert isinstance(kept, StateSegment)
    assert (count, len(kept), len(soft)) == (3, 3, 5)
    for layer in two.model.family.full:
        for head, (keys, values, positions, _) in enumerate(kept.layers[layer].heads()):
            assert torch.equal((positions - BEFORE).long(), chosen)
            assert torch.equal(keys, study.states.keys[layer][head][chosen])
            assert torch.equal(values, study.states.values[layer][head][chosen])


@pytest.mark.parametrize(("length", "slots"), [(6, 3), (24, 3), (24, 2)])
def test_a_hybrid_on_a_span_that_is_too_short_says_so(tiny, run, length, slots):
    with pytest.raises(BadOption, match="too short for a hybrid"):
        run(tiny("llama"), verbatim="uniqueness", length=length, slots=slots)


@pytest.mark.parametrize("patience", [1, 3])
def test_tuning_stops_when_patience_runs_out(tiny, run, patience):
    _, seen, _ = run(tiny("llama"), steps=50, patience=patience, lr=1e-12)
    assert len(seen) == patience + 1  # the first step is the measure of the others


def test_tuning_goes_on_while_it_helps(tiny, run):
    _, seen, _ = run(tiny("llama"), steps=20, patience=2, lr=0.02)
    assert len(seen) == 20
    assert [(done, total) for _, done, total, _ in seen] == [(n, 20) for n in range(1, 21)]


def test_tuning_keeps_the_best_it_met(tiny, run):
    best = {lr: losses(run(tiny("llama"), steps=12, patience=50, lr=lr)[1])[-1] for lr in (1e-12, 50.0)}
    assert best[50.0] <= best[1e-12]


def test_the_loss_of_the_start_is_the_unexplained_share_of_each_layers_variance(tiny, run):
    pair = tiny("llama")
    made, seen, study = run(pair, steps=1)
    live = study.past.fork()
    with torch.no_grad():
        live.feed_inputs(study.embeds.view(SLOTS, LENGTH // SLOTS, -1).mean(1), made[0].positions)
    want = []
    weights = study.weights.view(SLOTS, -1)
    for layer, values in enumerate(study.states.values):
        x = live.cache.newest(layer, SLOTS)[1]
        y = (weights[None, ..., None] * values.view(2, SLOTS, -1, 16)).sum(2) / weights.sum(1)[None, :, None]
        want.append(((x - y) ** 2).sum() / ((y - y.mean(1, keepdim=True)) ** 2).sum())
    assert losses(seen)[0] == near(float(torch.stack(want).mean()))


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 1000))
def test_pooling_averages_contiguous_blocks_of_like_length(tokens, slots, seed):
    slots = min(slots, tokens)
    weights = torch.rand(tokens, generator=torch.Generator().manual_seed(seed)) + 1e-3
    pool = pooling_matrix(weights, slots)
    assert pool.shape == (slots, tokens)
    assert close(pool.sum(1), torch.ones(slots), PASS)
    owner = (pool > 0).float().argmax(0)
    assert ((pool > 0).sum(0) == 1).all()
    assert owner.tolist() == sorted(owner.tolist())
    sizes = torch.bincount(owner, minlength=slots)
    assert sizes.max() - sizes.min() <= 1
    for row in range(slots):
        assert close(pool[row][owner == row], weights[owner == row] / weights[owner == row].sum(), PASS)


def test_uniqueness_finds_the_token_unlike_its_neighbours():
    values = torch.ones(2, 9, 4)
    values[:, 5] = -3
    zeros = torch.zeros(9)
    states = States((values,), (values,), torch.arange(9.0), lambda: zeros, torch.zeros(9, 4))
    assert uniqueness(states).argmax() == 5


@pytest.mark.parametrize("length", [1, 2, 3])
def test_uniqueness_of_a_few_tokens_is_finite(length):
    values = torch.ones(2, length, 4)
    states = States(
        (values,), (values,), torch.arange(float(length)), lambda: torch.zeros(length), torch.zeros(length, 4)
    )
    assert torch.isfinite(uniqueness(states)).all()


def test_attention_weights_are_what_a_question_gives_each_token(tiny, run):
    pair = tiny("llama")
    _, _, study = run(pair, steps=0, weights="attention", question="Which port?")
    _, _, other = run(pair, steps=0, weights="attention", question="Who?")
    assert (study.weights > 0).all()
    assert not close(study.weights, other.weights, PASS)


def test_a_slot_for_the_whole_span_is_tuned_too(two, run):
    made, _, _ = run(two, slots=1)
    assert len(made[0]) == 1
    assert made[0].positions.tolist() == [BEFORE + LENGTH - 1]


def test_blocks_that_a_sliding_layer_no_longer_holds_do_not_count(tiny, run):
    """A sliding layer holds the newest 7 tokens; what it should say of older blocks is unknown, not zero."""
    _, seen, study = run(tiny("gemma3_text"), steps=1)
    live = study.past.fork()
    with torch.no_grad():
        live.feed_inputs(study.embeds.view(SLOTS, LENGTH // SLOTS, -1).mean(1), torch.linspace(9, 32, SLOTS))
    want = []
    pool = pooling_matrix(study.weights, SLOTS)
    for layer, values in enumerate(study.states.values):
        held = pool[:, -values.shape[1] :]
        rows = held.sum(1) > 0
        y = (held[rows] / held[rows].sum(1, keepdim=True)) @ values
        x = live.cache.newest(layer, SLOTS)[1][:, rows]
        want.append(((x - y) ** 2).sum() / ((y - y.mean(1, keepdim=True)) ** 2).sum())
    assert losses(seen)[0] == near(float(torch.stack(want).mean()))
