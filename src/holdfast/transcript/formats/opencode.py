"""opencode exports: `{info, messages: [{info, parts}]}`.

An assistant message holds its calls together with their results: each of its steps becomes an assistant turn and
its tool turns. What the agent has pruned (`time.compacted`) reads as the model sees it, and the output stays in
`extra`. A finished compaction restarts the history; the turns before it are kept in `meta["compactions"]`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from holdfast.transcript.content import read_parts, write_content
from holdfast.transcript.document import Document, Entry, MalformedEntry
from holdfast.transcript.draft import Draft
from holdfast.transcript.formats.apply_draft import (
    Change,
    apply_draft,
    input_like,
    pack_entries,
    unpack_entries,
)
from holdfast.transcript.formats.opencode_ids import give_ids, renew_session
from holdfast.transcript.injections import SYNTHETIC_FIELD
from holdfast.transcript.json_fields import copy_object, take_list, take_required_text, text_or_empty, to_json_text
from holdfast.transcript.provider_requests import parse_arguments
from holdfast.transcript.turn import Role, ToolCall, Transcript, Turn

CLEARED = "[Old tool result content cleared]"
"""The text that the agent sends in place of an output that it has pruned."""
INTERRUPTED = "[Tool execution was interrupted]"
"""The text that the agent sends for a call that never ended."""
_NO_TOKENS = {"input": 0, "output": 0, "reasoning": 0, "cache": {"read": 0, "write": 0}}
_UNSENT = ("step-start", "step-finish", "snapshot", "patch", "retry", "compaction")


@dataclass(frozen=True)
class Message:
    """One message, with its turns."""

    number: int
    info: dict[str, Any]
    parts: tuple[dict[str, Any], ...]
    turns: tuple[Turn, ...]

    @property
    def id(self) -> str:
        return text_or_empty(self.info.get("id"))

    @property
    def compaction(self) -> dict[str, Any] | None:
        """The part that asks for a compaction."""
        return next((part for part in self.parts if part.get("type") == "compaction"), None)

    @property
    def is_summary(self) -> bool:
        """True if the message ends a compaction."""
        return self.info.get("summary") is True and not self.info.get("error") and bool(self.turns)


def sniff(document: Document) -> bool:
    return any(isinstance(entry.value, dict) and _is_message(entry.value) for entry in document.entries)


def _is_message(value: dict[str, Any]) -> bool:
    return isinstance(value.get("info"), dict) and isinstance(value.get("parts"), list) and "role" in value["info"]


def read(document: Document) -> Transcript:
    messages, skipped = document.read_each(document.entries, read_message)
    held, compactions = context(messages)
    value = document.value if isinstance(document.value, dict) else {}
    meta = {key: kept for key, kept in value.items() if key != "messages"}
    meta |= {"compactions": compactions} if compactions else {}
    turns = tuple(chain.from_iterable(message.turns for message in held))
    return Transcript(turns, "opencode", meta, skipped)


def context(messages: Iterable[Message]) -> tuple[list[Message], list[dict[str, Any]]]:
    """Returns the messages that the model sees (the last summary, the tail behind it, and all later ones), and the
    compactions.
    """
    held: list[Message] = []
    compactions: list[dict[str, Any]] = []
    for message in messages:
        asked = next((at for at, one in enumerate(held) if one.id and one.id == message.info.get("parentID")), None)
        part = held[asked].compaction if asked is not None and message.is_summary else None
        if asked is None or part is None:
            held.append(message)
            continue
        start = next((at for at, one in enumerate(held[:asked]) if one.id == part.get("tail_start_id")), asked)
        compactions.append(_compaction(message, held[:asked], part))
        held = [held[asked], message, *held[start:asked], *held[asked + 1 :]]
    return held, compactions


def _compaction(summary: Message, before: list[Message], part: dict[str, Any]) -> dict[str, Any]:
    spoken = [message for message in before if message.turns]
    turns = tuple(chain.from_iterable(message.turns for message in spoken))
    numbers = [message.number for message in spoken]
    made = {"turns": turns, "summaries": summary.turns}
    return {"message": summary.number, "messages": numbers, **made, "metadata": dict(part)}


def read_message(entry: Entry) -> Message:
    """Reads one message."""
    fields = copy_object(entry.value, "a message")
    info = copy_object(fields.pop("info", None), '"info"')
    role = take_required_text(dict(info), "role", '"info"')
    if "parts" not in fields:
        raise MalformedEntry('expected a message to have "parts"')
    parts = tuple(copy_object(part, "a part") for part in take_list(fields, "parts"))
    if role == "user":
        turns = _user(parts)
    elif role == "assistant":
        turns = tuple(chain.from_iterable(_step(step) for step in steps(parts)))
    else:
        raise MalformedEntry(f'expected "role" to be user or assistant, got "{role[:40]}"')
    turns = tuple(replace(turn, source=entry.number) for turn in turns)
    if turns:
        turns = (replace(turns[0], extra={**turns[0].extra, "info": info, **fields}), *turns[1:])
    return Message(entry.number, info, parts, turns)


def steps(parts: Iterable[dict[str, Any]]) -> list[list[tuple[int, dict[str, Any]]]]:
    """Returns the parts of an assistant message with their positions, one list for each answer of the model."""
    found: list[list[tuple[int, dict[str, Any]]]] = [[]]
    for position, part in enumerate(parts):
        if part.get("type") == "step-start" and any(said.get("type") not in _UNSENT for _, said in found[-1]):
            found.append([])
        found[-1].append((position, part))
    return found


def _user(parts: Sequence[dict[str, Any]]) -> tuple[Turn, ...]:
    sent = [(at, part) for at, part in enumerate(parts) if not _is_unsent(part)]
    if not sent:
        return ()
    folded = read_parts(_plain_part(at, part) for at, part in sent)
    return (Turn(Role.USER, folded.text, extra=folded.extra, opaque=folded.opaque),)
    spans = tuple(_synthetic_spans(sent))
    return (Turn(Role.USER, folded.text, extra={**folded.extra, **({SYNTHETIC_FIELD: spans} if spans else {})}),)


def _synthetic_spans(sent: Iterable[tuple[int, dict[str, Any]]]) -> Iterator[tuple[int, int]]:
    """Yields the characters of the message's text that the agent put in and the user did not type."""
    at = 0
    for position, part in sent:
        if shown := read_parts([_plain_part(position, part)]).text:
            if part.get("synthetic") is True:
                yield at, at + len(shown)
            at += len(shown) + 1


def _is_unsent(part: dict[str, Any]) -> bool:
    if part.get("type") == "file" and part.get("mime") in ("text/plain", "application/x-directory"):
        return True  # its words are a text part of their own
    return part.get("type") in _UNSENT or part.get("ignored") is True


def _plain_part(position: int, part: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Returns a part in the form of the shared reader of parts."""
    return position, _beside(part)


def _beside(part: dict[str, Any], *read: str) -> dict[str, Any]:
    """Returns the fields of a part beside those that were read; the ids that tie it to the export say nothing."""
    hidden = ("id", "sessionID", "messageID", *read)
    return {key: value for key, value in part.items() if key not in hidden}


def _step(parts: list[tuple[int, dict[str, Any]]]) -> tuple[Turn, ...]:
    """Returns one answer of the model and the results of its calls; nothing if it said nothing."""
    said = [(at, part) for at, part in parts if not _is_unsent(part) and part.get("type") != "tool"]
    thoughts = [text_or_empty(part.get("text")) for _, part in said if part.get("type") == "reasoning"]
    folded = read_parts(_plain_part(at, part) for at, part in said if part.get("type") != "reasoning")
    made = [_tool(part) for _, part in parts if part.get("type") == "tool"]
    if not said and not made:
        return ()
    for at, part in said:
        read = ("text",) if isinstance(part.get("text"), str) else ()
        if part.get("type") == "reasoning" and (rest := _beside(part, *read)).keys() > {"type"}:
            folded.rest[str(at)] = rest
    calls = tuple(call for call, _ in made)
    reasoning = "\n".join(filter(None, thoughts))
    answer = Turn(Role.ASSISTANT, folded.text, reasoning, calls, extra=folded.extra, opaque=folded.opaque)
    return (answer, *(result for _, result in made))


def _tool(part: dict[str, Any]) -> tuple[ToolCall, Turn]:
    call_id, name = (
        take_required_text(dict(part), "callID", "a tool part"),
        take_required_text(dict(part), "tool", "a tool part"),
    )
    state = copy_object(part.get("state", {}), '"state"')
    extra = {"state": state, **_beside(part, "type", "callID", "tool", "state")}
    call = ToolCall(call_id, name, to_json_text(state.pop("input", {})))
    status = text_or_empty(state.get("status"))
    if status in ("pending", "running"):
        return call, Turn(Role.TOOL, INTERRUPTED, call_id=call_id, is_error=True, extra=extra)
    times = state.get("time")
    pruned = isinstance(times, dict) and bool(times.get("compacted"))
    key = "error" if status == "error" else "output"
    text = CLEARED if pruned else state.pop(key) if isinstance(state.get(key), str) else ""
    files = read_parts(enumerate([] if pruned else state.get("attachments") or []))
    text = "\n".join(filter(None, (text, files.text)))
    return call, Turn(Role.TOOL, text, call_id=call_id, is_error=status == "error", extra=extra, opaque=files.opaque)


def write(document: Document, held: Draft) -> str:
    """Returns the export as a session of its own, in the order in which the model saw it; messages that a compaction
    had replaced do not come back.
    """
    if held.turns == held.raw.turns and not document.left_out:
        return document.text
    messages, _ = document.read_each(document.entries, read_message)
    live, _ = context(messages)
    values = {entry.number: entry.value for entry in document.entries}
    entries = [Entry(at, values[message.number]) for at, message in enumerate(live, 1)]
    place = {message.number: at for at, message in enumerate(live, 1)}
    # A summary ends what the message before it asked for: nothing may come between them.
    asks = {live[at].number: (at,) for at in range(1, len(live)) if live[at].is_summary and live[at - 1].compaction}
    where = [(*asks.get(turn.source, ()), place[turn.source]) for turn in held.raw.turns]
    items = unpack_entries(entries, apply_draft(entries, held, _edit, _new, where))
    if asks and items[0].number != 1:
        # As a compaction the summary would hide what now stands before it.
        items = [item for item in items if item.number != 1]
    items = [replace(item, number=live[item.number - 1].number if item.number else 0) for item in items]
    return renew_session(document, [replace(item, value=_clear_counts(item.value)) for item in give_ids(items)])


def _clear_counts(value: Any) -> Any:
    """Returns an answer that counts no tokens: what it counted was the context before the compaction, and the agent
    would compact again at once.
    """
    info = value.get("info") if isinstance(value, dict) else None
    if not isinstance(info, dict) or not isinstance(info.get("tokens"), dict):
        return value
    return {**value, "info": {**info, "tokens": _NO_TOKENS}}


def _edit(values: list[Any], changes: tuple[Change, ...]) -> Sequence[Any]:
    """Returns one message after its changes. A new turn inside it splits it, so that it stays a turn of its own."""
    *asked, value = values
    user = value["info"]["role"] == "user"
    whole = list(enumerate(value["parts"]))
    left = list(changes)
    messages: list[Any] = [{**value, "parts": []}]
    for run in [whole] if user else steps(value["parts"]):
        turns = _user(value["parts"]) if user else _step(run)
        mine: list[Change] = []
        added: list[Turn] = []
        while left and (len(mine) < len(turns) or left[0].raw is None):
            change = left.pop(0)
            if change.raw is not None:
                mine.append(change)
            elif change.new is not None:
                added.append(change.new)
        messages[-1]["parts"] += _edit_parts([part for _, part in run], mine)
        for turn in added:
            messages += [_new(turn, value), {**value, "parts": []}]
    return [*asked, *pack_entries([message for message in messages if message["parts"]], 1)]


def _edit_parts(parts: list[dict[str, Any]], changes: list[Change]) -> list[Any]:
    """Returns the parts of one answer, or of a user's message, after its changes."""
    if all(change.new == change.raw for change in changes):
        return parts
    said = changes[0]
    if said.raw is None or said.new is None:
        return []
    raw, new = said.raw, said.new
    words = [part for part in parts if _is_word(part)]
    fresh = words if new.text == raw.text else write_content(words, new.text)
    thoughts = [part for part in parts if part.get("type") == "reasoning"]
    if new.reasoning != raw.reasoning:
        thoughts = [{"type": "reasoning", "text": new.reasoning}] if new.reasoning else []
    calls = {call.id: call for call in new.calls}
    results = {change.raw.call_id: change for change in changes[1:] if change.raw}
    tools = [part for part in parts if part.get("type") == "tool"]
    kept = [
        _edit_tool(part, calls[part["callID"]], results.get(part["callID"]))
        for part in tools
        if part["callID"] in calls
    ]
    unsent = [part for part in parts if _is_unsent(part)]
    begins = [part for part in unsent if part.get("type") in ("step-start", "snapshot")]
    return [*begins, *thoughts, *fresh, *kept, *(part for part in unsent if part not in begins)]


def _is_word(part: dict[str, Any]) -> bool:
    return not _is_unsent(part) and part.get("type") not in ("tool", "reasoning")


def _edit_tool(part: dict[str, Any], call: ToolCall, result: Change | None) -> dict[str, Any]:
    """Returns a call with its result. A call that never ended has only an error to hold it."""
    state = part["state"] if isinstance(part.get("state"), dict) else {}
    if to_json_text(state.get("input", {})) != call.arguments:
        state = {**state, "input": input_like(state.get("input"), call)}
    if result and result.new and result.new != result.raw:
        times = state.get("time")
        if isinstance(times, dict):
            state = {**state, "time": {key: value for key, value in times.items() if key != "compacted"}}
        failed = state.get("status") != "completed"
        state = {
            **state,
            "status": "error" if failed else "completed",
            "error" if failed else "output": result.new.text,
        }
    return {**part, "tool": call.name, "state": state}


def _model_of(info: dict[str, Any]) -> dict[str, Any]:
    """Returns the model of a message: a question names it in an object, an answer among its own fields."""
    asked = info.get("model")
    fields = asked if isinstance(asked, dict) else info
    return {key: fields[key] for key in ("providerID", "modelID") if key in fields}


def _new(turn: Turn, near: Any) -> Any:
    """Returns a message of one text part with the fields that the agent demands; ids come when its place is known."""
    info = near["info"] if isinstance(near, dict) and isinstance(near.get("info"), dict) else {}
    own = {key: info[key] for key in ("sessionID", "time") if key in info}
    agent = text_or_empty(info.get("agent")) or text_or_empty(info.get("mode"))
    own |= {"agent": agent} if agent else {}
    model = _model_of(info)
    parts: list[Any] = [{"type": "text", "text": turn.text}]
    if turn.role is not Role.ASSISTANT:
        if isinstance(own.get("time"), dict):  # a question has no end, and the import would drop it
            own["time"] = {key: value for key, value in own["time"].items() if key == "created"}
        return {"info": {"role": "user", **own, **({"model": model} if model else {})}, "parts": parts}
    for call in turn.calls:
        state = {"status": "pending", "input": parse_arguments(call)}
        parts.append({"type": "tool", "callID": call.id, "tool": call.name, "state": state})
    above = text_or_empty(info.get("parentID")) or text_or_empty(info.get("id"))
    path = info.get("path") or {"cwd": "", "root": ""}
    told = {"parentID": above, "mode": agent, "path": path, "cost": 0, "tokens": _NO_TOKENS}
    return {"info": {"role": "assistant", **own, **model, **told}, "parts": parts}
