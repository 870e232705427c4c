"""Record the taskdeck session: run every tool call of script.py and write the chat with its true results.

Knows nothing of the story. It needs Node 20, npm and the network (for `npm install`), no Python package.

    python examples/taskdeck/record.py --workdir DIR -o session.json
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from script import SEED, STEPS, SYSTEM, TOOLS, Step

SHOWN_ROOT = "/workspace/taskdeck"
"""The path that stands in the record for the directory in which the commands really ran."""
PASSED_ON = ("PATH", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE")
TIMEOUT_SECONDS = 180


class RecordError(Exception):
    """The session cannot be recorded: the directory is in use, or a result would show this machine."""


@dataclass(frozen=True)
class Workspace:
    """The directory of the project, and the environment that its commands see."""

    root: Path
    env: dict[str, str]

    def call(self, tool: str, arguments: dict[str, str]) -> str:
        """Carry out one tool call and return its result as the agent saw it."""
        match tool:
            case "read_file":
                result = self._read(arguments["path"])
            case "write_file":
                result = self._write(arguments["path"], arguments["content"])
            case "run_command":
                result = self._run(arguments["command"])
            case _:
                raise RecordError(f"unknown tool {tool!r}: use read_file, write_file or run_command")
        return result.replace(str(self.root), SHOWN_ROOT)

    def _read(self, path: str) -> str:
        file = self.root / path
        return file.read_text(encoding="utf-8") if file.is_file() else f"error: no such file: {path}"

    def _write(self, path: str, content: str) -> str:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")
        return f"wrote {path} ({len(content.splitlines())} lines)"

    def _run(self, command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.root,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        output = done.stdout.decode("utf-8", errors="replace").rstrip()
        status = f"[exit code {done.returncode}]"
        return f"{output}\n{status}" if output else status


def clean_environment(home: Path) -> dict[str, str]:
    """An environment without the user's npm settings, colours or time zone."""
    env = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    quiet_npm = {f"npm_config_{key}": "false" for key in ("audit", "fund", "update_notifier")}
    return env | quiet_npm | {"HOME": str(home), "LANG": "C.UTF-8", "TZ": "UTC", "NO_COLOR": "1"}


def seed(root: Path, files: dict[str, str]) -> None:
    """Put the files there with which the project was found; an earlier recording is not mixed in."""
    root.mkdir(parents=True, exist_ok=True)
    if any(root.iterdir()):
        raise RecordError(f"{root} is not empty: give --workdir an empty or a new directory")
    for path, content in files.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")


def record(steps: Iterable[Step], workspace: Workspace) -> list[dict[str, Any]]:
    """Play the steps in order; each tool call is followed by the message with its true result."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": SYSTEM}]
    calls = 0
    for step in steps:
        message: dict[str, Any] = {"role": step.role, "content": step.text}
        if step.reasoning:
            message["reasoning_content"] = step.reasoning
        messages.append(message)
        if step.tool is None:
            continue
        calls += 1
        call_id = f"call_{calls:02d}"
        function = {"name": step.tool, "arguments": json.dumps(step.arguments, ensure_ascii=False)}
        message["tool_calls"] = [{"id": call_id, "type": "function", "function": function}]
        result = workspace.call(step.tool, step.arguments)
        refuse_machine_text(call_id, result, workspace)
        messages.append({"role": "tool", "tool_call_id": call_id, "content": result})
    return messages


def refuse_machine_text(call_id: str, result: str, workspace: Workspace) -> None:
    """Stop if a result names this machine: a home, a temporary directory, a user or a registry."""
    marks = [workspace.env["HOME"], str(Path.home()) + "/", tempfile.gettempdir() + "/", "registry.npmjs.org"]
    user = getpass.getuser()
    if user not in ("root", "node"):
        marks.append(user)
    for mark in marks:
        if mark in result:
            raise RecordError(f"the result of {call_id} names this machine: {mark!r}; change its command")


def main() -> int:
    parser = argparse.ArgumentParser(description="Record the taskdeck session with true tool results.")
    parser.add_argument("--workdir", type=Path, required=True, help="an empty directory for the project")
    parser.add_argument("-o", "--output", type=Path, required=True, help="where session.json goes")
    options = parser.parse_args()
    root = options.workdir.resolve()
    try:
        seed(root, SEED)
        with tempfile.TemporaryDirectory() as home:
            messages = record(STEPS, Workspace(root, clean_environment(Path(home))))
    except RecordError as error:
        print(f"record: {error}", file=sys.stderr)
        return 1
    session = json.dumps({"tools": TOOLS, "messages": messages}, indent=1, ensure_ascii=False)
    options.output.write_text(session + "\n", encoding="utf-8")
    print(f"{options.output}: {len(messages)} messages, {sum(s.tool is not None for s in STEPS)} tool calls")
    return 0


if __name__ == "__main__":
    sys.exit(main())
