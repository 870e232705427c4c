"""The journal: the raw turns of every session that went through the proxy, so that what a stub names can be read again.

`Gateway.journal` is the one of a running proxy. A session is known by its key, its wire and its own turns: a request
that goes on from it extends it, one that parts from it begins another. Turns count from 1 without the system prompt at
the head, as stubs, notes and `holdfast expand` count them. They stay in memory up to a limit and, with a folder
(`holdfast proxy --journal FOLDER`), as one file each of OpenAI chat messages, a line a turn, which every command reads.
A session's id is random, and nothing lists ids but `sessions`, which wants the digest of the key (`caller_digest`).
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

from holdfast.errors import Missing
from holdfast.storage.files import Lines
from holdfast.transcript.provider_requests import to_openai_call
from holdfast.transcript.turn import Role, ToolCall, Turn

MOST_CHARACTERS = 256 << 20
"""Characters of all sessions in memory; the session used longest ago goes first."""
HEAD = "holdfast"
"""The field of a file's first message that says whose session it is."""
_MESSAGE = 200  # characters that an empty turn counts as


@dataclass(frozen=True)
class JournalSession:
    """The raw turns of one session."""

    id: str
    key: str
    """The digest of the caller's key."""
    wire: str
    turns: tuple[Turn, ...]

    def turn(self, number: int) -> Turn:
        """Returns a turn, counted from 1. Raises Missing if there is none."""
        if not 1 <= number <= len(self.turns):
            raise Missing(f"the session has the turns 1 to {len(self.turns)}, got {number}; ask for one of these")
        return self.turns[number - 1]


class Journal:
    """Sessions by their id; safe to share between threads."""

    def __init__(self, folder: Path | None = None, most_characters: int = MOST_CHARACTERS) -> None:
        """Raises OSError or BadInput if the folder's files cannot be read."""
        self._folder, self._most = folder, most_characters
        self._lock = Lock()
        self._held: dict[str, JournalSession] = {}  # the one used last stands last
        self._sizes: dict[str, int] = {}
        self._stored = dict(_read_heads(folder)) if folder else {}
        self.failed = 0
        """Turns that could not be written to the folder; requests go on."""

    def note(self, key: str, wire: str, turns: Sequence[Turn]) -> str:
        """Records the raw turns of a request; returns the id of their session."""
        turns = tuple(turns)
        with self._lock:
            session = self._find(key, wire, turns) or JournalSession(secrets.token_hex(6), key, wire, ())
            new = turns[len(session.turns) :]
            grown = replace(session, turns=(*session.turns, *new)) if new else session
            self._write(grown, len(session.turns))
            self._hold(grown)
            return session.id

    def session(self, id_: str) -> JournalSession:
        """Returns a session. Raises Missing if it is not known, or no longer."""
        with self._lock:
            found = self._held.get(id_) or self._load(id_)
        if found is None:
            raise Missing(f"the proxy has no session {id_[:40]!r}; it forgets the oldest ones, and all when it ends")
        return found

    def sessions(self, key: str) -> tuple[JournalSession, ...]:
        """Returns the sessions of a key, by its digest, the newest first."""
        with self._lock:
            stored = (
                self._load(id_) for id_, owner in self._stored.items() if owner[0] == key and id_ not in self._held
            )
            held = [session for session in reversed(self._held.values()) if session.key == key]
            return (*held, *(session for session in stored if session is not None))

    def _find(self, key: str, wire: str, turns: tuple[Turn, ...]) -> JournalSession | None:
        """Returns the longest session that the turns go on from, or that holds them all."""
        held = [session for session in self._held.values() if (session.key, session.wire) == (key, wire)]
        known = [session for session in held if _same(turns, session.turns)]
        if not known:
            absent = [id_ for id_, owner in self._stored.items() if owner == (key, wire) and id_ not in self._held]
            loaded = (self._load(id_) for id_ in absent)
            known = [session for session in loaded if session and _same(turns, session.turns)]
        return max(known, key=lambda session: len(session.turns), default=None)

    def _hold(self, session: JournalSession) -> None:
        self._held.pop(session.id, None)
        self._held[session.id] = session
        self._sizes[session.id] = sum(_characters(turn) for turn in session.turns)
        total = sum(self._sizes.values())
        while total > self._most and len(self._held) > 1:
            oldest = next(iter(self._held))
            del self._held[oldest]
            total -= self._sizes.pop(oldest)

    def _write(self, session: JournalSession, start: int) -> None:
        if self._folder is None or start == len(session.turns):
            return
        self._stored[session.id] = (session.key, session.wire)
        head = {HEAD: {"key": session.key, "wire": session.wire}}
        try:
            with Lines(self._folder / f"{session.id}.jsonl", mode=0o600) as lines:
                for at, turn in enumerate(session.turns[start:], start):
                    row = {**_row_of(turn), **({} if at else head)}
                    lines.append(json.dumps(row, ensure_ascii=False).encode(errors="replace"))
        except OSError:
            self.failed += len(session.turns) - start

    def _load(self, id_: str) -> JournalSession | None:
        """Returns a session of the folder; None if it has none, or none that can be read."""
        if self._folder is None or id_ not in self._stored:
            return None
        try:
            rows = (self._folder / f"{id_}.jsonl").read_bytes().splitlines()
            turns = tuple(_turn_of(json.loads(row)) for row in rows if row.endswith(b"}"))  # the last may be torn
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return JournalSession(id_, *self._stored[id_], turns)


def _read_heads(folder: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yields the id of each file of the folder, with its key and wire."""
    for path in sorted(folder.glob("*.jsonl"), key=lambda path: path.stat().st_mtime, reverse=True):
        with path.open(encoding="utf-8", errors="replace") as file:
            try:
                head: Any = json.loads(file.readline())[HEAD]
                yield path.stem, (str(head["key"]), str(head["wire"]))
            except (ValueError, KeyError, TypeError):
                continue  # another program's file


def _row_of(turn: Turn) -> dict[str, Any]:
    """Returns a turn as a chat message with fields of our own beside it."""
    row: dict[str, Any] = {"role": turn.role.value, "content": turn.text}
    row |= {"reasoning_content": turn.reasoning} if turn.reasoning else {}
    row |= {"tool_calls": [to_openai_call(call) for call in turn.calls]} if turn.calls else {}
    row |= {"tool_call_id": turn.call_id} if turn.call_id else {}
    return row | ({"is_error": True} if turn.is_error else {})


def _turn_of(row: dict[str, Any]) -> Turn:
    calls = tuple(
        ToolCall(call["id"], call["function"]["name"], call["function"]["arguments"])
        for call in row.get("tool_calls", ())
    )
    thought, call_id = row.get("reasoning_content", ""), row.get("tool_call_id", "")
    return Turn(Role(row["role"]), row["content"], thought, calls, call_id, bool(row.get("is_error")))


def _same(turns: Sequence[Turn], known: Sequence[Turn]) -> bool:
    """Returns True if one begins with the other."""
    return all(_words_of(a) == _words_of(b) for a, b in zip(turns, known, strict=False))


def _words_of(turn: Turn) -> tuple[object, ...]:
    """Returns what a turn says, without what only its wire knows: a session of a file reads as the one of memory."""
    return turn.role, turn.text, turn.calls, turn.call_id


def _characters(turn: Turn) -> int:
    return _MESSAGE + len(turn.text) + len(turn.reasoning) + sum(len(call.arguments) for call in turn.calls)
