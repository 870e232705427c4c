"""Slots of storage=coded: what a file holds is what was in memory, few bits hold it, and a wrong file says so."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from conftest import VOCAB
from holdfast.blocks.block import Block, Kind, Origin
from holdfast.compaction.learn_bases import learn_bases
from holdfast.context.budget import Budget
from holdfast.context.entropy_coding import NARROWEST, encode_rows, pack_positions, unpack_positions
from holdfast.context.holdfast_file import from_bytes, load, save, to_bytes
from holdfast.context.packing import join, where
from holdfast.context.segments import CompactContext
from holdfast.engine.kv_context import KVContext
from holdfast.errors import BadContext, BadInput, BadOption
from holdfast.methods.base import Span
from holdfast.methods.registry import build
from holdfast.model.state_bases import bases_bytes, find_bases, load_bases, save_bases
from tolerance import close


def text(length, seed=0):
    return torch.randint(3, VOCAB, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.fixture(scope="module", params=["qwen2", "gemma3_text"])
def pair(tiny, request):
    return tiny(request.param)


@pytest.fixture(scope="module")
def learned(pair):
    return learn_bases([text(3000), text(3000, 1)], pair.engine, windows=5, window=512)


@pytest.fixture
def bases(pair, learned, tmp_path, monkeypatch):
    monkeypatch.setenv("HOLDFAST_HOME", str(tmp_path / "home"))
    save_bases(learned)
    return find_bases(pair.model.digest)


def compact(pair, spec, length=96, slots=24):
    span = Span((Block(tuple(text(length, 5)), Origin(0, Kind.OBSERVATION, (0, 0), (0, length))),), 0)
    method = build(spec)
    study = method.study(span, KVContext(pair.model), pair.engine)
    return CompactContext(method.compress(study, Budget(slots)), length, model_digest=pair.model.digest)


def logits_over(pair, context):
    return pair.engine.next_logits(pair.engine.open(context), text(8, 9))


@pytest.mark.parametrize("spec", ["kvzip:storage=coded", "merge:mass=true,storage=coded,step=2", "pool:storage=coded"])
def test_a_file_gives_back_the_very_slots_that_were_in_memory(pair, bases, tmp_path, spec):
    context = compact(pair, spec)
    path = save(context, tmp_path / "c.holdfast", pair.model)
    again = load(path, pair.model)
    assert torch.equal(logits_over(pair, again), logits_over(pair, context))
    assert to_bytes(again, pair.model) == path.read_bytes()


def test_the_finest_step_changes_little_and_each_coarser_one_more(pair, bases):
    plain = logits_over(pair, compact(pair, "kvzip")).log_softmax(-1)
    errors = []
    for step in (1, 8, 64):
        coded = logits_over(pair, compact(pair, f"kvzip:storage=coded,step={step}")).log_softmax(-1)
        errors.append(float((plain.exp() * (plain - coded)).sum(-1).mean()))
    assert errors[0] < errors[1] < errors[2]


def test_the_coder_spends_what_the_spreads_call_for(pair, bases):
    """The bits are those of a normal model of the calibrated spread, and nothing stands beside the codes."""
    sizes = []
    for step in (4.0, 32.0):
        slots = compact(pair, f"kvzip:storage=coded,step={step}", 800, 400).segments[0].layers[-1]
        spread = (slots.keys.basis.spread.double() / step).clamp_min(NARROWEST)[slots.keys.heads.long()]
        edges = [torch.special.ndtr((slots.keys.codes.double() + half) / spread) for half in (0.5, -0.5)]
        ideal = -(edges[0] - edges[1]).clamp_min(2.0**-20).log2().sum()
        coded = 8 * len(encode_rows(slots.keys, slots.keys.basis, step))
        assert 0.95 * ideal < coded < 1.05 * ideal + 64
        sizes.append(coded / slots.keys.codes.numel())
    assert sizes[1] < sizes[0] - 2


def test_some_of_coded_slots_are_what_they_stand_for(pair, bases):
    slots = compact(pair, "kvzip:storage=coded").segments[0].layers[-1]
    mask = torch.arange(len(slots.keys)) % 3 == 0
    for kept, all_of_them in ((where(slots, mask), slots), (join((slots, slots)), slots)):
        rows = kept.plain(torch.float32)
        plain = all_of_them.plain(torch.float32)
        expected = where(plain, mask) if len(kept.keys) < len(slots.keys) else join((plain, plain))
        assert torch.equal(rows.keys, expected.keys)
        assert torch.equal(rows.values, expected.values)


def test_coded_segments_of_two_steps_live_in_one_memory(pair, bases):
    parts = [compact(pair, f"kvzip:storage=coded,step={step}") for step in (2, 4)]
    both = pair.engine.open(parts[0]).extend(parts[1].segments, 96)
    plain = [replace(s, layers=tuple(x.plain(torch.float32) for x in s.layers)) for p in parts for s in p.segments]
    reference = KVContext(pair.model).extend(plain[:1], 96).extend(plain[1:], 96)
    got, expected = (pair.engine.next_logits(live, text(8, 9)) for live in (both, reference))
    assert close(got, expected, terms=pair.model.family.d_model * len(pair.model.family.layers))


def test_bases_are_found_again_by_what_they_hold(pair, bases, tmp_path):
    context = compact(pair, "kvzip:storage=coded")
    data = to_bytes(context, pair.model)
    newer = learn_bases([text(3000, 7), text(3000, 8)], pair.engine, windows=5, window=512)
    save_bases(newer)  # what was coded in the older ones stays readable
    assert torch.equal(logits_over(pair, from_bytes(data, pair.model)), logits_over(pair, context))
    for path in (tmp_path / "home" / "bases").iterdir():
        path.unlink()
    with pytest.raises(BadContext, match=r"bases .* are not here; copy"):
        from_bytes(data, pair.model)
    with pytest.raises(BadOption, match="calibrate --learn bases"):
        build("kvzip:storage=coded").study(None, None, pair.engine)


def test_what_is_no_basis_of_this_model_is_refused(pair, bases, tmp_path):
    path = tmp_path / "b.safetensors"
    for data, words in (
        (b"", "cannot read the bases"),
        (bases_bytes(bases)[:-9], "cannot read the bases"),
        (bases_bytes(replace(bases, model_digest="another")), "another model"),
    ):
        path.write_bytes(data)
        with pytest.raises(BadOption, match=words):
            load_bases(path, pair.model.digest)
    with pytest.raises(BadInput, match="at least 2,048 tokens"):
        learn_bases([text(100)], pair.engine)


@pytest.mark.parametrize(
    ("option", "words"),
    [("step=2", "step is for storage=coded"), ("storage=coded,step=0.5", "from 1"), ("storage=coded,step=x", "from 1")],
)
def test_a_step_that_means_nothing_is_refused(option, words):
    with pytest.raises(BadOption, match=words):
        build(f"kvzip:{option}")


@pytest.mark.parametrize("positions", [[0.0, 3.0, 4.0, 1.0, 900000.0], [0.5, 3.25, 4.0, 1.0, 2.0], []])
def test_positions_come_back_to_the_last_bit(positions):
    given, lengths = torch.tensor(positions), (3, 2) if positions else (0, 0)
    assert torch.equal(unpack_positions(pack_positions(given, lengths), lengths), given)
