"""Paired differences: what two methods differ in on the same windows, whatever else the windows are like."""

import pytest
from test_score import make_row, make_rows

from holdfast.errors import BadInput
from holdfast.eval.differences import score_pairs


def rows(shares, method="half", **changed):
    """Windows in which `truncate` keeps a tenth less than `method`."""
    out = []
    for at, share in enumerate(shares):
        where = {"window": f"w{at}", "probe": f"p{at}"} | changed
        out += [*make_rows(share, **where), make_row("truncate", 8.0, share - 0.1, **where)]
    return out


def test_a_constant_lead_has_an_interval_without_width_although_the_scores_have_one():
    (found,) = score_pairs(rows([0.2, 0.5, 0.9, 0.6]), "truncate")
    lead = found.measures["retained"]
    assert (found.method, found.against, found.ratio) == ("half", "truncate", 8.0)
    assert lead.value == pytest.approx(0.1)
    assert lead.ci == (pytest.approx(0.1), pytest.approx(0.1))
    assert (lead.better, lead.worse, lead.n, lead.n_windows) == (4, 0, 4, 4)
    assert found.measures["next_action"].value == pytest.approx(0.1)
    assert found.measures["later_f1"].value == pytest.approx(0.1)
    assert found.by_category["recall"].n == 4


def test_windows_are_counted_for_whoever_is_ahead_and_probes_of_one_window_once():
    both = [*rows([0.5]), *rows([0.5], probe="p9", window="w0"), *make_rows(0.1, window="w7", probe="p7")]
    both.append(make_row("truncate", 8.0, 0.6, window="w7", probe="p7"))
    lead = score_pairs(both, "truncate")[0].measures["retained"]
    assert (lead.better, lead.worse, lead.n, lead.n_windows) == (1, 1, 3, 2)
    assert lead.value == pytest.approx((0.1 + 0.1 - 0.5) / 3)


def test_only_probes_that_both_have_are_compared():
    partly = [row for row in rows([0.5, 0.5]) if (row.method, row.probe) != ("truncate", "p1")]
    assert score_pairs(partly, "truncate")[0].measures["retained"].n == 1


def test_a_baseline_that_was_not_measured_is_named():
    with pytest.raises(BadInput, match=r"beside 'snapkv'.*full, half, none"):
        score_pairs(make_rows(), "snapkv")


def test_full_can_be_the_baseline_of_every_ratio():
    (half, truncate) = score_pairs(rows([0.5, 0.7]), "full")
    assert (half.method, truncate.method) == ("half", "truncate")
    assert half.measures["retained"].value == pytest.approx(-0.4)
