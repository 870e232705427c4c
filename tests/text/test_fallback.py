"""Methods that fail in every way: the session is compacted all the same, says so, and is never tried in a loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import BadOption, Failed
from holdfast.methods.registry import build_text
from holdfast.methods.text.base import Room
from holdfast.session.trigger import CircuitBreaker
from holdfast.text import fallback
from holdfast.text.rewrite import TextPlan, rewrite
from holdfast.transcript.cuts import check_legal
from holdfast.transcript.draft import Draft, new_draft
from holdfast.transcript.turn import Role, Turn
from small_sessions import long, says, session, tool, user

SESSION = session(user("Fix it."), user("Never push to main."), *[tool(long(), command=f"cat {k}") for k in range(12)])


def fails(held: Draft, room: Room) -> Draft:
    raise Failed("the endpoint did not answer within 3 s")


BAD: dict[str, Callable[[Draft, Room], Draft]] = {
    "raises": fails,
    "orphans a result": lambda held, room: held.keep(at for at in range(len(held.pieces)) if at != 3),
    "is empty": lambda held, room: held.keep(()),
    "blank": lambda held, room: held.replace_text(2, " ", "summarize"),
    "bigger": lambda held, room: held.replace_text(2, long(9000), "summarize"),
    "drops the task": lambda held, room: held.keep(at for at in range(len(held.pieces)) if at != 1),
}


@pytest.mark.parametrize("how", BAD)
def test_a_method_that_fails_gives_way_and_the_report_says_so(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Bad:
        name = "keep_recent"

        def rewrite(self, held: Draft, room: Room) -> Draft:
            return BAD[how](held, room)

    monkeypatch.setattr(fallback, "build_text", lambda spec: Bad() if spec == "keep_recent" else build_text(spec))
    done = rewrite(SESSION, TextPlan("keep_recent", ratio=3, keep_recent=1))
    assert done.method in ("tiered", "truncate")
    assert "keep_recent gave way" in done.notes[0]
    assert done.tokens <= done.budget
    assert any("Never push to main." in turn.text for turn in done.draft.turns)
    check_legal(done.draft.turns)


def test_when_every_method_fails_the_session_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bad:
        name = "bad"

        def rewrite(self, held: Draft, room: Room) -> Draft:
            return fails(held, room)

    monkeypatch.setattr(fallback, "build_text", lambda spec: Bad())
    done = rewrite(SESSION, TextPlan("keep_recent", ratio=3, keep_recent=1))
    assert done.draft == new_draft(SESSION)
    assert len(done.notes) >= 3


def test_a_session_that_cannot_get_smaller_stays_as_it_was() -> None:
    tiny = session(user("Fix it."), user("Never push to main."), says("ok"), says("fine"))
    done = rewrite(tiny, TextPlan("truncate", 1, keep_recent=0))
    assert done.draft.turns == tiny.turns
    assert any("nothing was gained" in note for note in done.notes)


@pytest.mark.parametrize(
    "options",
    [{"allow_over": -0.1}, {"allow_over": 2.0}, {"gate": False, "strict": True}, {"gate": False, "allow_over": 0.1}],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(BadOption):
        TextPlan("truncate", ratio=2, **options)  # type: ignore[arg-type]


def gained(share: float) -> int:
    return int(1000 * (1 - share))


def test_a_breaker_waits_after_a_compaction() -> None:
    breaker = CircuitBreaker(cool_down=3).after(10, 1000, gained(0.5))
    assert [bool(breaker.refuses(turns, 1000)) for turns in (10, 12, 13)] == [True, True, False]


def opened(tokens: int) -> CircuitBreaker:
    """A breaker after as many failures as it takes, at so many tokens."""
    breaker = CircuitBreaker(cool_down=0)
    for turns in range(breaker.most_failures):
        assert not breaker.refuses(turns, tokens)
        breaker = breaker.after(turns, tokens, None)
    return breaker


def test_a_breaker_opens_after_failures_in_a_row_and_says_why() -> None:
    assert "3 compactions in a row" in opened(1000).refuses(99, 1500)
    assert not CircuitBreaker(cool_down=0).after(3, 1000, gained(0.5)).after(4, 1000, None).refuses(99, 1000)
    assert "saved less" in opened(1000).after(3, 1000, gained(0.05)).refuses(99, 1000)


def test_a_breaker_allows_one_attempt_once_the_session_has_grown_by_half() -> None:
    assert not opened(1000).refuses(4, 1501)
    again = opened(1000).after(4, 1501, None)
    assert again.refuses(99, 2251)
    assert not again.refuses(99, 2252)
    assert not opened(1000).after(4, 1501, gained(0.5)).after(5, 1501, None).refuses(6, 1501)


@given(gains=st.lists(st.floats(0, 0.09), min_size=1, max_size=60))
def test_a_session_without_gain_is_never_compacted_in_a_loop(gains: list[float]) -> None:
    breaker, tried = CircuitBreaker(), 0
    for turn, gain in enumerate(gains):
        if not breaker.refuses(turn, 1000):
            breaker, tried = breaker.after(turn, 1000, gained(gain)), tried + 1
    assert tried <= CircuitBreaker().most_failures


@given(grown=st.lists(st.integers(0, 200), min_size=1, max_size=100))
def test_a_growing_session_without_gain_is_tried_ever_less_often(grown: list[int]) -> None:
    breaker, tokens, tried = CircuitBreaker(), 1000, 0
    for turn, more in enumerate(grown):
        tokens += more
        if not breaker.refuses(turn, tokens):
            breaker, tried = breaker.after(turn, tokens, None), tried + 1
    assert tried <= breaker.most_failures + math.log(tokens / 1000, breaker.growth)


@pytest.mark.parametrize("options", [{"cool_down": -1}, {"most_failures": 0}, {"least_gain": 1.0}, {"growth": 1.0}])
def test_a_breaker_that_makes_no_sense_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(BadOption):
        CircuitBreaker(**options)  # type: ignore[arg-type]


def test_an_empty_user_turn_is_no_reason_to_fail() -> None:
    turns = (*SESSION.turns, Turn(Role.USER, ""))
    assert rewrite(replace(SESSION, turns=turns), TextPlan("truncate", ratio=4)).method == "truncate"
