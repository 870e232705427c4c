"""Decodes a file's text once: one JSON value, JSON lines, or plain text. Knows no session format.

Also decides, for every entry that a format calls malformed, if that is an error or a skip. JSON that a transcript
cannot hold ends here: lone surrogates become U+FFFD, NaN becomes null.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from holdfast.errors import BadTranscript
from holdfast.transcript.rows import find_torn, split_glued

T = TypeVar("T")

MAX_DEPTH = 100
"""Deeper JSON is refused: no session nests like this, and recursion must end somewhere."""


_SESSION_LISTS = ("messages", "history", "input", "output", "items", "steps")


class MalformedEntry(Exception):
    """An entry breaks its format. The message says in one line what was expected and what stood there."""


@dataclass(frozen=True)
class Entry:
    """One message of a document: a decoded line, or an item of its message list."""

    number: int
    """1-based line, or 1-based index in the list."""
    value: Any = None
    problem: str = ""
    """The reason why the line could not be decoded; `value` is then None."""
    cut: bool = False
    """True for the last line if it was never written to its end: an interrupted program, and no error."""


@dataclass(frozen=True)
class Document:
    """The content of one file: a JSON `value`, or JSON `lines`, or for plain text neither."""

    text: str
    path: str = ""
    lenient: bool = False
    value: Any = None
    lines: tuple[Entry, ...] = ()
    left_out: frozenset[int] = frozenset()
    """Entries that a lenient reading skipped: a writer of the document leaves them out."""

    @property
    def unit(self) -> str:
        """The noun for what `Entry.number` counts."""
        return "line" if self.lines else "message"

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The lines, or the items of a JSON list, or of the list under "messages"."""
        if self.lines:
            return self.lines
        items = self.value.get("messages") if isinstance(self.value, dict) else self.value
        return number_entries(items)

    def refuse(self, reason: str, number: int = 0) -> BadTranscript:
        """Returns the error for this file, or for one entry of it, in one line whatever it quotes."""
        reason = " ".join(reason.split())
        if not number:
            return BadTranscript(reason, path=self.path)
        if self.unit == "line":
            return BadTranscript(f"{reason}; use --lenient to skip it", path=self.path, line=number)
        return BadTranscript(f"message {number}: {reason}; use --lenient to skip it", path=self.path)

    def read_each(self, entries: Iterable[Entry], read: Callable[[Entry], T]) -> tuple[tuple[T, ...], tuple[str, ...]]:
        """Reads every entry. A malformed one raises BadTranscript, or in lenient mode is skipped and named."""
        good: list[T] = []
        skipped: list[str] = []
        for entry in entries:
            try:
                if entry.problem:
                    raise MalformedEntry(entry.problem)
                good.append(read(entry))
            except MalformedEntry as error:
                if not (self.lenient or entry.cut):
                    raise self.refuse(str(error), entry.number) from None
                skipped.append(f"{self.unit} {entry.number}: {' '.join(str(error).split())}")
        return tuple(good), tuple(skipped)


def number_entries(items: object) -> tuple[Entry, ...]:
    """Returns the items of a JSON list as entries; none if it is no list."""
    if not isinstance(items, list):
        return ()
    return tuple(Entry(number, item) for number, item in enumerate(items, 1))


def decode(text: str, path: str = "", lenient: bool = False) -> Document:
    """Decodes text to a Document. Refuses text that starts like JSON but is neither JSON nor JSON lines.

    Records that were glued on one line get a line each: `Document.text` is the file as it should be.
    """
    stored, torn = text, find_torn(text)
    text = _without_surrogates(text)
    problem = ""
    try:
        value = parse_json(text)
    except MalformedEntry as error:
        problem = str(error)
    else:
        if _is_lone_line(text, value):
            return Document(text, path, lenient, None, _json_lines(text, torn))
        if torn:
            raise BadTranscript("is not UTF-8; convert it to UTF-8 first", path=path, line=min(torn))
        return Document(text, path, lenient, value)
    lines = _json_lines(text, torn)
    if any(entry.problem for entry in lines) and (whole := "\n".join(split_glued(stored.split("\n")))) != stored:
        return decode(whole, path, lenient)
    objects = sum(isinstance(entry.value, dict) for entry in lines)
    # Half, because a pretty-printed but broken document has a few lines that decode by accident.
    if 2 * objects >= len(lines) > 0:
        return Document(text, path, lenient, None, lines)
    if text.lstrip()[:1] in ("{", "["):
        raise BadTranscript(f"expected JSON or JSON lines, got broken JSON: {problem}", path=path)
    return Document(text, path, lenient)


def _is_lone_line(text: str, value: object) -> bool:
    """Returns True for a log of a single line, which is JSON too; unlike a session document it holds no list of
    messages.
    """
    if not isinstance(value, dict) or "\n" in text.strip():
        return False
    return not any(isinstance(value.get(key), list) for key in _SESSION_LISTS)


def _json_lines(text: str, torn: frozenset[int]) -> tuple[Entry, ...]:
    """Decodes every non-blank line. Not with str.splitlines: U+2028 may stand inside a JSON string."""
    rows = text.split("\n")
    entries = [
        Entry(number, problem="bytes that are no UTF-8 text (half a character?)")
        if number in torn
        else _json_line(number, row)
        for number, row in enumerate(rows, 1)
        if row.strip()
    ]
    if len(entries) > 1 and entries[-1].problem and rows[-1].strip():
        entries[-1] = replace(entries[-1], cut=True)
    return tuple(entries)


def _json_line(number: int, line: str) -> Entry:
    if not line.strip("\0 \t\r"):
        return Entry(number, problem="a run of NUL bytes")
    try:
        return Entry(number, parse_json(line.strip("\0")))
    except MalformedEntry as error:
        return Entry(number, problem=f"expected one JSON object per line, got {error}")


def parse_json(text: str, decoder: type[json.JSONDecoder] | None = None) -> Any:
    """Decodes JSON, or raises MalformedEntry with a one-line reason. Lone surrogates become U+FFFD, NaN and Infinity
    null.
    """
    try:
        return _clean(json.loads(text, cls=decoder, parse_constant=_no_constant), MAX_DEPTH)
    except json.JSONDecodeError as error:
        raise MalformedEntry(f"{error.msg} at line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise MalformedEntry(f"JSON nested more than {MAX_DEPTH} levels deep") from None
    except ValueError:
        # Python refuses to convert integers of thousands of digits.
        raise MalformedEntry("a number with too many digits") from None


def _no_constant(_name: str) -> None:
    """Returns None: NaN and Infinity are not JSON; writers in JavaScript put null in their place, and so do we."""


def _clean(value: Any, room: int) -> Any:
    if room < 0:
        raise RecursionError
    if isinstance(value, str):
        return _without_surrogates(value)
    if isinstance(value, list):
        return [_clean(item, room - 1) for item in value]
    if isinstance(value, dict):
        return {_without_surrogates(key): _clean(item, room - 1) for key, item in value.items()}
    return value


def _without_surrogates(text: str) -> str:
    """Replaces the halves of a UTF-16 pair that was cut, which cannot be encoded again, by U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
