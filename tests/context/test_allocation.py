"""How a budget is spread over heads: always exactly spent, bounded as asked, and the same every time."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from holdfast.context.allocation import KINDS, Allocation, apportion, best, load_shares, save_shares
from holdfast.errors import BadOption

UNIFORM = [k for k in KINDS if k != "learned"]
LAYERS = (0, 2, 5)


def drawn(heads, T, seed=0, layers=LAYERS, levels=0):
    """Random scores `[G, T]` per layer; `levels` > 0 makes most of them ties."""
    noise = torch.Generator().manual_seed(seed)
    scores = {layer: torch.rand(heads, T, generator=noise) for layer in layers}
    return {layer: (s * levels).floor() for layer, s in scores.items()} if levels else scores


def shares_for(heads, seed=0, layers=LAYERS):
    noise = torch.Generator().manual_seed(seed)
    raw = torch.rand(len(layers), heads, generator=noise).pow(3) + 1e-3
    return dict(zip(layers, (raw / raw.sum()).tolist(), strict=True))


def of(kind, heads, cap=0.0, floor=0.0, layers=LAYERS):
    return Allocation(kind, cap, floor, shares_for(heads, layers=layers) if kind == "learned" else {})


def counts(chosen):
    return torch.stack([mask.sum(1) for mask in chosen.values()])


cases = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(KINDS),
        "heads": st.integers(1, 4),
        "T": st.integers(1, 24),
        "slots": st.integers(1, 30),
        "cap": st.sampled_from([0.0, 1.0, 1.3, 2.0, 5.0]),
        "floor": st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]),
        "layers": st.sampled_from([(0,), (3, 4), LAYERS]),
        "levels": st.sampled_from([0, 1, 3]),
        "seed": st.integers(0, 99),
    }
)


@given(cases, st.booleans())
def test_every_kind_spends_exactly_the_budget_within_cap_and_floor(case, extremes):
    heads, T, slots, layers = case["heads"], case["T"], case["slots"], case["layers"]
    scores = drawn(heads, T, case["seed"], layers, case["levels"])
    if extremes:  # methods mark what must stay with infinity
        scores = {
            layer: s.masked_fill(s > 0.6, math.inf).masked_fill(s < 0.2, -math.inf) for layer, s in scores.items()
        }
    allocation = of(case["kind"], heads, case["cap"], case["floor"], layers)
    got = allocation.choose(scores, slots)
    fits, n = min(slots, T), counts(got)
    assert list(got) == list(scores)
    assert all(mask.dtype == torch.bool and mask.shape == (heads, T) for mask in got.values())
    assert n.sum() == fits * heads * len(layers)
    assert n.min() >= math.floor(case["floor"] * fits)
    if case["cap"]:
        assert n.max() <= math.ceil(case["cap"] * fits)
    if case["kind"] == "layer":
        assert (n.sum(1) == fits * heads).all()
    if case["kind"] == "head":
        assert (n == fits).all()
    for layer, mask in got.items():  # each head keeps its best
        for row, chosen in zip(scores[layer], mask, strict=True):
            if chosen.any() and not chosen.all():
                assert row[chosen].min() >= row[~chosen].max()


@given(cases)
def test_choosing_again_chooses_the_same_and_changes_no_score(case):
    scores = drawn(case["heads"], case["T"], case["seed"], case["layers"], case["levels"])
    before = {layer: s.clone() for layer, s in scores.items()}
    allocation = of(case["kind"], case["heads"], case["cap"], case["floor"], case["layers"])
    one, other = (allocation.choose(scores, case["slots"]) for _ in range(2))
    assert all(torch.equal(one[layer], other[layer]) for layer in scores)
    assert all(torch.equal(before[layer], scores[layer]) for layer in scores)


@given(cases)
def test_a_larger_budget_keeps_what_a_smaller_one_kept(case):
    """True of one threshold, and of equal heads and layers; rounded shares promise it of each head's best only."""
    kind = {"pyramid": "head", "learned": "layer"}.get(case["kind"], case["kind"])
    scores = drawn(case["heads"], case["T"], case["seed"], case["layers"], case["levels"])
    allocation = Allocation(kind)
    less, more = allocation.choose(scores, case["slots"]), allocation.choose(scores, case["slots"] + 1)
    assert all(bool((~less[layer] | more[layer]).all()) for layer in scores)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("slots", [7, 8, 100])
def test_a_budget_for_everything_keeps_everything(kind, slots):
    got = of(kind, 2, cap=1.0, floor=0.3).choose(drawn(2, 7), slots)
    assert all(mask.all() for mask in got.values())


def test_one_threshold_is_over_all_layers_and_heads():
    scores = drawn(3, 20)
    got = Allocation("global").choose(scores, 5)
    chosen, rest = (
        torch.cat([scores[x][m] for x, m in masks.items()]) for masks in (got, {x: ~m for x, m in got.items()})
    )
    assert chosen.min() > rest.max()
    assert len(counts(got).unique()) > 1


def test_a_layer_has_its_own_threshold():
    scores = drawn(3, 20)
    scores[2] = scores[2] / 100  # a layer that one threshold would empty
    assert counts(Allocation("global").choose(scores, 5))[1].sum() == 0
    got = Allocation("layer").choose(scores, 5)
    for layer, mask in got.items():
        assert mask.sum() == 15
        assert scores[layer][mask].min() > scores[layer][~mask].max()


def test_a_pyramid_gives_less_to_later_layers_and_the_same_to_heads_of_one():
    n = counts(of("pyramid", 4).choose(drawn(4, 400), 100))
    assert n.tolist() == [[190] * 4, [100] * 4, [10] * 4]
    assert counts(of("pyramid", 4).choose(drawn(4, 120), 100)).tolist() == [[120] * 4, [120] * 4, [60] * 4]


def test_a_pyramid_of_one_layer_is_even():
    assert counts(of("pyramid", 3, layers=(4,)).choose(drawn(3, 30, layers=(4,)), 10)).tolist() == [[10, 10, 10]]


def test_learned_shares_are_followed_to_the_nearest_pair():
    heads, shares = 4, shares_for(4)
    n = counts(Allocation("learned", shares=shares).choose(drawn(heads, 4000), 100))
    want = torch.tensor([shares[layer] for layer in LAYERS]) * 100 * heads * len(LAYERS)
    assert (n - want).abs().max() < 1


def test_learned_shares_need_not_sum_to_one():
    thrice = {layer: [3 * x for x in row] for layer, row in shares_for(2).items()}
    scores = drawn(2, 500)
    one, other = (Allocation("learned", shares=s).choose(scores, 50) for s in (shares_for(2), thrice))
    assert all(torch.equal(one[layer], other[layer]) for layer in scores)


@pytest.mark.parametrize(("cap", "T"), [(0.0, 12), (1.2, 100)])
def test_what_a_full_head_cannot_take_flows_to_the_others_by_their_shares(cap, T):
    shares = {0: [0.7, 0.1], 2: [0.2, 0.0]}
    n = counts(Allocation("learned", cap, 0.0, shares).choose(drawn(2, T, layers=(0, 2)), 10))
    # 40 pairs: the first takes 12, the third 28 * 2/3 > 12 too, the second 12 of 16, and what is left finds no share
    assert n.tolist() == [[12, 12], [12, 4]]


def test_a_floor_holds_where_a_share_is_nothing():
    shares = {0: [1.0, 0.0], 2: [0.0, 0.0]}
    n = counts(Allocation("learned", 0.0, 0.3, shares).choose(drawn(2, 100, layers=(0, 2)), 10))
    assert n.tolist() == [[31, 3], [3, 3]]


@pytest.mark.parametrize("kind", ["global", "layer"])
def test_a_floor_gives_a_head_its_best_whatever_they_score(kind):
    scores = drawn(2, 50)
    scores[2][1] -= 100
    got = Allocation(kind, floor=0.5).choose(scores, 10)
    assert got[2][1].nonzero()[:, 0].tolist() == sorted(scores[2][1].topk(5).indices.tolist())
    assert not Allocation(kind).choose(scores, 10)[2][1].any()


def test_a_cap_passes_a_greedy_heads_pairs_to_the_next_best():
    scores = drawn(2, 50)
    scores[0][1] += 100
    got = Allocation("global", cap=2.0).choose(scores, 5)
    assert got[0][1].sum() == 10
    others = torch.cat([scores[0][:1], scores[2], scores[5]])
    masks = torch.cat([got[0][:1], got[2], got[5]])
    assert others[masks].min() > others[~masks].max()
    assert masks.sum() == 20


def test_ties_go_to_the_lower_layer_head_and_position():
    scores = {1: torch.zeros(2, 3), 3: torch.zeros(2, 3)}
    chosen = best(scores, 4)
    assert chosen[1].tolist() == [[True, True, True], [True, False, False]]
    assert not chosen[3].any()
    assert Allocation("head").choose(scores, 2)[3].tolist() == [[True, True, False]] * 2
    assert Allocation("global", cap=1.0).choose(scores, 2)[3].tolist() == [[True, True, False]] * 2
    chosen = Allocation("global", floor=0.5).choose(scores, 2)
    assert [chosen[1].tolist(), chosen[3].tolist()] == [[[True] * 3, [True] * 3], [[True, False, False]] * 2]


def test_one_threshold_chooses_exactly_as_many_pairs_as_asked():
    scores = {0: torch.tensor([[0.9, 0.1, 0.5], [0.0, 0.0, 0.0]]), 2: torch.tensor([[0.8, 0.7, 0.2], [0.6, 0.3, 0.4]])}
    for pairs in range(13):
        assert sum(int(mask.sum()) for mask in best(scores, pairs).values()) == pairs
    chosen = best(scores, 4)
    assert chosen[0].tolist() == [[True, False, False], [False] * 3]
    assert chosen[2].tolist() == [[True, True, False], [True, False, False]]


@given(
    weights=st.lists(st.floats(0, 1e308) | st.floats(0, 1) | st.just(0.0), min_size=1, max_size=8),
    most=st.integers(0, 40),
    part=st.floats(0, 1),
)
def test_apportioning_gives_out_all_by_weight_and_fills_nothing_beyond_its_bound(weights, most, part):
    assume(any(weights))
    total = round(part * most * len(weights))
    got = apportion(weights, total, most)
    assert sum(got) == total
    assert all(0 <= n <= most for n in got)
    for (w, n), (v, m) in ((x, y) for x in zip(weights, got, strict=True) for y in zip(weights, got, strict=True)):
        assert w <= v or n >= m - 1  # a heavier one never gets less, but for the rounding
        if w > v and m > n:
            assert w - v <= 1e-6 * max(weights)  # ... and only as good as equal ones are out of order


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=8), st.integers(0, 200))
def test_without_a_bound_each_gets_its_quota_rounded_up_or_down(weights, total):
    for w, n in zip(weights, apportion(weights, total, total), strict=True):
        quota = total * w / sum(weights)
        assert math.floor(quota - 1e-6) <= n <= math.ceil(quota + 1e-6)


def test_largest_remainders_come_first_and_ties_to_the_lower():
    assert apportion([3.4, 3.4, 3.2], 10, 10) == [4, 3, 3]
    assert apportion([1, 1, 1], 5, 5) == [2, 2, 1]
    assert apportion([1, 0, 0], 6, 2) == [2, 2, 2]
    assert apportion([0, 1, 0], 4, 3) == [1, 3, 0]


@pytest.mark.parametrize("weights", [[-1.0, 2.0], [math.nan, 1.0], [math.inf, 1.0], [0.0, 0.0]])
def test_senseless_weights_are_refused(weights):
    with pytest.raises(BadOption, match="finite and not negative"):
        apportion(weights, 3, 3)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("best",), "allocation must be one of global, layer, head, pyramid, learned, got 'best'"),
        (("",), "allocation must be one of"),
        (("global", 0.5), "cap must be 0"),
        (("global", -1.0), "cap must be 0"),
        (("global", math.inf), "cap must be 0"),
        (("global", math.nan), "cap must be 0"),
        (("global", 0.0, -0.1), "floor must be between"),
        (("global", 0.0, 1.1), "floor must be between"),
        (("global", 0.0, math.nan), "floor must be between"),
    ],
)
def test_a_senseless_allocation_is_refused(options, says):
    with pytest.raises(BadOption) as caught:
        Allocation(*options)
    assert says in str(caught.value)


@pytest.mark.parametrize("shares", [{}, {0: [0.5, 0.5]}, {0: [1.0], 2: [1.0], 5: [1.0]}])
def test_shares_of_another_model_are_refused(shares):
    with pytest.raises(BadOption, match="another shape"):
        Allocation("learned", shares=shares).choose(drawn(2, 9), 3)


def test_shares_survive_their_file(tmp_path):
    path, shares = tmp_path / "deep" / "er" / "shares.json", shares_for(3)
    save_shares(path, "digest", shares)
    loaded = load_shares(path, "digest")
    assert list(loaded) == list(shares)
    for layer, row in shares.items():
        assert loaded[layer] == pytest.approx(row, abs=1e-7)
    save_shares(path, "digest", loaded)  # what was rounded once stays as it is
    assert load_shares(path, "digest") == loaded


def test_shares_of_another_model_are_named_by_their_file(tmp_path):
    save_shares(tmp_path / "s.json", "one", shares_for(2))
    with pytest.raises(BadOption, match=r"s\.json was calibrated for another model"):
        load_shares(tmp_path / "s.json", "two")


GOOD = {"model_digest": "d", "shares": {"0": [0.5, 0.5]}}
BAD = {
    "empty": b"",
    "no json": b"shares",
    "not text": b"\xff\xfe\x00",
    "cut off": json.dumps(GOOD).encode()[:-4],
    "a list": b"[1, 2]",
    "a number": b"3",
    "null": b"null",
    "no shares": b'{"model_digest": "d"}',
    "no digest": b'{"shares": {"0": [1.0]}}',
    "shares in a list": json.dumps(GOOD | {"shares": [[0.5, 0.5]]}).encode(),
    "shares of null": json.dumps(GOOD | {"shares": None}).encode(),
    "a layer that is no number": json.dumps(GOOD | {"shares": {"x": [1.0]}}).encode(),
    "a row that is no list": json.dumps(GOOD | {"shares": {"0": 1.0}}).encode(),
    "a row of text": json.dumps(GOOD | {"shares": {"0": "half"}}).encode(),
    "a row of digits in text": json.dumps(GOOD | {"shares": {"0": "11"}}).encode(),
    "a share that is no number": json.dumps(GOOD | {"shares": {"0": ["x"]}}).encode(),
    "a share of null": json.dumps(GOOD | {"shares": {"0": [None]}}).encode(),
    "a share in a list": json.dumps(GOOD | {"shares": {"0": [[1.0]]}}).encode(),
    "a share that is not a number": b'{"model_digest": "d", "shares": {"0": [NaN, 1.0]}}',
    "an infinite share": b'{"model_digest": "d", "shares": {"0": [Infinity]}}',
    "a share beyond all floats": b'{"model_digest": "d", "shares": {"0": [1' + b"0" * 400 + b"]}}",
    "a negative share": json.dumps(GOOD | {"shares": {"0": [-0.5, 1.5]}}).encode(),
    "nothing but zeros": json.dumps(GOOD | {"shares": {"0": [0.0, 0.0]}}).encode(),
    "no layers": json.dumps(GOOD | {"shares": {}}).encode(),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_damaged_file_of_shares_is_refused_in_one_line(tmp_path, kind):
    path = tmp_path / "shares.json"
    path.write_bytes(BAD[kind])
    with pytest.raises(BadOption, match=r"shares\.json") as caught:
        load_shares(path, "d")
    assert "holdfast calibrate" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_of_shares_that_cannot_be_read_is_refused(tmp_path):
    for path in (tmp_path / "missing.json", tmp_path):
        with pytest.raises(BadOption, match="holdfast calibrate"):
            load_shares(path, "d")
