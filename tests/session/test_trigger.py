"""When a session is compacted: never between a call and its result, never again and again, never too late."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from holdfast.errors import BadOption
from holdfast.session.trigger import CircuitBreaker, SessionStatus, Trigger, due

WINDOW = 1000
FRACTIONS = st.floats(0.01, 1)
BREAKERS = st.builds(
    CircuitBreaker,
    cool_down=st.integers(0, 5),
    failures=st.integers(0, 4),
    last=st.none() | st.integers(0, 20),
    tokens=st.integers(0, 1500),
)


@st.composite
def triggers(draw: st.DrawFn) -> Trigger:
    low = draw(st.floats(0.01, 0.9))
    early = draw(st.floats(low, 1, exclude_min=True))
    window, force = sorted([draw(FRACTIONS), draw(FRACTIONS)])
    tokens, idle = draw(st.none() | st.integers(1, 1500)), draw(st.none() | st.floats(0, 100))
    share = draw(st.sampled_from([window, window if tokens is None else None]))
    return Trigger(tokens, share, force, low, idle, early, draw(st.booleans()), draw(st.booleans()))


@st.composite
def states(draw: st.DrawFn) -> SessionStatus:
    held = draw(st.integers(0, 1500))
    free = draw(st.integers(0, held))
    return SessionStatus(
        turns=draw(st.integers(0, 30)),
        held=held,
        compactable=free,
        verbatim=free,
        window=draw(st.sampled_from([None, WINDOW])),
        idle_seconds=draw(st.floats(0, 200)),
        open_calls=draw(st.integers(0, 2)),
        marked=draw(st.booleans()),
        breaker=draw(BREAKERS),
    )


def seen(held: int, **options: Any) -> SessionStatus:
    return SessionStatus(
        **{"turns": 10, "held": held, "compactable": held, "verbatim": held, "window": WINDOW, **options}
    )


def forced(state: SessionStatus, trigger: Trigger) -> bool:
    return state.window is not None and state.held > trigger.force * state.window


def kind(state: SessionStatus, trigger: Trigger | None = None) -> str | None:
    why = due(state, trigger or Trigger())
    return why and why.kind


@pytest.mark.parametrize(
    ("held", "trigger", "expected"),
    [
        (750, Trigger(), None),
        (751, Trigger(), "window"),
        (951, Trigger(), "force"),
        (600, Trigger(tokens=600), None),
        (601, Trigger(tokens=600), "tokens"),
        (751, Trigger(tokens=800), "window"),
        (801, Trigger(tokens=800, window=None), "tokens"),
        (951, Trigger(tokens=2000, window=None), "force"),
    ],
)
def test_it_is_due_above_its_trigger_and_says_which(held: int, trigger: Trigger, expected: str | None) -> None:
    assert kind(seen(held), trigger) == expected


def test_a_user_reads_why_and_the_session_how_far() -> None:
    why = due(seen(6200, window=8192, compactable=4000), Trigger())
    assert why is not None
    assert why.text == (
        "6,200 slots are held (6,200 verbatim, 4,000 may be compacted), more than 75% of the window of 8,192"
    )
    assert why.target == 3072
    assert due(seen(980), Trigger(tokens=600)).target == 300  # type: ignore[union-attr]
    assert due(seen(980), Trigger(tokens=2000)).target == 375  # type: ignore[union-attr]
    assert due(seen(980), Trigger(tokens=2000, window=None)).target == 475  # type: ignore[union-attr]


def test_without_a_window_only_tokens_and_marks_count() -> None:
    endless = seen(10**9, window=None)
    assert kind(endless) is None
    assert kind(endless, Trigger(tokens=10)) == "tokens"
    marked = due(replace(endless, marked=True), Trigger())
    assert marked is not None
    assert (marked.kind, marked.target) == ("mark", None)


def test_a_pause_compacts_sooner_but_not_for_little() -> None:
    trigger = Trigger(tokens=600, idle=30)  # early is 450
    assert [kind(seen(500, idle_seconds=rest), trigger) for rest in (29.9, 30)] == [None, "idle"]
    assert kind(seen(450, idle_seconds=1e6), trigger) is None
    assert kind(seen(500, idle_seconds=1e6), Trigger(tokens=600)) is None
    assert "for 30 s" in due(seen(500, idle_seconds=30), trigger).text  # type: ignore[union-attr]


def test_a_mark_compacts_sooner_but_not_below_the_target() -> None:
    trigger = Trigger(tokens=600)
    assert [kind(seen(held, marked=True), trigger) for held in (300, 301)] == [None, "mark"]
    assert kind(seen(301, marked=True), replace(trigger, marks=False)) is None


def test_open_calls_wait_unless_told_otherwise_or_the_window_is_nearly_full() -> None:
    assert kind(seen(800, open_calls=1)) is None
    assert kind(seen(800, open_calls=1), Trigger(boundary=False)) == "window"
    assert kind(seen(960, open_calls=1)) == "force"


def test_too_little_that_may_be_compacted_waits_and_nothing_never_is() -> None:
    assert kind(seen(800, compactable=74)) is None  # a tenth of the trigger is 75
    assert kind(seen(800, compactable=75)) == "window"
    assert kind(seen(960, compactable=1)) == "force"
    assert kind(seen(2000, compactable=0, marked=True)) is None


def test_when_every_attempt_fails_a_full_window_is_tried_once_in_a_cool_down() -> None:
    breaker, tried = CircuitBreaker(cool_down=3), []
    for turn in range(30):
        if due(seen(960, turns=turn, breaker=breaker), Trigger()):
            breaker = breaker.after(turn, 960, None)
            tried.append(turn)
    assert tried[:3] == [0, 1, 2]
    assert tried[2:] == [*range(2, 30, 3)]


@given(states(), triggers())
def test_it_is_never_due_while_calls_are_open_unless_forced(state: SessionStatus, trigger: Trigger) -> None:
    if state.open_calls and trigger.boundary and (why := due(state, trigger)):
        assert why.kind == "force"
        assert forced(state, trigger)


@given(states(), triggers(), st.integers(0, 4), st.integers(0, 500))
def test_it_is_never_due_in_a_cool_down_unless_forced(
    state: SessionStatus, trigger: Trigger, since: int, less: int
) -> None:
    breaker = replace(state.breaker, cool_down=5, last=state.turns - since, tokens=max(0, state.held - less))
    assume(state.held <= breaker.growth * breaker.tokens)  # half as large again is another session to a breaker
    if why := due(replace(state, breaker=breaker), trigger):
        assert why.kind == "force"
        assert forced(state, trigger)


@given(states(), triggers(), st.integers(0, 1500))
def test_a_session_that_holds_more_is_due_all_the_more(state: SessionStatus, trigger: Trigger, more: int) -> None:
    if due(state, trigger):
        assert due(replace(state, held=state.held + more), trigger)


@given(states(), triggers())
def test_after_reaching_its_target_it_is_not_due_before_it_passes_the_trigger_again(
    state: SessionStatus, trigger: Trigger
) -> None:
    high = trigger.high(state.window)
    if not (why := due(state, trigger)) or high is None or why.target is None or why.target > trigger.low * high:
        return
    breaker = state.breaker.after(state.turns, state.held, why.target)
    later = replace(state, turns=state.turns + 10, marked=False, open_calls=0, breaker=breaker)

    def holding(slots: int) -> SessionStatus:
        return replace(later, held=slots, compactable=slots)

    assert not due(holding(why.target), trigger)
    assert not due(holding(int(trigger.early * high)), trigger)  # not even in a pause
    assert not due(holding(high), replace(trigger, idle=None))
    if not breaker.refuses(later.turns, high + 1):
        assert due(holding(high + 1), trigger)


@given(st.lists(st.integers(1, 60), min_size=20, max_size=120), st.integers(0, 4), st.booleans())
def test_a_session_swings_between_its_target_and_its_trigger(steps: list[int], cool_down: int, calls: bool) -> None:
    trigger, breaker, held, at = Trigger(), CircuitBreaker(cool_down=cool_down), 0, list[int]()
    for turn, step in enumerate(steps):
        held += step
        state = seen(held, turns=turn, open_calls=int(calls and turn % 2), breaker=breaker)
        if why := due(state, trigger):
            assert why.target is not None
            breaker, held = breaker.after(turn, held, why.target), why.target
            at.append(turn)
        assert held <= trigger.force * WINDOW
    assert all(sum(steps[one + 1 : two + 1]) > 375 for one, two in pairwise(at))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"window": None}, "tokens, a fraction"),
        ({"tokens": 0}, "at least 1 slot"),
        ({"window": 0.0}, "at most force"),
        ({"window": 0.96}, "at most force"),
        ({"window": float("nan")}, "at most force"),
        ({"force": 1.01}, "whole window"),
        ({"force": float("nan"), "window": None, "tokens": 1}, "whole window"),
        ({"low": 0.0}, "0 < low"),
        ({"low": 0.75}, "0 < low"),
        ({"low": float("nan")}, "0 < low"),
        ({"early": 1.5}, "0 < low"),
        ({"idle": -1.0}, "at least 0 seconds"),
        ({"idle": float("nan")}, "at least 0 seconds"),
        ({"idle": float("inf")}, "at least 0 seconds"),
    ],
)
def test_a_trigger_that_makes_no_sense_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadOption, match=said):
        Trigger(**options)
