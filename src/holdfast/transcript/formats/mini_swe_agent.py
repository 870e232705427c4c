"""mini-swe-agent trajectories (`*.traj.json`, versions 1 and 1.1, or the bare message list).

OpenAI messages with a role `exit`, which the model never sees and which goes to `meta`. Models without
tool calls write their action as a fenced block and get the observation as a user message: there the call is
synthesised, and the observation becomes its result.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from holdfast.transcript.document import Document, Entry
from holdfast.transcript.draft import Draft
from holdfast.transcript.formats import openai_chat, openai_chat_write
from holdfast.transcript.formats.apply_draft import Change, apply_draft, render_file
from holdfast.transcript.formats.text_calls import add_text_calls
from holdfast.transcript.provider_requests import parse_arguments, to_openai_message
from holdfast.transcript.turn import Role, ToolCall, Transcript, Turn

FENCE = re.compile(r"```(?:bash|mswea_bash_command)\s*\n(.*?)\n```", re.DOTALL)


def sniff(document: Document) -> bool:
    messages = openai_chat.chat_messages(document)
    return bool(messages) and (_has_header(document.value) or any(map(_is_own, messages)))


def _has_header(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    if str(value.get("trajectory_format", "")).startswith("mini-swe-agent"):
        return True
    info = value.get("info")
    return isinstance(info, dict) and ("mini_version" in info or {"exit_status", "model_stats"} <= info.keys())


def _is_own(message: dict[str, Any]) -> bool:
    """Returns True for marks of a bare list: the exit role, recorded actions, or the observation template."""
    extra, content = message.get("extra"), message.get("content")
    if message["role"] == "exit" or (isinstance(extra, dict) and "actions" in extra):
        return True
    return message["role"] == "user" and isinstance(content, str) and content.startswith("<returncode>")


def read(document: Document) -> Transcript:
    exits = [entry.value for entry in document.entries if _is_exit(entry)]
    spoken = [entry for entry in document.entries if not _is_exit(entry)]
    turns, skipped = document.read_each(spoken, openai_chat.turn_of)
    meta = openai_chat.top_level(document)
    if exits:
        meta["exit"] = exits
    turns = add_text_calls(openai_chat.pair_by_order(turns), _action, lambda turn, _: f"call_{turn.source}_0")
    return Transcript(tuple(map(_without_actions, turns)), "mini_swe_agent", meta, skipped)


def write(document: Document, held: Draft) -> str:
    return render_file(document, apply_draft(document.entries, held, _edit, _new))


def _edit(values: list[Any], changes: tuple[Change, ...]) -> list[Any]:
    raw, turn = changes[0].raw, changes[0].new
    # A call made of a fence is nowhere on the wire but in the text and in the recorded actions.
    on_wire = values[0].get("tool_calls") or values[0].get("function_call")
    same = raw if raw is None or on_wire else replace(raw, calls=turn.calls if turn else ())
    (message,) = openai_chat_write.edit(values, (Change(same, turn),))
    return [_record_actions(message, turn)]


def _new(turn: Turn, _near: Any) -> dict[str, Any]:
    return _record_actions(to_openai_message(turn), turn)


def _record_actions(message: dict[str, Any], turn: Turn | None) -> dict[str, Any]:
    """Records the actions of a message if its text alone would be read as others."""
    wanted = [] if turn is None or message.get("tool_calls") else [_command(call) for call in turn.calls]
    inner = message.get("extra")
    extra = inner if isinstance(inner, dict) else {}
    if message["role"] != "assistant" or _commands(openai_chat.turn_of(Entry(1, message))) == wanted:
        return message
    return {**message, "extra": {**extra, "actions": [{"command": command} for command in wanted]}}


def _command(call: ToolCall) -> str:
    command = parse_arguments(call).get("command")
    return command if isinstance(command, str) else call.arguments


def _is_exit(entry: Entry) -> bool:
    return isinstance(entry.value, dict) and entry.value.get("role") == "exit"


def _action(turn: Turn) -> str:
    """Returns all commands of a message as one, because it gets a single observation."""
    return "\n".join(_commands(turn))


def _commands(turn: Turn) -> list[str]:
    """Returns the actions of an assistant turn without tool calls: as recorded, else the one fence in its text."""
    if turn.role is not Role.ASSISTANT or turn.calls:
        return []
    extra = turn.extra.get("extra")
    if isinstance(extra, dict) and isinstance(extra.get("actions"), list):
        actions = [a.get("command") if isinstance(a, dict) else a for a in extra["actions"]]
        return [action for action in actions if isinstance(action, str)]
    fences = FENCE.findall(turn.text)
    # Any other number is a format error to the agent: nothing ran, and the user message says so.
    return fences if len(fences) == 1 else []


def _without_actions(turn: Turn) -> Turn:
    """Drops recorded actions, which repeat the calls."""
    inner = turn.extra.get("extra")
    if not turn.calls or not isinstance(inner, dict) or "actions" not in inner:
        return turn
    kept = {key: value for key, value in inner.items() if key != "actions"}
    return replace(turn, extra={**turn.extra, "extra": kept})
