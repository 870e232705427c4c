"""Notes that an agent writes for its later self: JSON lines beside the session, or in memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Protocol

from holdfast.errors import BadOption
from holdfast.storage.files import Lines
from holdfast.transcript.turn import Role, Turn

LONGEST = 4_000
"""Characters of a note."""
MOST = 1_000
"""Notes of one session."""


@dataclass(frozen=True)
class Note:
    """One note."""

    time: str
    """UTC, ISO 8601."""
    text: str


class Notes(Protocol):
    """The notes of one session."""

    def list(self) -> tuple[Note, ...]:
        """Returns all notes, the oldest first."""

    def write(self, text: str) -> int:
        """Adds a note; returns its number, from 1. Raises BadOption if it is empty or too long, or one too many."""


@dataclass
class NotesInMemory:
    """Notes that last as long as the process."""

    notes: list[Note] = field(default_factory=list)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def list(self) -> tuple[Note, ...]:
        return tuple(self.notes)

    def write(self, text: str) -> int:
        with self._lock:
            self.notes.append(_note(text, len(self.notes)))
            return len(self.notes)


@dataclass(frozen=True)
class NoteFile:
    """Notes in a file that only its owner reads."""

    path: Path

    def list(self) -> tuple[Note, ...]:
        try:
            rows = self.path.read_text("utf-8", "replace").splitlines()
        except FileNotFoundError:
            return ()
        return tuple(note for row in rows if (note := _parse(row)) is not None)

    def write(self, text: str) -> int:
        note = _note(text, len(self.list()))
        with Lines(self.path, mode=0o600) as lines:
            lines.append(json.dumps({"time": note.time, "text": note.text}), sync=True)
        return len(self.list())


def note_name(key: str, turns: Sequence[Turn]) -> str:
    """Returns the name of the notes of a session that is known by the digest of its key and by how it began."""
    first = next((turn.text for turn in turns if turn.role is Role.USER), "")
    return sha256(f"{key}\n{first}".encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _note(text: str, known: int) -> Note:
    text = text.strip()
    if not text or len(text) > LONGEST:
        raise BadOption(f"a note has 1 to {LONGEST:,} characters, got {len(text):,}; write several shorter ones")
    if known >= MOST:
        raise BadOption(f"there are {known:,} notes already, and no more are kept; write what matters into a file")
    return Note(datetime.now(UTC).isoformat(timespec="seconds"), text)


def _parse(row: str) -> Note | None:
    """Returns a note; None for a line that a crash has torn."""
    try:
        fields = json.loads(row)
        return Note(str(fields["time"]), str(fields["text"]))
    except (ValueError, KeyError, TypeError):
        return None
