"""Reads a session file into a Transcript. The format is recognised by the content, never by the file's name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from holdfast.errors import BadTranscript, NotASession
from holdfast.transcript.cuts import without_orphans
from holdfast.transcript.document import Document, decode
from holdfast.transcript.formats import FORMATS
from holdfast.transcript.formats.base import Format
from holdfast.transcript.json_fields import json_kind
from holdfast.transcript.sources import (
    is_event_folder,
    name_sessions,
    pick_session,
    read_event_folder,
    tell_sessions,
)
from holdfast.transcript.turn import Transcript


def read(path: str | Path, *, lenient: bool = False, session: int = 0) -> Transcript:
    """Reads a session file, or a folder of events. `session` chooses one of several in a file, counted from 1.

    Lenient: malformed entries are left out and listed in `skipped`. Raises BadTranscript, BadOption for a session that
    the file does not hold.
    """
    path = Path(path)
    return parse(decode_text(read_bytes(path, session), path), path=str(path), lenient=lenient)


def parse(text: str, *, path: str = "", lenient: bool = False) -> Transcript:
    """Reads a session from text; `path` only stands in errors. Raises BadTranscript.

    A call that was never answered (an agent was interrupted) and a result without its call are left out and named in
    `skipped`, lenient or not: the agents do so themselves.
    """
    if not text.strip():
        raise BadTranscript("the file is empty; give a session file", path=path)
    document = decode(text, path, lenient)
    if several := name_sessions(document):
        raise document.refuse(tell_sessions(several))
    try:
        transcript = _format(document).read(document)
    except RecursionError:
        raise document.refuse("the content is nested too deeply to be a session") from None
    transcript = _drop_orphans(transcript, document.unit)
    if not transcript.turns:
        raise document.refuse(f"read as {transcript.format}, but it holds no turn; give a session that has begun")
    return transcript


def read_bytes(path: Path, session: int = 0) -> bytes:
    """Returns the bytes of a session: of a file, of one of several in it, or of a folder of events, an event a line.

    Raises BadTranscript with one line, BadOption for a session that the file does not hold.
    """
    if is_event_folder(path):
        return read_event_folder(path)
    data = _read_file(path)
    return pick_session(decode_text(data, path), session, str(path)).encode("utf-8", "replace") if session else data


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise BadTranscript("no such file; give the path of a session file", path=str(path)) from None
    except IsADirectoryError:
        raise BadTranscript(_describe_folder(path), path=str(path)) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadTranscript(f"cannot be read: {reason}", path=str(path)) from None


def _describe_folder(path: Path) -> str:
    """Returns what to give in place of a folder: files of it that may be sessions."""
    names = sorted(file.name for file in path.glob("*.json*") if not file.name.endswith(".holdfast.jsonl"))
    some = f"one of its session files, e.g. {', '.join(names[:3])}" if names else "the path of one session file"
    return f"is a folder; give {some} (`holdfast compact` takes a whole folder too)"


def is_text(path: Path) -> bool:
    """Returns True if the file may be a session by its first bytes; a missing one is not."""
    if not path.is_file():
        return is_event_folder(path)
    with path.open("rb") as file:
        return b"\0" not in file.read(4096)


def decode_text(data: bytes, path: Path) -> str:
    """Returns a session file's bytes as text, or raises BadTranscript with one line; `path` only stands in the
    error.
    """
    if _is_binary(data):
        raise NotASession("is binary; a session file is UTF-8 text", path=str(path))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if not _begins_as_log(data):
            line = data.count(b"\n", 0, error.start) + 1
            raise BadTranscript("is not UTF-8; convert it to UTF-8 first", path=str(path), line=line) from None
        # A log that was cut in the middle of a character: it costs the line, which `decode` names.
        return data.decode("utf-8-sig", "surrogateescape")


def _begins_as_log(data: bytes) -> bool:
    return data.lstrip(b" \t\r\n\0\xef\xbb\xbf").startswith(b"{")


def _is_binary(data: bytes) -> bool:
    """Returns True for bytes that are no text. A run of NULs that a crash left in a log costs a line of it, no more."""
    if b"\0" not in data:
        return False
    rows = data.split(b"\n")
    return not _begins_as_log(data) or 2 * sum(b"\0" in row for row in rows) >= len(rows)


def _format(document: Document) -> Format:
    """Returns the one format whose content this is. A dialect is asked before the wire it is written in."""
    matches = [known for known in FORMATS if known.sniff(document)]
    matches = [known for known in matches if known.dialect] or matches
    if len(matches) == 1:
        return matches[0]
    if matches:
        names = " and ".join(known.name for known in matches)
        raise document.refuse(
            f"ambiguous: has marks of {names}; a session is in one format. Seen: {_describe(document)}"
        )
    known = ", ".join(known.name for known in FORMATS)
    reason = f"no known session format ({known}). Seen: {_describe(document)}"
    raise NotASession(" ".join(reason.split()), path=document.path)


def _describe(document: Document) -> str:
    """Describes the document in a few words."""
    if document.lines:
        return f"JSON lines, the first {_shape(document.lines[0].value)}"
    if document.value is not None:
        return f"JSON, {_shape(document.value)}"
    return f"text that begins {document.text.strip()[:40]!r}"


def _shape(value: object) -> str:
    if isinstance(value, dict):
        return f"an object with the keys {', '.join(map(repr, sorted(value)[:8])) or 'none'}"
    if isinstance(value, list):
        return f"a list of {len(value)}" + (f", the first {_shape(value[0])}" if value else "")
    return json_kind(value)


def _drop_orphans(transcript: Transcript, unit: str) -> Transcript:
    """Drops the results and the calls that have no partner, and names them."""
    turns, dropped = without_orphans(transcript.turns)
    reasons = tuple(f"{unit} {source}: {reason}" for source, reason in dropped)
    return replace(transcript, turns=turns, skipped=transcript.skipped + reasons)
