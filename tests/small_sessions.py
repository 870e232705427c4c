"""Small sessions for the tests of text compaction."""

from __future__ import annotations

import json

from holdfast.transcript.turn import Role, ToolCall, Transcript, Turn


def user(text: str) -> list[Turn]:
    return [Turn(Role.USER, text)]


def says(text: str) -> list[Turn]:
    return [Turn(Role.ASSISTANT, text)]


def tool(result: str, name: str = "bash", is_error: bool = False, **arguments: object) -> list[Turn]:
    """A call and its result; ids are made unique by `session`."""
    call = ToolCall("", name, json.dumps(arguments))
    return [Turn(Role.ASSISTANT, "", calls=(call,)), Turn(Role.TOOL, result, is_error=is_error)]


def session(*parts: list[Turn], system: str = "You are a coding agent.") -> Transcript:
    turns = [Turn(Role.SYSTEM, system)]
    for number, part in enumerate(parts):
        for turn in part:
            calls = tuple(ToolCall(f"c{number}", call.name, call.arguments) for call in turn.calls)
            call_id = f"c{number}" if turn.role is Role.TOOL and len(part) > 1 else ""
            turns.append(Turn(turn.role, turn.text, calls=calls, call_id=call_id, is_error=turn.is_error))
    return Transcript(tuple(turns), "openai_chat")


def long(words: int = 200) -> str:
    """Output that holds no fact."""
    return "and so it goes on and on " * (words // 7)
