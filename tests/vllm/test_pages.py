"""Pages hold what the local engine holds: decoding over them gives the same log-probabilities."""

import math
from dataclasses import replace

import pytest
import torch

from holdfast.context.packing import pack
from holdfast.context.segments import CompactContext, SoftSegment, StateSegment, token_segment
from holdfast.context.surgery import keep_pairs, quantize_segment
from holdfast.engine.kv_context import KVContext
from holdfast.errors import BadContext, BadInput, BadOption, UnsupportedModel
from holdfast.model.load import adopt_model
from holdfast.model.slots import Slots
from holdfast.vllm.padding_keys import nearest_point
from holdfast.vllm.pages import Options, to_pages
from tolerance import PASS, close

FULL = ("llama", "qwen2", "qwen3", "mistral", "phi3", "phi3-partial")
SMALL = Options(block_size=16, reach=256)
ASKED = [9, 12, 40, 41, 5]


def evicted(pair, text, counts):
    """States of `text` read behind `past`; head `h` of layer `l` keeps `counts(l, h)` tokens, spread evenly."""
    past = pair.engine.open(CompactContext((token_segment(text[:20], 0),), 20))
    _, states = pair.engine.capture(past, text[20:])
    masks = []
    for layer, keys in enumerate(states.keys):
        mask = torch.zeros(keys.shape[:2], dtype=torch.bool)
        for head in range(keys.shape[0]):
            mask[head, torch.linspace(0, keys.shape[1] - 1, counts(layer, head)).long()] = True
        masks.append(mask)
    return keep_pairs(states, masks)


def made(pair, ids, counts=lambda layer, head: 30, tail=25):
    """Verbatim tokens, 120 tokens of which each head keeps some, and `tail` verbatim tokens."""
    text = ids(140)
    segments = [token_segment(text[:20], 0), evicted(pair, text, counts)]
    if tail:
        segments.append(token_segment(ids(tail, seed=7), 140))
    return CompactContext(tuple(segments), 140 + tail, model_digest=pair.model.digest)


def over(model, pages):
    """A memory of the pages alone, at positions from 0 on, as vLLM has it."""
    live, n = KVContext(model), pages.header.slots
    for layer, keys, values in zip(live.cache.layers, pages.keys, pages.values, strict=True):
        G = keys.shape[1]
        flat = [x.transpose(0, 1).reshape(G * n, -1) for x in (keys, values)]
        layer.splice(Slots(*flat, torch.arange(n).float().repeat(G), None, (n,) * G))
    live.next_position = n
    return live


def alike(pair, context, pages):
    """Returns whether the context here and its pages give the same log-probabilities."""
    here = pair.engine.next_logits(pair.engine.open(context), ASKED).log_softmax(-1)
    there = pair.engine.next_logits(over(pair.model, pages), [*pages.header.tail, *ASKED])[-len(ASKED) :]
    return close(there.log_softmax(-1), here, PASS)


@pytest.fixture(scope="module")
def one_sided(tiny_plain):
    """A model whose queries share a strong mean, as trained models' do; random weights have none."""
    from conftest import Pair, byte_tokenizer

    plain = tiny_plain("qwen2", seed=5)
    with torch.no_grad():
        for layer in plain.model.layers:
            layer.self_attn.q_proj.weight *= 0.3
            # the slowest plane of each head, which RoPE hardly turns within the reach
            bias = torch.zeros(4, 16)
            bias[:, 7] = 6.0
            layer.self_attn.q_proj.bias.copy_(bias.flatten())
    return Pair(plain, adopt_model(plain, byte_tokenizer(), name="one-sided"))


@pytest.mark.parametrize("family", FULL)
def test_pages_of_equal_heads_give_the_local_answers(tiny, ids, family):
    pair = tiny(family)
    context = made(pair, ids)
    pages = to_pages(pair.model, context, SMALL)
    assert (pages.header.slots, len(pages.header.tail)) == (64, 11)  # 20 + 30 + 25 slots in blocks of 16
    assert alike(pair, context, pages)


def test_equal_heads_cost_nothing(tiny, ids):
    pair = tiny("llama")
    report = to_pages(pair.model, made(pair, ids), SMALL).header.report
    assert report["placed"] == report["held"] == 75 * 2 * 3
    assert (report["padded"], report["repeated"], report["leak"], report["tokens"]) == (0, 0, 0.0, 165)


def test_a_tail_that_fills_whole_blocks_leaves_nothing_to_the_server(tiny, ids):
    pair = tiny("llama")
    context = made(pair, ids, tail=14)
    pages = to_pages(pair.model, context, SMALL)
    assert (pages.header.slots, pages.header.tail) == (64, ())
    assert alike(pair, context, pages)


def test_a_gap_behind_the_last_token_moves_no_answer(one_sided, ids):
    """The server counts on from the pages; a gap is in no prompt, so that nothing is left to it."""
    context = replace(made(one_sided, ids, tail=120), next_position=300)
    pages = to_pages(one_sided.model, context, SMALL)
    assert (pages.header.slots, pages.header.tail) == (176, ())
    assert alike(one_sided, context, pages)


def test_heads_of_different_lengths_are_refused_by_their_lengths(tiny, ids):
    pair = tiny("llama")
    with pytest.raises(BadInput, match=r"heads hold 55 to 75 slots.*allocation=head"):
        to_pages(pair.model, made(pair, ids, lambda layer, head: 10 + 20 * head), SMALL)


def test_padding_is_seen_by_no_query(one_sided, ids):
    context = made(one_sided, ids, lambda layer, head: 5 + 15 * head + 10 * layer, tail=120)
    pages = to_pages(one_sided.model, context, replace(SMALL, lengths="pad"))
    report = pages.header.report
    assert report["padded"] == report["placed"] - report["held"] > 0
    assert report["leak"] < 1e-6
    assert alike(one_sided, context, pages)
    bare = replace(pages, keys=tuple(torch.where(v.any(-1, keepdim=True), k, 0) for k, v in _pairs(pages)))
    assert not alike(one_sided, context, bare)  # padding with keys of zero would be seen


def _pairs(pages):
    return zip(pages.keys, pages.values, strict=True)


def test_padding_that_queries_would_see_is_refused_by_layer_and_head(tiny, ids):
    pair = tiny("llama")  # random queries look everywhere
    context = made(pair, ids, lambda layer, head: 10 + 20 * head, tail=120)
    with pytest.raises(BadInput, match=r"layer 0, head \d.*cannot be padded"):
        to_pages(pair.model, context, replace(SMALL, lengths="pad"))


def test_padding_without_verbatim_tokens_to_choose_by_is_refused(one_sided, ids):
    segment = evicted(one_sided, ids(140), lambda layer, head: 30)
    context = CompactContext((segment,), 140, model_digest=one_sided.model.digest)
    with pytest.raises(BadInput, match="the context has 0 of them"):
        to_pages(one_sided.model, context, SMALL)


def biased(pair, ids, bias):
    context = made(pair, ids)
    segment = context.segments[1]
    layers = tuple(replace(s, bias=torch.full_like(s.positions, bias)) for s in segment.layers)
    return replace(context, segments=(context.segments[0], replace(segment, layers=layers), context.segments[2]))


def test_a_bias_is_refused_unless_slots_may_be_repeated(tiny, ids):
    pair = tiny("llama")
    with pytest.raises(BadInput, match=r"layer 0 has slots with a bias.*bias='repeat'"):
        to_pages(pair.model, biased(pair, ids, 1.0), SMALL)


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_slot_that_counts_for_several_is_repeated_exactly(tiny, ids, times):
    pair = tiny("llama")
    context = biased(pair, ids, math.log(times))
    pages = to_pages(pair.model, context, replace(SMALL, bias="repeat"))
    report = pages.header.report
    assert (report["repeated"], report["rounding"]) == (30 * (times - 1) * 6, 0.0)
    assert alike(pair, context, pages)


def test_a_bias_between_whole_numbers_states_its_error(tiny, ids):
    pair = tiny("llama")
    report = to_pages(pair.model, biased(pair, ids, math.log(2.4)), replace(SMALL, bias="repeat")).header.report
    assert report["rounding"] == round(math.log(1.2), 4)


@pytest.mark.parametrize("form", ["bfloat16", "int8", "int4"])
def test_coded_slots_are_decoded_and_said_so(tiny, ids, form):
    pair = tiny("llama")
    plain = made(pair, ids)
    context = replace(plain, segments=(plain.segments[0], quantize_segment(plain.segments[1], form), plain.segments[2]))
    pages = to_pages(pair.model, context, SMALL)
    assert pages.header.report["decoded"] == (form,)
    assert alike(pair, context, pages)


def test_soft_segments_become_pages_like_words(tiny, ids):
    pair = tiny("llama")
    soft = SoftSegment(torch.randn(17, 64, generator=torch.Generator().manual_seed(1)), torch.arange(17) * 1.5)
    context = CompactContext((soft, token_segment(ids(40), 30)), 70, model_digest=pair.model.digest)
    pages = to_pages(pair.model, context, SMALL)
    assert (pages.header.slots, len(pages.header.tail)) == (48, 9)
    assert alike(pair, context, pages)


def test_sliding_layers_are_refused_by_name(tiny, ids):
    pair = tiny("gemma3_text")
    with pytest.raises(UnsupportedModel, match="layer 0 of tiny-gemma3_text slides over 8 tokens"):
        to_pages(pair.model, CompactContext((token_segment(ids(40), 0),), 40), SMALL)


def test_another_models_context_is_refused(tiny, ids):
    with pytest.raises(BadContext, match="another model"):
        to_pages(tiny("qwen3").model, made(tiny("llama"), ids), SMALL)


@pytest.mark.parametrize("count", [0, 15])
def test_a_context_that_fills_no_block_is_refused(tiny, ids, count):
    segments = (token_segment(ids(count), 0),) if count else ()
    with pytest.raises(BadInput, match=r"empty|does not fill one block of 16"):
        to_pages(tiny("llama").model, CompactContext(segments, count), SMALL)


def test_pages_are_the_same_each_time_and_leave_the_context_alone(tiny, ids):
    pair = tiny("llama")
    context = made(pair, ids)
    before = [s.keys.clone() for s in context.segments[1].layers]
    assert to_pages(pair.model, context, SMALL).handle == to_pages(pair.model, context, SMALL).handle
    assert all(torch.equal(a, s.keys) for a, s in zip(before, context.segments[1].layers, strict=True))


def test_other_contents_have_other_handles(tiny, ids):
    pair = tiny("llama")
    a, b = made(pair, ids), made(pair, ids, tail=26)
    assert to_pages(pair.model, a, SMALL).prompt[:24] != to_pages(pair.model, b, SMALL).prompt[:24]


@pytest.mark.parametrize("wrong", [{"block_size": 0}, {"reach": 0}, {"lengths": "cut"}, {"bias": "fold"}])
def test_options_that_make_no_sense_are_refused(wrong):
    with pytest.raises(BadOption):
        Options(**wrong)


def test_the_nearest_point_of_a_hull_is_found():
    square = torch.tensor([[[1.0, -1], [1, 1], [3, 1], [3, -1]], [[2, 0], [0, 2], [3, 3], [2, 2]]])
    assert (nearest_point(square) - torch.tensor([[1.0, 0], [1, 1]])).norm(dim=-1).max() < 0.01  # where its steps end


def test_a_head_without_slots_is_padded_whole(one_sided, ids):
    """Global thresholds leave some heads nothing at all of a span."""
    text = ids(140)
    past = one_sided.engine.open(CompactContext((token_segment(text[:100], 0),), 100))
    _, states = one_sided.engine.capture(past, text[100:])
    layers = []
    for keys, values in zip(states.keys, states.values, strict=True):
        mask = torch.zeros(keys.shape[:2], dtype=torch.bool)
        mask[0, :32] = True
        layers.append(pack(keys, values, states.positions, mask))
    context = CompactContext((token_segment(text[:100], 0), StateSegment(tuple(layers))), 140)
    pages = to_pages(one_sided.model, context, replace(SMALL, lengths="pad"))
    assert pages.header.report["padded"] == 3 * (144 - 100 + 144 - 132)
    assert alike(one_sided, context, pages)
