"""One invented session of 24 steps, as long as a small real one, in the files of six agents.

The tests of real sessions run on these always, and on recorded ones where there are any.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

RECORDED = Path(__file__).parents[2] / "shared" / "data"
"""Real sessions beside the repository; they may not be in it."""
SYSTEM = "You are a coding agent. Run one command at a time, and say what you do."
TASK = (
    "The nightly export of the billing service writes every invoice of March twice. Find out why and fix it in "
    "src/billing/export.py. Never edit migrations/0042_invoices.sql, and do not push to main before I say so."
)
LATER = "Good. Keep the retry limit at 37, and always run `make verify-ledger` before you say that you are done."
FACTS = (
    *("src/billing/export.py", "migrations/0042_invoices.sql", "AssertionError: invoice 2291 exported 2 times"),
    *("quarry-17:48213", "RETRY_LIMIT = 37", "make verify-ledger", "9c41e7b", "test_march_is_exported_once"),
)


class Step(NamedTuple):
    """What the agent says, the command that it runs, and what comes back."""

    said: str
    command: str
    output: str
    failed: bool = False


def steps() -> list[Step]:
    """The same every time; the first steps look, the middle ones fail and repeat, the last ones fix."""
    source = "".join(f"    row = ledger.fetch({n})  # invoice {2200 + n}, due 2024-03-{n + 1:02d}\n" for n in range(24))
    error = (
        "E   AssertionError: invoice 2291 exported 2 times\ntests/test_export.py:88: AssertionError\n1 failed, 3 passed"
    )
    made = [
        Step("I look at the tree first.", "ls src/billing", "__init__.py\nexport.py\nledger.py\nretry.py"),
        Step("The export is where it goes wrong.", "cat src/billing/export.py", f"RETRY_LIMIT = 37\n{source}"),
        Step("Which host does it write to?", "grep -n host config/prod.toml", '12:host = "quarry-17:48213"'),
        Step("I reproduce it.", "pytest tests/test_export.py -x -k test_march_is_exported_once", error, True),
    ]
    for n in range(12):
        log = "\n".join(
            f"2024-03-{n + 1:02d} 02:{m:02d}:07 INFO export batch {n * 10 + m} to quarry-17" for m in range(10)
        )
        made.append(Step(f"Batch {n} next.", f"sed -n {n * 10},{n * 10 + 9}p logs/export.log", log))
    return [
        *made,
        Step(
            "No such file, it seems.", "cat src/billing/exporter.py", "cat: src/billing/exporter.py: No such file", True
        ),
        Step("The file again.", "cat src/billing/export.py", f"RETRY_LIMIT = 37\n{source}"),
        Step(
            "Since when?",
            "git log --oneline -3",
            "9c41e7b Retry a batch that timed out\n1f00d2a Export by month\n0a11ce5 x",
        ),
        Step("A retry writes a batch again.", "git show 9c41e7b --stat", " src/billing/retry.py | 14 +++++++++-----"),
        Step("I make it idempotent.", "sed -i 's/append/put/' src/billing/export.py", ""),
        Step("Once more.", "pytest tests/test_export.py -x", "4 passed in 0.31s"),
        Step("And the ledger.", "make verify-ledger", "ledger balanced: 1204 invoices, 0 doubled"),
        Step("What has changed?", "git diff --stat", " src/billing/export.py | 2 +-"),
    ]


def halves() -> tuple[Sequence[Step], Sequence[Step]]:
    """The steps before and after the user speaks again."""
    all_of_them = steps()
    return all_of_them[:16], all_of_them[16:]


def _numbered(one: Callable[[int, Step], Iterator[Any]], said: Callable[[str], Any]) -> list[Any]:
    first, then = halves()
    rows: list[Any] = [said(TASK)]
    for number, step in enumerate(first):
        rows += one(number, step)
    rows.append(said(LATER))
    for number, step in enumerate(then, len(first)):
        rows += one(number, step)
    return rows


def _lines(rows: Sequence[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def openai_chat() -> str:
    def one(number: int, step: Step) -> Iterator[Any]:
        call = {"name": "bash", "arguments": json.dumps({"command": step.command})}
        calls = [{"id": f"call_{number}", "type": "function", "function": call}]
        yield {"role": "assistant", "content": step.said, "tool_calls": calls}
        yield {"role": "tool", "tool_call_id": f"call_{number}", "content": step.output}

    messages = _numbered(one, lambda text: {"role": "user", "content": text})
    return json.dumps({"messages": [{"role": "system", "content": SYSTEM}, *messages]})


def claude_code() -> str:
    def one(number: int, step: Step) -> Iterator[Any]:
        call = {"type": "tool_use", "id": f"toolu_{number}", "name": "Bash", "input": {"command": step.command}}
        content = [{"type": "text", "text": step.said}, call]
        yield {"id": f"msg_{number}", "role": "assistant", "content": content}
        result = {"type": "tool_result", "tool_use_id": f"toolu_{number}", "content": step.output}
        yield {"role": "user", "content": [result | ({"is_error": True} if step.failed else {})]}

    about = {"isSidechain": False, "userType": "external", "cwd": "/w", "sessionId": "s", "version": "2.0.0"}
    messages = _numbered(one, lambda text: {"role": "user", "content": text})
    return _lines(
        [
            about
            | {"type": message["role"], "uuid": f"u{n}", "parentUuid": f"u{n - 1}" if n else None, "message": message}
            | {"timestamp": f"2024-04-02T09:{n:02d}:00.000Z"}
            for n, message in enumerate(messages)
        ]
    )


def codex() -> str:
    def said(role: str, text: str) -> Any:
        kind = "output_text" if role == "assistant" else "input_text"
        return {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}

    def one(number: int, step: Step) -> Iterator[Any]:
        yield said("assistant", step.said)
        arguments = json.dumps({"command": ["bash", "-lc", step.command]})
        yield {"type": "function_call", "name": "shell", "arguments": arguments, "call_id": f"call_{number}"}
        output = json.dumps(
            {"output": step.output, "metadata": {"exit_code": int(step.failed), "duration_seconds": 0.1}}
        )
        yield {"type": "function_call_output", "call_id": f"call_{number}", "output": output}

    items = _numbered(one, lambda text: said("user", text))
    head = {"type": "session_meta", "payload": {"id": "s", "cwd": "/w", "cli_version": "0.40.0"}}
    rows = [head, *({"type": "response_item", "payload": item} for item in items)]
    return _lines([{"timestamp": "2024-04-02T09:00:00Z"} | row for row in rows])


def pi() -> str:
    def one(number: int, step: Step) -> Iterator[Any]:
        call = {"type": "toolCall", "id": f"c{number}", "name": "bash", "arguments": {"command": step.command}}
        yield {"role": "assistant", "content": [{"type": "text", "text": step.said}, call]}
        result = {"toolCallId": f"c{number}", "toolName": "bash", "isError": step.failed}
        yield {"role": "toolResult", "content": [{"type": "text", "text": step.output}], **result}

    messages = _numbered(one, lambda text: {"role": "user", "content": [{"type": "text", "text": text}]})
    head = {"type": "session", "version": 3, "id": "s", "cwd": "/w", "timestamp": "2024-04-02T09:00:00Z"}
    nodes = [
        {"type": "message", "id": f"n{n}", "parentId": f"n{n - 1}" if n else None, "message": message}
        for n, message in enumerate(messages)
    ]
    return _lines([head, *({"timestamp": "2024-04-02T09:00:00Z"} | node for node in nodes)])


def mini_swe_agent() -> str:
    def one(number: int, step: Step) -> Iterator[Any]:
        text = f"{step.said}\n```bash\n{step.command}\n```"
        yield {"role": "assistant", "content": text, "extra": {"actions": [{"command": step.command}]}}
        code = int(step.failed)
        yield {"role": "user", "content": f"<returncode>{code}</returncode>\n<output>\n{step.output}\n</output>"}

    messages = _numbered(one, lambda text: {"role": "user", "content": text})
    whole = [{"role": "system", "content": SYSTEM}, *messages]
    about = {"exit_status": "Submitted", "model_stats": {"api_calls": len(steps())}}
    return json.dumps({"info": about, "trajectory_format": "mini-swe-agent-1.1", "messages": whole})


def aider() -> str:
    def one(number: int, step: Step) -> Iterator[str]:
        yield f"{step.said}\n\n```\n{step.command}\n{step.output}\n```\n"
        yield f"> Running {step.command.splitlines()[0]}  \n"

    rows = _numbered(one, lambda text: f"#### {text}  \n")
    return "\n# aider chat started at 2024-04-02 09:00:00\n\n> Aider v0.50  \n\n" + "\n".join(rows)


SAMPLES: dict[str, tuple[str, str]] = {
    "openai_chat": ("billing.json", openai_chat()),
    "claude_code": ("billing.claude.jsonl", claude_code()),
    "codex": ("billing.codex.jsonl", codex()),
    "pi": ("billing.pi.jsonl", pi()),
    "mini_swe_agent": ("billing.traj.json", mini_swe_agent()),
    "aider": ("billing.md", aider()),
}
"""File name and content by format."""


def write_samples(folder: Path) -> list[Path]:
    """Writes every sample into a folder; returns their paths."""
    for name, text in SAMPLES.values():
        (folder / name).write_text(text, "utf-8")
    return [folder / name for name, _ in SAMPLES.values()]
