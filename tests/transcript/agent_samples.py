"""Small invented sessions of the agents' own formats."""

from __future__ import annotations

import json
from typing import Any


def jsonl(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def message(role: str, text: str, **more: Any) -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}], **more}


def function_call(call_id: str, arguments: str = "{}", name: str = "shell") -> dict[str, Any]:
    return {"type": "function_call", "name": name, "arguments": arguments, "call_id": call_id}


def function_output(call_id: str, output: Any) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def thought(text: str) -> dict[str, Any]:
    return {"type": "reasoning", "summary": [{"type": "summary_text", "text": text}], "encrypted_content": "gAAA"}


ITEMS: list[dict[str, Any]] = [
    message("developer", "Be brief."),
    message("user", "Fix it"),
    thought("Look first."),
    message("assistant", "Looking.", id="msg_1"),
    function_call("c1", '{"command": ["ls"]}'),
    {"type": "custom_tool_call", "call_id": "c2", "name": "apply_patch", "input": "*** Begin Patch"},
    function_output("c1", '{"output": "a.py", "metadata": {"exit_code": 2}}'),
    {"type": "custom_tool_call_output", "call_id": "c2", "output": "Done"},
    thought("That is all."),
    message("assistant", "Done."),
]

RESPONSES: dict[str, Any] = {"model": "m", "instructions": "Be an agent.", "input": ITEMS, "store": False}


def rollout(type_: str, payload: Any) -> dict[str, Any]:
    return {"timestamp": "2026-01-01T00:00:00Z", "type": type_, "payload": payload}


def event(type_: str, **fields: Any) -> dict[str, Any]:
    return rollout("event_msg", {"type": type_, **fields})


CODEX: list[dict[str, Any]] = [
    rollout("session_meta", {"id": "s", "cwd": "/r", "cli_version": "0.40.0"}),
    rollout("turn_context", {"cwd": "/r", "model": "gpt"}),
    *(rollout("response_item", item) for item in ITEMS[:2]),
    event("user_message", message="Fix it"),
    event("agent_reasoning", text="Look first."),
    *(rollout("response_item", item) for item in ITEMS[2:7]),
    event("exec_command_end", call_id="c1", aggregated_output="a.py", exit_code=2),
    *(rollout("response_item", item) for item in ITEMS[7:]),
    event("token_count", info=None),
]

CODEX_LEGACY: list[dict[str, Any]] = [
    {"id": "s", "timestamp": "2025-01-01T00:00:00Z", "instructions": None, "git": {}},
    {"record_type": "state"},
    *ITEMS,
]


def opencode_message(id_: str, role: str, *parts: dict[str, Any], **info: Any) -> dict[str, Any]:
    return {"info": {"id": id_, "role": role, "sessionID": "ses_1", **info}, "parts": list(parts)}


def opencode_text(text: str) -> dict[str, Any]:
    return {"id": "prt_1", "type": "text", "text": text}


def opencode_tool(call_id: str, **state: Any) -> dict[str, Any]:
    state = {"status": "completed", "input": {"filePath": "a.py"}, "time": {"start": 1, "end": 2}, **state}
    return {"id": "prt_2", "type": "tool", "callID": call_id, "tool": "read", "state": state}


OPENCODE: dict[str, Any] = {
    "info": {"id": "ses_1", "title": "Fix", "directory": "/r"},
    "messages": [
        opencode_message(
            "msg_000000000001a", "user", opencode_text("Fix it"), {"type": "file", "url": "data:", "mime": "image/png"}
        ),
        opencode_message(
            "msg_000000000002a",
            "assistant",
            {"type": "step-start"},
            {"type": "reasoning", "text": "Read first."},
            opencode_text("Reading."),
            opencode_tool("t1", output="x = 1"),
            opencode_tool("t2", status="error", error="no such file"),
            {"type": "step-finish", "tokens": {}},
            {"type": "step-start"},
            opencode_tool("t3", output="long", time={"start": 1, "end": 2, "compacted": 9}),
            {"type": "step-finish", "tokens": {}},
            parentID="msg_000000000001a",
        ),
        opencode_message(
            "msg_000000000003a", "assistant", opencode_text("Done."), opencode_tool("t4", status="running")
        ),
    ],
}


def pi_node(id_: str, parent: str | None, type_: str = "message", **fields: Any) -> dict[str, Any]:
    return {"type": type_, "id": id_, "parentId": parent, "timestamp": "2026-01-01T00:00:00Z", **fields}


def pi_message(id_: str, parent: str | None, role: str, content: Any, **fields: Any) -> dict[str, Any]:
    return pi_node(id_, parent, message={"role": role, "content": content, "timestamp": 1, **fields})


def pi_call(call_id: str) -> dict[str, Any]:
    return {"type": "toolCall", "id": call_id, "name": "bash", "arguments": {"command": "ls"}}


PI: list[dict[str, Any]] = [
    {"type": "session", "version": 3, "id": "s", "timestamp": "2026-01-01T00:00:00Z", "cwd": "/r"},
    pi_node("m0", None, "model_change", provider="p", modelId="m"),
    pi_message("a1", "m0", "user", "Fix it"),
    pi_message(
        "a2", "a1", "assistant",
        [{"type": "thinking", "thinking": "Look."}, {"type": "text", "text": "Looking."}, pi_call("c1")],
        stopReason="toolUse",
    ),
    pi_message("x1", "a2", "user", "A question that was taken back"),
    pi_message("a3", "a2", "toolResult", [{"type": "text", "text": "a.py"}], toolCallId="c1", isError=True),
    pi_node("a4", "a3", message={"role": "bashExecution", "command": "pwd", "output": "/r", "exitCode": 0}),
    pi_node("a5", "a4", "custom", customType="ext", data={}),
    pi_node("a6", "a5", "custom_message", customType="ext", content="Mind the gap.", display=True),
    pi_message("a7", "a6", "assistant", [{"type": "text", "text": "Cut o"}], stopReason="aborted"),
    pi_message("a8", "a7", "assistant", [{"type": "text", "text": "Done."}], stopReason="stop"),
]  # fmt: skip

SWE_TEXT: dict[str, Any] = {
    "environment": "swe_main",
    "trajectory": [{"action": "ls", "observation": "a.py", "query": [{"role": "user", "content": "again"}]}],
    "history": [
        {"role": "system", "content": "Be brief.", "agent": "primary"},
        {"role": "user", "content": "A demonstration", "agent": "primary", "is_demo": True},
        {"role": "user", "content": "Fix it", "agent": "primary"},
        {"role": "assistant", "content": "Look\n```\nls\n```", "thought": "Look", "action": "ls\n", "agent": "primary"},
        {"role": "user", "content": "a.py", "agent": "primary"},
        {"role": "assistant", "content": "Look\n```\nls\n```", "thought": "Look", "action": "ls\n", "agent": "primary"},
        {"role": "user", "content": "a.py b.py", "agent": "primary"},
        {"role": "assistant", "content": "submit", "thought": "", "action": "submit", "agent": "primary"},
    ],
    "info": {"exit_status": "submitted", "model_stats": {}},
}

SWE_CALLS: dict[str, Any] = {
    "environment": "main",
    "trajectory": [],
    "history": [
        {"role": "system", "content": "Be brief.", "agent": "main", "message_type": "system_prompt"},
        {"role": "user", "content": "Fix it", "agent": "main", "message_type": "observation"},
        {
            "role": "assistant", "content": "Look", "thought": "Look", "action": "ls", "agent": "main",
            "tool_calls": [{"id": "k1", "type": "function", "function": {"name": "bash", "arguments": '{"c": "ls"}'}}],
            "thinking_blocks": [{"type": "thinking", "thinking": "Hm.", "signature": "sig"}],
            "message_type": "action",
        },
        {
            "role": "tool", "content": [{"type": "text", "text": "a.py"}], "agent": "main",
            "tool_call_ids": ["k1"], "message_type": "observation",
        },
    ],
    "info": {},
}  # fmt: skip

CLINE: dict[str, Any] = {
    "version": 1,
    "agent": "lead",
    "sessionId": "1",
    "system_prompt": "Be brief.",
    "messages": [
        {"id": "m1", "role": "user", "content": [{"type": "text", "text": "Fix it"}], "ts": 1},
        {
            "id": "m2",
            "role": "assistant",
            "content": [
                {"type": "text", "text": "Reading."},
                {"type": "tool_use", "id": "t1", "name": "read", "input": {"path": "a.py"}},
            ],
            "ts": 2,
            "modelInfo": {"id": "m"},
            "metrics": {"inputTokens": 1},
        },
        {"id": "m3", "role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "x = 1"}]},
        {"id": "m4", "role": "assistant", "content": [{"type": "text", "text": "Done."}], "ts": 4},
    ],
}


def text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


CLINE_XML: list[dict[str, Any]] = [
    {
        "role": "user",
        "content": [text_part("<task>\nFix it\n</task>"), text_part("<environment_details>\n</environment_details>")],
    },
    {"role": "assistant", "content": [text_part("Reading.\n\n<read_file>\n<path>a.py</path>\n</read_file>")]},
    {"role": "user", "content": [text_part("[read_file for 'a.py'] Result:"), text_part("x = 1")]},
    {
        "role": "assistant",
        "content": [text_part("<attempt_completion>\n<result>\nFixed.\n</result>\n</attempt_completion>")],
    },
    {
        "role": "user",
        "content": [text_part("[attempt_completion] Result:"), text_part("<feedback>\nNever touch b.py\n</feedback>")],
    },
]

GEMINI: dict[str, Any] = {
    "sessionId": "s",
    "projectHash": "h",
    "startTime": "t",
    "messages": [
        {"id": "1", "timestamp": "t", "type": "user", "content": "Fix it"},
        {"id": "2", "timestamp": "t", "type": "info", "content": "Update available"},
        {
            "id": "3",
            "timestamp": "t",
            "type": "gemini",
            "content": "Looking.",
            "thoughts": [{"subject": "Plan", "description": "Look first.", "timestamp": "t"}],
            "toolCalls": [
                {
                    "id": "ls-1", "name": "ls", "args": {"path": "."}, "status": "success",
                    "result": [{"functionResponse": {"id": "ls-1", "name": "ls", "response": {"output": "a.py"}}}],
                },
                {
                    "id": "cat-2", "name": "cat", "args": {}, "status": "error",
                    "result": [{"functionResponse": {"id": "cat-2", "name": "cat", "response": {"error": "no"}}}],
                },
            ],
            "tokens": {"input": 1},
        },
        {"id": "4", "timestamp": "t", "type": "gemini", "content": "Done."},
    ],
}  # fmt: skip

GEMINI_CHECKPOINT: list[dict[str, Any]] = [
    {"role": "user", "parts": [{"text": "Fix it"}]},
    {
        "role": "model",
        "parts": [
            {"text": "Hm.", "thought": True},
            {"text": "Looking.", "thoughtSignature": "sig"},
            {"functionCall": {"name": "ls", "args": {"path": "."}}},
            {"functionCall": {"name": "ls", "args": {"path": "."}}},
        ],
    },
    {
        "role": "user",
        "parts": [
            {"functionResponse": {"name": "ls", "response": {"output": "a.py"}}},
            {"functionResponse": {"name": "ls", "response": {"files": []}}},
            {"text": "Go on."},
        ],
    },
    {"role": "model", "parts": [{"text": "Done."}]},
]


def said_event(number: int, type_: str, **data: Any) -> dict[str, Any]:
    parent = f"e{number - 1}" if number else None
    return {"type": type_, "data": data, "id": f"e{number}", "timestamp": "t", "parentId": parent}


def copilot_call(call_id: str, arguments: Any, name: str = "bash") -> dict[str, Any]:
    return {"toolCallId": call_id, "name": name, "arguments": arguments, "type": "function"}


COPILOT: list[dict[str, Any]] = [
    said_event(0, "session.start", sessionId="s", version=1, producer="copilot-agent", copilotVersion="1.0.102"),
    said_event(1, "system.message", role="system", content="Be brief."),
    said_event(2, "user.message", content="Fix it", transformedContent="<now>noon</now>\n\nFix it\n"),
    said_event(3, "assistant.turn_start", turnId="0"),
    said_event(
        4,
        "assistant.message",
        messageId="m1",
        content="Looking.",
        reasoningText="Look first.",
        toolRequests=[copilot_call("c1", {"command": "ls"}), copilot_call("c2", "*** Begin Patch", "apply_patch")],
    ),
    said_event(5, "tool.execution_start", toolCallId="c1", toolName="bash", arguments={"command": "ls"}),
    said_event(6, "tool.execution_complete", toolCallId="c1", success=True, result={"content": "a.py"}),
    said_event(7, "tool.execution_complete", toolCallId="c2", success=False, error={"message": "no such file"}),
    said_event(8, "assistant.message", messageId="m2", content="Done.", toolRequests=[], reasoningOpaque="gAAA"),
    said_event(9, "assistant.turn_end", turnId="0"),
]

ATIF: dict[str, Any] = {
    "schema_version": "ATIF-v1.7",
    "session_id": "s",
    "agent": {"name": "harbor", "version": "1", "model_name": "m"},
    "steps": [
        {"step_id": 1, "source": "system", "message": "Be brief."},
        {"step_id": 2, "timestamp": "t", "source": "user", "message": [{"type": "text", "text": "Fix it"}]},
        {
            "step_id": 3,
            "source": "agent",
            "model_name": "m",
            "message": "Looking.",
            "reasoning_content": "Look first.",
            "tool_calls": [
                {"tool_call_id": "c1", "function_name": "bash", "arguments": {"command": "ls"}},
                {"tool_call_id": "c2", "function_name": "read", "arguments": {"path": "a.py"}},
            ],
            "observation": {"results": [{"source_call_id": "c2", "content": "x = 1"}, {"content": "a.py"}]},
            "metrics": {"prompt_tokens": 10, "completion_tokens": 2},
        },
        {"step_id": 4, "source": "agent", "message": "Done."},
    ],
    "final_metrics": {"total_steps": 4},
}


def record(number: int, type_: str, *parts: Any, **more: Any) -> dict[str, Any]:
    parent = f"q{number - 1}" if number else None
    role = "model" if type_ == "assistant" else "user"
    head = {"uuid": f"q{number}", "parentUuid": parent, "sessionId": "s", "timestamp": "t", "cwd": "/r", "version": "1"}
    return {**head, "type": type_, **({"message": {"role": role, "parts": list(parts)}} if parts else {}), **more}


QWEN: list[dict[str, Any]] = [
    record(0, "user", {"text": "Fix it"}),
    record(
        1,
        "assistant",
        {"text": "Look first.", "thought": True},
        {"text": "Looking."},
        {"functionCall": {"id": "c1", "name": "run_shell_command", "args": {"command": "ls"}}},
        model="qwen3-coder",
    ),
    record(
        2,
        "tool_result",
        {"functionResponse": {"id": "c1", "name": "run_shell_command", "response": {"output": "a.py"}}},
        toolCallResult={"callId": "c1", "status": "success"},
    ),
    record(3, "system", subtype="ui_telemetry", systemPayload={}),
    record(4, "assistant", {"text": "Done."}, model="qwen3-coder"),
]

SPECSTORY = """<!-- Generated by SpecStory, Markdown v2.1.0 -->

# 2026-09-01 10:00:00Z

<!-- Claude Code Session 5d0c3c7e (2026-09-01 10:00:00Z) -->

_**User (2026-09-01 10:00:00Z)**_

Fix it.
Never touch till.py.

---

_**Agent (claude-opus-5 2026-09-01 10:00:02Z)**_

<think><details><summary>Thought Process</summary>
Look first.
</details></think>

Looking.

<tool-use data-tool-type="shell" data-tool-name="Bash"><details>
<summary>Tool use: **Bash**</summary>

**Input:**

- command: `ls`

**Result:**

```
a.py
```
</details></tool-use>

_**Agent - sidechain (claude-haiku-5 2026-09-01 10:00:03Z)**_

Aside.

---

_**User**_

Go on.
"""

AGENTS = {
    "copilot_cli": jsonl(*COPILOT),
    "atif": json.dumps(ATIF),
    "qwen_code": jsonl(*QWEN),
    "openai_responses": json.dumps(RESPONSES),
    "codex": jsonl(*CODEX),
    "opencode": json.dumps(OPENCODE),
    "pi": jsonl(*PI),
    "swe_agent": json.dumps(SWE_TEXT),
    "cline": json.dumps(CLINE),
    "gemini_cli": json.dumps(GEMINI),
}
"""One per format."""

GEMINI_LINES: list[dict[str, Any]] = [
    {"sessionId": "s", "projectHash": "h", "startTime": "t"},
    GEMINI["messages"][0],
    {**GEMINI["messages"][3], "content": "Wrong."},
    {"$rewindTo": "4"},
    {**GEMINI["messages"][2], "toolCalls": []},
    GEMINI["messages"][1],
    GEMINI["messages"][2],
    {"$set": {"summary": "A fix"}},
    GEMINI["messages"][3],
]

OTHER_LAYOUTS = {
    "openai_responses lines": jsonl(*ITEMS),
    "openai_responses list": json.dumps(ITEMS, indent=2),
    "codex legacy": jsonl(*CODEX_LEGACY),
    "swe_agent calls": json.dumps(SWE_CALLS),
    "cline xml": json.dumps(CLINE_XML),
    "gemini_cli checkpoint": json.dumps(GEMINI_CHECKPOINT),
    "gemini_cli lines": jsonl(*GEMINI_LINES),
}
"""What else a format may look like, by its name and a word."""
