"""Memory for many sessions under one budget: which are resident, and which must go to disk so that another may come.

Bookkeeping alone: it moves no byte. What it names to be spilled is off its books at once, so its owner spills that
before it loads what was admitted.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock

from holdfast.errors import BadOption, Busy, Missing, TooLarge


@dataclass
class _Resident:
    """A resident session."""

    nbytes: int
    uses: int = 0
    """Requests that it serves now. While there is one it is not spilled."""


class MemoryBudget:
    """The resident sessions. Any thread may call; a call that raises changes nothing."""

    def __init__(self, budget: int) -> None:
        if budget < 1:
            raise BadOption(f"the memory for sessions must be at least 1 byte, got {budget}")
        self.budget = budget
        self._lock = Lock()
        self._held: dict[str, _Resident] = {}  # the one used least recently first

    @property
    def nbytes(self) -> int:
        """Bytes of all resident sessions; never more than the budget."""
        with self._lock:
            return sum(held.nbytes for held in self._held.values())

    @property
    def resident(self) -> tuple[str, ...]:
        """Sessions in memory, the one used least recently first."""
        with self._lock:
            return tuple(self._held)

    def admit(self, session: str, nbytes: int) -> tuple[str, ...]:
        """Make a session of so many bytes resident and, until `release`, in use. What to spill first for it, in order.

        Raises TooLarge where it could never fit, Busy where what would have to go is in use.
        """
        with self._lock:
            spilled = self._make_room(session, nbytes)
            held = self._held.pop(session, None)
            self._held[session] = _Resident(nbytes, (held.uses if held else 0) + 1)
            return spilled

    def grow(self, session: str, nbytes: int) -> tuple[str, ...]:
        """A resident session takes so many bytes in all from now on, more or fewer. What to spill first for it.

        Raises TooLarge and Busy as `admit` does, Missing where it is not resident.
        """
        with self._lock:
            held = self._resident(session)
            spilled = self._make_room(session, nbytes)
            held.nbytes = nbytes
            return spilled

    def touch(self, session: str) -> None:
        """It was used just now. Raises Missing where it is not resident."""
        with self._lock:
            self._renew(session, self._resident(session))

    def release(self, session: str) -> None:
        """A request that it served has ended. Raises Missing where there is none."""
        with self._lock:
            held = self._resident(session)
            if not held.uses:
                raise Missing(f"session {session!r} serves no request; admit it before it is released")
            held.uses -= 1
            self._renew(session, held)

    def drop(self, session: str) -> None:
        """It leaves memory, if it is there. Raises Busy while it is in use."""
        with self._lock:
            held = self._held.get(session)
            if held and held.uses:
                raise Busy(f"session {session!r} is serving {held.uses} request(s); try again when they are answered")
            self._held.pop(session, None)

    def _resident(self, session: str) -> _Resident:
        if session not in self._held:
            raise Missing(f"session {session!r} is not in memory; admit it first")
        return self._held[session]

    def _renew(self, session: str, held: _Resident) -> None:
        del self._held[session]
        self._held[session] = held

    def _make_room(self, session: str, nbytes: int) -> tuple[str, ...]:
        """Take others off the books until a session of so many bytes fits, and say which."""
        if nbytes < 0:
            raise BadOption(f"a session takes at least 0 bytes, got {nbytes}")
        if nbytes > self.budget:
            raise TooLarge(
                f"the session takes {nbytes:,} bytes and the memory for all sessions is {self.budget:,}; "
                "compact it to fewer slots, or give more memory"
            )
        others = {other: held for other, held in self._held.items() if other != session}
        free = self.budget - sum(held.nbytes for held in others.values())
        spilled: list[str] = []
        for other, held in others.items():
            if free >= nbytes:
                break
            if not held.uses:
                spilled.append(other)
                free += held.nbytes
        if free < nbytes:
            serving = self.budget - free
            raise Busy(
                f"the session takes {nbytes:,} bytes, and sessions that are being served hold {serving:,} of the "
                f"{self.budget:,} there are; try again when one is answered"
            )
        for other in spilled:
            del self._held[other]
        return tuple(spilled)
