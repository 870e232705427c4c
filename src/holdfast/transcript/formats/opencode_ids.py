"""The ids of an opencode export: those of new messages, and those of an export that becomes a session of its own.

The agent's import only adds: over a session that is there, all of its messages would stay. So a changed export has a
new session id, and new ids for all that is in it, because a message is imported once under its id. An id is a kind, 12
digits of time and a random tail; the agent sorts by it, so the digits stay.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

from holdfast.transcript.document import Document
from holdfast.transcript.formats.apply_draft import NewEntry, render_file
from holdfast.transcript.json_fields import text_or_empty

_TIME, _TAIL = 12, 14
_MARK = " (compacted)"


def give_ids(items: list[NewEntry]) -> list[NewEntry]:
    """Gives new messages ids that sort at their place, because the agent sorts by them."""
    done: list[NewEntry] = []
    used: set[str] = set()
    before = f"msg_{'0' * (_TIME + _TAIL)}"
    for item in items:
        value = item.value
        if isinstance(value, dict) and isinstance(value.get("info"), dict):
            own = text_or_empty(value["info"].get("id"))
            if not item.number:
                own = own if own and own not in used else f"{before}0"
                value = _put_ids(value, own)
            used.add(own)
            before = own or before
        done.append(NewEntry(value, item.number))
    return done


def _put_ids(value: dict[str, Any], id_: str) -> dict[str, Any]:
    """Returns a message under this id, and its new parts with the ids that the agent demands."""
    session = {"sessionID": value["info"]["sessionID"]} if "sessionID" in value["info"] else {}
    parts = [
        part if "id" in part else {"id": f"prt_{id_.removeprefix('msg_')}{at}", "messageID": id_, **session, **part}
        for at, part in enumerate(value["parts"])
    ]
    return {**value, "info": {**value["info"], "id": id_}, "parts": parts}


def renew_session(document: Document, items: Sequence[NewEntry]) -> str:
    """Returns the text of an export with these messages, as a session of its own that the agent lists first. The same
    change of the same session gives the same ids. An export without a head stays the session that it was.
    """
    text = render_file(document, items)
    value = document.value if isinstance(document.value, dict) else {}
    info = value.get("info")
    if not isinstance(info, dict) or not text_or_empty(info.get("id")):
        return text
    title, times = text_or_empty(info.get("title")), info.get("time")
    named: dict[str, Any] = {"title": title.removesuffix(_MARK) + _MARK} if title else {}
    if isinstance(times, dict) and isinstance(times.get("updated"), int):
        named["time"] = {**times, "updated": times["updated"] + 1}
    messages = _with_parents([item.value for item in items])
    ids = _map_ids(info["id"], messages, sha256(text.encode()).hexdigest())
    head = _put_new(ids, {**value, "messages": [], "info": {**info, **named}})
    renewed = [replace(item, value=_put_new(ids, one)) for item, one in zip(items, messages, strict=True)]
    return render_file(replace(document, value=head), renewed)


def relink(document: Document, kept: int) -> str:
    """Returns the export with every message in its session: those behind the first `kept` were said in a session that a
    compaction made, where they are known under the ids that they have.
    """
    value = document.value if isinstance(document.value, dict) else {}
    info = value.get("info")
    if not isinstance(info, dict):
        return document.text
    own, messages = text_or_empty(info.get("id")), [entry.value for entry in document.entries]
    ids = _map_ids("", messages[kept:], sha256(json.dumps(messages[kept:]).encode()).hexdigest())
    tail = [_put_new(ids, _in_session(message, own)) for message in messages[kept:]]
    items = [NewEntry(message, number) for number, message in enumerate([*messages[:kept], *tail], 1)]
    return render_file(document, items)


def _with_parents(messages: Sequence[Any]) -> list[Any]:
    """Returns the messages, each answer to a question that went as one to the last question before it."""
    infos = [message.get("info") if isinstance(message, dict) else None for message in messages]
    left = {text_or_empty(info.get("id")) for info in infos if isinstance(info, dict)}
    done, asked = [], ""
    for message, info in zip(messages, infos, strict=True):
        if isinstance(info, dict) and info.get("role") == "user":
            asked = text_or_empty(info.get("id"))
        lost = isinstance(info, dict) and "parentID" in info and text_or_empty(info["parentID"]) not in left
        done.append({**message, "info": {**info, "parentID": asked}} if lost and info and asked else message)
    return done


def _in_session(value: Any, session: str) -> Any:
    if isinstance(value, dict):
        return {key: session if key == "sessionID" else _in_session(held, session) for key, held in value.items()}
    return [_in_session(held, session) for held in value] if isinstance(value, list) else value


def _map_ids(session: str, messages: Sequence[Any], seed: str) -> dict[str, str]:
    """Returns the new id of the session, of every message and of every part, by the old one."""
    olds = [session]
    for message in messages:
        holders = [message.get("info"), *(message.get("parts") or [])] if isinstance(message, dict) else []
        olds += [text_or_empty(holder.get("id")) for holder in holders if isinstance(holder, dict)]
    return {old: _renew(old, seed) for old in olds if old}


def _renew(old: str, seed: str) -> str:
    """Returns an id that sorts where the old one does. An id that was made of another keeps what it adds to it."""
    kind, _, rest = old.partition("_")
    time, tail, more = rest[:_TIME], rest[_TIME : _TIME + _TAIL], rest[_TIME + _TAIL :]
    if len(tail) < _TAIL:
        tail, more = "", tail
    return f"{kind}_{time}{sha256(f'{seed}{time}{tail}'.encode()).hexdigest()[:_TAIL]}{more}"


def _put_new(ids: dict[str, str], value: Any) -> Any:
    """Returns a value with every id in it that has a new one."""
    if isinstance(value, str):
        return ids.get(value, value)
    if isinstance(value, dict):
        return {key: _put_new(ids, held) for key, held in value.items()}
    return [_put_new(ids, held) for held in value] if isinstance(value, list) else value
