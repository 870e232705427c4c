"""The laws that hold for every method in the registry, with full attention and with sliding layers."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache

import pytest
import torch

from conftest import VOCAB
from holdfast.blocks.block import Kind
from holdfast.blocks.render import render
from holdfast.compaction.compact import compact
from holdfast.compaction.partition import parts, spans
from holdfast.compaction.plan import Plan, Policy
from holdfast.compaction.train_surrogate import SurrogateTraining, train_surrogate
from holdfast.compaction.walk import compact_in_memory, compact_parts
from holdfast.context import holdfast_file
from holdfast.context.budget import budget_from_ratio
from holdfast.context.segment_tensors import name_tensors
from holdfast.context.segments import CompactContext, SoftSegment, StateSegment, TokenSegment
from holdfast.engine.kv_context import KVContext, open_context
from holdfast.engine.local import LocalEngine
from holdfast.errors import BadOption, UnsupportedModel
from holdfast.gate.latent.fact_tokens import build_fact_mask
from holdfast.methods.registry import LATENT, build
from holdfast.methods.surrogate_network import find_network, own_network_path, save_network
from holdfast.model.load import adopt_model
from holdfast.transcript.cuts import check_legal, legal_cuts
from tolerance import PASS, close

RATIO = 2.5
OPTIONS = {"virtual_tokens_attention": ["question=Which port?"], "virtual_tokens_distilled": ["distil=2"]}
OPTIONS |= {name: ["weights=untrained"] for name in ("icae", "restore", "anchors", "projector")}
VARIANTS = (  # options that change how a budget is spread or what asks
    "kvzip:allocation=layer,cap=2",
    "informed:queries=own+random,chunk=50,reach=9,floor=0.3",
    "snapkv:allocation=global,observed=16,cap=1.5",
    "h2o:allocation=pyramid,mean=true,floor=0.5",
    "kvzip:storage=int8",
    "informed:cap=3,storage=int4",
    "snapkv:storage=bfloat16",
)
FAMILIES = ("llama", "gemma3_text")
NOT_SERVED = {("gemma3_text", "anchors")}  # it says so: test_readers.py
ONE_FAMILY = {"restore", "average", "projector"}
SAME = {"icae_untrained", "average_online"}  # rows of a class that is tried here; the second one takes a step a slot
PROBE = [20, 30, 40, 50, 60]


def spec(name):
    few = ["steps=3"] if "virtual" in name or name == "refine" else []
    options = [*OPTIONS.get(name, []), *few]
    return f"{name}:{','.join(options)}" if options else name


def cases():
    """Every class of method with full attention and with sliding layers; every other row on one of the two in turn."""
    seen = set()
    for number, name in enumerate([*LATENT, *VARIANTS]):
        fresh = name in LATENT and LATENT[name].path not in seen
        seen.add(LATENT[name].path if name in LATENT else "")
        served = [f for f in FAMILIES if (f, name) not in NOT_SERVED]
        if name not in SAME:
            both = fresh and name not in ONE_FAMILY
            yield from ((family, spec(name)) for family in (served if both else served[number % 2 :][:1]))


@pytest.fixture(scope="module", params=cases(), ids="-".join)
def case(request):
    """Of the module, so that the tests of one method come one after another and share what it made."""
    return request.param


@pytest.fixture(scope="module")
def surrogates(tmp_path_factory):
    """A home for the surrogates of the tiny models, which are trained where a test asks for one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOLDFAST_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def two(tiny, case, surrogates):
    pair = tiny(case[0])
    if "surrogate" in case[1] and not find_network(pair.model.digest):
        training = SurrogateTraining(windows=8, window=64, hidden=4, epochs=1)
        tokens = torch.randint(3, VOCAB, (2, 900), generator=torch.Generator().manual_seed(0)).tolist()
        save_network(train_surrogate(tokens, pair.engine, training), own_network_path(pair.model.digest))
    return pair


@pytest.fixture(scope="module")
def latent(case):
    return case[1]


def plan(latent, ratio=RATIO, **changes):
    return Plan(latent=latent, ratio=ratio, **({"by_turn": False} | changes))


@pytest.fixture(scope="module")
def compacted(two, session, latent):
    """The session compacted with the default policy, once; contexts are values, so that tests may share it."""
    return compact(session, two.engine, plan(latent))


@pytest.fixture(scope="module")
def again(two, session, latent):
    """A second compaction, and the memory that it ends in."""
    return compact_in_memory(cut(session, two.engine, Policy()), two.engine, plan(latent))


@pytest.fixture(scope="module")
def uncompacted(tiny, session):
    """`uncompacted(family)`: the whole session in memory, and what transformers says after `PROBE` behind it."""

    @cache
    def read(family):
        pair = tiny(family)
        ids = list(render(session, pair.model.tokenizer).ids)
        live = KVContext(pair.model)
        with torch.no_grad():
            live.feed(ids)
            return live, pair.plain(torch.tensor([[*ids, *PROBE]])).logits[0, -len(PROBE) :]

    return read


def cut(session, engine, policy=None):
    policy = policy or Policy()
    return parts(session, render(session, engine.model.tokenizer), policy)


def tensors(context):
    return name_tensors(context)


def same(a, b):
    """Whether two contexts hold the same bytes."""
    one, two = tensors(a), tensors(b)
    return (
        a.next_position == b.next_position
        and [name for name, _ in one] == [name for name, _ in two]
        and all(torch.equal(x, y) for (_, x), (_, y) in zip(one, two, strict=True))
    )


def snapshot(live):
    held = [(x.keys, x.values, x.slots, x.positions, *x.quantized) for x in live.cache.layers]
    copies = [(x.clone() if isinstance(x, torch.Tensor) else x) for row in held for x in row]
    return live.next_position, live.nbytes, copies


def unchanged(live, before):
    now = snapshot(live)
    pairs = zip(now[2], before[2], strict=True)
    return now[:2] == before[:2] and all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a is b for a, b in pairs)


@pytest.mark.parametrize(
    "changes", [{"ratio": 1}, {"policy": Policy(keep_recent=99)}], ids=["it fits", "all is recent"]
)
def test_law_1_where_nothing_is_to_be_compacted_the_session_is_returned_unchanged(
    two, session, case, uncompacted, changes
):
    (_, latent), (live, want) = case, uncompacted(case[0])
    context = compact(session, two.engine, plan(latent, **changes))
    assert all(isinstance(segment, TokenSegment) for segment in context.segments)
    assert close(two.engine.next_logits(two.engine.open(context), PROBE), want, PASS)
    live = live.fork()
    live.settle(live.next_position)
    assert context.evidence["bytes"] == context.evidence["bytes_full"] == live.nbytes


def pairs_in(segments, full_layers, kv_heads):
    """KV pairs that segments put into the full layers."""
    count = 0
    for segment in segments:
        if isinstance(segment, StateSegment):
            count += sum(sum(segment.layers[layer].lengths) for layer in full_layers)
        else:
            count += len(segment) * len(full_layers) * kv_heads
    return count


def test_law_2_one_study_serves_every_budget_and_none_is_overrun(two, session, latent):
    family, method = two.model.family, build(latent)
    part = max((p for p in cut(session, two.engine) if p.compact), key=len)
    (span,) = spans(part, by_turn=False)
    past = KVContext(two.model)
    past.next_position = span.start
    study, held = method.study(span, past, two.engine), []
    for ratio in (4, 2, 1.5):
        budget = budget_from_ratio(len(span), ratio)
        held.append(pairs_in(method.compress(study, budget), family.full, family.kv_heads))
        assert 0 < held[-1] <= budget.pairs(len(family.full) * family.kv_heads)
    assert held[0] < held[1] < held[2]


def test_law_2_the_bytes_reported_are_the_bytes_held(two, case, uncompacted, compacted):
    live = two.engine.open(compacted)
    tensors_held = []
    for layer in live.cache.layers:
        tensors_held += [layer.keys, layer.values]
        if layer.slots is not None:
            tensors_held += [layer.slots.keys, layer.slots.values, layer.slots.bias]
        for part in layer.quantized:
            tensors_held += [part.keys.codes, part.keys.scales, part.values.codes, part.values.scales]
            tensors_held += [part.positions, part.bias, part.centre]
    held = sum(t.untyped_storage().nbytes() if t.numel() == 0 else t.nbytes for t in tensors_held if t is not None)
    assert compacted.evidence["bytes"] == live.nbytes == held < uncompacted(case[0])[0].nbytes
    plain = [t for layer in live.cache.layers for t in (layer.keys, layer.values)]
    plain += [t for layer in live.cache.layers if layer.slots for t in (layer.slots.keys, layer.slots.values)]
    halves = held - sum(t.nbytes // 2 for t in plain if t is not None)  # in float32; codes and biases stay
    assert compacted.evidence["base_bytes"] == live.cache.nbytes_at(2) == halves


def test_law_3_inputs_are_left_as_they_were(two, session, latent):
    method = build(latent)
    rendered = render(session, two.model.tokenizer)
    pieces = parts(session, rendered, Policy())
    past = KVContext(two.model)
    with torch.no_grad():
        past.feed([i for block in pieces[0].blocks for i in block.ids])
    before = snapshot(past)
    weights = {name: w.clone() for name, w in two.model.hf.state_dict().items()}
    (span,) = spans(pieces[1], by_turn=False)
    study = method.study(span, past, two.engine)
    first = method.compress(study, budget_from_ratio(len(span), RATIO))
    again = method.compress(study, budget_from_ratio(len(span), RATIO))
    assert unchanged(past, before)
    assert render(session, two.model.tokenizer) == rendered
    assert all(torch.equal(w, weights[name]) for name, w in two.model.hf.state_dict().items())
    end = span.start + len(span)
    assert same(CompactContext(first, end), CompactContext(again, end))  # a study serves many budgets


def test_law_3_the_same_run_gives_the_same_bytes(two, tmp_path, compacted, again):
    one, (other, _) = compacted, again
    assert same(one, other)
    times = {"evidence": {}}  # the seconds differ
    files = [holdfast_file.save(replace(c, **times), tmp_path / f"{n}", two.model) for n, c in enumerate((one, other))]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_law_4_pinned_blocks_survive_byte_for_byte(two, session, latent, compacted):
    rendered = render(session, two.model.tokenizer)
    kept = {
        (int(i), float(p))
        for segment in compacted.segments
        if isinstance(segment, TokenSegment)
        for i, p in zip(segment.ids.tolist(), segment.positions.tolist(), strict=True)
    }
    recent = legal_cuts(session)[-2]
    pinned = [b for b in rendered.blocks if b.kind in (Kind.SYSTEM, Kind.TASK, Kind.USER) or b.origin.turn >= recent]
    assert {b.kind for b in pinned} >= {Kind.SYSTEM, Kind.TASK, Kind.USER, Kind.ACTION}
    for block in pinned:
        where = range(*block.origin.tokens)
        assert all((i, float(at)) in kept for i, at in zip(block.ids, where, strict=True))


def test_law_4_what_stays_verbatim_is_a_legal_session(two, session, latent, compacted):
    compacted = {origin.turn for s in compacted.segments if not isinstance(s, TokenSegment) for origin in s.origins}
    if latent == "truncate":
        compacted = {o.turn for p in cut(session, two.engine) if p.compact for b in p.blocks for o in (b.origin,)}
    check_legal(tuple(turn for n, turn in enumerate(session.turns) if n not in compacted))


def test_law_4_every_block_is_accounted_for(two, session, latent, compacted):
    origins = {origin for segment in compacted.segments for origin in segment.origins}
    blocks = {block.origin for block in render(session, two.model.tokenizer).blocks}
    if "truncate" in latent:  # what was dropped is named by nothing
        for segment in compacted.segments:
            assert sum(last - first for first, last in (o.tokens for o in segment.origins)) == len(segment)
        assert {(o.turn, o.kind) for o in origins} < {(o.turn, o.kind) for o in blocks}
    else:  # a method may cut a block in two; together its parts stand for all of it
        parts = Counter({(o.turn, o.kind, o.chars): 0 for o in origins})
        for o in origins:
            parts[o.turn, o.kind, o.chars] += o.tokens[1] - o.tokens[0]
        assert parts == {(o.turn, o.kind, o.chars): o.tokens[1] - o.tokens[0] for o in blocks}


def test_law_5_the_logical_length_is_kept_and_every_position_lies_in_its_span(two, session, latent, compacted):
    assert compacted.next_position == len(render(session, two.model.tokenizer).ids)
    assert all(segment.last_position < compacted.next_position for segment in compacted.segments)
    live = two.engine.open(compacted)
    assert live.next_position == compacted.next_position
    for segment in compacted.segments:
        first, last = segment.origins[0].tokens[0], segment.origins[-1].tokens[1] - 1
        layers = segment.layers if isinstance(segment, StateSegment) else (segment,)
        for layer in layers:
            if layer.positions.numel():
                assert first <= layer.positions.min()
                assert layer.positions.max() <= last


def test_law_6_saved_and_loaded_gives_the_same_logits(two, session, latent, tmp_path, compacted):
    loaded = holdfast_file.load(holdfast_file.save(compacted, tmp_path / "a.holdfast", two.model), two.model)
    assert same(loaded, compacted)
    got, want = (two.engine.next_logits(two.engine.open(c), PROBE) for c in (loaded, compacted))
    assert torch.equal(got, want)


def test_law_7_turn_by_turn_in_one_session_equals_composing_the_segments(two, session, latent):
    if latent.startswith("virtual_tokens_hybrid"):
        latent = f"{latent},share=0.05"  # so that the shortest turn is long enough
    latent, policy = latent.replace("steps=3", "steps=1").replace("distil=2", "distil=1"), Policy(keep_recent=3)
    context = compact(session, two.engine, plan(latent, by_turn=True, policy=policy))
    method, made = build(latent), []
    for part in cut(session, two.engine, policy):
        if not part.compact:
            ids = torch.tensor([i for b in part.blocks for i in b.ids])
            made.append(TokenSegment(ids, torch.arange(part.start, part.start + len(part)).float()))
        for span in spans(part, by_turn=True):
            past = open_context(two.model, CompactContext(tuple(made), span.start))
            budget = budget_from_ratio(len(span), RATIO)
            told = replace(span, facts=build_fact_mask(span.blocks, two.model.tokenizer))
            made += method.compress(method.study(told, past, two.engine), budget)
    composed = CompactContext(tuple(made), context.next_position)
    got, want = (two.engine.next_logits(two.engine.open(c), PROBE) for c in (composed, context))
    # tuning starts from memories that differ in their last bits, and carries the difference on
    assert close(got, want, 2 * PASS if "virtual" in latent else PASS)
    assert len(composed.segments) == len(context.segments)


def test_law_8_a_model_that_cannot_be_served_is_refused_before_any_method(tiny_plain, tokenizer_with):
    plain = tiny_plain("mistral", sliding_window=8)
    with pytest.raises(UnsupportedModel, match="layers 0 to 2"):
        LocalEngine(adopt_model(plain, tokenizer_with(), name="sliding"))


class Stop(Exception):
    """What a caller's progress callback may raise."""


@pytest.mark.parametrize("last", [False, True], ids=["at once", "at the end"])
def test_law_9_a_compaction_that_is_interrupted_leaves_everything_as_it_was(two, session, latent, last, compacted):
    if latent == "truncate":
        pytest.skip("truncate does no work that could be interrupted")
    calls, stop = [], 1

    def progress(what, done, total, note=""):
        calls.append(what)
        if len(calls) == stop:
            raise Stop

    part = next(p for p in cut(session, two.engine) if p.compact)
    (span,) = spans(part, by_turn=False)
    past = KVContext(two.model)
    with torch.no_grad():
        past.feed(list(render(session, two.model.tokenizer).ids[: span.start]))
    before, method = snapshot(past), build(latent)

    def run():
        calls.clear()
        method.compress(method.study(span, past, two.engine, progress), budget_from_ratio(len(span), RATIO), progress)

    if last:  # whatever comes last, the step before it was not in vain
        stop = 0
        run()
        stop = len(calls)
    with pytest.raises(Stop):
        run()
    assert unchanged(past, before)
    calls.clear()
    with pytest.raises(Stop):
        compact(session, two.engine, plan(latent), progress)
    assert not any(p.requires_grad or p.grad is not None for p in two.model.hf.parameters())
    assert not any(s.embeds.requires_grad for s in compacted.segments if isinstance(s, SoftSegment))
    assert torch.is_grad_enabled()
    if not last:
        stop = 0
        assert same(compact(session, two.engine, plan(latent)), compacted)


def test_a_huge_ratio_leaves_a_slot_or_says_why_not(two, session, latent):
    if latent.startswith("virtual_tokens_hybrid"):
        with pytest.raises(BadOption, match="too short"):
            compact(session, two.engine, plan(latent, ratio=1e6))
        return
    context = compact(session, two.engine, plan(latent, ratio=1e6))
    assert torch.isfinite(two.engine.next_logits(two.engine.open(context), PROBE)).all()


@pytest.mark.parametrize("ratio", [0.5, 0, -1, float("nan"), float("inf")])
def test_a_senseless_ratio_is_refused_before_any_work(tiny, session, ratio):
    def progress(what, done, total, note=""):
        raise AssertionError("work was done")

    with pytest.raises(BadOption, match="ratio"):
        compact(session, tiny("llama").engine, plan("kvzip", ratio=ratio), progress)


def test_a_compacted_context_answers(two, session, latent, compacted):
    live = two.engine.open(compacted)
    prompts = [PROBE, [9, 9, 9], PROBE[:1]]
    assert two.engine.answers(live, prompts, 6) == [list(two.engine.generate(live, p, 6)) for p in prompts]


def test_an_empty_list_of_parts_is_an_empty_context(tiny):
    context = compact_parts([], tiny("llama").engine, plan("kvzip"))
    assert (context.segments, context.next_position) == ((), 0)


def test_the_memory_a_compaction_ends_in_is_the_one_that_opening_gives(two, again):
    context, live = again
    opened_again = two.engine.open(context)
    got, want = (two.engine.next_logits(memory, PROBE) for memory in (live, opened_again))
    assert close(got, want, PASS)
    assert (live.nbytes, live.next_position) == (opened_again.nbytes, opened_again.next_position)
