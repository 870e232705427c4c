"""Makes calls for agents that act through their text: an action becomes a call, and the next user turn answers it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

from holdfast.transcript.turn import Role, ToolCall, Turn


def add_text_calls(
    turns: tuple[Turn, ...], command: Callable[[Turn], str], name: Callable[[Turn, str], str]
) -> tuple[Turn, ...]:
    """Returns the turns with a `bash` call for every action that `command` finds; `name` gives the call's id."""
    done: list[Turn] = []
    waiting = ""
    for turn in turns:
        if waiting and turn.role is Role.USER:
            turn = replace(turn, role=Role.TOOL, call_id=waiting)  # noqa: PLW2901
        waiting = ""
        if found := command(turn):
            waiting = name(turn, found)
            call = ToolCall(waiting, "bash", json.dumps({"command": found}, ensure_ascii=False))
            turn = replace(turn, calls=(call,))  # noqa: PLW2901
        done.append(turn)
    return tuple(done)
