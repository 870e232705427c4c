"""Cuts fall only where both sides stay legal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import BadTranscript
from holdfast.transcript.cuts import (
    INVARIANTS,
    calls_stay_with_results,
    check_legal,
    exchanges,
    head_stays_whole,
    legal_cuts,
    results_of_one_turn_stay_together,
    without_orphans,
)
from holdfast.transcript.turn import Role, ToolCall, Transcript, Turn


def calls(*ids: str) -> Turn:
    return Turn(Role.ASSISTANT, calls=tuple(ToolCall(id_, "bash", "{}") for id_ in ids))


def result(call_id: str) -> Turn:
    return Turn(Role.TOOL, "ok", call_id=call_id)


SYSTEM, USER, SAYS = Turn(Role.SYSTEM), Turn(Role.USER), Turn(Role.ASSISTANT, "hi")
SESSION = (SYSTEM, SYSTEM, USER, calls("a", "b"), result("b"), result("a"), SAYS, USER, calls("c"))


def test_session_is_cut_around_exchanges_only() -> None:
    transcript = Transcript(SESSION)
    assert legal_cuts(transcript) == (0, 2, 3, 6, 7, 8, 9)
    assert exchanges(transcript) == ((0, 2), (2, 3), (3, 6), (6, 7), (7, 8), (8, 9))


def test_each_invariant_forbids_its_own_cuts() -> None:
    everything = set(range(len(SESSION) + 1))
    assert everything - calls_stay_with_results(SESSION) == {4, 5}
    assert everything - results_of_one_turn_stay_together(SESSION) == {5}
    assert everything - head_stays_whole(SESSION) == {1}


def test_words_between_a_call_and_its_result_stay_with_them() -> None:
    assert legal_cuts(Transcript((calls("a"), USER, result("a")))) == (0, 3)


def test_result_belongs_to_the_latest_call_of_its_id() -> None:
    turns = (calls("0"), result("0"), calls("0"), result("0"))
    assert legal_cuts(Transcript(turns)) == (0, 2, 4)
    check_legal(turns)


def test_empty_session_has_one_cut_and_no_exchange() -> None:
    assert (legal_cuts(Transcript(())), exchanges(Transcript(()))) == ((0,), ())
    check_legal(())


@pytest.mark.parametrize(
    "turns",
    [SESSION, (calls("a", "b"), result("a")), (Turn(Role.TOOL, "said unasked"), USER), (calls("a"),)],
)
def test_legal_sessions_pass(turns: tuple[Turn, ...]) -> None:
    check_legal(turns)
    assert without_orphans(turns) == (turns, ())


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ((result("a"), USER), "turn 1 answers the call 'a', which no turn before"),
        ((result("a"), calls("a")), "turn 1 answers"),
        ((calls("a"), USER), "turn 1 makes the call 'a', which no turn after"),
        ((calls("a", "b"), result("a"), SAYS), "turn 1 makes the call 'b'"),
        ((calls("a"), result("a"), result("a")), "turn 3 answers the call 'a' a second time"),
    ],
)
def test_orphans_are_refused_by_name_and_can_be_dropped(turns: tuple[Turn, ...], message: str) -> None:
    with pytest.raises(BadTranscript, match=message):
        check_legal(turns)
    kept, dropped = without_orphans(turns)
    check_legal(kept)
    assert len(dropped) == 1


IDS = st.sampled_from(["a", "b", "c"])
ANY_TURN = st.one_of(
    st.sampled_from([SYSTEM, USER, SAYS, Turn(Role.TOOL, "said unasked")]),
    st.lists(IDS, min_size=1, max_size=3, unique=True).map(lambda ids: calls(*ids)),
    IDS.map(result),
)
SESSIONS = st.lists(ANY_TURN, max_size=14).map(lambda turns: without_orphans(turns)[0])
"""Legal sessions of every shape, with ids used again and again."""


@given(SESSIONS)
def test_both_sides_of_any_legal_cut_are_legal(turns: tuple[Turn, ...]) -> None:
    check_legal(turns)
    for at in legal_cuts(Transcript(turns)):
        check_legal(turns[:at])
        check_legal(turns[at:])


@given(SESSIONS, st.data())
def test_dropping_any_exchange_leaves_a_legal_session(turns: tuple[Turn, ...], data: st.DataObject) -> None:
    units = exchanges(Transcript(turns))
    assert [at for unit in units for at in range(*unit)] == list(range(len(turns)))
    if units:
        start, stop = data.draw(st.sampled_from(units[:-1] or units))
        check_legal(turns[:start] + turns[stop:])


@given(st.lists(ANY_TURN, max_size=14))
def test_both_ends_are_always_legal_cuts(turns: list[Turn]) -> None:
    for invariant in INVARIANTS:
        assert {0, len(turns)} <= invariant(turns)
    check_legal(without_orphans(turns)[0])
