"""Small chat files to rewrite, and text methods that rewrite them in every way that a draft allows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from holdfast.methods.registry import Entry
from holdfast.methods.text.base import Room
from holdfast.transcript.draft import Draft, Line, piece_of_lines, units
from holdfast.transcript.turn import Role


@dataclass(frozen=True)
class Mask:
    name: ClassVar[str] = "test_mask"

    def rewrite(self, held: Draft, room: Room) -> Draft:
        for at in room.free(held):
            if held.pieces[at].turn.role is Role.TOOL:
                held = held.replace_text(at, f"[{len(held.pieces[at].turn.text)} characters]", self.name)
        return held


@dataclass(frozen=True)
class Fold:
    """Everything that is free becomes a summary, a line per turn; a line that is one already stays."""

    name: ClassVar[str] = "test_fold"

    def rewrite(self, held: Draft, room: Room) -> Draft:
        free = set(room.free(held))
        whole = [at for start, stop in units(held) if free.issuperset(range(start, stop)) for at in range(start, stop)]
        if not whole or whole != list(range(whole[0], whole[-1] + 1)):
            return held
        lines = [Line("Summary:", ())]
        for at in whole:
            piece = held.pieces[at]
            kept = [line for line in piece.lines if line.text.startswith("- ")]
            lines += kept or [Line(f"- {piece.turn.text[:6]}", piece.turns)]
        return held.replace_pieces(whole[0], whole[-1] + 1, piece_of_lines(lines, self.name))


METHODS = {
    "test_mask": Entry("file_log.chat_files:Mask", "for tests"),
    "test_fold": Entry("file_log.chat_files:Fold", "for tests"),
}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def exchange(number: int, result: str) -> list[dict[str, Any]]:
    """A call with its result."""
    call = {"id": f"c{number}", "type": "function", "function": {"name": "bash", "arguments": '{"command": "ls"}'}}
    return [
        {"role": "assistant", "content": f"step {number}", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": f"c{number}", "content": result},
    ]


def opening() -> list[dict[str, Any]]:
    return [{"role": "system", "content": "You are an agent."}, user("Fix the parser. Never touch setup.py.")]


def save(path: Path, messages: list[dict[str, Any]]) -> None:
    """JSON lines in a `.jsonl`, else one document with counts beside the messages."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(message) + "\n" for message in messages), "utf-8")
    else:
        path.write_text(json.dumps({"messages": messages, "calls": len(messages)}, indent=1), "utf-8")


def grow(path: Path, messages: list[dict[str, Any]]) -> None:
    """What an agent does that goes on."""
    if path.suffix == ".jsonl":
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(message) + "\n" for message in messages)
        return
    whole = json.loads(path.read_text("utf-8"))
    save(path, [*whole["messages"], *messages])


def load(path: Path) -> list[dict[str, Any]]:
    text = path.read_text("utf-8")
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines()]
    return list(json.loads(text)["messages"])
