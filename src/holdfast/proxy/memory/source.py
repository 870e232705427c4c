"""The sessions of one key in the proxy: the journal's turns, what compactions lost, notes, and a wish to compact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast.errors import Missing
from holdfast.proxy.journal import Journal
from holdfast.recall.notes import NoteFile, Notes, NotesInMemory, note_name
from holdfast.recall.past import CompactionRecord, Past
from holdfast.transcript.turn import Turn

_MOST = 1_000  # sessions whose compactions and notes are remembered; the one begun longest ago goes first


def lookup_by_tools(_session: str) -> str:
    """Returns the words that tell a model with memory tools how to read a turn in full."""
    return "Turn N in full: history_read with turns=N; history_search finds a turn by what it was about"


@dataclass
class SessionRecords:
    """The memory that the proxy has of sessions beside their turns."""

    folder: Path | None = None
    """The folder of notes; None keeps them as long as the proxy runs."""
    compactions: dict[str, list[CompactionRecord]] = field(default_factory=dict)
    windows: dict[str, tuple[Turn, ...]] = field(default_factory=dict)
    """The turns as they went up last."""
    asked: set[str] = field(default_factory=set)
    """Sessions that are to be compacted with their next request."""
    _notes: dict[str, NotesInMemory] = field(default_factory=dict)

    def note_sent(self, session: str, window: tuple[Turn, ...], record: CompactionRecord | None) -> None:
        """Records the turns of a request as they go up, and its compaction."""
        self.windows[session] = window
        if record is not None:
            self.compactions.setdefault(session, []).append(record)
        _drop_oldest(self.windows)
        _drop_oldest(self.compactions)
        _drop_oldest(self._notes)

    def notes(self, key: str, turns: Sequence[Turn]) -> Notes:
        """Returns the notes of a session, which is known by its key and its beginning."""
        name = note_name(key, turns)
        if self.folder is not None:
            return NoteFile(self.folder / f"{name}.notes")
        return self._notes.setdefault(name, NotesInMemory())


def _drop_oldest(held: dict[str, Any]) -> None:
    while len(held) > _MOST:
        del held[next(iter(held))]


@dataclass(frozen=True)
class JournalSource:
    """The session of a request, and the others of its key."""

    journal: Journal
    records: SessionRecords
    key: str
    session: str
    on_compact: Callable[[str], None]
    """Called with a session that is to be compacted with its next request."""

    def sessions(self) -> Sequence[str]:
        others = [one.id for one in self.journal.sessions(self.key) if one.id != self.session]
        return [self.session, *others]

    def past(self, session: str) -> Past:
        held = self.journal.session(session)
        if held.key != self.key:
            raise Missing(
                f"there is no session {session[:40]!r} of this key; context_status names those that there are"
            )
        window = self.records.windows.get(session, held.turns)
        return Past(session, held.turns, window, tuple(self.records.compactions.get(session, ())))

    def notes(self, session: str) -> Notes:
        return self.records.notes(self.key, self.past(session).turns)

    def compact(self, session: str, tokens: int | None) -> str:
        self.past(session)
        self.on_compact(session)
        return "the older part of this session is compacted with your next request"
