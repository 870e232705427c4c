"""Memory for many sessions under one budget: the least recently used ones go to disk when another needs room.

Bookkeeping alone: it moves no byte. The sessions that it names to be spilled are off its books at once, so its owner
spills them before it loads the one that was admitted.
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
        self._sessions: dict[str, _Resident] = {}  # the one used least recently first

    @property
    def nbytes(self) -> int:
        """Bytes of all resident sessions; never more than the budget."""
        with self._lock:
            return sum(resident.nbytes for resident in self._sessions.values())

    @property
    def resident(self) -> tuple[str, ...]:
        """Sessions in memory, the one used least recently first."""
        with self._lock:
            return tuple(self._sessions)

    def admit(self, session: str, nbytes: int) -> tuple[str, ...]:
        """Makes a session of so many bytes resident and, until `release`, in use; returns the sessions to spill first.

        Raises TooLarge if it could never fit, Busy if those that would have to go are in use.
        """
        with self._lock:
            spilled = self._make_room(session, nbytes)
            resident = self._sessions.pop(session, None)
            self._sessions[session] = _Resident(nbytes, (resident.uses if resident else 0) + 1)
            return spilled

    def grow(self, session: str, nbytes: int) -> tuple[str, ...]:
        """Changes the bytes of a resident session, to more or fewer; returns the sessions to spill first.

        Raises TooLarge and Busy as `admit` does, Missing if it is not resident.
        """
        with self._lock:
            resident = self._resident(session)
            spilled = self._make_room(session, nbytes)
            resident.nbytes = nbytes
            return spilled

    def release(self, session: str) -> None:
        """Ends the use of a session by one request. Raises Missing if it serves none."""
        with self._lock:
            resident = self._resident(session)
            if not resident.uses:
                raise Missing(f"session {session!r} serves no request; admit it before it is released")
            resident.uses -= 1
            self._sessions[session] = self._sessions.pop(session)  # the newest of those that rest

    def drop(self, session: str) -> None:
        """Takes a session off the books, if it is there. Raises Busy while it is in use."""
        with self._lock:
            resident = self._sessions.get(session)
            if resident and resident.uses:
                raise Busy(
                    f"session {session!r} is serving {resident.uses} request(s); try again when they are answered"
                )
            self._sessions.pop(session, None)

    def _resident(self, session: str) -> _Resident:
        if session not in self._sessions:
            raise Missing(f"session {session!r} is not in memory; admit it first")
        return self._sessions[session]

    def _make_room(self, session: str, nbytes: int) -> tuple[str, ...]:
        """Takes others off the books until a session of so many bytes fits; returns them in order."""
        if nbytes < 0:
            raise BadOption(f"a session takes at least 0 bytes, got {nbytes}")
        if nbytes > self.budget:
            raise TooLarge(
                f"the session takes {nbytes:,} bytes and the memory for all sessions is {self.budget:,}; "
                "compact it to fewer slots, or give more memory"
            )
        others = {other: resident for other, resident in self._sessions.items() if other != session}
        free = self.budget - sum(resident.nbytes for resident in others.values())
        spilled: list[str] = []
        for other, resident in others.items():
            if free >= nbytes:
                break
            if not resident.uses:
                spilled.append(other)
                free += resident.nbytes
        if free < nbytes:
            serving = self.budget - free
            raise Busy(
                f"the session takes {nbytes:,} bytes, and sessions that are being served hold {serving:,} of the "
                f"{self.budget:,} there are; try again when one is answered"
            )
        for other in spilled:
            del self._sessions[other]
        return tuple(spilled)
