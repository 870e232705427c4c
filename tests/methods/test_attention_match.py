"""Attention matching against its definition: what a span answers its queries, and what a fitted head answers."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from holdfast.blocks.block import Block, Kind, Origin
from holdfast.context.budget import Budget
from holdfast.engine.kv_context import KVContext
from holdfast.errors import BadOption
from holdfast.methods.base import Span
from holdfast.methods.latent.attention_match import AttentionMatch, fit_bias, fit_values, pursue_columns, solve_bounded
from holdfast.methods.query_batch import RUN, QueryBatch, attend, attention_error, sample_queries
from holdfast.methods.reference_queries import reference_queries
from holdfast.methods.registry import build
from holdfast.methods.repeat_prompt import prompt_ids
from tolerance import PASS, close, tolerance

BEFORE, LENGTH = 12, 40


def span_of(ids, start=BEFORE):
    origin = Origin(0, Kind.OBSERVATION, (0, len(ids)), (start, start + len(ids)))
    return Span((Block(tuple(ids.tolist()), origin),), start)


def studied(pair, ids, spec="attention_match"):
    past = KVContext(pair.model)
    with torch.no_grad():
        past.feed(ids(BEFORE, seed=1))
    return build(spec).study(span_of(ids(LENGTH, seed=2)), past, pair.engine)


def made_up(n=64, tokens=20, dims=8, seed=0, held=0.25):
    """A head with random keys and values, and queries that ask it."""
    noise = torch.Generator().manual_seed(seed)
    queries, keys, values = (torch.randn(k, dims, generator=noise) for k in (n, tokens, tokens))
    logits = queries @ keys.T
    one = QueryBatch(
        queries,
        logits.softmax(-1) @ values,
        logits.logsumexp(-1),
        torch.full((n,), 1.0),
        torch.ones(n),
        torch.rand(n, generator=noise) < held,
    )
    return one, keys, values


def test_targets_are_what_transformers_attention_gives_over_the_span_alone(two, ids):
    """By hand: the last layer's queries of a repeat see past, span and repeat; only the span's part is the target."""
    study = studied(two, ids, "attention_match:queries=repeat,most=4096")
    layer = two.model.family.full[-1]
    eager = copy.deepcopy(two.plain)
    eager.set_attn_implementation("eager")
    text = torch.cat(
        (ids(BEFORE, seed=1), ids(LENGTH, seed=2), torch.tensor(prompt_ids(two.model)), ids(LENGTH, seed=2))
    )
    with torch.no_grad():
        p = eager(text[None], output_attentions=True).attentions[layer][0]
    over = p[:, BEFORE + LENGTH :, BEFORE : BEFORE + LENGTH]  # [H, Q, T]
    values = study.base.prefill.states.values[layer].repeat_interleave(over.shape[0] // two.model.family.kv_heads, 0)
    want = (over / over.sum(-1, keepdim=True)) @ values
    one = study.batches[layer]
    assert close(one.output.reshape(want.shape), want, PASS)
    assert close(one.span_share.reshape(over.shape[:2]), over.sum(-1), PASS)


def test_no_more_queries_are_held_than_asked_for_and_sources_share_them(two, ids):
    group = two.model.family.heads // two.model.family.kv_heads
    study = studied(two, ids, f"attention_match:queries=repeat+own+random,most={30 * group}")
    for one in study.batches.values():
        assert one.queries.shape[1] == 30 * group
    again = studied(two, ids, f"attention_match:queries=repeat+own+random,most={30 * group}")
    assert all(torch.equal(one.queries, again.batches[layer].queries) for layer, one in study.batches.items())


@pytest.mark.parametrize("queries", ["repeat", "own", "repeat+own"])
def test_queries_are_drawn_alike_from_all_passes(two, ids, queries):
    """However a source is cut into passes, every query drawn is one of those that a draw of all would hold."""
    read = studied(two, ids).base.prefill
    everything = sample_queries(read, queries, 1 << 20, chunk=9)
    few = sample_queries(read, queries, 12 * (queries.count("+") + 1), chunk=9)
    for layer, one in few.items():
        group = two.model.family.heads // two.model.family.kv_heads
        assert one.queries.shape[1] == 12 * (queries.count("+") + 1) // group * group
        apart = torch.cdist(one.queries, everything[layer].queries, compute_mode="donot_use_mm_for_euclid_dist").amin(
            -1
        )
        assert apart.max() < tolerance(one.queries, PASS)
        assert torch.isfinite(one.rest).all()
        assert torch.isfinite(one.output).all()


def test_own_queries_ask_from_behind_the_span(two, ids):
    """Moved by its length, they see every key as they would have seen one so much earlier."""
    read = studied(two, ids, "attention_match:queries=own,most=4096").base.prefill
    layer = two.model.family.full[0]
    one = sample_queries(read, "own", 1 << 20)[layer]
    rope, keys = two.model.family.layers[layer].rope, read.states.keys[layer]
    earlier = rope.rotate(keys, (read.span.positions - LENGTH).expand(keys.shape[:2]))
    (asked_here,) = reference_queries(read, "own")
    raw = asked_here.recorder.queries[layer].reshape(one.queries.shape)
    assert close(one.mass, (raw @ earlier.mT).logsumexp(-1), PASS)


def test_about_the_asked_share_is_held_out_in_runs(two, ids):
    study = studied(two, ids, "attention_match:queries=repeat,most=4096,held=0.5")
    held = next(iter(study.batches.values())).held_out
    assert 0.2 < held.float().mean() < 0.8
    changes = int((held[1:] != held[:-1]).sum())
    assert changes <= 2 * len(held) / RUN + 4


def test_what_fits_is_kept_exactly(two, ids):
    study = studied(two, ids)
    (segment,) = build("attention_match").compress(study, Budget(LENGTH))
    states = study.base.prefill.states
    for layer in two.model.family.full:
        assert segment.layers[layer].bias is None
        assert torch.equal(
            segment.layers[layer].values, states.values[layer].reshape(-1, states.values[layer].shape[-1])
        )


@pytest.mark.parametrize("options", ["", "queries=repeat", "select=rms", "select=omp", "base=kvzip(allocation=head)"])
@pytest.mark.parametrize("slots", [1, 4, 20])
def test_a_fit_lowers_the_held_out_error_or_leaves_the_head_alone(two, ids, options, slots):
    spec = f"attention_match:{options}"
    study = studied(two, ids, spec)
    (segment,) = build(spec).compress(study, Budget(slots))
    assert study.report["after"] <= study.report["before"]
    assert 0 <= study.report["plain"] <= study.report["heads"]
    plain, family = study.base.prefill.states, two.model.family
    untouched = 0
    for layer in family.full:
        for g, (_, values, positions, bias) in enumerate(segment.layers[layer].heads()):
            same = torch.equal(values, plain.values[layer][g][(positions - BEFORE).long()])
            untouched += bool(len(values) and same and (bias is None or not bias.any()))
    assert untouched == study.report["plain"]


@pytest.mark.parametrize("slots", [1, 3, 11, 30])
@pytest.mark.parametrize("allocation", ["global", "layer", "head", "pyramid"])
def test_slots_with_a_bias_take_no_more_than_slots_without(two, ids, slots, allocation):
    spec = f"attention_match:base=kvzip(allocation={allocation}),held=0"
    study, family = studied(two, ids, spec), two.model.family
    (segment,) = build(spec).compress(study, Budget(slots))
    held = [segment.layers[layer] for layer in family.full]
    floats = sum(s.keys.numel() + s.values.numel() + (0 if s.bias is None else s.bias.numel()) for s in held)
    assert 0 < floats <= slots * len(family.full) * family.kv_heads * 2 * family.head_dim


def test_without_a_bias_the_whole_budget_is_slots(two, ids):
    spec = "attention_match:bias=false"
    study, family = studied(two, ids, spec), two.model.family
    (segment,) = build(spec).compress(study, Budget(7))
    assert sum(sum(segment.layers[layer].lengths) for layer in family.full) == 7 * len(family.full) * family.kv_heads
    assert all(segment.layers[layer].bias is None for layer in family.full)


def test_biases_stay_within_their_bound(two, ids):
    spec = "attention_match:bound=0.4,held=0"
    (segment,) = build(spec).compress(studied(two, ids, spec), Budget(5))
    for layer in two.model.family.full:
        assert segment.layers[layer].bias.abs().max() <= 0.4 + 1e-6


def test_the_bias_brings_kept_keys_nearer_to_the_mass_of_all():
    one, keys, _ = made_up()
    kept = keys[:6]
    before = attend(one, kept, None)[1]
    after = attend(one, kept, fit_bias(one, kept, 3.0))[1]
    assert (after - one.mass).abs().mean() < 0.7 * (before - one.mass).abs().mean()


def test_projected_gradient_finds_the_bounded_least_squares_solution():
    noise = torch.Generator().manual_seed(3)
    parts, weight = torch.rand(50, 4, generator=noise), torch.rand(50, generator=noise)
    found = solve_bounded(parts, weight, 1.0)
    lowest, highest = math.exp(-1), math.e
    assert found.min() >= lowest - 1e-9
    assert found.max() <= highest + 1e-9
    gradient = (weight[:, None].double() * parts.double()).T @ (parts.double() @ found - 1)
    inside = (found > lowest + 1e-6) & (found < highest - 1e-6)
    assert gradient[inside].abs().max() < 1e-2 if inside.any() else True
    assert (gradient[found <= lowest + 1e-6] > -1e-6).all()


def test_queries_that_cannot_tell_slots_apart_do_not_blow_up():
    """Two equal keys and fewer queries than slots: the normal equations are singular twice over."""
    one, keys, values = made_up(n=5, tokens=20)
    kept = torch.cat((keys[:10], keys[:10]))
    plain = torch.cat((values[:10], values[:10]))
    for fitted in fit_values(one, kept, plain, None, (1e-6, 1e-2, 1.0)):
        assert torch.isfinite(fitted).all()
        assert fitted.abs().max() < 100 * values.abs().max()
    assert torch.isfinite(fit_bias(one, kept, 3.0)).all()


def test_a_stronger_pull_leaves_values_nearer_to_the_plain_ones():
    one, keys, values = made_up()
    moved = [float((fit - values[:6]).norm()) for fit in fit_values(one, keys[:6], values[:6], None, (1e-4, 1e-1, 1e2))]
    assert moved[0] > moved[1] > moved[2]


def test_least_squares_values_lower_the_error_of_the_queries_they_saw():
    one, keys, values = made_up()
    (fitted,) = fit_values(one, keys[:6], values[:6], None, (1e-6,))
    attention, _ = attend(one, keys[:6], None)
    error = [float((attention @ v - one.output).pow(2).sum()) for v in (values[:6], fitted)]
    assert error[1] < error[0]


def test_deviation_is_nothing_for_the_span_itself_and_one_for_an_empty_head():
    one, keys, values = made_up()
    attention, mass = attend(one, keys, None)
    assert attention_error(one, attention @ values, mass) < tolerance(one.output)
    assert attention_error(one, torch.zeros_like(one.output), torch.full_like(one.mass, -torch.inf)) == pytest.approx(1)


def test_matching_pursuit_takes_the_key_that_explains_most_first():
    noise = torch.Generator().manual_seed(0)
    parts = torch.rand(30, 6, generator=noise) * 0.01
    parts[:, 4] = 0.9
    assert 4 in pursue_columns(parts, torch.ones(30), 1, 3.0).tolist()
    assert sorted(pursue_columns(parts, torch.ones(30), 6, 3.0).tolist()) == list(range(6))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("base=virtual_tokens", "scores KV pairs"),
        ("base=nothing", "base: no latent method"),
        ("base=kvzip(chunk=64", "expected kvzip"),
        ("base=kvzip(chunk=x)", "chunk must be of type int"),
        ("select=best", "select must be"),
        ("queries=repeat+guess", "queries must be"),
        ("most=0", "most"),
        ("held=0.9", "held"),
        ("bound=0", "bound"),
        ("pull=-1", "pull"),
        ("pull=nan", "pull"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(BadOption, match=message):
        build(f"attention_match:{options}")


def test_a_base_may_have_options_of_its_own():
    method = build("attention_match:base=informed(allocation=head;chunk=64),bias=false")
    assert method == AttentionMatch(base="informed(allocation=head;chunk=64)", bias=False)
