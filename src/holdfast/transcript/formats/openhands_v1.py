"""OpenHands V1 conversations (software-agent-sdk): the events in order, as a JSON list or one per line.

Reads what the model saw: a condensation is applied, so that its summary is a user turn; the events that it forgot are
counted in `meta`, and the turns before it kept in `meta["compactions"]`. Actions of one model response are one turn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from holdfast.transcript.content import read_content
from holdfast.transcript.document import Document, Entry
from holdfast.transcript.json_fields import (
    copy_object,
    take_list,
    take_required_text,
    take_text,
    text_or_empty,
    to_json_text,
)
from holdfast.transcript.turn import Role, ToolCall, Transcript, Turn

REJECTED = "Action rejected: "
_ROLES = {"system": Role.SYSTEM, "user": Role.USER, "assistant": Role.ASSISTANT}
_KINDS = (
    "SystemPromptEvent",
    "MessageEvent",
    "ActionEvent",
    "ObservationEvent",
    "AgentErrorEvent",
    "UserRejectObservation",
)


def sniff(document: Document) -> bool:
    values = [entry.value for entry in document.entries if isinstance(entry.value, dict)]
    return any(kind(value) in _KINDS and "source" in value and "id" in value for value in values)


def kind(event: Any) -> str:
    return text_or_empty(event.get("kind")) if isinstance(event, dict) else ""


def read(document: Document) -> Transcript:
    compactions: list[dict[str, Any]] = []
    log, skipped = apply_condensations(document, compactions.append)
    here = {entry.number for entry, _ in log}
    silent = [entry.value for entry, turn in log if turn is None and not entry.problem]
    gone = [entry.value for entry in document.entries if entry.number not in here]
    meta = {
        "other_events": dict(Counter(map(kind, silent))),
        "forgotten_events": dict(Counter(map(kind, gone))),
        "compactions": compactions,
    }
    turns = tuple(turn for turn, _ in one_per_response(log))
    return Transcript(turns, "openhands_v1", {key: value for key, value in meta.items() if value}, skipped)


def apply_condensations(
    document: Document, report: Callable[[dict[str, Any]], None] = lambda compaction: None
) -> tuple[list[tuple[Entry, Turn | None]], tuple[str, ...]]:
    """Returns the events as they stand after every condensation, and the skipped ones.

    A summary is the message that the model gets. A skipped event stays, without a turn. `report` is called with the
    turns before each condensation.
    """
    spoken, skipped = document.read_each(document.entries, lambda entry: (entry, _turn(entry)))
    turns = {entry.number: turn for entry, turn in spoken}
    log: list[tuple[Entry, Turn | None]] = []
    for entry in document.entries:
        if kind(entry.value) == "Condensation" and entry.number in turns:
            before = one_per_response(log)
            report(_compaction(entry, before, _condense(log, entry)))
        else:
            log.append((entry, turns.get(entry.number)))
    return log, skipped


def _compaction(
    entry: Entry, before: list[tuple[Turn, tuple[int, ...]]], summaries: tuple[Turn, ...]
) -> dict[str, Any]:
    """Returns the compaction for `meta`: its event, the events of the turns that the model saw until then, and those
    turns.
    """
    return {
        "event": entry.number,
        "events": [number for _, numbers in before for number in numbers],
        "turns": tuple(turn for turn, _ in before),
        "summaries": summaries,
        "metadata": {key: value for key, value in entry.value.items() if key != "summary"},
    }


def _condense(log: list[tuple[Entry, Turn | None]], entry: Entry) -> tuple[Turn, ...]:
    """Applies a condensation to the events, and returns the summary that now stands among them."""
    ids = entry.value.get("forgotten_event_ids")
    gone = {id_ for id_ in ids if isinstance(id_, str)} if isinstance(ids, list) else set()
    log[:] = [(old, turn) for old, turn in log if turn is None or _id(old.value) not in gone]
    summary, offset = text_or_empty(entry.value.get("summary")), entry.value.get("summary_offset")
    if not summary or not isinstance(offset, int):
        return ()
    places = [at for at, (_, turn) in enumerate(log) if turn is not None][max(0, offset) :]
    message = Entry(entry.number, message_event(f"{_id(entry.value)}-summary", "environment", "user", summary))
    turn = _turn(message)
    log.insert(places[0] if places else len(log), (message, turn))
    return (turn,) if turn else ()


def message_event(id_: str, source: str, role: str, text: str) -> dict[str, Any]:
    """Returns a message as the agent stores it."""
    message = {"role": role, "content": [{"type": "text", "text": text}]}
    return {"kind": "MessageEvent", "id": id_, "source": source, "llm_message": message}


def _id(event: Any) -> str:
    return text_or_empty(event.get("id")) if isinstance(event, dict) else ""


def _turn(entry: Entry) -> Turn | None:
    """Returns the turn of one event; None if the model gets none."""
    event = copy_object(entry.value, "an event")
    type_ = take_required_text(event, "kind", "an event")
    if type_ not in _KINDS:
        return None
    turn = {"SystemPromptEvent": _system, "MessageEvent": _message, "ActionEvent": _action}.get(type_, _result)(event)
    return replace(turn, source=entry.number, extra={**event, "kind": type_, **turn.extra})


def _system(event: dict[str, Any]) -> Turn:
    parts = [event.pop(key, None) for key in ("system_prompt", "dynamic_context")]
    content = read_content([part for part in parts if part])
    return Turn(Role.SYSTEM, content.text, opaque=content.opaque)


def _message(event: dict[str, Any]) -> Turn:
    message = copy_object(event.pop("llm_message", None), '"llm_message"')
    role = _ROLES.get(take_required_text(message, "role", '"llm_message"'), Role.USER)
    parts = message.pop("content", None)
    content = read_content([*parts, *take_list(event, "extended_content")] if isinstance(parts, list) else parts)
    reasoning = take_text(message, "reasoning_content") or content.reasoning
    extra = {"llm_message": message, **content.extra}
    return Turn(role, content.text, reasoning, extra=extra, opaque=content.opaque)


def _action(event: dict[str, Any]) -> Turn:
    thought = read_content(event.pop("thought", None))
    reasoning = take_text(event, "reasoning_content")
    record = copy_object(event.pop("tool_call", {}), '"tool_call"')
    name = text_or_empty(record.get("name")) or take_required_text(event, "tool_name", "an ActionEvent")
    call = ToolCall(
        take_required_text(event, "tool_call_id", "an ActionEvent"), name, to_json_text(record.get("arguments"))
    )
    return Turn(Role.ASSISTANT, thought.text, reasoning, (call,), extra=thought.extra, opaque=thought.opaque)


def _result(event: dict[str, Any]) -> Turn:
    call_id = take_required_text(event, "tool_call_id", "the answer to a call")
    if "observation" in event:
        made = copy_object(event.pop("observation"), '"observation"')
        content = read_content(made.pop("content", made.pop("output", None)))
        added = read_content(take_list(event, "extended_content"))
        text = "\n".join(filter(None, (content.text, added.text)))
        error = made.get("is_error") is True
        extra, hidden = {"observation": made, **content.extra}, (*content.opaque, *added.opaque)
        return Turn(Role.TOOL, text, call_id=call_id, is_error=error, extra=extra, opaque=hidden)
    if "error" in event:
        return Turn(Role.TOOL, take_text(event, "error"), call_id=call_id, is_error=True)
    return Turn(Role.TOOL, REJECTED + take_text(event, "rejection_reason"), call_id=call_id, is_error=True)


def one_per_response(log: list[tuple[Entry, Turn | None]]) -> list[tuple[Turn, tuple[int, ...]]]:
    """Returns every turn with the numbers of its events: parallel calls are one turn of the model."""
    merged: list[tuple[Turn, tuple[int, ...]]] = []
    first: dict[str, int] = {}
    for entry, turn in log:
        if turn is None:
            continue
        response = text_or_empty(turn.extra.get("llm_response_id")) if turn.calls else ""
        if response in first:
            at = first[response]
            whole, numbers = merged[at]
            text = "\n".join(filter(None, (whole.text, turn.text)))
            whole = replace(whole, text=text, calls=whole.calls + turn.calls, opaque=whole.opaque + turn.opaque)
            merged[at] = (whole, (*numbers, entry.number))
            continue
        if response:
            first[response] = len(merged)
        merged.append((turn, (entry.number,)))
    return merged
