"""Small sessions as agents write them, and one more line of each agent."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from file_log.chat_files import exchange, opening, user

WORDS = "word " * 60


@dataclass(frozen=True)
class Wire:
    """A format, as an agent writes it line by line."""

    name: str

    def start(self, path: Path) -> None:
        """Writes a session of four steps."""
        rows = getattr(self, f"_{self.name}")()
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")

    def line(self, number: int, path: Path) -> bytes:
        """One more thing that the user says; it names what stands last where the format is a tree."""
        text = f"meanwhile {number}"
        return (json.dumps(getattr(self, f"_{self.name}_said")(text, number, path)) + "\n").encode()

    def _chat(self) -> list[dict[str, Any]]:
        return [*opening(), *(m for n in range(1, 5) for m in exchange(n, f"result {n} {WORDS}"))]

    def _chat_said(self, text: str, number: int, path: Path) -> dict[str, Any]:
        return dict(user(text))

    def _codex(self) -> list[dict[str, Any]]:
        items = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Fix the parser."}]}]
        for n in range(1, 5):
            call = {"call_id": f"c{n}", "name": "shell", "arguments": '{"command": ["ls"]}'}
            items += [
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": f"step {n}"}]},
                {"type": "function_call", **call},
                {"type": "function_call_output", "call_id": f"c{n}", "output": f"result {n} {WORDS}"},
            ]
        head = {"timestamp": "t", "type": "session_meta", "payload": {"id": "s", "cwd": "/w", "cli_version": "1"}}
        return [head, *({"timestamp": "t", "type": "response_item", "payload": item} for item in items)]

    def _codex_said(self, text: str, number: int, path: Path) -> dict[str, Any]:
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
        return {"timestamp": "t", "type": "response_item", "payload": item}

    def _pi(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = [{"type": "session", "version": 3, "id": "s", "cwd": "/w", "timestamp": "t"}]
        said: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "text", "text": "Fix the parser."}]}]
        for n in range(1, 5):
            call = {"type": "toolCall", "id": f"c{n}", "name": "bash", "arguments": {"command": "ls"}}
            result = {
                "toolCallId": f"c{n}",
                "isError": False,
                "content": [{"type": "text", "text": f"result {n} {WORDS}"}],
            }
            said.append({"role": "assistant", "content": [{"type": "text", "text": f"step {n}"}, call]})
            said.append({"role": "toolResult", "toolName": "bash", **result})
        for n, message in enumerate(said):
            parent = f"n{n - 1}" if n else None
            rows.append({"type": "message", "id": f"n{n}", "parentId": parent, "timestamp": "t", "message": message})
        return rows

    def _pi_said(self, text: str, number: int, path: Path) -> dict[str, Any]:
        message = {"role": "user", "content": [{"type": "text", "text": text}]}
        parent = f"m{number - 1}" if f'"m{number - 1}"' in path.read_text() else "n8"
        return {"type": "message", "id": f"m{number}", "parentId": parent, "timestamp": "t", "message": message}

    def _claude(self) -> list[dict[str, Any]]:
        said: list[dict[str, Any]] = [{"role": "user", "content": "Fix the parser."}]
        for n in range(1, 5):
            call = {"type": "tool_use", "id": f"c{n}", "name": "Bash", "input": {"command": "ls"}}
            said.append({"id": f"a{n}", "role": "assistant", "content": [{"type": "text", "text": f"step {n}"}, call]})
            result = {"type": "tool_result", "tool_use_id": f"c{n}", "content": f"result {n} {WORDS}"}
            said.append({"role": "user", "content": [result]})
        return [self._claude_row(f"n{n}", f"n{n - 1}" if n else None, message) for n, message in enumerate(said)]

    def _claude_said(self, text: str, number: int, path: Path) -> dict[str, Any]:
        parent = f"m{number - 1}" if f'"m{number - 1}"' in path.read_text() else "n8"
        return self._claude_row(f"m{number}", parent, {"role": "user", "content": text})

    @staticmethod
    def _claude_row(own: str, parent: str | None, message: dict[str, Any]) -> dict[str, Any]:
        shared = {"isSidechain": False, "userType": "external", "cwd": "/w", "sessionId": "s", "version": "2.0.0"}
        return {
            **shared,
            "type": message["role"],
            "uuid": own,
            "parentUuid": parent,
            "timestamp": "t",
            "message": message,
        }


WIRES = tuple(map(Wire, ("chat", "codex", "pi", "claude")))
