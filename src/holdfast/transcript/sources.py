"""The bytes of a session: a file, one session of a file that holds several, or a folder with a file for each event."""

from __future__ import annotations

import json
import re
from pathlib import Path

from holdfast.errors import BadOption, BadTranscript
from holdfast.transcript.document import Document, decode

_LISTS = ("history", "messages", "steps", "trajectory", "events")
_NAMES = ("instance_id", "session_id", "sessionId", "trajectory_id", "id")
_SHOWN = 5  # sessions that a message names


def is_event_folder(path: Path) -> bool:
    """Returns True for a folder in which an agent (OpenHands) keeps a session's events, each in a file of its own."""
    return path.is_dir() and next((path / "events").glob("*.json"), None) is not None


def read_event_folder(path: Path) -> bytes:
    """Returns the events of such a folder in their order, one on a line. Raises BadTranscript for a broken one."""
    rows = []
    for file in sorted((path / "events").glob("*.json"), key=lambda file: (_number(file), file.name)):
        try:
            rows.append(json.dumps(json.loads(file.read_bytes()), ensure_ascii=False))
        except (OSError, ValueError, RecursionError) as error:
            reason = " ".join(str(error).split())
            raise BadTranscript(f"the event cannot be read: {reason}; remove or repair it", path=str(file)) from None
    return "".join(f"{row}\n" for row in rows).encode("utf-8", "replace")


def _number(file: Path) -> int:
    found = re.search(r"\d+", file.stem)
    return int(found[0]) if found else -1


def name_sessions(document: Document) -> tuple[str, ...]:
    """Returns the names of the sessions of a file that holds several, a line each; none for a file that is one."""
    values = [entry.value for entry in document.lines]
    if len(values) < 2 or not all(isinstance(value, dict) and _holds_session(value) for value in values):
        return ()
    return tuple(_name(value, at) for at, value in enumerate(values, 1))


def _holds_session(value: dict[str, object]) -> bool:
    lists = [held for key in _LISTS if isinstance(held := value.get(key), list)]
    return any(held and isinstance(held[0], dict) for held in lists)


def _name(value: dict[str, object], number: int) -> str:
    return next((held for key in _NAMES if isinstance(held := value.get(key), str) and held), f"line {number}")


def tell_sessions(names: tuple[str, ...]) -> str:
    """Returns the sentence that refuses a file of several sessions and says how one is chosen."""
    shown = ", ".join(f"{at} {name[:60]}" for at, name in enumerate(names[:_SHOWN], 1))
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"holds {len(names)} sessions ({shown}{more}); choose one with --session N"


def pick_session(text: str, number: int, path: str = "") -> str:
    """Returns the text of one session of a file, counted from 1. Raises BadOption for a number that it has not."""
    document = decode(text, path, lenient=True)
    names = name_sessions(document)
    if not names and number == 1:
        return text
    if not 1 <= number <= len(names):
        held = tell_sessions(names) if names else "holds one session; leave out --session"
        raise BadOption(f"--session {number}: {path or 'the file'} {held}")
    return document.text.split("\n")[document.lines[number - 1].number - 1]
