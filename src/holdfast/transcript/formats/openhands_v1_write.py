"""Writes OpenHands V1 events. What a condensation had forgotten is left out, and its summary is a message."""

from __future__ import annotations

from typing import Any
from uuid import NAMESPACE_URL, uuid5

from holdfast.errors import BadInput
from holdfast.transcript.content import write_content
from holdfast.transcript.document import Document
from holdfast.transcript.draft import Draft
from holdfast.transcript.formats.apply_draft import Change, apply_draft, match_calls, render_file
from holdfast.transcript.formats.openhands_v1 import (
    REJECTED,
    apply_condensations,
    kind,
    message_event,
    one_per_response,
)
from holdfast.transcript.json_fields import to_json_text
from holdfast.transcript.turn import Role, ToolCall, Turn


def write(document: Document, held: Draft) -> str:
    log, _ = apply_condensations(document)
    where = [numbers for _, numbers in one_per_response(log)]
    return render_file(document, apply_draft([entry for entry, _ in log], held, _edit, _new, where))


def _new(turn: Turn, near: Any) -> dict[str, Any]:
    if turn.role is Role.TOOL or turn.calls:
        raise BadInput("OpenHands has no event for a new call or result; fold it into a user turn")
    place = near if isinstance(near, dict) else {}
    id_ = str(uuid5(NAMESPACE_URL, f"holdfast:{place.get('id')}:{turn.text}"))
    role = "assistant" if turn.role is Role.ASSISTANT else "user"
    made = message_event(id_, "agent" if role == "assistant" else "user", role, turn.text)
    return {**made, **({"timestamp": place["timestamp"]} if "timestamp" in place else {})}


def _edit(values: list[Any], changes: tuple[Change, ...]) -> list[Any]:
    raw, turn = changes[0].raw, changes[0].new
    if raw is None or turn is None:
        raise AssertionError("an event holds one turn, which is dropped whole")
    if raw.calls:
        return _actions(values, raw, turn)
    event = dict(values[0])
    if raw.text != turn.text:
        _PUT.get(kind(event), _put_result)(event, turn.text)
    if raw.reasoning != turn.reasoning and kind(event) == "MessageEvent":
        event["llm_message"] = {**event["llm_message"], "reasoning_content": turn.reasoning or None}
    return [event]


def _actions(values: list[Any], raw: Turn, turn: Turn) -> list[Any]:
    kept, fresh = match_calls(raw.calls, turn.calls)
    if fresh or not any(kept):
        said = message_event(values[0].get("id"), "agent", "assistant", turn.text)
        return [{**said, "timestamp": values[0].get("timestamp")}, *[None] * (len(values) - 1)]
    left = [_put_call(dict(value), call) for value, call in zip(values, kept, strict=True) if call]
    if raw.text != turn.text or len(left) < len(values):
        for at, event in enumerate(left):
            event["thought"] = [{"type": "text", "text": turn.text}] if at == 0 and turn.text else []
    if raw.reasoning != turn.reasoning:
        left[0].update({"reasoning_content": turn.reasoning or None, "thinking_blocks": []})
    # What is left moves up: the turn stands where its first action stood, before the results.
    return [*left, *[None] * (len(values) - len(left))]


def _put_call(event: dict[str, Any], call: ToolCall) -> dict[str, Any]:
    record = event.get("tool_call")
    if isinstance(record, dict) and to_json_text(record.get("arguments")) != call.arguments:
        event["tool_call"] = {**record, "arguments": call.arguments}
    return event


def _put_system(event: dict[str, Any], text: str) -> None:
    event["system_prompt"] = {"type": "text", "text": text}
    if event.get("dynamic_context"):
        event["dynamic_context"] = None


def _put_message(event: dict[str, Any], text: str) -> None:
    message = event["llm_message"]
    content = message.get("content")
    more = event.get("extended_content") or []
    if isinstance(content, list):
        content, more = [*content, *more], []
    event["llm_message"] = {**message, "content": write_content(content, text)}
    if event.get("extended_content"):
        event["extended_content"] = more


def _put_result(event: dict[str, Any], text: str) -> None:
    if "observation" in event:
        made = event["observation"]
        key = "content" if "content" in made or "output" not in made else "output"
        event["observation"] = {**made, key: write_content(made.get(key), text)}
        if event.get("extended_content"):
            event["extended_content"] = []
    elif "error" in event:
        event["error"] = text
    elif text.startswith(REJECTED):
        event["rejection_reason"] = text.removeprefix(REJECTED)
    else:
        event.pop("rejection_reason", None)
        event["error"], event["kind"] = text, "AgentErrorEvent"


_PUT = {"SystemPromptEvent": _put_system, "MessageEvent": _put_message}
