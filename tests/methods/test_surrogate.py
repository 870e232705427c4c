"""The surrogate: what it is fed, how it learns, what its file refuses, and that streaming it is the same choice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conftest import VOCAB
from holdfast.blocks.block import Block, Kind, Origin
from holdfast.compaction.train_surrogate import SurrogateTraining, fit, score_window, train_surrogate
from holdfast.context.budget import Budget
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import LocalEngine
from holdfast.errors import BadInput, BadOption
from holdfast.methods import surrogate_network
from holdfast.methods.base import Span
from holdfast.methods.reference_queries import QueryRecorder
from holdfast.methods.registry import build
from holdfast.methods.surrogate_features import feature_count, layer_features
from holdfast.methods.surrogate_network import load_network, own_network_path, save_network
from tolerance import close

SHIPPED = sorted((Path(surrogate_network.__file__).parent / "weights").glob("*.safetensors"))
SMALL = SurrogateTraining(windows=8, window=64, hidden=8, epochs=2)


def text(length, seed=0):
    return torch.randint(3, VOCAB, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def span_at(ids, start):
    return Span((Block(tuple(ids), Origin(0, Kind.OBSERVATION, (0, 0), (start, start + len(ids)))),), start)


@pytest.fixture(scope="module")
def pair(tiny):
    return tiny("llama")


@pytest.fixture(scope="module")
def network(pair):
    return train_surrogate([text(900), text(900, 1)], pair.engine, SMALL)


@pytest.fixture
def file(pair, network, tmp_path, monkeypatch):
    monkeypatch.setenv("HOLDFAST_HOME", str(tmp_path))
    path = own_network_path(pair.model.digest)
    save_network(network, path)
    return path


def test_inputs_do_not_depend_on_the_place_in_a_session(pair):
    ids, model, found = text(40), pair.model, []
    for start in (0, 700):
        record = QueryRecorder()
        span = span_at(ids, start)
        _, states = pair.engine.capture(KVContext(model), span.ids, span.positions, observer=record)
        last = model.family.full[-1]
        found.append(layer_features(model, last, states, record.queries[last], record.mass[last]))
    assert found[0].shape == (40, feature_count(model))
    assert close(found[1], found[0], terms=model.family.d_model * len(model.family.layers))


def test_training_finds_what_the_full_method_keeps(pair):
    """A random choice finds a quarter of the pairs that are kept at 4x."""
    training = replace(SMALL, windows=24, epochs=40, hidden=32)
    learned = train_surrogate([text(3000), text(3000, 1)], pair.engine, training)
    assert learned.recipe["overlap"]["4x"] > 1.4 / 4


def test_training_repeats_bit_for_bit(pair, network):
    again = train_surrogate([text(900), text(900, 1)], pair.engine, SMALL)
    for layer, net in network.layers.items():
        assert all(torch.equal(value, getattr(again.layers[layer], name)) for name, value in vars(net).items())


@pytest.mark.parametrize("labels", ["method", "later", "both"])
def test_labels_of_both_are_the_larger_of_the_two(pair, labels):
    ids = text(464)
    span = replace(span_at(ids[64:128], 64), later=torch.tensor(ids[128:]))
    scores = {
        kind: score_window(ids[:64], span, pair.engine, replace(SMALL, labels=kind)).scores
        for kind in {"method", "later", labels}
    }
    larger = torch.maximum(scores["method"], scores["later"])
    assert torch.equal(scores[labels], larger if labels == "both" else scores[labels])
    assert not torch.equal(scores["method"], scores["later"])


def test_a_file_holds_every_weight_within_half_a_step(network, file, pair):
    held = load_network(file, pair.model.digest)
    assert held.recipe == network.recipe
    for layer, net in network.layers.items():
        for name in ("first", "second"):
            want, got = getattr(net, name), getattr(held.layers[layer], name)
            step = want.abs().amax(1, keepdim=True) / 127
            assert ((got - want).abs() <= step / 2 * (1 + torch.finfo(torch.float32).eps * 512)).all()
        assert torch.equal(net.mean, held.layers[layer].mean)


def test_the_users_own_surrogate_is_found(file, pair):
    study = build("surrogate").study(span_at(text(60), 0), KVContext(pair.model), pair.engine)
    assert set(study.scores) == set(pair.model.family.full)
    assert all(bool((s > 0).all()) for s in study.scores.values())


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_what_is_shipped_is_whole_small_and_named_after_its_model(path):
    network = load_network(path, path.stem)
    assert path.stat().st_size <= 2_000_000
    assert network.recipe["tokens"] > 50_000
    assert network.recipe["overlap"]["8x"] > 0.7


def damage(path):
    path.write_bytes(path.read_bytes()[:200])


def replace_with_shares(path):
    path.write_text('{"model_digest": "x", "shares": {}}')


@pytest.mark.parametrize("spoil", [damage, replace_with_shares])
def test_a_damaged_file_is_refused_with_what_to_do(file, pair, spoil):
    spoil(file)
    with pytest.raises(BadOption, match="holdfast calibrate --learn surrogate"):
        build(f"surrogate:weights={file}").study(span_at(text(60), 0), KVContext(pair.model), pair.engine)


def test_a_surrogate_of_another_model_is_refused(file, tiny):
    other = tiny("qwen2")
    with pytest.raises(BadOption, match="another model"):
        build(f"surrogate:weights={file}").study(span_at(text(60), 0), KVContext(other.model), other.engine)


@pytest.mark.parametrize("method", ["surrogate", "surrogate_stream"])
def test_a_model_without_a_surrogate_is_refused_before_it_reads(pair, tmp_path, monkeypatch, method):
    monkeypatch.setenv("HOLDFAST_HOME", str(tmp_path))
    engine = LocalEngine(pair.model)
    with pytest.raises(BadOption, match=r"no surrogate for tiny-llama; make one .* or use --latent informed"):
        build(method).study(span_at(text(60), 0), KVContext(pair.model), engine)
    assert engine.reading_seconds == 0


def test_another_method_scores_where_the_model_has_no_surrogate(pair, tmp_path, monkeypatch, network):
    monkeypatch.setenv("HOLDFAST_HOME", str(tmp_path))
    span, past = span_at(text(60), 0), KVContext(pair.model)

    def scores(spec):
        return build(spec).study(span, past, pair.engine).scores

    def equal(one, other):
        return all(torch.equal(one[layer], other[layer]) for layer in one)

    assert equal(scores("surrogate:otherwise=informed"), scores("informed"))
    save_network(network, own_network_path(pair.model.digest))
    assert equal(scores("surrogate:otherwise=informed"), scores("surrogate"))
    with pytest.raises(BadOption, match="truncate"):
        build("surrogate:otherwise=truncate")


def test_a_stream_of_one_chunk_is_the_surrogate_itself(file, pair):
    span, past, budget = span_at(text(90), 0), KVContext(pair.model), Budget(20)
    ours, theirs = (
        method.compress(method.study(span, past, pair.engine), budget)
        for method in (build("surrogate_stream:chunk=90"), build("surrogate"))
    )
    for one, other in zip(ours[0].layers, theirs[0].layers, strict=True):
        assert torch.equal(one.positions, other.positions)
        assert torch.equal(one.keys, other.keys)


class WatchedEngine(LocalEngine):
    """Notes how many slots stand in front of each chunk that is read."""

    def __init__(self, model):
        super().__init__(model)
        self.before = []

    def capture(self, past, *args, **kwargs):
        self.before.append(past.nbytes)
        return super().capture(past, *args, **kwargs)


def test_a_stream_never_holds_more_than_its_budget_and_a_chunk(file, pair):
    engine, span, chunk, slots = WatchedEngine(pair.model), span_at(text(400), 0), 20, 40
    method = build(f"surrogate_stream:chunk={chunk}")
    (*_, last) = method.compress(method.study(span, KVContext(pair.model), engine), Budget(slots))
    family = pair.model.family
    per_slot = 2 * family.kv_heads * family.head_dim * 4 * len(family.full)
    assert len(engine.before) == 400 // chunk
    assert max(engine.before) <= (slots + chunk) * per_slot * 1.1  # positions and lengths come on top
    assert last.layers


def test_too_little_to_learn_from_is_said(pair):
    with pytest.raises(BadInput, match=r"8 windows of 64 tokens need sessions of 448 tokens each .* more or longer"):
        train_surrogate([text(100)], pair.engine, SMALL)


@pytest.mark.parametrize("changes", [{"windows": 2}, {"window": 10}, {"labels": "guess"}, {"hidden": 0}])
def test_settings_without_sense_are_refused(changes):
    with pytest.raises(BadOption, match="got"):
        replace(SMALL, **changes)


def test_a_method_without_scores_teaches_nothing(pair):
    with pytest.raises(BadOption, match="truncate does not score"):
        train_surrogate([text(900)], pair.engine, replace(SMALL, method="truncate"))


def test_no_window_that_judges_is_trained_on(pair):
    """A sample that contradicts the others shows whether it was fitted: only the first of eight is held out."""
    samples = [
        score_window(
            text(64, n), replace(span_at(text(64, n + 50), 64), later=torch.tensor(text(320))), pair.engine, SMALL
        )
        for n in range(8)
    ]
    spoilt = [replace(samples[0], scores=samples[0].scores.flip(-1)), *samples[1:]]
    one, two = (fit(each, pair.engine, SMALL) for each in (samples, spoilt))
    assert all(torch.equal(one.layers[n].first, two.layers[n].first) for n in one.layers)
    assert one.recipe["overlap"] != two.recipe["overlap"]
