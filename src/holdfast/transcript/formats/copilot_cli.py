"""GitHub Copilot CLI sessions (`events.jsonl`): one event a line, `{type, id, parentId, timestamp, data}`.

A message of the user holds his words and, around them, what the program adds: that is a turn of its own, marked as
context. A completed compaction restarts the history with its summary; a rewind takes back what came after the event
that it names. Events of sub-agents are counted in `meta`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from holdfast.transcript.content_blocks import Block, read_block
from holdfast.transcript.document import Document, Entry
from holdfast.transcript.draft import Draft
from holdfast.transcript.formats.apply_draft import Change, NewEntry, apply_draft, match_calls, render_file
from holdfast.transcript.json_fields import copy_object, take_list, take_required_text, text_or_empty, to_json_text
from holdfast.transcript.media_cost import count_encrypted_tokens
from holdfast.transcript.provider_requests import parse_arguments
from holdfast.transcript.turn import Opaque, Role, ToolCall, Transcript, Turn

_MARKS = ("session.start", "user.message", "assistant.message", "tool.execution_complete")
_DONE = "session.compaction_complete"
_STARTS = ("tool.execution_start", "tool.execution_partial_result")
_UNDERSTOOD = ("role", "content", "transformedContent", "reasoningText", "toolRequests")
_NOTICES = ("system.notification", "skill.invoked")


def _rest(data: dict[str, Any]) -> dict[str, Any]:
    """Returns what a record says beside the fields that a turn has."""
    return {name: value for name, value in data.items() if name not in _UNDERSTOOD}


def sniff(document: Document) -> bool:
    values = [entry.value for entry in document.lines if isinstance(entry.value, dict)]
    return any(value.get("type") in _MARKS and isinstance(value.get("data"), dict) for value in values)


def read(document: Document) -> Transcript:
    groups, skipped = document.read_each(document.lines, lambda entry: (entry, turns_of(entry)))
    live, compactions, gone = _live(groups)
    turns = tuple(turn for _, turns in live for turn in turns)
    values = [entry.value for entry, _ in groups]
    other = Counter(str(value["type"]) for (_, said), value in zip(groups, values, strict=True) if not said)
    heads = [value["data"] for value in values if value["type"] == "session.start"]
    meta = {**(heads[0] if heads else {}), "other_lines": dict(other)}
    meta |= {"compactions": compactions} if compactions else {}
    meta |= {"abandoned_lines": gone} if gone else {}
    return Transcript(turns, "copilot_cli", {key: held for key, held in meta.items() if held}, skipped)


_Group = tuple[Entry, tuple[Turn, ...]]


def _live(groups: Sequence[_Group]) -> tuple[list[_Group], list[dict[str, Any]], list[int]]:
    """Returns the events that stand, the compactions, and the lines that were taken back."""
    live: list[_Group] = []
    compactions: list[dict[str, Any]] = []
    gone: list[int] = []
    for entry, turns in groups:
        type_, data = entry.value["type"], entry.value.get("data") or {}
        if type_ == "session.snapshot_rewind":
            to = next((at for at, (old, _) in enumerate(live) if old.value["id"] == data.get("upToEventId")), len(live))
            gone += [old.number for old, said in live[to:] if said]
            live = live[:to]
        elif type_ == "session.context_cleared":
            gone += [old.number for old, said in live if said and said[0].role is not Role.SYSTEM]
            live = [(old, said) for old, said in live if said and said[0].role is Role.SYSTEM]
        elif type_ == _DONE and turns:
            compactions.append(_compaction(entry, live, turns))
            live = [*_head(live), (entry, turns), *_select_kept(live, data)]
        else:
            live.append((entry, turns))
    return live, compactions, gone


def _head(live: Sequence[_Group]) -> list[_Group]:
    """Returns the system prompt, which no compaction replaces."""
    return [(entry, said) for entry, said in live if said and said[0].role is Role.SYSTEM]


def _select_kept(live: Sequence[_Group], data: dict[str, Any]) -> list[_Group]:
    """Returns the newest messages, as far as the compaction says how many it left."""
    before, removed = data.get("preCompactionMessagesLength"), data.get("messagesRemoved")
    spoken = [(entry, said) for entry, said in live if said and said[0].role is not Role.SYSTEM]
    if not isinstance(before, int) or not isinstance(removed, int) or not 0 < before - removed < len(spoken):
        return []
    kept = spoken[removed - before :]
    while kept and kept[0][1][0].role is Role.TOOL:  # a result never stays without its call
        kept = kept[1:]
    return kept


def _compaction(entry: Entry, live: Sequence[_Group], summary: tuple[Turn, ...]) -> dict[str, Any]:
    spoken = [(old.number, said) for old, said in live if said]
    return {
        "line": entry.number,
        "lines": [number for number, _ in spoken],
        "turns": tuple(turn for _, said in spoken for turn in said),
        "summaries": summary,
        "metadata": {key: held for key, held in entry.value["data"].items() if key != "summaryContent"},
    }


def turns_of(entry: Entry) -> tuple[Turn, ...]:
    """Returns the turns of one event; none for an event that the model is not sent."""
    event = copy_object(entry.value, "an event")
    type_ = take_required_text(dict(event), "type", "an event")
    take_required_text(dict(event), "id", "an event")
    data = copy_object(event.get("data", {}), '"data"')
    if event.get("agentId") or data.get("parentToolCallId"):
        return ()
    read = {
        "system.message": _system,
        "user.message": _user,
        "assistant.message": _assistant,
        "tool.execution_complete": _result,
        _DONE: _summary,
        **dict.fromkeys(_NOTICES, _notice),
    }.get(type_)
    return () if read is None else read(data, entry.number)


def _system(data: dict[str, Any], number: int) -> tuple[Turn, ...]:
    return (Turn(Role.SYSTEM, text_or_empty(data.get("content")), source=number, extra=_rest(data)),)


def _user(data: dict[str, Any], number: int) -> tuple[Turn, ...]:
    """Returns what the program adds to the user's words, if anything, and his words."""
    words, sent = text_or_empty(data.get("content")), text_or_empty(data.get("transformedContent"))
    before, _, after = sent.partition(words) if words and words in sent else (sent, "", "")
    files = [_read_attachment(file) for file in take_list(dict(data), "attachments")]
    context = "\n".join(filter(None, (before.strip(), after.strip(), *(file.text for file in files))))
    hidden = tuple(part for file in files for part in file.parts)
    said = (Turn(Role.USER, words, source=number, extra=_rest(data)),) if words or not context else ()
    added = Turn(Role.USER, context, source=number, extra={"isMeta": True}, opaque=hidden)
    return (added, *said) if context else said


def _read_attachment(value: object) -> Block:
    fields = copy_object(value, "an attachment")
    return read_block(text_or_empty(fields.get("type")) or "attachment", fields)


def _assistant(data: dict[str, Any], number: int) -> tuple[Turn, ...]:
    calls = tuple(_call(copy_object(asked, "a tool request")) for asked in take_list(dict(data), "toolRequests"))
    reasoning = text_or_empty(data.get("reasoningText"))
    sealed = text_or_empty(data.get("encryptedContent")) or text_or_empty(data.get("reasoningOpaque"))
    hidden = (Opaque("encrypted reasoning", count_encrypted_tokens(sealed)),) if sealed and not reasoning else ()
    text = text_or_empty(data.get("content"))
    if not (text or reasoning or calls):
        return ()
    return (Turn(Role.ASSISTANT, text, reasoning, calls, source=number, extra=_rest(data), opaque=hidden),)


def _call(asked: dict[str, Any]) -> ToolCall:
    call_id, name = (take_required_text(asked, key, "a tool request") for key in ("toolCallId", "name"))
    return ToolCall(call_id, name, to_json_text(asked.get("arguments", {})))


def _result(data: dict[str, Any], number: int) -> tuple[Turn, ...]:
    given, error = data.get("result"), data.get("error")
    result = given if isinstance(given, dict) else {}
    text = text_or_empty(result.get("content"))
    if isinstance(error, dict):
        text = text or text_or_empty(error.get("message"))
    media = [_read_attachment(part) for part in take_list(dict(result), "binaryResultsForLlm")]
    text = "\n".join(filter(None, (text, *(block.text for block in media))))
    call_id = "" if data.get("isUserRequested") is True else take_required_text(dict(data), "toolCallId", "a result")
    hidden = tuple(part for block in media for part in block.parts)
    return (Turn(Role.TOOL, text, "", (), call_id, data.get("success") is False, number, data, hidden),)


def _summary(data: dict[str, Any], number: int) -> tuple[Turn, ...]:
    text = text_or_empty(data.get("summaryContent"))
    done = data.get("success") is not False and text
    return (Turn(Role.USER, text, source=number, extra={"isCompactSummary": True}),) if done else ()


def _notice(data: dict[str, Any], number: int) -> tuple[Turn, ...]:
    text = text_or_empty(data.get("content"))
    return (Turn(Role.USER, text, source=number, extra={"isMeta": True}),) if text else ()


def write(document: Document, held: Draft) -> str:
    """Writes the session with its changes in place. What a compaction had replaced does not come back."""
    if held.turns == held.raw.turns and not document.left_out:
        return document.text
    groups, _ = document.read_each(document.lines, lambda entry: (entry, turns_of(entry)))
    live, _, _ = _live(groups)
    spoken = {entry.number for entry, said in live if said}
    dead = {entry.number for entry, said in groups if said and entry.number not in spoken}
    dead |= {entry.number for entry, _ in groups if entry.value["type"] in ("session.snapshot_rewind",)}
    order = [entry for entry, said in live if said]
    rest = [entry for entry, said in groups if not said and entry.number not in dead]
    entries = _merge(order, rest)
    place = {entry.number: at for at, entry in enumerate(entries, 1)}
    numbered = [Entry(at, entry.value) for at, entry in enumerate(entries, 1)]
    where = [(place[turn.source],) for turn in held.raw.turns]
    items = apply_draft(numbered, held, _edit, _new, where)
    answered = {turn.call_id for turn in held.turns if turn.role is Role.TOOL}
    items = [item for item in items if not _is_loose_start(item.value, answered, held)]
    items = [NewEntry(item.value, entries[item.number - 1].number if item.number else 0) for item in items]
    return render_file(document, _chain(items))


def _merge(order: Sequence[Entry], rest: Sequence[Entry]) -> list[Entry]:
    """Returns the events that stand in the order in which the model sees them, with the others before the next one of
    the file.
    """
    made: list[Entry] = []
    left = list(rest)
    for entry in order:
        while left and left[0].number < entry.number:
            made.append(left.pop(0))
        made.append(entry)
    return [*made, *left]


def _is_loose_start(value: Any, answered: set[str], held: Draft) -> bool:
    """Returns True for the start of a tool whose result was there and went."""
    if not isinstance(value, dict) or value.get("type") not in _STARTS:
        return False
    call_id = (value.get("data") or {}).get("toolCallId")
    return call_id not in answered and any(turn.call_id == call_id for turn in held.raw.turns if turn.call_id)


def _chain(items: Sequence[NewEntry]) -> list[NewEntry]:
    """Returns the events with ids for new ones, each hanging on one that is left."""
    left = {text_or_empty(item.value.get("id")) for item in items if isinstance(item.value, dict)}
    made: list[NewEntry] = []
    before: str | None = None
    for item in items:
        value = item.value
        if isinstance(value, dict):
            if not value.get("id"):
                value = {**value, "id": str(uuid5(NAMESPACE_URL, f"holdfast:{before}:{to_json_text(value)}"))}
            new = not item.number
            lost = value.get("parentId") is not None and text_or_empty(value["parentId"]) not in left
            if new or lost or _follows_new(made):
                value = value if value.get("parentId") == before else {**value, "parentId": before}
            before = text_or_empty(value["id"])
        made.append(NewEntry(value, item.number))
    return made


def _follows_new(made: Sequence[NewEntry]) -> bool:
    return bool(made) and not made[-1].number


def _edit(values: list[Any], changes: tuple[Change, ...]) -> list[Any]:
    (event,) = values
    data = dict(event["data"])
    for change in changes:
        if change.raw is None or change.new == change.raw:
            continue
        context = change.raw.role is Role.USER and change.raw.extra.get("isMeta") is True
        data = _edit_data(event["type"], data, change.raw, change.new, context)
    return [{**event, "data": data}]


def _edit_data(type_: str, data: dict[str, Any], raw: Turn, new: Turn | None, context: bool) -> dict[str, Any]:
    text = new.text if new else ""
    if type_ == "user.message":
        words, sent = text_or_empty(data.get("content")), text_or_empty(data.get("transformedContent"))
        rest = {key: held for key, held in data.items() if key != "attachments"} if context else data
        if context:
            return {**rest, "transformedContent": "\n\n".join(filter(None, (text, words)))}
        changed = sent.replace(words, text) if words and words in sent else sent
        return {**rest, "content": text, **({"transformedContent": changed} if sent else {})}
    if type_ == "tool.execution_complete":
        result = data.get("result") if isinstance(data.get("result"), dict) else {}
        bare = {key: held for key, held in (result or {}).items() if key != "binaryResultsForLlm"}
        return {key: held for key, held in data.items() if key != "error"} | {"result": {**bare, "content": text}}
    if type_ == "assistant.message" and new:
        kept, fresh = match_calls(raw.calls, new.calls)
        asked = take_list(dict(data), "toolRequests")
        left = [_put_call(old, call) for old, call in zip(asked, kept, strict=True) if call]
        made = {**data, "content": text, "toolRequests": [*left, *map(_new_call, fresh)]}
        return made if new.reasoning == raw.reasoning else {**_without_reasoning(made), "reasoningText": new.reasoning}
    return {**data, ("summaryContent" if type_ == _DONE else "content"): text}


def _without_reasoning(data: dict[str, Any]) -> dict[str, Any]:
    return {key: held for key, held in data.items() if key not in ("reasoningOpaque", "encryptedContent")}


def _put_call(old: dict[str, Any], call: ToolCall) -> dict[str, Any]:
    if to_json_text(old.get("arguments", {})) == call.arguments:
        return old
    asked = call.arguments if isinstance(old.get("arguments"), str) else parse_arguments(call)
    return {**old, "name": call.name, "arguments": asked}


def _new_call(call: ToolCall) -> dict[str, Any]:
    return {"toolCallId": call.id, "name": call.name, "arguments": parse_arguments(call), "type": "function"}


def _new(turn: Turn, near: Any) -> Any:
    stamp = {"timestamp": near["timestamp"]} if isinstance(near, dict) and "timestamp" in near else {}
    if turn.role is Role.ASSISTANT:
        type_ = "assistant.message"
        data: dict[str, Any] = {"messageId": "", "content": turn.text, "toolRequests": list(map(_new_call, turn.calls))}
    elif turn.role is Role.TOOL and turn.call_id:
        type_ = "tool.execution_complete"
        data = {"toolCallId": turn.call_id, "success": not turn.is_error, "result": {"content": turn.text}}
    elif turn.role is Role.SYSTEM:
        type_, data = "system.message", {"role": "system", "content": turn.text}
    else:
        type_, data = "user.message", {"content": turn.text, "attachments": []}
    return {"type": type_, "data": data, "id": "", **stamp, "parentId": None}
