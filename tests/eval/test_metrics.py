from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.eval.metrics import (
    Floats,
    Indices,
    Interval,
    choose_answer,
    keyword_hit,
    margins,
    ratio_interval,
    retained_share,
)

nats = st.floats(-50, 50, allow_nan=False)


def test_a_method_that_keeps_half_the_nats_retains_half():
    none, full = np.array([-10.0, -4.0]), np.array([-2.0, -1.0])
    assert retained_share((none + full) / 2, none, full).value == pytest.approx(0.5)


@given(st.lists(st.tuples(nats, st.floats(0.1, 50)), min_size=1, max_size=20), st.floats(-1, 2))
def test_retained_is_the_share_that_was_kept_whatever_the_probes(probes: list[tuple[float, float]], share: float):
    none = np.array([probe[0] for probe in probes])
    full = none + np.array([probe[1] for probe in probes])
    assert retained_share(none + share * (full - none), none, full).value == pytest.approx(share, abs=1e-9)
    assert retained_share(full, none, full).value == 1.0
    assert retained_share(none, none, full).value == 0.0


def test_a_context_that_supplies_nothing_has_no_share_and_says_why():
    value, reason = retained_share(np.array([-1.0]), np.array([-1.0]), np.array([-2.0]))
    assert math.isnan(value)
    assert "supplies no information" in reason
    assert math.isnan(retained_share(np.array([]), np.array([]), np.array([])).value)


def test_margins_take_away_what_the_model_prefers_without_context():
    calibrated = margins(np.array([-1.0, -1.0]), np.array([-3.0, -3.0]), np.array([-2.0, -2.0]), np.array([-3.0, -5.0]))
    assert calibrated.tolist() == [1.0, -1.0]
    assert choose_answer(calibrated).tolist() == [1.0, 0.0]


def mean_interval(values: Floats, clusters: Indices | None = None, **options: int) -> Interval:
    alone = np.arange(len(values))
    return ratio_interval(values, np.ones(len(values)), alone if clusters is None else clusters, **options)


def test_equal_arguments_give_equal_intervals_around_the_value():
    values = np.random.default_rng(3).normal(size=40)
    first = mean_interval(values)
    assert first == mean_interval(values)
    assert first != mean_interval(values, seed=1)
    assert first.low < values.mean() < first.high


def test_a_bootstrap_interval_of_the_mean_agrees_with_the_normal_one():
    values = np.random.default_rng(0).normal(size=400)
    low, high = mean_interval(values)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_the_ratio_is_taken_anew_on_each_resample():
    # two clusters: both drawn from the first gives 0, both from the second 1, one of each 5/6
    low, high = ratio_interval(np.array([0.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0]), np.array([0, 1, 1]))
    assert (low, high) == (0.0, 1.0)


def test_entries_that_repeat_within_their_cluster_add_no_certainty():
    values = np.random.default_rng(5).normal(size=12)
    repeated = mean_interval(np.repeat(values, 15), np.repeat(np.arange(12), 15))
    assert repeated == pytest.approx(mean_interval(values))


def test_a_nominal_95_percent_covers_the_truth_when_probes_share_their_windows_error():
    rng, covered = np.random.default_rng(0), 0
    for _ in range(200):
        clusters = np.repeat(np.arange(30), rng.integers(1, 16, size=30))
        values = rng.normal(size=30)[clusters] + rng.normal(size=len(clusters))
        low, high = mean_interval(values, clusters, resamples=400)
        covered += low < 0 < high
    assert covered / 200 >= 0.9  # resampling probes instead covers about half


def test_one_cluster_has_no_interval_however_many_entries_it_has():
    assert all(math.isnan(bound) for bound in mean_interval(np.array([1.0])))
    assert all(math.isnan(bound) for bound in mean_interval(np.arange(9.0), np.zeros(9, dtype=np.int64)))


def test_a_share_that_is_mostly_undefined_has_no_interval():
    bottom = np.array([1.0, -9.0, -9.0, -9.0])
    assert all(math.isnan(bound) for bound in ratio_interval(np.zeros(4), bottom, np.arange(4)))


@pytest.mark.parametrize(
    ("text", "keyword"),
    [
        ("It imports Zustand.", "zustand"),
        ("the data has integers", "integer"),
        ("44", "44"),
        ("44 files changed.", "44"),
        ("There are 44.", "44"),
        ("(44)", "44"),
        ("lines 40-44, maybe", "44"),
        ("#44:", "44"),
        ("44%", "44"),
        ("version v11.4.0", "11.4.0"),
        ("at (37, 1)", "(37,"),
        ("shape (37,\n 1)", "(37, 1"),
        ("[317, 449]", "317, 449"),
        ("31,921 rows", "31,921"),
        ("see /tmp/x.", "/tmp/x"),
        ("git Reset --hard", "reset --hard"),
        ("AppSidebarMain.tsx:93.", "AppSidebarMain.tsx:93"),
        ("5b6a0520f1", "5b6a052"),
        ("the GU initials", "GU"),
        ("1:14.0.0-1ubuntu1.1", "14.0.0-1ubuntu1.1"),
        ("STRASSE", "straße"),
    ],
)
def test_a_right_answer_hits(text: str, keyword: str):
    assert keyword_hit(text, [keyword])


@pytest.mark.parametrize(
    ("text", "keyword"),
    [
        ("441", "44"),
        ("144", "44"),
        ("1.44", "44"),
        ("44.1", "44"),
        ("44,000", "44"),
        ("-44", "44"),
        ("it is -44", "44"),
        ("x44", "44"),
        ("44ms", "44"),
        ("v44", "44"),
        ("111.4.0", "11.4.0"),
        ("11.4.0.1", "11.4.0"),
        ("(37, 12)", "37, 1"),
        ("137, 1", "37, 1"),
        ("a.py:931", "a.py:93"),
        ("argument", "GU"),
        ("allow", "Low"),
        ("anything", ""),
        ("", "44"),
    ],
)
def test_a_wrong_answer_does_not_hit(text: str, keyword: str):
    assert not keyword_hit(text, [keyword])


def test_any_accepted_keyword_is_enough_and_none_is_a_miss():
    assert keyword_hit("three issues", ["3", "three"])
    assert not keyword_hit("three issues", [])


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_number_hits_itself_and_no_other(number: int, other: int):
    assert keyword_hit(f"The port is {number}.", [str(number)])
    assert keyword_hit(f"The port is {other}.", [str(number)]) == (number == other)


@given(st.text(), st.text())
def test_any_text_is_judged_without_an_error(text: str, keyword: str):
    keyword_hit(text, [keyword])
