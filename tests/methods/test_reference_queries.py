"""Reference queries against the attention weights and log-probabilities that transformers itself returns."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from itertools import islice

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from holdfast.blocks.block import Block, Kind, Origin
from holdfast.blocks.render import question_ids
from holdfast.engine.kv_context import CHUNK as STEP
from holdfast.engine.kv_context import KVContext
from holdfast.errors import BadOption
from holdfast.methods.base import Span
from holdfast.methods.reference_queries import (
    ANSWER,
    RANDOM,
    ROWS,
    SOURCES,
    STUDY,
    QueryRecorder,
    ReferenceQueries,
    SpanPrefill,
    log_attention,
    raise_to_attention,
    reference_queries,
)
from holdfast.methods.repeat_prompt import prompt_ids
from holdfast.progress import quiet
from tolerance import PASS, close

BEFORE, LENGTH = 12, 30


def span_of(ids, start=0, later=()):
    origin = Origin(0, Kind.OBSERVATION, (0, len(ids)), (start, start + len(ids)))
    return Span((Block(tuple(ids.tolist()), origin),), start, torch.tensor(later, dtype=torch.int64))


def read(pair, ids, later=(), length=LENGTH):
    past = KVContext(pair.model)
    with torch.no_grad():
        past.feed(ids(BEFORE, seed=1))
    span = span_of(ids(length, seed=2), BEFORE, later)
    after, states = pair.engine.capture(past, span.ids, span.positions)
    return SpanPrefill(span, past, after, states, pair.engine, quiet)


def eager(pair, ids, asking, hidden=()):
    """Attention weights `[L][H, N, N]` and log-probabilities of context, span and `asking`, whose tokens do not see
    the tokens of the span in `hidden`."""
    model = copy.deepcopy(pair.plain)
    model.set_attn_implementation("eager")
    text = torch.cat((ids(BEFORE, seed=1), ids(LENGTH, seed=2), torch.tensor(asking, dtype=torch.int64)))
    at = torch.arange(len(text))
    sees = at[None, :] <= at[:, None]
    sees[BEFORE + LENGTH :, [BEFORE + token for token in hidden]] = False
    masks = {"full_attention": sees}
    for layer in pair.model.family.layers:
        if layer.window:
            masks["sliding_attention"] = sees & (at[None, :] > at[:, None] - layer.window)
    added = {k: torch.zeros(m.shape).masked_fill(~m, -math.inf)[None, None] for k, m in masks.items()}
    with torch.no_grad():
        out = model(
            text[None],
            attention_mask=added if len(added) > 1 else added["full_attention"],
            output_attentions=True,
        )
    return [p[0] for p in out.attentions], out.logits[0].log_softmax(-1)


def attention_of(one, layer, keys):
    """All that `log_attention` yields for one pass, as attention `[H, Q, n]`."""
    parts = list(log_attention(one, layer, keys))
    assert [rows.start for rows, _ in parts] == [0, *(rows.stop for rows, _ in parts[:-1])]
    return torch.cat([part.exp() for _, part in parts], dim=2).flatten(0, 1)


def equals(one, context, want, seen=slice(0, LENGTH)):
    """Whether a pass gives the keys of the span that it saw the attention `[L][H, Q, n]`."""
    for layer in context.layers:
        got = attention_of(one, layer, context.keys(layer))
        assert close(got, want[layer][..., seen], PASS)
        assert got.std() > 0.01  # peaked enough for this to mean something
    return True


def over_span(weights, first, count=None):
    """Of attention weights, what the rows from `first` on give to the span."""
    rows = slice(first, None if count is None else first + count)
    return [p[:, rows, BEFORE : BEFORE + LENGTH] for p in weights]


@pytest.mark.parametrize("chunk", [1024, 30, 13, 1])
def test_a_repeat_asks_what_transformers_attends_to_when_it_repeats(two, ids, chunk):
    context, prompt = read(two, ids), prompt_ids(two.model)
    parts = ids(LENGTH, seed=2).split(chunk)
    parts = parts if chunk > 1 else parts[:2]
    for one, part in zip(reference_queries(context, chunk=chunk), parts, strict=chunk > 1):
        weights, _ = eager(two, ids, [*prompt, *part.tolist()])
        assert (one.visible, one.first_token) == (slice(0, LENGTH), None)
        assert equals(one, context, over_span(weights, BEFORE + LENGTH))


@pytest.mark.parametrize(("chunk", "reach"), [(13, 5), (7, 1), (30, 3)])
def test_a_short_reach_asks_as_if_the_rest_of_the_span_were_masked(two, ids, chunk, reach):
    context, prompt = read(two, ids), prompt_ids(two.model)
    for n, one in enumerate(reference_queries(context, chunk=chunk, reach=reach)):
        part = ids(LENGTH, seed=2)[n * chunk : (n + 1) * chunk].tolist()
        assert one.visible == slice(max(0, n * chunk - reach), min(LENGTH, n * chunk + chunk + reach))
        hidden = set(range(LENGTH)) - set(range(one.visible.start, one.visible.stop))
        weights, _ = eager(two, ids, [*prompt, *part], hidden)
        assert equals(one, context, over_span(weights, BEFORE + LENGTH), one.visible)


def test_only_keys_within_reach_are_scored(two, ids):
    context = read(two, ids)
    for one in reference_queries(context, chunk=10, reach=3):
        for layer in context.layers:
            scores = torch.full((two.model.family.kv_heads, LENGTH), -1.0)
            raise_to_attention(scores, one, layer, context.keys(layer))
            inside = torch.zeros(LENGTH, dtype=torch.bool)
            inside[one.visible] = True
            assert (scores[:, inside] >= 0).all()
            assert (scores[:, ~inside] == -1).all()


@pytest.mark.parametrize("reach", [LENGTH, 10_000])
def test_a_reach_beyond_the_span_is_no_limit(two, ids, reach):
    context = read(two, ids)
    for far, all_of_it in zip(
        reference_queries(context, chunk=13, reach=reach), reference_queries(context, chunk=13), strict=True
    ):
        assert far.visible == all_of_it.visible
        assert close(far.nats("gain"), all_of_it.nats("gain"), PASS)
        for layer in context.layers:
            got, want = (attention_of(one, layer, context.keys(layer)) for one in (far, all_of_it))
            assert close(got, want, PASS)


@pytest.mark.parametrize(("chunk", "reach"), [(1024, 0), (13, 0), (13, 4)])
def test_the_gain_is_the_surprisal_that_the_span_saves_in_its_repeat(two, ids, chunk, reach):
    context, prompt, span = read(two, ids), prompt_ids(two.model), ids(LENGTH, seed=2)
    _, first = eager(two, ids, [])
    at_first = first[BEFORE - 1 : -1].gather(-1, span[:, None])[:, 0]
    gains = 0
    for n, one in enumerate(reference_queries(context, chunk=chunk, reach=reach)):
        part = span[n * chunk : (n + 1) * chunk]
        hidden = set(range(LENGTH)) - set(range(one.visible.start, one.visible.stop))
        _, again = eager(two, ids, [*prompt, *part.tolist()], hidden)
        repeated = again[BEFORE + LENGTH + len(prompt) - 1 : -1].gather(-1, part[:, None])[:, 0]
        want = torch.zeros(len(prompt) + len(part))
        want[len(prompt) - 1 : -1] = repeated - at_first[n * chunk : (n + 1) * chunk]
        assert close(one.nats("gain"), want, PASS)
        gains += int(one.nats("gain").count_nonzero())
    assert gains == LENGTH


@pytest.mark.parametrize("chunk", [1024, 13, 1])
def test_own_queries_give_the_attention_of_the_prefill(two, ids, chunk):
    context = read(two, ids)
    weights, _ = eager(two, ids, [])
    firsts = []
    for one in reference_queries(context, "own", chunk=chunk):
        firsts.append(one.first_token)
        assert not one.nats("gain").any()
        for layer in context.layers:
            got = attention_of(one, layer, context.keys(layer))
            want = over_span(weights, BEFORE + one.first_token, chunk)[layer]
            assert close(got, want, PASS)
            assert (got[..., one.first_token + got.shape[1] :] == 0).all()
    assert firsts == list(range(0, LENGTH, chunk))


def test_own_queries_are_at_the_positions_of_the_span_whatever_the_memory_says_comes_next(tiny, ids):
    pair = tiny("llama")
    context = read(pair, ids)
    astray = replace(context, past=context.past.fork())
    astray.past.next_position = 500
    for one, other in zip(reference_queries(context, "own", 13), reference_queries(astray, "own", 13), strict=True):
        assert all(torch.equal(one.recorder.queries[layer], other.recorder.queries[layer]) for layer in context.layers)


def test_the_later_session_asks_with_its_own_words(two, ids):
    later = ids(9, seed=5).tolist()
    context = read(two, ids, later)
    (one,) = reference_queries(context, "later")
    weights, _ = eager(two, ids, later)
    assert equals(one, context, over_span(weights, BEFORE + LENGTH))
    assert not one.nats("gain").any()


def test_nothing_later_is_refused(two, ids):
    with pytest.raises(BadOption, match="queries=later"):
        list(reference_queries(read(two, ids), "repeat+later"))


def test_a_study_asks_with_the_models_own_answers(tiny, ids):
    two = tiny("llama")
    context, engine = read(two, ids), two.engine
    passes = list(reference_queries(context, "study"))
    assert len(passes) == len(STUDY)
    for one, text in zip(passes, STUDY, strict=True):
        prompt = question_ids(two.model.tokenizer, text)
        answer = list(engine.generate(context.after, prompt, ANSWER))
        weights, _ = eager(two, ids, [*prompt, *answer])
        assert equals(one, context, over_span(weights, BEFORE + LENGTH))


def test_random_queries_are_as_long_as_real_ones_and_look_at_the_span_alone(two, ids):
    context = read(two, ids)
    (one,), (again,) = reference_queries(context, "random"), reference_queries(context, "random")
    real = QueryRecorder()
    with torch.no_grad():
        context.after.fork().feed(prompt_ids(two.model), observer=real)
    for layer in context.layers:
        drawn = one.recorder.queries[layer]
        assert drawn.shape == (two.model.family.heads, RANDOM, two.model.family.head_dim)
        want = real.queries[layer].norm(dim=-1).mean(1, keepdim=True)
        assert close(drawn.norm(dim=-1), want.expand(-1, RANDOM), PASS)
        p = attention_of(one, layer, context.keys(layer))
        assert close(p.sum(-1), torch.ones(p.shape[:2]), LENGTH)
        assert torch.equal(drawn, again.recorder.queries[layer])
        assert drawn.mean(1).norm(dim=-1).max() < 0.3 * want.min()  # no direction is preferred
    assert not one.nats("gain").any()


def test_sources_are_asked_one_after_another(two, ids):
    context = read(two, ids, ids(4, seed=7).tolist())
    counts = {name: len(list(reference_queries(context, name, 13))) for name in SOURCES}
    assert counts == {"repeat": 3, "own": 3, "later": 1, "study": 4, "random": 1}
    assert len(list(reference_queries(context, "later+repeat+own", 13))) == 7


@pytest.mark.parametrize("source", SOURCES)
def test_asking_leaves_the_memory_as_it_was(two, ids, source):
    context = read(two, ids, ids(4, seed=7).tolist())
    held = [
        [layer.keys, layer.slots, layer.positions]
        for live in (context.past, context.after)
        for layer in live.cache.layers
    ]
    size = context.past.nbytes, context.after.nbytes, context.past.next_position, context.after.next_position
    list(reference_queries(context, source, 13, 5))
    now = [
        [layer.keys, layer.slots, layer.positions]
        for live in (context.past, context.after)
        for layer in live.cache.layers
    ]
    assert all(a is b for x, y in zip(held, now, strict=True) for a, b in zip(x, y, strict=True))
    assert size == (context.past.nbytes, context.after.nbytes, context.past.next_position, context.after.next_position)


def test_the_largest_attention_is_over_heads_and_queries_and_never_falls(two, ids):
    context = read(two, ids)
    (one,) = reference_queries(context, chunk=1024)
    layer = context.layers[0]
    p = attention_of(one, layer, context.keys(layer)).unflatten(0, (two.model.family.kv_heads, -1))
    scores = torch.zeros(two.model.family.kv_heads, LENGTH)
    scores[:, :3] = 7.0
    raise_to_attention(scores, one, layer, context.keys(layer))
    assert (scores[:, :3] == 7).all()
    assert close(scores[:, 3:], p.amax((1, 2))[:, 3:])
    weight = torch.rand(p.shape[2], generator=torch.Generator().manual_seed(0))
    weighted = torch.zeros_like(scores)
    raise_to_attention(weighted, one, layer, context.keys(layer), weight.log())
    assert close(weighted, (p * weight[:, None]).amax((1, 2)))


def test_logits_over_a_long_span_are_computed_a_bounded_number_of_rows_at_a_time():
    H, G, D, T = 4, 2, 8, 3000
    noise, record = torch.Generator().manual_seed(0), QueryRecorder()
    record.queries[0] = torch.randn(H, T, D, generator=noise)
    record.mass[0] = torch.zeros(H, T)
    keys, rows = torch.randn(G, T, D, generator=noise), 0
    for part, logits in log_attention(
        ReferenceQueries(
            record, slice(0, T), lambda kind: torch.zeros(T), torch.zeros(T, dtype=torch.bool), first_token=0
        ),
        0,
        keys,
    ):
        assert logits.numel() <= ROWS * T
        at = (part.stop - 1, part.start)  # the first and the last of the rows, against their definition
        for row in at:
            want = record.queries[0][:, row].view(G, H // G, D) @ keys.transpose(1, 2)
            assert close(logits[:, :, row - part.start, : row + 1], want[..., : row + 1], D)
            assert (logits[:, :, row - part.start, row + 1 :] == -math.inf).all()
        rows += part.stop - part.start
    assert rows == T


class Largest(TorchDispatchMode):
    """Remembers how many elements the largest tensor made under it has."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [
            x.numel() for x in tree_leaves(out) if isinstance(x, torch.Tensor) and x.untyped_storage().nbytes() > 0
        ]
        self.elements = max(self.elements, *sizes, 0)
        return out


@pytest.mark.parametrize(("source", "reach"), [("repeat", 0), ("repeat", 16), ("own", 0), ("later", 0)])
def test_nothing_as_large_as_the_square_of_the_span_is_made(two, ids, source, reach):
    T = 1100
    context = read(two, ids, ids(20, seed=3).tolist(), length=T)
    with Largest() as seen:
        for one in islice(reference_queries(context, source, chunk=100, reach=reach), 2):
            for layer in context.layers:
                scores = torch.zeros(two.model.family.kv_heads, T)
                raise_to_attention(scores, one, layer, context.keys(layer))
    assert 0 < seen.elements < T * T


def test_a_pass_that_the_model_runs_in_several_steps_is_recorded_whole(two, ids):
    """A repeat of a chunk and its request may be longer than one step of a prefill."""
    length = STEP + 20
    context, prompt = read(two, ids, length=length), prompt_ids(two.model)
    for one in reference_queries(context, "repeat+own", length):
        expected = length + (len(prompt) if one.first_token is None else 0)
        assert len(one.predicts_fact) == expected
        for layer in context.layers:
            assert one.recorder.queries[layer].shape[1] == one.recorder.mass[layer].shape[1] == expected
