"""Slots in fewer bits: what is rounded, what it takes, and that everything else treats them as any slots."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from holdfast.compaction.compact import compact
from holdfast.compaction.plan import Plan, Policy
from holdfast.context import holdfast_file
from holdfast.context.cache import SlotLayer
from holdfast.context.packing import join, pack, where
from holdfast.context.segments import CompactContext, StateSegment, token_segment
from holdfast.context.surgery import keep_pairs, quantize_segment, shift_segment
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import Continuation
from holdfast.errors import BadOption
from holdfast.methods.registry import build
from holdfast.model.quantized_slots import CODES, FORMS, quantize, quantize_rows
from tolerance import PASS, close

ERROR = {"bfloat16": 0.004, "int8": 0.01, "int4": 0.12}
D = 64
PROBE = [20, 30, 40, 50, 60]


@pytest.fixture(params=CODES)
def form(request):
    return request.param


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ragged(heads=3, n=40, seed=0, bias=False):
    """Slots of heads of unequal length, one of them empty."""
    mask = torch.rand(heads, n, generator=torch.Generator().manual_seed(seed)) < 0.5
    mask[1] = False
    slots = pack(noise(heads, n, D, seed=seed + 1), noise(heads, n, D, seed=seed + 2), torch.arange(float(n)), mask)
    return replace(slots, bias=noise(len(slots.keys), seed=seed + 3)) if bias else slots


def apart(got, want):
    return float((got - want).norm() / want.norm())


def same(a, b):
    return all(torch.equal(getattr(a, f), getattr(b, f)) for f in ("keys", "values", "positions"))


@pytest.mark.parametrize("width", [2, 16, 64, 80, 96, 256])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_rounding_stays_within_its_bound(form, width, scale):
    rows = scale * noise(200, width)
    assert apart(quantize_rows(rows, form).plain(torch.float32), rows) < ERROR[form]


@pytest.mark.parametrize("form", ["int8", "int4"])
def test_a_head_whose_keys_share_a_strong_mean_is_coded_as_finely_as_without(form):
    slots = ragged()
    strong = replace(slots, keys=slots.keys + 20 * noise(D, seed=9))
    error = (quantize(strong, form).plain(torch.float32).keys - strong.keys).norm() / slots.keys.norm()
    assert error < 1.1 * ERROR[form]


def test_zeros_stay_zeros_and_nothing_stays_nothing(form):
    assert torch.equal(quantize_rows(torch.zeros(3, D), form).plain(torch.float32), torch.zeros(3, D))
    empty = quantize(pack(torch.zeros(2, 0, D), torch.zeros(2, 0, D), torch.empty(0)), form)
    assert empty.plain(torch.float32).keys.shape == (0, D)
    assert sum(empty.lengths) == 0


def test_coding_again_changes_nothing_and_the_same_input_gives_the_same_bytes(form):
    rows = noise(50, D)
    once = quantize_rows(rows, form)
    again = quantize_rows(once.plain(torch.float32), form)
    assert torch.equal(once.codes, quantize_rows(rows, form).codes)
    a, b = (coded.plain(torch.float32) for coded in (again, once))
    assert ((a - b).abs() <= 2 * torch.finfo(torch.bfloat16).eps * b.abs()).all()  # of the scales


@pytest.mark.parametrize("bias", [False, True])
def test_bytes_are_those_of_every_tensor_held(form, bias):
    slots = quantize(ragged(bias=bias), form)
    held = [slots.keys.codes, slots.keys.scales, slots.values.codes, slots.values.scales]
    held += [slots.positions, slots.bias, slots.centre]
    assert slots.nbytes == sum(t.untyped_storage().nbytes() for t in held if t is not None)
    per_row = {"bfloat16": 2 * D, "int8": D + 4, "int4": D // 2 + 4}[form]
    assert slots.keys.nbytes == per_row * len(slots.keys)


def test_heads_bias_and_positions_are_kept_as_they_were(form):
    slots = ragged(bias=True)
    plain = quantize(slots, form).plain(torch.float32)
    assert plain.lengths == slots.lengths
    assert torch.equal(plain.bias, slots.bias)
    assert torch.equal(plain.positions, slots.positions)
    assert apart(plain.keys, slots.keys) < ERROR[form]
    assert apart(plain.values, slots.values) < ERROR[form]


def test_choosing_among_coded_slots_is_choosing_among_what_they_stand_for(form):
    slots = join([quantize(ragged(bias=True), form), quantize(ragged(seed=5), form)])
    mask = noise(len(slots.keys), seed=3) > 0
    chosen, want = where(slots, mask), where(slots.plain(torch.float32), mask)
    assert same(chosen.plain(torch.float32), want)
    assert (chosen.lengths, torch.equal(chosen.bias, want.bias)) == (want.lengths, True)


def test_joining_coded_slots_is_joining_what_they_stand_for(form):
    parts = [quantize(ragged(seed=s, bias=s == 3), form) for s in (0, 3, 6)]
    joined, want = join(parts), join([p.plain(torch.float32) for p in parts])
    assert same(joined.plain(torch.float32), want)
    assert (joined.lengths, torch.equal(joined.bias, want.bias)) == (want.lengths, True)
    assert joined.nbytes == sum(p.nbytes for p in parts) + 4 * sum(len(p.keys) for p in (parts[0], parts[2]))
    assert same(join([joined, parts[0]]).plain(torch.float32), join([want, parts[0].plain(torch.float32)]))


def span_of(pair, ids, n=40):
    """A context of a verbatim head, ragged states with a bias, and a verbatim end; states are not coded."""
    text = ids(n + 10)
    past = KVContext(pair.model)
    with torch.no_grad():
        past.feed(text[:5])
    _, states = pair.engine.capture(past, text[5:n], torch.arange(5, n))
    masks = [noise(*k.shape[:2], seed=i) > -0.3 for i, k in enumerate(states.keys)]
    masks = [None if layer.window else m for layer, m in zip(pair.model.family.layers, masks, strict=True)]
    segment = keep_pairs(states, masks)
    first = replace(segment.layers[-1], bias=noise(len(segment.layers[-1].keys)).to(torch.float32))
    segment = StateSegment((*segment.layers[:-1], first))
    return CompactContext((token_segment(text[:5], 0), segment, token_segment(text[n:], n)), n + 10)


def with_states(context, change):
    return replace(context, segments=tuple(change(s) if isinstance(s, StateSegment) else s for s in context.segments))


def decoded(segment):
    """What codes stand for, as plain slots."""
    return replace(segment, layers=tuple(s.plain(torch.float32) for s in segment.layers))


def logits(pair, context):
    return pair.engine.next_logits(pair.engine.open(context), PROBE)


def test_reading_codes_is_reading_what_they_stand_for(pair, ids, form):
    narrow = with_states(span_of(pair, ids), lambda s: quantize_segment(s, form))
    got, want = logits(pair, narrow), logits(pair, with_states(narrow, decoded))
    assert close(got, want, PASS)


def test_logits_stay_close(pair, ids, form):
    context = span_of(pair, ids)
    got, want = logits(pair, with_states(context, lambda s: quantize_segment(s, form))), logits(pair, context)
    assert apart(got, want) < {"bfloat16": 0.03, "int8": 0.1, "int4": 0.7}[form]  # attention is peaked here


def test_a_memory_of_several_forms_reads_each(pair, ids, form):
    """Verbatim tokens, plain slots, and slots of two forms, some of them after further tokens."""
    context = span_of(pair, ids)
    state, end = context.segments[1], token_segment(ids(4, seed=3), 150)
    other = "int8" if form != "int8" else "bfloat16"
    segments = (*context.segments, shift_segment(state, 50), quantize_segment(shift_segment(state, 100), form), end)
    segments += (quantize_segment(shift_segment(state, 200), other), quantize_segment(shift_segment(state, 250), form))
    mixed = CompactContext(segments, 300)
    live = pair.engine.open(mixed)
    assert {part.form for layer in live.cache.layers for part in layer.quantized} == {form, other}
    got, want = pair.engine.next_logits(live, PROBE), logits(pair, with_states(mixed, decoded))
    assert close(got, want, PASS)


def test_moving_coded_states_changes_positions_alone(two, ids, form):
    context = with_states(span_of(two, ids), lambda s: quantize_segment(s, form))
    later = replace(context, segments=tuple(shift_segment(s, 100) for s in context.segments), next_position=150)
    before, after = (c.segments[1].layers[0] for c in (context, later))
    assert torch.equal(before.keys.codes, after.keys.codes)
    got, want = logits(two, later), logits(two, with_states(later, decoded))
    assert close(got, want, PASS)


def test_many_questions_share_coded_slots(two, ids, form):
    live = two.engine.open(with_states(span_of(two, ids), lambda s: quantize_segment(s, form)))
    asked = [Continuation((5, 6, 7), (8, 9)), Continuation((9,), (4, 3, 2))]
    one_by_one = [two.engine.score(live, [c])[0] for c in asked]
    for got, want in zip(two.engine.score(live, asked), one_by_one, strict=True):
        assert close(got, want, PASS)
    assert two.engine.answers(live, [[5, 6], [7]], 4) == [list(two.engine.generate(live, p, 4)) for p in ([5, 6], [7])]


def test_an_opened_memory_holds_codes_and_counts_them(two, ids, form):
    context = span_of(two, ids)
    plain, narrow = (
        two.engine.open(with_states(context, f)) for f in (lambda s: s, lambda s: quantize_segment(s, form))
    )
    held = 0
    for layer in narrow.cache.layers:
        assert all(part.form == form for part in layer.quantized)
        held += sum(t.nbytes for t in (layer.keys, layer.values) if t is not None)
        for part in layer.quantized:
            rows = [t for r in (part.keys, part.values) for t in (r.codes, r.scales)]
            held += sum(t.nbytes for t in (*rows, part.positions, part.bias, part.centre) if t is not None)
    assert narrow.nbytes == held < plain.nbytes


def test_a_fork_shares_codes_and_is_left_alone_by_what_its_twin_takes_in(two, ids, form):
    context = span_of(two, ids)
    segment = quantize_segment(context.segments[1], form)
    live = two.engine.open(CompactContext((segment,), 40))
    before, size = two.engine.next_logits(live, PROBE), live.nbytes
    twin = live.fork()
    with torch.no_grad():
        twin.append(shift_segment(segment, 50))
    assert live.nbytes == size
    assert torch.equal(two.engine.next_logits(live, PROBE), before)


def test_a_half_precision_model_reads_every_form(tiny, ids, form):
    pair = tiny("llama", dtype=torch.bfloat16)
    context = span_of(pair, ids)
    narrow = with_states(context, lambda s: quantize_segment(s, form))
    got, want = logits(pair, narrow).float(), logits(pair, context).float()
    assert apart(got, want) < {"bfloat16": 0.1, "int8": 0.15, "int4": 0.5}[form]
    layer: SlotLayer = pair.engine.open(narrow).cache.layers[0]
    assert bool(layer.quantized) == (form != "bfloat16")  # nothing is coded that takes no fewer bytes
    assert math.isclose(pair.engine.open(context).nbytes, pair.engine.open(narrow).nbytes) == (form == "bfloat16")


def test_what_was_saved_is_loaded_bit_for_bit(two, ids, form, tmp_path):
    context = with_states(span_of(two, ids), lambda s: quantize_segment(s, form))
    path = holdfast_file.save(context, tmp_path / "a.holdfast", two.model)
    loaded = holdfast_file.load(path, two.model)
    assert torch.equal(logits(two, loaded), logits(two, context))
    assert holdfast_file.save(loaded, tmp_path / "b.holdfast", two.model).read_bytes() == path.read_bytes()
    assert [entry.form for entry in holdfast_file.read_manifest(path).segments] == ["model", form, "model"]
    assert two.engine.open(loaded).nbytes == two.engine.open(context).nbytes


@pytest.mark.parametrize("spec", ["kvzip", "virtual_tokens_hybrid:steps=1,share=0.3"])
def test_the_option_codes_states_and_leaves_the_rest(two, session, spec, form):
    separator = "," if ":" in spec else ":"
    plans = [Plan(s, 2.0, False, Policy()) for s in (spec, f"{spec}{separator}storage={form}")]
    plain, narrow = (compact(session, two.engine, p) for p in plans)
    assert {s.form for s in narrow.segments if isinstance(s, StateSegment)} == {form}
    for one, other in zip(plain.segments, narrow.segments, strict=True):
        assert type(one) is type(other)
        if isinstance(one, StateSegment):  # the same number of slots, spread by what the memory before has become
            assert sum(sum(s.lengths) for s in one.layers) == sum(sum(s.lengths) for s in other.layers)
        else:
            assert len(one) == len(other)
    assert narrow.evidence["bytes"] < plain.evidence["bytes"]


def test_a_method_without_states_says_that_the_option_does_nothing(two, session):
    with pytest.raises(BadOption, match="truncate keeps no KV slots"):
        compact(session, two.engine, Plan("truncate:storage=int8", 2.0))


def test_the_models_own_form_is_no_form_at_all():
    assert build("kvzip:storage=model") == build("kvzip")


@pytest.mark.parametrize("value", ["int2", "", "INT8", "8", "float16"])
def test_an_unknown_form_is_refused_with_what_there_is(value):
    with pytest.raises(BadOption) as caught:
        build(f"kvzip:storage={value}")
    assert all(known in str(caught.value) for known in FORMS)


def test_a_wrapped_method_keeps_its_name_and_its_way():
    for spec in ("kvzip", "virtual_tokens"):
        plain, wrapped = build(spec), build(f"{spec}:storage=int4")
        assert (wrapped.name, wrapped.by_turn) == (plain.name, plain.by_turn)
