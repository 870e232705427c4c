"""An answer ends before the first of its stop texts, however it is cut into pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.server.output.stop_texts import StopTexts

LETTERS = st.text("ab", max_size=12)
STOPS = st.lists(st.text("ab", min_size=1, max_size=4), max_size=3)


def ended(parts: list[str], stops: list[str]) -> tuple[str, str]:
    """The text that came out, and the stop that ended it."""
    texts = StopTexts(stops)
    return "".join([*map(texts.feed, parts), texts.end()]), texts.hit


@given(st.lists(LETTERS, max_size=8), STOPS)
def test_what_comes_out_ends_before_the_first_stop(parts: list[str], stops: list[str]) -> None:
    whole, (text, hit) = "".join(parts), ended(parts, stops)
    if not hit:
        assert text == whole
        assert not any(stop in whole for stop in stops)
        return
    assert whole.startswith(text + hit)
    assert not any(stop in text for stop in stops)


@pytest.mark.parametrize(("parts", "text"), [(["one EN", "D two"], "one "), (["one E", "N", "O"], "one ENO")])
def test_what_may_begin_a_stop_waits_until_it_is_known(parts: list[str], text: str) -> None:
    texts = StopTexts(["END"])
    assert texts.feed(parts[0]) == "one "
    assert "".join(["one ", *map(texts.feed, parts[1:]), texts.end()]) == text


def test_an_empty_stop_ends_nothing() -> None:
    assert ended(["ab"], [""]) == ("ab", "")
