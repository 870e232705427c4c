"""Merges what was appended to a compacted session file into the file as it was before: `undo` loses nothing.

Lines are appended to a log file byte by byte. A JSON document is written anew each time that its session grows: then a
list continues another if its first items are unchanged, and other values (counts, times) may differ.
"""

from __future__ import annotations

import json
import re
from typing import Any

_MISSING = object()


def continues(base: bytes, now: bytes) -> bool:
    """Returns True if `now` is `base`, or `base` with something appended."""
    return _tail_of(base, now) is not None or _continues(_json(base), _json(now))


def three_way_merge(before: bytes, after: bytes, now: bytes) -> bytes | None:
    """Returns `before` with what was appended to `after` to give `now`, or None if `now` does not continue `after`."""
    tail = _tail_of(after, now)
    if tail is not None:
        return before + (b"\n" if tail.strip() and _needs_newline(before, after, tail) else b"") + tail
    old, base, new = _json(before), _json(after), _json(now)
    if not _continues(base, new) or type(old) is not type(base):
        return None
    merged = _merge_values(old, base, new)
    return before if merged == old else _dump_like(merged, now)


def without_record(before: bytes, after: bytes, now: bytes) -> bytes | None:
    """Returns `now` without what `after` appended to `before`, and without what is said again behind it.

    An agent that was faster by some lines than the record of a compaction has them before it; where the record hides
    them, they were said again. None if `now` holds no such record.
    """
    record = after[len(before) :]
    at = now.find(record, len(before)) if record and after.startswith(before) and now.startswith(before) else -1
    if at < 0:
        return None
    between, rest = now[len(before) : at], now[at + len(record) :]
    first = _count_shared_bytes(between, rest)
    rest, missed = rest[first:], between[first:]
    if missed and missed in rest:
        rest = rest.replace(missed, b"", 1)
    return now[:at] + rest


def _count_shared_bytes(one: bytes, other: bytes) -> int:
    """Returns how many bytes of whole lines two texts begin with in common."""
    size = 0
    for line in one.splitlines(keepends=True):
        if not other.startswith(line, size):
            break
        size += len(line)
    return size


def _tail_of(base: bytes, now: bytes) -> bytes | None:
    """Returns the bytes that follow `base` in `now` if they begin on a new line, else None."""
    tail = now[len(base) :]
    whole = not tail or base.endswith(b"\n") or tail.startswith((b"\n", b"\r\n"))
    return tail if now.startswith(base) and whole else None


def _needs_newline(before: bytes, after: bytes, tail: bytes) -> bool:
    """Returns True if the tail relied on a newline that `before` does not end with."""
    return after.endswith(b"\n") and not before.endswith(b"\n") and not tail.startswith((b"\n", b"\r\n"))


def _json(data: bytes) -> Any:
    try:
        return json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return _MISSING


def _continues(base: Any, now: Any) -> bool:
    if isinstance(base, dict) and isinstance(now, dict):
        return all(key in now and _continues(base[key], now[key]) for key in base)
    if isinstance(base, list) and isinstance(now, list):
        return now[: len(base)] == base
    return base is not _MISSING and not isinstance(base, dict | list) and not isinstance(now, dict | list)


def _merge_values(old: Any, base: Any, now: Any) -> Any:
    if now == base:
        return old
    if isinstance(old, list) and isinstance(base, list) and isinstance(now, list):
        return old + now[len(base) :]
    if isinstance(old, dict) and isinstance(base, dict) and isinstance(now, dict):
        keys = dict.fromkeys([*old, *now])
        merged = {k: _merge_values(*(part.get(k, _MISSING) for part in (old, base, now))) for k in keys}
        return {key: value for key, value in merged.items() if value is not _MISSING}
    return now


def _dump_like(value: Any, like: bytes) -> bytes:
    """Dumps JSON in the layout of `like`."""
    text = like.decode("utf-8-sig")
    indent = re.match(r"\s*[\[{]\r?\n([ \t]+)", text)
    tight = re.search(r'"\s*:\S', text) is not None
    end = text[len(text.rstrip()) :]
    separators = ("," if indent or tight else ", ", ":" if tight else ": ")
    dumped = json.dumps(value, ensure_ascii=text.isascii(), indent=indent and indent[1], separators=separators)
    return (dumped + end).encode()
