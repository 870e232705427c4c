"""OpenHands V0 sessions: a list of events, or an evaluation output whose "history" is that list.

An agent's action is an assistant turn with a call, its observation the tool turn that answers it. Actions
that came from one model response are one turn. Events that no model message is made of (recall, state
changes, condensation) are counted in `meta`; a condensation is not applied: what the model saw before and after it is
kept in `meta["compactions"]`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from holdfast.transcript.document import Document, Entry, number_entries
from holdfast.transcript.json_fields import copy_object, take_required_text, take_text, text_or_empty, to_json_text
from holdfast.transcript.turn import Role, ToolCall, Transcript, Turn

_SILENT_ACTIONS = {"recall", "null", "change_agent_state", "condensation", "condensation_request"}
_SILENT_OBSERVATIONS = {"recall", "null", "agent_state_changed", "agent_condensation"}


def sniff(document: Document) -> bool:
    values = [entry.value for entry in events(document)]
    return any(isinstance(value, dict) and _is_event(value) for value in values)


def _is_event(event: dict[str, Any]) -> bool:
    kinds = (event.get("action"), event.get("observation"))
    return "source" in event and "id" in event and any(isinstance(kind, str) for kind in kinds)


def events(document: Document) -> tuple[Entry, ...]:
    """Returns the events of a file, in whatever place it keeps them."""
    if isinstance(document.value, dict):
        return number_entries(document.value.get("history"))
    return document.lines or number_entries(document.value)


def read(document: Document) -> Transcript:
    entries = events(document)
    groups, skipped = group_events(document)
    meta = {key: value for key, value in _top_level(document).items() if key != "history"}
    left_out = Counter(_kind(entry.value) for entry in entries if _is_silent(entry.value))
    if left_out:
        meta["other_events"] = dict(left_out)
    if compactions := _compactions(entries, groups):
        meta["compactions"] = compactions
    return Transcript(tuple(turn for turn, _ in groups), "openhands", meta, skipped)


def group_events(document: Document) -> tuple[list[tuple[Turn, tuple[int, ...]]], tuple[str, ...]]:
    """Returns every turn with the numbers of its events, and the skipped events."""
    turns, skipped = document.read_each(events(document), _turn)
    return _one_per_response(_drop_false_answers([turn for turn in turns if turn is not None])), skipped


def _compactions(entries: tuple[Entry, ...], groups: list[tuple[Turn, tuple[int, ...]]]) -> list[dict[str, Any]]:
    """Returns the turns that the model saw before and after each condensation."""
    ids = {entry.number: entry.value.get("id") for entry in entries if isinstance(entry.value, dict)}
    gone: set[int] = set()
    summaries: tuple[tuple[int, Turn], ...] = ()
    found = []
    for entry in entries:
        if not isinstance(entry.value, dict) or entry.value.get("action") != "condensation":
            continue
        given = entry.value.get("args")
        args: dict[str, Any] = given if isinstance(given, dict) else {}
        said = [(turn, numbers) for turn, numbers in groups if numbers[0] < entry.number]
        before = _visible(said, gone, summaries)
        gone |= {number for number in ids if number < entry.number and _forgets(args, ids[number])}
        text, offset = text_or_empty(args.get("summary")), args.get("summary_offset")
        if text:
            at = max(0, offset) if isinstance(offset, int) else 0
            summaries = ((at, Turn(Role.USER, text, source=entry.number)),)
        after = _visible(said, gone, summaries)
        made = {"turns": before, "after": after, "summaries": tuple(turn for _, turn in summaries if text)}
        found.append({"event": entry.number, **made, "metadata": {k: v for k, v in args.items() if k != "summary"}})
    return found


def _forgets(args: dict[str, Any], id_: object) -> bool:
    """Returns True if a condensation drops the event with this id: it names them, or the first and the last."""
    named, first, last = (args.get(f"forgotten_{key}") for key in ("event_ids", "events_start_id", "events_end_id"))
    if isinstance(first, int) and isinstance(last, int):
        return isinstance(id_, int) and first <= id_ <= last
    return isinstance(named, list) and id_ in named


def _visible(
    said: list[tuple[Turn, tuple[int, ...]]], gone: set[int], summaries: tuple[tuple[int, Turn], ...]
) -> tuple[Turn, ...]:
    turns = [turn for turn, numbers in said if gone.isdisjoint(numbers)]
    for at, summary in summaries:
        turns.insert(min(at, len(turns)), summary)
    return tuple(turns)


def _top_level(document: Document) -> dict[str, Any]:
    return document.value if isinstance(document.value, dict) else {}


def _kind(event: Any) -> str:
    return str(event.get("action") or event.get("observation"))


def _is_silent(event: Any) -> bool:
    if not isinstance(event, dict):
        return False
    action, observation = text_or_empty(event.get("action")), text_or_empty(event.get("observation"))
    return action in _SILENT_ACTIONS or observation in _SILENT_OBSERVATIONS


def _turn(entry: Entry) -> Turn | None:
    event = copy_object(entry.value, "an event")
    if _is_silent(event):
        return None
    turn = _observation(event) if event.get("observation") else _action(event)
    return replace(turn, source=entry.number, extra=event)


def _action(event: dict[str, Any]) -> Turn:
    """Reads an action, and takes from `event` the fields that it understood."""
    action = take_required_text(event, "action", "an event without an observation")
    args = copy_object(event.pop("args", {}), '"args"')
    if action in ("system", "message"):
        text = take_text(args, "content")
        role = Role.USER if event.get("source") == "user" else Role.ASSISTANT
        role = Role.SYSTEM if action == "system" else role
        event.update({"args": args} if args else {})
        return Turn(role, text)
    thought = take_text(args, "thought")
    if action == "finish":
        # Nothing ever answers it, so to the model it is speech and not a call.
        final = take_text(args, "final_thought")
        event["args"] = args
        return Turn(Role.ASSISTANT, "\n".join(filter(None, (thought, final))))
    message, call = _tool_call(event, action, args)
    sent, reasoning = message.get("content"), message.get("reasoning_content")
    return Turn(
        Role.ASSISTANT,
        sent if isinstance(sent, str) else thought,
        text_or_empty(reasoning),
        (call,),
    )


def _tool_call(event: dict[str, Any], action: str, args: dict[str, Any]) -> tuple[dict[str, Any], ToolCall]:
    """Returns the model's own message and call if the event records them; else a call made of the action."""
    record = event.get("tool_call_metadata")
    if not isinstance(record, dict):
        return {}, ToolCall(f"event_{event.get('id')}", action, to_json_text(args))
    record = dict(record)
    call_id = take_required_text(record, "tool_call_id", "tool_call_metadata")
    name = take_required_text(record, "function_name", "tool_call_metadata")
    response = record.get("model_response")
    message: dict[str, Any] = {}
    if isinstance(response, dict):
        message = first_message(response)
        record["model_response"] = {key: value for key, value in response.items() if key != "choices"}
    event["tool_call_metadata"] = record
    sent = [function for id_, function in _functions(message) if id_ == call_id]
    return message, ToolCall(call_id, name, to_json_text(sent[0].get("arguments") if sent else args))


def first_message(response: dict[str, Any]) -> dict[str, Any]:
    """Returns the model's own message in its recorded response; empty if there is none."""
    choices = response.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    return message if isinstance(message, dict) else {}


def _functions(message: dict[str, Any]) -> list[tuple[Any, dict[str, Any]]]:
    calls = message.get("tool_calls")
    known = [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    return [(call.get("id"), call["function"]) for call in known if isinstance(call.get("function"), dict)]


def _observation(event: dict[str, Any]) -> Turn:
    kind = take_text(event, "observation")
    text = take_text(event, "content")
    extras = event.get("extras")
    shell = extras.get("metadata") if isinstance(extras, dict) else None
    if isinstance(shell, dict):
        # The model sees the output between these two: they tell it what was cut and how the command ended.
        text = f"{shell.get('prefix') or ''}{text}{shell.get('suffix') or ''}"
    record = event.pop("tool_call_metadata", None)
    call_id = record.get("tool_call_id") if isinstance(record, dict) else None
    if call_id is None and isinstance(event.get("cause"), int):
        call_id = f"event_{event['cause']}"
    is_error = kind == "error" or event.get("success") is False
    return Turn(Role.TOOL, text, call_id=text_or_empty(call_id), is_error=is_error)


def _drop_false_answers(turns: list[Turn]) -> list[Turn]:
    """Clears the call id of an observation whose cause made no call (a user's message, say)."""
    made = {call.id for turn in turns for call in turn.calls}
    orphan = [turn.call_id.startswith("event_") and turn.call_id not in made for turn in turns]
    return [replace(t, call_id="") if lost else t for t, lost in zip(turns, orphan, strict=True)]


def _one_per_response(turns: list[Turn]) -> list[tuple[Turn, tuple[int, ...]]]:
    """Merges parallel calls, stored as action, observation, action, observation, into the model's one turn."""
    merged: list[tuple[Turn, tuple[int, ...]]] = []
    first: dict[str, int] = {}
    for turn in turns:
        response = _response_id(turn) if turn.calls else ""
        if response in first:
            at = first[response]
            whole, numbers = merged[at]
            merged[at] = (replace(whole, calls=whole.calls + turn.calls), (*numbers, turn.source))
            continue
        if response:
            first[response] = len(merged)
        merged.append((turn, (turn.source,)))
    return merged


def _response_id(turn: Turn) -> str:
    record = turn.extra.get("tool_call_metadata")
    response = record.get("model_response") if isinstance(record, dict) else None
    return text_or_empty(response.get("id")) if isinstance(response, dict) else ""
