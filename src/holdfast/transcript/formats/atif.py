"""ATIF trajectories (Harbor's Agent Trajectory Interchange Format, v1.0 to v1.7): one JSON object with "steps".

A step of the agent is an assistant turn and, from its observation, the tool turns that answer its calls. A result that
names no call answers the next one that has none; a call without a result of its own gets an empty one, because several
calls of a step may share one observation. Trajectories of sub-agents stay in `meta`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from holdfast.transcript.content import read_content, write_content
from holdfast.transcript.document import Document, Entry, MalformedEntry, number_entries
from holdfast.transcript.draft import Draft
from holdfast.transcript.formats.apply_draft import (
    Change,
    NewEntry,
    apply_draft,
    match_calls,
    pack_entries,
    render_file,
    unpack_entries,
)
from holdfast.transcript.json_fields import copy_object, take_list, take_required_text, text_or_empty, to_json_text
from holdfast.transcript.provider_requests import parse_arguments
from holdfast.transcript.turn import Role, ToolCall, Transcript, Turn

_SOURCES = {"system": Role.SYSTEM, "user": Role.USER, "agent": Role.ASSISTANT}
_OF_THE_AGENT = ("model_name", "reasoning_content", "reasoning_effort", "tool_calls", "metrics", "llm_call_count")


def sniff(document: Document) -> bool:
    value = document.value
    if not isinstance(value, dict) or not isinstance(value.get("steps"), list):
        return False
    named = text_or_empty(value.get("schema_version")).startswith("ATIF")
    return named or any(isinstance(step, dict) and {"step_id", "source"} <= step.keys() for step in value["steps"])


def read(document: Document) -> Transcript:
    groups, skipped = document.read_each(_steps(document), turns_of)
    meta = {key: held for key, held in document.value.items() if key != "steps"}
    return Transcript(tuple(turn for group in groups for turn in group), "atif", meta, skipped)


def _steps(document: Document) -> tuple[Entry, ...]:
    return number_entries(document.value["steps"])


def turns_of(entry: Entry) -> tuple[Turn, ...]:
    """Returns the turns of one step."""
    fields = copy_object(entry.value, "a step")
    name = take_required_text(fields, "source", "a step")
    if name not in _SOURCES:
        raise MalformedEntry(f'expected "source" to be one of {", ".join(_SOURCES)}, got "{name[:40]}"')
    content = read_content(_read_parts(fields.pop("message", None)))
    reasoning = fields.pop("reasoning_content", None)
    calls = tuple(_call(copy_object(call, "a tool call")) for call in take_list(fields, "tool_calls"))
    observation = fields.pop("observation", None)
    results = _results(observation, calls, entry.number) if isinstance(observation, dict) else ()
    said = Turn(
        _SOURCES[name],
        content.text,
        text_or_empty(reasoning),
        calls,
        source=entry.number,
        extra={**fields, **content.extra, **({"model": fields["model_name"]} if "model_name" in fields else {})},
        opaque=content.opaque,
    )
    empty = not (said.text or said.reasoning or said.calls)
    return results if empty and results else (said, *results)


def _read_parts(content: object) -> object:
    """Returns content whose images have their source under the names of the shared reader of parts."""
    if not isinstance(content, list):
        return content
    return [
        {**part, "source": {"type": "url", **part["source"]}}
        if isinstance(part, dict) and part.get("type") == "image" and isinstance(part.get("source"), dict)
        else part
        for part in content
    ]


def _call(fields: dict[str, Any]) -> ToolCall:
    call_id, name = (take_required_text(fields, key, "a tool call") for key in ("tool_call_id", "function_name"))
    return ToolCall(call_id, name, to_json_text(fields.get("arguments", {})))


def _results(observation: dict[str, Any], calls: Sequence[ToolCall], number: int) -> tuple[Turn, ...]:
    """Returns the results of a step, one for each entry, then an empty one for each call that none answers."""
    given = [copy_object(result, "a result") for result in take_list(dict(observation), "results")]
    named = {text_or_empty(result.get("source_call_id")) for result in given}
    waiting = [call.id for call in calls if call.id not in named]
    turns = []
    for at, result in enumerate(given):
        call_id = text_or_empty(result.pop("source_call_id", None)) or (waiting.pop(0) if waiting else "")
        content = read_content(_read_parts(result.pop("content", None)))
        extra = {"at": at, **result, **content.extra}
        turns.append(Turn(Role.TOOL, content.text, call_id=call_id, source=number, extra=extra, opaque=content.opaque))
    return (*turns, *(Turn(Role.TOOL, "", call_id=call_id, source=number) for call_id in waiting))


def write(document: Document, held: Draft) -> str:
    """Writes the trajectory with its steps numbered anew."""
    entries = _steps(document)
    items = unpack_entries(entries, apply_draft(entries, held, _edit, _new))
    items = [item for item in items if item.number not in document.left_out]
    made = [_number_step(item, at) for at, item in enumerate(items, 1)]
    metrics = document.value.get("final_metrics")
    if isinstance(metrics, dict) and metrics.get("total_steps") == len(entries) != len(made):
        metrics = {**metrics, "total_steps": len(made)}
        document = replace(document, value={**document.value, "final_metrics": metrics})
    return render_file(document, made, "steps")


def _number_step(item: NewEntry, at: int) -> NewEntry:
    same = isinstance(item.value, dict) and item.value.get("step_id") == at
    return item if same else NewEntry({**item.value, "step_id": at}, item.number)


def _edit(values: list[Any], changes: tuple[Change, ...]) -> Sequence[Any]:
    """Returns one step after its changes. A new turn inside it splits it, so that it stays a turn of its own."""
    (step,) = values
    observation = step.get("observation")
    results = observation.get("results") if isinstance(observation, dict) else None
    old: list[Any] = results if isinstance(results, list) else []
    made: dict[str, Any] = {key: held for key, held in step.items() if key != "observation"}
    kept: list[Any] = []
    added: list[Any] = []
    for change in changes:
        raw, new = change.raw, change.new
        if raw is None and new is not None:
            added.append(_new(new, step))
        elif raw is not None and raw.role is Role.TOOL:
            kept += _edit_result(old, raw, new)
        elif raw is not None:
            made = _edit_said(made, raw, new)
    if kept:
        made["observation"] = {**(observation or {}), "results": kept}
    empty = not (made.get("message") or made.get("tool_calls") or made.get("reasoning_content") or kept)
    return pack_entries([*([] if empty else [made]), *added], 1)


def _edit_result(old: list[Any], raw: Turn, new: Turn | None) -> list[Any]:
    at = raw.extra.get("at")
    if new is None or (at is None and not new.text):
        return []
    if at is None:
        return [{"source_call_id": new.call_id, "content": new.text}]
    result = old[at]
    return [result if new == raw else {**result, "content": write_content(result.get("content"), new.text)}]


def _edit_said(step: dict[str, Any], raw: Turn, new: Turn | None) -> dict[str, Any]:
    if new is None:
        # The results that are left are the environment's own step.
        return {
            **{key: held for key, held in step.items() if key not in _OF_THE_AGENT},
            "source": "system",
            "message": "",
        }
    made = dict(step)
    if new.text != raw.text:
        made["message"] = write_content(step.get("message"), new.text)
    if new.reasoning != raw.reasoning:
        made["reasoning_content"] = new.reasoning
    if new.calls != raw.calls:
        left, fresh = match_calls(raw.calls, new.calls)
        calls = [_put_call(old, call) for old, call in zip(step["tool_calls"], left, strict=True) if call]
        made["tool_calls"] = [*calls, *map(_new_call, fresh)]
    return made


def _put_call(old: dict[str, Any], call: ToolCall) -> dict[str, Any]:
    same = to_json_text(old.get("arguments", {})) == call.arguments
    return old if same else {**old, "arguments": parse_arguments(call)}


def _new_call(call: ToolCall) -> dict[str, Any]:
    return {"tool_call_id": call.id, "function_name": call.name, "arguments": parse_arguments(call)}


def _new(turn: Turn, near: Any) -> Any:
    stamp = {"timestamp": near["timestamp"]} if isinstance(near, dict) and "timestamp" in near else {}
    source = {Role.ASSISTANT: "agent", Role.SYSTEM: "system"}.get(turn.role, "user")
    calls = {"tool_calls": list(map(_new_call, turn.calls))} if turn.calls else {}
    return {"step_id": 0, **stamp, "source": source, "message": turn.text, **calls}
