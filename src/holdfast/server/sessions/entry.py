"""The entry of a session in the server's registry: where it is, who works on it, and what is done on it now."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import RLock
from typing import Any, Literal

from holdfast.session.session import Session
from holdfast.session.trigger import CircuitBreaker

Activity = Literal["reading", "answering", "compacting"]


@dataclass
class SessionEntry:
    """One session, in memory or on disk."""

    name: str
    key: str
    seed: bytes
    links: list[bytes]
    breaker: CircuitBreaker
    resident: Session | None = None
    """None while it is only on disk."""
    events: list[Mapping[str, Any]] = field(default_factory=list)
    """Events of a session that is not in memory; while it is, they may be behind."""
    lock: RLock = field(default_factory=RLock)
    busy: int = 0
    """Requests that hold it or wait for it."""
    activities: list[Activity] = field(default_factory=list)
    """The work that is done on it now; an answer and a compaction may go on side by side."""
    marked: bool = False
    head: bool = False
    """The start that sessions of a key share. It is forked and never continued."""
    used: float = field(default_factory=time.time)
    gone: bool = False

    @contextmanager
    def track_activity(self, activity: Activity) -> Iterator[None]:
        """Shows an activity for as long as the block runs."""
        self.activities.append(activity)
        try:
            yield
        finally:
            self.activities.remove(activity)

    @property
    def session(self) -> Session:
        assert self.resident is not None, "an entry is entered before its session is used"
        return self.resident
