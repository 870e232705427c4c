"""Small invented sessions, one per wire format, that the tests in this folder share."""

from __future__ import annotations

import json
from typing import Any

from agent_samples import AGENTS

"""The profile of every property test here: the same examples on every run."""


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def openai_call(call_id: str, arguments: str = "{}", name: str = "bash") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


OPENAI: list[dict[str, Any]] = [
    {"role": "developer", "content": "Be brief."},
    {
        "role": "user",
        "content": [{"type": "text", "text": "Look"}, {"type": "image_url", "image_url": {"url": "x"}}],
    },
    {
        "role": "assistant",
        "content": None,
        "reasoning_content": "I should list.",
        "tool_calls": [openai_call("k1", '{"command": "ls"}'), openai_call("k2")],
    },
    {"role": "tool", "tool_call_id": "k2", "content": "two"},
    {"role": "tool", "tool_call_id": "k1", "content": [{"type": "text", "text": "one"}]},
    {"role": "assistant", "content": "Done.", "refusal": None},
]

ANTHROPIC: dict[str, Any] = {
    "model": "m",
    "system": [{"type": "text", "text": "Be brief."}],
    "messages": [
        {"role": "user", "content": "Fix it"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Read first.", "signature": "sig"},
                {"type": "text", "text": "Reading."},
                {"type": "tool_use", "id": "t1", "name": "Read", "input": {"path": "a.py"}},
                {"type": "tool_use", "id": "t2", "name": "Read", "input": {"path": "b.py"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": "x = 1"},
                {
                    "type": "tool_result",
                    "tool_use_id": "t2",
                    "content": [{"type": "text", "text": "no"}],
                    "is_error": True,
                },
                {"type": "text", "text": "Go on."},
            ],
        },
        {"role": "assistant", "content": "Done."},
    ],
}


def claude_line(type_: str, uuid: str, parent: str | None, content: Any = None, **more: Any) -> dict[str, Any]:
    """One line; `message_id` among `more` goes into the message."""
    line: dict[str, Any] = {"type": type_, "uuid": uuid, "parentUuid": parent, "sessionId": "s", "cwd": "/r"}
    message_id = more.pop("message_id", None)
    if content is not None:
        line["message"] = {"role": type_, "content": content} | ({"id": message_id} if message_id else {})
    return line | more


def tool_use(call_id: str) -> list[dict[str, Any]]:
    return [{"type": "tool_use", "id": call_id, "name": "Bash", "input": {"command": call_id}}]


def tool_result(call_id: str, text: str = "ok") -> list[dict[str, Any]]:
    return [{"type": "tool_result", "tool_use_id": call_id, "content": text}]


CLAUDE_CODE: list[dict[str, Any]] = [
    {"type": "file-history-snapshot", "messageId": "m", "snapshot": {}},
    claude_line("user", "u1", None, "Fix it"),
    claude_line("assistant", "a1", "u1", [{"type": "text", "text": "Reading."}], message_id="m1"),
    claude_line("progress", "p1", "a1", data={}),
    claude_line("assistant", "a2", "p1", tool_use("c1"), message_id="m1", requestId="r"),
    claude_line("user", "u2", "a2", tool_result("c1", "x = 1"), toolUseResult={"stdout": "x = 1"}),
    claude_line("assistant", "a3", "u2", [{"type": "text", "text": "Done."}], message_id="m2"),
]

MINI: dict[str, Any] = {
    "info": {"exit_status": "Submitted", "model_stats": {"api_calls": 2}},
    "trajectory_format": "mini-swe-agent-1.1",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Fix it"},
        {
            "role": "assistant",
            "content": "Look:\n```bash\nls\n```",
            "extra": {"actions": [{"command": "ls"}], "cost": 1},
        },
        {"role": "user", "content": "<returncode>0</returncode>\n<output>\na.py\n</output>"},
        {"role": "assistant", "content": "No fence here."},
        {"role": "user", "content": "Please give exactly one action."},
        {
            "role": "assistant",
            "content": "```bash\nsubmit\n```",
            "extra": {"actions": [{"command": "submit"}]},
        },
        {"role": "exit", "content": "diff", "extra": {"exit_status": "Submitted"}},
    ],
}


def openhands_action(id_: int, call_id: str, response: str) -> dict[str, Any]:
    call = {"id": call_id, "function": {"name": "execute_bash", "arguments": '{"command": "ls"}'}}
    message = {"content": "Looking.", "tool_calls": [call]}
    return {
        "id": id_,
        "source": "agent",
        "action": "run",
        "args": {"command": "ls", "thought": "Looking."},
        "tool_call_metadata": {
            "function_name": "execute_bash",
            "tool_call_id": call_id,
            "model_response": {"id": response, "choices": [{"message": message}]},
        },
    }


def openhands_observation(id_: int, call_id: str) -> dict[str, Any]:
    return {
        "id": id_,
        "source": "agent",
        "observation": "run",
        "content": "a.py",
        "cause": id_ - 1,
        "tool_call_metadata": {"tool_call_id": call_id},
        "extras": {"metadata": {"exit_code": 1, "prefix": "", "suffix": "\n[exit code 1]"}},
        "success": False,
    }


OPENHANDS: dict[str, Any] = {
    "instance_id": "i",
    "history": [
        {"id": 0, "source": "agent", "action": "system", "args": {"content": "Be brief.", "tools": []}},
        {"id": 1, "source": "user", "action": "message", "args": {"content": "Fix it"}},
        {"id": 2, "source": "user", "action": "recall", "args": {"query": "Fix it"}},
        openhands_action(3, "c1", "r1"),
        openhands_observation(4, "c1"),
        openhands_action(5, "c2", "r1"),
        openhands_observation(6, "c2"),
        {"id": 7, "source": "agent", "observation": "error", "content": "Bad call."},
        {
            "id": 8,
            "source": "agent",
            "action": "finish",
            "args": {"thought": "Done.", "final_thought": "All green."},
        },
    ],
}


def sdk_action(id_: str, call_id: str, response: str, thought: str) -> dict[str, Any]:
    return {
        "kind": "ActionEvent",
        "id": id_,
        "timestamp": "2026-01-01T00:00:00",
        "source": "agent",
        "thought": [{"type": "text", "text": thought}] if thought else [],
        "reasoning_content": "I should list." if thought else None,
        "thinking_blocks": [],
        "action": {"kind": "TerminalAction", "command": "ls"},
        "tool_name": "terminal",
        "tool_call_id": call_id,
        "tool_call": {"id": call_id, "name": "terminal", "arguments": '{"command": "ls"}', "origin": "completion"},
        "llm_response_id": response,
    }


def sdk_observation(id_: str, call_id: str, action: str, text: str = "a.py") -> dict[str, Any]:
    return {
        "kind": "ObservationEvent",
        "id": id_,
        "source": "environment",
        "tool_name": "terminal",
        "tool_call_id": call_id,
        "action_id": action,
        "observation": {"kind": "TerminalObservation", "content": [{"type": "text", "text": text}], "exit_code": 0},
    }


def sdk_message(id_: str, source: str, role: str, text: str) -> dict[str, Any]:
    message = {"role": role, "content": [{"type": "text", "text": text}]}
    return {"kind": "MessageEvent", "id": id_, "source": source, "llm_message": message}


OPENHANDS_V1: list[dict[str, Any]] = [
    {
        "kind": "SystemPromptEvent",
        "id": "e0",
        "source": "agent",
        "system_prompt": {"type": "text", "text": "Be brief."},
        "tools": [],
        "dynamic_context": {"type": "text", "text": "Today is Monday."},
    },
    sdk_message("e1", "user", "user", "Fix it"),
    {"kind": "ConversationStateUpdateEvent", "id": "s1", "source": "environment", "key": "k", "value": 1},
    sdk_action("e2", "k0", "r0", "Forget me."),
    sdk_observation("e3", "k0", "e2", "forgotten"),
    {
        "kind": "Condensation",
        "id": "e4",
        "source": "environment",
        "forgotten_event_ids": ["e2", "e3"],
        "summary": "So far: nothing.",
        "summary_offset": 2,
        "llm_response_id": "r1",
    },
    sdk_action("e5", "k1", "r2", "Looking."),
    sdk_action("e6", "k2", "r2", ""),
    sdk_observation("e7", "k1", "e5"),
    sdk_observation("e8", "k2", "e6"),
    sdk_action("e9", "k3", "r3", ""),
    {"kind": "AgentErrorEvent", "id": "e10", "source": "agent", "tool_name": "x", "tool_call_id": "k3", "error": "bad"},
    sdk_message("e11", "agent", "assistant", "Done."),
]

AIDER = """
# aider chat started at 2024-01-01 10:00:00

> Aider v0.50  
> Git repo: .git  

#### fix it  
#### please  

Here is the change:

```md
#### a heading, not the user
> a quote
```

Done.

> Applied edit to a.md  

#### /undo  
> Removed: abc1234  
"""  # noqa: W291 - aider ends its marked lines with two spaces

BY_FORMAT = {
    "openai_chat": json.dumps(OPENAI),
    "anthropic": json.dumps(ANTHROPIC),
    "claude_code": lines(*CLAUDE_CODE),
    "mini_swe_agent": json.dumps(MINI),
    "openhands": json.dumps(OPENHANDS),
    "openhands_v1": json.dumps(OPENHANDS_V1),
    "aider": AIDER,
    **AGENTS,
}
