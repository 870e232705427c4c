"""Todo lists with their states, from the tools by which agents keep them: whole lists, and single tasks with ids."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.transcript.tools import read_arguments
from holdfast.transcript.turn import ToolCall, Turn

_WHOLE = {
    *("todowrite", "updateplan", "writetodos", "tasktracker", "todo", "updatetodolist", "todolist", "managetodolist"),
    *("updatetodos", "settodos", "plan", "todos"),
}
_LISTS = ("todos", "plan", "task_list", "todoList", "items", "tasks")
_WORDS = ("content", "step", "title", "subject", "description", "text", "task", "name")
_MARKS = {"completed": "x", "done": "x", "in_progress": ">", "in-progress": ">", "inprogress": ">", "doing": ">"}
_CHECKBOX = re.compile(r"^[ \t]*[-*][ \t]+\[(?P<mark>[ xX>~/-])\][ \t]+(?P<words>[^\n]+)$", re.MULTILINE)
_CREATED = re.compile(r"Task #(?P<id>\w+) created")
_DROPPED = ("deleted", "cancelled", "canceled")
LONGEST_ITEM = 200
"""Characters of one item."""


@dataclass
class TodoBoard:
    """The list as it stands while a session is read."""

    since: int = 0
    """The turn from which on all that the list shows was said."""
    _items: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Words and mark by id; of a list that is written whole, by position."""

    def read_call(self, at: int, call: ToolCall) -> bool:
        """Returns True if a call wrote the whole list."""
        name = re.sub(r"[^a-z]", "", call.name.rpartition("__")[2].lower())
        arguments = read_arguments(call.arguments)
        progress = arguments.get("task_progress")
        if isinstance(progress, str) and _CHECKBOX.search(progress):
            self._set(at, _checkboxes(progress))
            return True
        if name not in _WHOLE:
            return False
        value = next((arguments[key] for key in _LISTS if arguments.get(key) is not None), None)
        if isinstance(value, str) and _CHECKBOX.search(value):
            self._set(at, _checkboxes(value))
        elif isinstance(value, list):
            self._set(at, [_item(one) for one in value if isinstance(one, dict)])
        else:
            return False
        return True

    def read_result(self, at: int, name: str, arguments: Mapping[str, Any], result: Turn) -> bool:
        """Returns True if a result tells that one task was made or changed."""
        if result.is_error:
            return False
        if name == "taskcreate" and (made := _CREATED.search(result.text)):
            self.since = self.since if self._items else at
            self._items[made["id"]] = _item(arguments)
            return True
        key = str(arguments.get("taskId", arguments.get("task_id", "")))
        if name != "taskupdate" or key not in self._items:
            return False
        status = str(arguments.get("status", ""))
        if status in _DROPPED:
            del self._items[key]
        else:
            words, mark = self._items[key]
            new, _ = _item(arguments)
            self._items[key] = new or words, _MARKS.get(status, " ") if status else mark
        return True

    def carry(self, at: int, text: str) -> None:
        """Takes over the list as `render` wrote it in an earlier compaction."""
        found = re.findall(r"(?:(?P<id>#\w+) )?\[(?P<mark>[ x>])\] (?P<words>.*?)(?=; (?:#\w+ )?\[[ x>]\] |$)", text)
        self.since = at
        self._items = {key.removeprefix("#") or f" {n}": (words, mark) for n, (key, mark, words) in enumerate(found)}

    def render(self) -> str:
        """Returns the list on one line; empty if nothing of it is open."""
        if all(mark == "x" for _, mark in self._items.values()):
            return ""
        return "; ".join(
            f"{'' if key.startswith(' ') else f'#{key} '}[{mark}] {words}" for key, (words, mark) in self._items.items()
        )

    def _set(self, at: int, items: list[tuple[str, str]]) -> None:
        self.since = at
        self._items = {f" {n}": item for n, item in enumerate(items) if item[0]}


def _item(fields: Mapping[str, Any]) -> tuple[str, str]:
    words = next((str(fields[key]) for key in _WORDS if isinstance(fields.get(key), str) and fields[key]), "")
    status = str(fields.get("status", "")).casefold().replace(" ", "_")
    done = fields.get("done") is True or fields.get("completed") is True
    return " ".join(words.split())[:LONGEST_ITEM], "x" if done else _MARKS.get(status, " ")


def _checkboxes(text: str) -> list[tuple[str, str]]:
    marks = {"x": "x", ">": ">", "~": ">", "/": ">", "-": ">"}
    return [
        (" ".join(match["words"].split())[:LONGEST_ITEM], marks.get(match["mark"].lower(), " "))
        for match in _CHECKBOX.finditer(text)
    ]
