"""The tools by which an agent searches and reads its own past: their names, descriptions, schemas and answers.

MCP, the proxy and the server offer these same tools; each gives them a `Source`, which knows the caller's sessions and
nobody else's. An answer is text of a few hundred tokens.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Protocol

from holdfast.errors import BadOption, HoldfastError
from holdfast.recall.index import Index, Similarity
from holdfast.recall.notes import Notes
from holdfast.recall.pages import Page, make_pages
from holdfast.recall.past import Past
from holdfast.recall.read import read_turns
from holdfast.recall.search import ROOM, search
from holdfast.recall.status import describe_status
from holdfast.recall.words import query_words, search_words
from holdfast.transcript.token_estimate import estimate_tokens

LOOKUP = (
    "Every earlier turn can still be read word for word: history_search finds it by what it was about, history_read "
    "gives a turn by its number."
)
"""The line that tells an agent how to look things up."""
MOST_ROOM = 4_000
_INDEXES = 8  # sessions whose index is held; the one used longest ago goes first
_TAIL = 10
"""Tokens of the line that says how to see more."""
_NOTE = 300  # characters of a note in an answer
_NOTES_ROOM = 1_000
"""Tokens of a list of notes; the newest come first."""


@dataclass(frozen=True)
class Tool:
    """One tool, as every wire describes it."""

    name: str
    description: str
    properties: Mapping[str, Any]
    required: tuple[str, ...] = ()

    def schema(self, *, with_session: bool = False) -> dict[str, Any]:
        """Returns the JSON schema of its arguments."""
        session = {"session": _SESSION} if with_session else {}
        return {
            "type": "object",
            "properties": {**self.properties, **session},
            "required": list(self.required),
            "additionalProperties": False,
        }


_SESSION = {"type": "string", "description": "A session as context_status names it; the newest if left out."}
_ROOM = {
    "type": "integer",
    "minimum": 50,
    "maximum": MOST_ROOM,
    "description": f"Tokens of the answer, {ROOM} if left out.",
}
_READ = {"type": "string", "description": "12, 12-14, 12:40 or 12:40-80; several with commas."}
TOOLS = (
    Tool(
        "history_search",
        "Finds what was said, read or printed earlier in this session, also what no longer stands in your context. Ask "
        "in the words of the thing that you look for: names, files, commands, error texts. Answers with the places "
        "that fit best, as [turn:lines] and their exact text. If the answer is not among them, ask again with skip, or "
        "read around the best place with history_read.",
        {
            "query": {"type": "string", "description": "What is looked for."},
            "turns": {"type": "string", "description": "Only in these turns, such as 40-60."},
            "skip": {"type": "integer", "minimum": 0, "description": "Places that were shown already."},
            "tokens": _ROOM,
        },
        ("query",),
    ),
    Tool(
        "history_read",
        "Reads earlier turns of this session exactly as they stand: 12, 12-14, or lines of a turn, 12:40-80. Where not "
        "all fits, the last line says where to go on.",
        {"turns": _READ, "tokens": _ROOM},
        ("turns",),
    ),
    Tool(
        "note_write",
        "Writes a note that outlives every compaction: a decision and its reason, what is done and what is left, a "
        "value that took effort to find.",
        {"text": {"type": "string", "description": "The note, in words that you will understand later."}},
        ("text",),
    ),
    Tool("note_list", "Lists your notes on this session, the newest first.", {}),
    Tool(
        "context_status",
        "Says what fills your context now, what was compacted, and which facts stand only in the history.",
        {},
    ),
    Tool(
        "compact",
        "Compacts the older part of your context. Call it after a finished sub-task, when its details are settled, "
        "or before a new one that needs room. Do not call it in the middle of a derivation, of an edit that spans "
        "several files, or while you compare values that you have just read. Every turn can be searched and read "
        "after it.",
        {"tokens": {"type": "integer", "minimum": 500, "description": "Tokens to compact to; half if left out."}},
    ),
)
TOOL_NAMES = frozenset(tool.name for tool in TOOLS)


class Source(Protocol):
    """The sessions of one caller."""

    def sessions(self) -> Sequence[str]:
        """Returns their names, the newest first."""

    def past(self, session: str) -> Past:
        """Returns a session. Raises Missing if the caller has none of this name."""

    def notes(self, session: str) -> Notes:
        """Returns the notes of a session. Raises as `past` does."""

    def compact(self, session: str, tokens: int | None) -> str:
        """Compacts a session, to so many tokens; returns a sentence on it. Raises BadInput where it cannot."""


class Indexes:
    """The newest indexes, by session and turns; any thread may call."""

    def __init__(self, meaning: Similarity | None = None) -> None:
        self._meaning = meaning
        self._held: OrderedDict[str, tuple[tuple[Any, ...], Index]] = OrderedDict()
        self._lock = Lock()

    def of(self, past: Past) -> Index:
        """Returns the index of a session as it is now."""
        with self._lock:
            known = self._held.pop(past.name, None)
            if known is None or known[0] != past.turns:
                known = past.turns, Index(make_pages(past.turns), meaning=self._meaning)
            self._held[past.name] = known
            while len(self._held) > _INDEXES:
                self._held.popitem(last=False)
            return known[1]

    def pages(self, past: Past) -> tuple[Page, ...]:
        """Returns the pages of a session, without making an index of them."""
        with self._lock:
            known = self._held.get(past.name)
        return known[1].pages if known and known[0] == past.turns else make_pages(past.turns)


class Toolbox:
    """The tools over one caller's sessions; any thread may call."""

    def __init__(self, source: Source, indexes: Indexes | None = None) -> None:
        self.source, self._indexes = source, indexes or Indexes()

    def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Returns the answer of a tool. Raises HoldfastError for arguments that it cannot take."""
        tool = next((tool for tool in TOOLS if tool.name == name), None)
        if tool is None:
            raise BadOption(f"there is no tool {name[:40]!r}; there are: {', '.join(tool.name for tool in TOOLS)}")
        missing = [key for key in tool.required if not arguments.get(key)]
        unknown = [key for key in arguments if key not in (*tool.properties, "session")]
        if missing or unknown:
            known = ", ".join(tool.properties) or "no arguments"
            raise BadOption(f"{name} takes {known}, got {', '.join(arguments) or 'none'}")
        session = _text(arguments, "session") or self._newest()
        answer: str = getattr(self, f"_{name}")(session, arguments)
        return answer

    def answer(self, name: str, arguments: str) -> str:
        """Returns the answer to a call as it stands on a wire; an error is answered in words, for the model to read."""
        try:
            value = json.loads(arguments or "{}")
            if not isinstance(value, dict):
                raise BadOption(f"the arguments are a JSON object, got {arguments[:80]}")
            return self.call(name, value)
        except (HoldfastError, ValueError, RecursionError) as error:
            return f"error: {error}"

    def _newest(self) -> str:
        names = self.source.sessions()
        if not names:
            raise BadOption("there is no session yet; one appears with its first request")
        return names[0]

    def _history_search(self, session: str, arguments: Mapping[str, Any]) -> str:
        index = self._indexes.of(self.source.past(session))
        within = _turn_range(_text(arguments, "turns"), len(index.pages))
        skip, room = _number(arguments, "skip", 0, 0, 10_000), _number(arguments, "tokens", ROOM, 50, MOST_ROOM)
        query = _text(arguments, "query")
        notes = [] if skip else _matching_notes(self.source.notes(session), query)
        spent = sum(estimate_tokens(note) + 1 for note in notes)
        found = search(index, query, skip, room - spent - _TAIL, within)
        if not found.places and not notes:
            return "nothing more fits; try other words for it" if skip else "nothing fits; try other words for it"
        more = f"(more with skip={skip + len(found.places)})" if found.more else ""
        return "\n".join(part for part in (*notes, found.text, more) if part)

    def _history_read(self, session: str, arguments: Mapping[str, Any]) -> str:
        pages = self._indexes.pages(self.source.past(session))
        return read_turns(pages, _text(arguments, "turns"), _number(arguments, "tokens", ROOM, 50, MOST_ROOM))

    def _note_write(self, session: str, arguments: Mapping[str, Any]) -> str:
        return f"note {self.source.notes(session).write(_text(arguments, 'text'))} is written"

    def _note_list(self, session: str, arguments: Mapping[str, Any]) -> str:
        notes = self.source.notes(session).list()
        lines: list[str] = []
        left = _NOTES_ROOM
        for number in range(len(notes), 0, -1):
            line = f"note {number} ({notes[number - 1].time}): {notes[number - 1].text}"
            left -= estimate_tokens(line)
            if left < 0 and lines:
                return "\n".join([*lines, f"({number} older notes: history_search finds them by their words)"])
            lines.append(line)
        return "\n".join(lines) or "there are no notes yet"

    def _context_status(self, session: str, arguments: Mapping[str, Any]) -> str:
        others = [name for name in self.source.sessions() if name != session]
        count = len(self.source.notes(session).list())
        lines = [describe_status(self.source.past(session)), f"notes: {count}"]
        if others:
            more = f" and {len(others) - 10} more" if len(others) > 10 else ""
            lines.append(f"other sessions: {', '.join(others[:10])}{more}")
        return "\n".join(lines)

    def _compact(self, session: str, arguments: Mapping[str, Any]) -> str:
        tokens = _number(arguments, "tokens", 0, 500, 10_000_000) if arguments.get("tokens") else None
        return f"{self.source.compact(session, tokens)}\n{LOOKUP}"


def _matching_notes(notes: Notes, query: str) -> list[str]:
    """Returns the newest note with most words of the query, if it has at least half of them."""
    asked = set(query_words(query))
    found = [(len(asked & set(search_words(note.text))), number, note) for number, note in enumerate(notes.list(), 1)]
    share, number, note = max(found, key=lambda one: one[:2], default=(0, 0, None))
    if note is None or 2 * share < max(1, len(asked)):
        return []
    return [f"[note {number}] {note.text[:_NOTE]}"]


def _text(arguments: Mapping[str, Any], name: str) -> str:
    value = arguments.get(name) or ""
    if not isinstance(value, str):
        raise BadOption(f"{name} is text, got {json.dumps(value)[:80]}")
    return value


def _number(arguments: Mapping[str, Any], name: str, default: int, least: int, most: int) -> int:
    value = arguments.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise BadOption(f"{name} is a whole number from {least} to {most:,}, got {json.dumps(value)[:80]}")
    return value


def _turn_range(text: str, turns: int) -> range:
    """Returns turns, counted from 0. Raises BadOption for what is none of the session's."""
    if not text:
        return range(turns)
    first, _, last = text.partition("-")
    if not (first.strip().isdecimal() and (last or first).strip().isdecimal()):
        raise BadOption(f"turns are given as 40-60, got {text[:40]!r}")
    return range(max(0, int(first) - 1), min(turns, int(last or first)))
