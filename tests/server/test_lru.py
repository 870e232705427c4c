"""Memory for sessions: the budget holds at every moment, what is served stays, the rest goes oldest first."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from holdfast.errors import BadOption, Busy, Failed, HoldfastError, Missing, TooLarge
from holdfast.server.sessions.lru import MemoryBudget

BUDGET = 100


def filled(*sessions: str, nbytes: int = 30) -> MemoryBudget:
    """Sessions that are resident and rest."""
    memory = MemoryBudget(BUDGET)
    for session in sessions:
        memory.admit(session, nbytes)
        memory.release(session)
    return memory


def test_the_least_recently_used_goes_first_and_no_more_than_must() -> None:
    memory = filled("a", "b", "c")
    memory.admit("a", 30)
    memory.release("a")
    assert memory.admit("d", 10) == ()
    assert memory.admit("e", 31) == ("b", "c")
    assert (memory.resident, memory.nbytes) == (("a", "d", "e"), 71)


def test_what_is_being_served_is_never_spilled_and_rests_as_the_newest() -> None:
    memory = filled("a", "b", "c")
    memory.admit("a", 30)
    memory.admit("a", 30)  # a second request
    assert memory.admit("d", 30) == ("b",)
    memory.release("a")
    assert memory.admit("e", 30) == ("c",)
    memory.release("d")
    memory.release("a")
    assert memory.admit("f", 30) == ("d",)


def test_a_session_that_never_fits_is_refused_with_the_numbers_and_nothing_changes() -> None:
    memory = filled("a", "b")
    for call in (memory.admit, memory.grow):
        with pytest.raises(TooLarge, match="takes 101 bytes and the memory for all sessions is 100"):
            call("a", 101)
    assert (memory.resident, memory.nbytes) == (("a", "b"), 60)
    assert memory.admit("c", 100) == ("a", "b")


def test_when_all_else_is_served_it_is_told_to_come_again_and_nothing_changes() -> None:
    memory = filled("a", "b")
    memory.admit("c", 40)
    with pytest.raises(Busy, match="takes 61 bytes, and sessions that are being served hold 40 of the 100") as told:
        memory.admit("d", 61)
    assert isinstance(told.value, Failed)
    with pytest.raises(Busy):
        memory.grow("a", 61)
    assert (memory.resident, memory.nbytes) == (("a", "b", "c"), 100)
    memory.release("c")
    assert memory.admit("d", 61) == ("a", "b", "c")


def test_a_session_that_grows_spills_others_never_itself_and_gives_back_what_a_compaction_frees() -> None:
    memory = filled("a", "b", "c")
    assert memory.grow("a", 90) == ("b", "c")
    assert memory.grow("a", 20) == ()
    assert memory.nbytes == 20


def test_what_is_not_there_cannot_be_used() -> None:
    memory = filled("a")
    memory.drop("a")
    memory.drop("a")  # a session on disk may be deleted too
    for call in (memory.release, lambda session: memory.grow(session, 1)):
        with pytest.raises(Missing, match="'a' is not in memory"):
            call("a")
    memory.admit("a", 1)
    with pytest.raises(Busy, match="serving 1 request"):
        memory.drop("a")
    memory.release("a")
    with pytest.raises(Missing, match="serves no request"):
        memory.release("a")


@pytest.mark.parametrize("call", [lambda: MemoryBudget(0), lambda: MemoryBudget(1).admit("a", -1)])
def test_sizes_that_make_no_sense_are_refused(call: object) -> None:
    with pytest.raises(BadOption):
        call()  # type: ignore[operator]


SESSIONS = st.sampled_from("abcdef")
SIZES = st.integers(0, BUDGET + 5)


class Books(RuleBasedStateMachine):
    """Beside a list of sessions in order of use, with their bytes, and how often each is in use."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = MemoryBudget(BUDGET)
        self.order: list[str] = []
        self.sizes: dict[str, int] = {}
        self.uses: dict[str, int] = {}

    def expected(self, session: str, nbytes: int) -> list[str] | type[HoldfastError]:
        """What is to be spilled: of the others that rest, the fewest of the oldest that make room."""
        resting = [one for one in self.order if one != session and not self.uses[one]]
        rest = sum(size for one, size in self.sizes.items() if one != session)
        enough = (n for n in range(len(resting) + 1) if rest - sum(map(self.sizes.get, resting[:n])) + nbytes <= BUDGET)
        if nbytes > BUDGET:
            return TooLarge
        return resting[:count] if (count := next(enough, None)) is not None else Busy

    def carry_out(self, call: str, session: str, nbytes: int) -> bool:
        expected = self.expected(session, nbytes)
        if isinstance(expected, type):
            with pytest.raises(expected):
                getattr(self.memory, call)(session, nbytes)
            return False
        assert list(getattr(self.memory, call)(session, nbytes)) == expected
        for one in expected:
            self.forget(one)
        self.sizes[session] = nbytes
        return True

    def forget(self, session: str) -> None:
        self.order.remove(session)
        del self.sizes[session], self.uses[session]

    def renew(self, session: str) -> None:
        self.order = [*(one for one in self.order if one != session), session]

    @rule(session=SESSIONS, nbytes=SIZES)
    def admit(self, session: str, nbytes: int) -> None:
        if self.carry_out("admit", session, nbytes):
            self.uses[session] = self.uses.get(session, 0) + 1
            self.renew(session)

    @precondition(lambda self: self.order)
    @rule(data=st.data(), nbytes=SIZES)
    def grow(self, data: st.DataObject, nbytes: int) -> None:
        self.carry_out("grow", data.draw(st.sampled_from(self.order)), nbytes)

    @precondition(lambda self: any(self.uses.values()))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        session = data.draw(st.sampled_from([one for one in self.order if self.uses[one]]))
        self.memory.release(session)
        self.uses[session] -= 1
        self.renew(session)

    @rule(session=SESSIONS)
    def drop(self, session: str) -> None:
        if self.uses.get(session):
            with pytest.raises(Busy):
                self.memory.drop(session)
            return
        self.memory.drop(session)
        if session in self.sizes:
            self.forget(session)

    @invariant()
    def the_books_are_right(self) -> None:
        assert list(self.memory.resident) == self.order
        assert self.memory.nbytes == sum(self.sizes.values()) <= BUDGET
        assert {one for one, uses in self.uses.items() if uses} <= set(self.memory.resident)


TestBooks = Books.TestCase


def test_threads_together_never_pass_the_budget_nor_lose_what_they_use() -> None:
    memory = MemoryBudget(BUDGET)

    def serve(number: int) -> int:
        rng, most = Random(number), 0
        for _ in range(300):
            session = rng.choice("abcdef")
            try:
                memory.admit(session, rng.randrange(BUDGET))
            except Busy:
                continue
            assert session in memory.resident
            most = max(most, memory.nbytes)
            memory.release(session)
        return most

    with ThreadPoolExecutor(4) as pool:
        assert max(pool.map(serve, range(4))) <= BUDGET
    assert memory.nbytes <= BUDGET
    for session in memory.resident:
        memory.drop(session)  # nothing is left in use
