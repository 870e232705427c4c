"""opencode exports: `{info, messages: [{info, parts}]}`.

An assistant message holds its calls together with their results: each of its steps becomes an assistant turn and
its tool turns. What the agent has pruned (`time.compacted`) reads as the model sees it, and the output stays in
`extra`. A finished compaction restarts the history; the turns before it are kept in `meta["compactions"]`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from holdfast.transcript.document import Document, Entry, Malformed
from holdfast.transcript.parts import fold_parts
from holdfast.transcript.turn import Role, ToolCall, Transcript, Turn
from holdfast.transcript.wire import json_text, need_text, obj, take_list, text_or_empty

CLEARED = "[Old tool result content cleared]"
"""What the agent sends in place of an output that it has pruned."""
INTERRUPTED = "[Tool execution was interrupted]"
"""What it sends for a call that never ended."""
_UNSENT = ("step-start", "step-finish", "snapshot", "patch", "retry", "compaction")


@dataclass(frozen=True)
class Message:
    """One message, with the turns it holds."""

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
        """Whether it ends a compaction."""
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
    """The messages that the model sees: the last summary, the tail that it kept, and what came after."""
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
    return {"message": summary.number, "messages": numbers, "turns": turns, "metadata": dict(part)}


def read_message(entry: Entry) -> Message:
    """One message."""
    fields = obj(entry.value, "a message")
    info = obj(fields.pop("info", None), '"info"')
    role = need_text(dict(info), "role", '"info"')
    parts = tuple(obj(part, "a part") for part in take_list(fields, "parts"))
    if role == "user":
        turns = _user(parts)
    elif role == "assistant":
        turns = tuple(chain.from_iterable(_step(step) for step in steps(parts)))
    else:
        raise Malformed(f'expected "role" to be user or assistant, got "{role[:40]}"')
    turns = tuple(replace(turn, source=entry.number) for turn in turns)
    if turns:
        turns = (replace(turns[0], extra={**turns[0].extra, "info": info, **fields}), *turns[1:])
    return Message(entry.number, info, parts, turns)


def steps(parts: Iterable[dict[str, Any]]) -> list[list[tuple[int, dict[str, Any]]]]:
    """The parts of an assistant message with their positions, one list for each answer of the model."""
    found: list[list[tuple[int, dict[str, Any]]]] = [[]]
    for position, part in enumerate(parts):
        if part.get("type") == "step-start" and any(said.get("type") not in _UNSENT for _, said in found[-1]):
            found.append([])
        found[-1].append((position, part))
    return found


def _user(parts: tuple[dict[str, Any], ...]) -> tuple[Turn, ...]:
    sent = [(at, part) for at, part in enumerate(parts) if not _is_unsent(part)]
    if not sent:
        return ()
    folded = fold_parts(_shown(at, part) for at, part in sent)
    return (Turn(Role.USER, folded.text, extra=folded.extra),)


def _is_unsent(part: dict[str, Any]) -> bool:
    return part.get("type") in _UNSENT or part.get("ignored") is True


def _shown(position: int, part: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """A part as the shared reader of parts takes it: the ids that tie it to the export say nothing."""
    hidden = ("id", "sessionID", "messageID")
    return position, {key: value for key, value in part.items() if key not in hidden}


def _step(parts: list[tuple[int, dict[str, Any]]]) -> tuple[Turn, ...]:
    """One answer of the model and the results of its calls; nothing where it said nothing."""
    said = [(at, part) for at, part in parts if not _is_unsent(part) and part.get("type") != "tool"]
    thoughts = [text_or_empty(part.get("text")) for _, part in said if part.get("type") == "reasoning"]
    folded = fold_parts(_shown(at, part) for at, part in said if part.get("type") != "reasoning")
    made = [_tool(part) for _, part in parts if part.get("type") == "tool"]
    if not said and not made:
        return ()
    calls = tuple(call for call, _ in made)
    reasoning = "\n".join(filter(None, thoughts))
    answer = Turn(Role.ASSISTANT, folded.text, reasoning, calls, extra=folded.extra)
    return (answer, *(result for _, result in made))


def _tool(part: dict[str, Any]) -> tuple[ToolCall, Turn]:
    call_id, name = need_text(dict(part), "callID", "a tool part"), need_text(dict(part), "tool", "a tool part")
    state = obj(part.get("state", {}), '"state"')
    call = ToolCall(call_id, name, json_text(state.pop("input", {})))
    status = text_or_empty(state.get("status"))
    if status in ("pending", "running"):
        return call, Turn(Role.TOOL, INTERRUPTED, call_id=call_id, is_error=True, extra={"state": state})
    times = state.get("time")
    pruned = isinstance(times, dict) and bool(times.get("compacted"))
    key = "error" if status == "error" else "output"
    text = CLEARED if pruned else text_or_empty(state.pop(key, None))
    return call, Turn(Role.TOOL, text, call_id=call_id, is_error=status == "error", extra={"state": state})
