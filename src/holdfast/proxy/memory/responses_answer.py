"""OpenAI's responses: an answer over rounds, streamed or whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from holdfast.proxy.memory.wire_answer import Body, Frame, Lookup, MemoryCall, add_counts
from holdfast.recall.tools import TOOL_NAMES, TOOLS

FIELD = "input"
TOOL_FIELDS = [
    {"type": "function", "name": t.name, "description": t.description, "parameters": t.schema(), "strict": False}
    for t in TOOLS
]
_ENDS = ("response.completed", "response.incomplete", "response.failed")
_BEGINS = ("response.created", "response.in_progress", "response.queued")
_CALLS = ("function_call", "custom_tool_call", "local_shell_call", "shell_call", "apply_patch_call", "computer_call")


def place_of(item: Any) -> object:
    """Returns what tells an item again when a client sends it back."""
    if not isinstance(item, dict):
        return None
    kind = item.get("type") or "message"
    if kind == "message" and item.get("role") == "assistant":
        parts = item.get("content")
        texts = [part.get("text") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else [parts]
        return kind, "".join(str(text or "") for text in texts).strip()
    if kind in _CALLS:
        return kind, item.get("call_id")
    return (kind, item["encrypted_content"]) if item.get("encrypted_content") else None


class ResponsesAnswer:
    """An answer of the responses API."""

    def __init__(self) -> None:
        self._rounds: list[list[Body]] = []
        self._usages: list[Body | None] = []
        self._ending: Frame = ("", {})
        self._first: Body = {}
        self._pending: list[Any] = []  # hidden items that wait for the next visible one
        self._hidden: list[tuple[object, list[Any]]] = []
        self._count = self._number = 0
        self._begin()

    def _begin(self) -> None:
        self._shown: dict[int, int] = {}

    def feed(self, frame: Frame) -> list[Frame]:
        name, event = frame
        kind = event.get("type") if isinstance(event, dict) else None
        if kind in _ENDS:
            self.take(event.get("response") or {})
            self._ending = frame
            return []
        if kind in _BEGINS:
            if self._rounds:
                return []
            self._first = self._first or event.get("response") or {}
            return [self._renumber(name, event)]
        if not isinstance(event, dict) or "output_index" not in event:
            return [self._renumber(name, event)] if isinstance(event, dict) else [frame]
        at = int(event["output_index"])
        if kind == "response.output_item.added" and not _is_ours(event.get("item") or {}):
            self._shown[at] = self._count
            self._count += 1
        if at not in self._shown:
            return []
        return [self._renumber(name, {**event, "output_index": self._shown[at]})]

    def _renumber(self, name: str, event: Body) -> Frame:
        if "sequence_number" in event:
            event = {**event, "sequence_number": self._number}
        self._number += 1
        return name, event

    def take(self, whole: Body) -> None:
        self._first = self._first or whole
        self._ending = ("", {"response": whole})
        items = list(whole.get("output") or ())
        self._rounds.append(items)
        self._usages.append(whole.get("usage"))
        self._anchor(next((item for item in items if not _is_ours(item) and place_of(item)), None))
        self._begin()

    def _anchor(self, item: Body | None) -> None:
        """Puts the hidden items that wait before a visible one."""
        if item is not None and self._pending:
            self._hidden.append((place_of(item), self._pending))
            self._pending = []

    def memory_calls(self) -> list[MemoryCall]:
        ours = [item for item in (self._rounds[-1] if self._rounds else ()) if _is_ours(item)]
        return [MemoryCall(str(item["call_id"]), item["name"], str(item.get("arguments") or "")) for item in ours]

    def is_mixed(self) -> bool:
        return any(item.get("type") in _CALLS and not _is_ours(item) for item in self._rounds[-1])

    def next_body(self, body: Body, lookups: Sequence[Lookup]) -> Body:
        before = body[FIELD]
        items = before if isinstance(before, list) else [{"role": "user", "content": before}]
        results = self._results(lookups)
        self._pending = [*self._pending, *(_bare(item) for item in self._rounds[-1] if _is_ours(item)), *results]
        return {**body, FIELD: [*items, *map(_bare, self._rounds[-1]), *results]}

    def _results(self, lookups: Sequence[Lookup]) -> list[Any]:
        return [{"type": "function_call_output", "call_id": one.call.id, "output": one.result} for one in lookups]

    def _output(self) -> list[Body]:
        return [item for items in self._rounds for item in items if not _is_ours(item)]

    def _response(self) -> Body:
        usage = add_counts(self._usages[-1], self._usages[:-1], ("output_tokens",))
        if usage and "total_tokens" in usage:
            usage["total_tokens"] = int(usage.get("input_tokens") or 0) + int(usage.get("output_tokens") or 0)
        last = self._ending[1].get("response") or {}
        return {**last, "id": self._first.get("id"), "output": self._output(), "usage": usage}

    def end(self) -> list[Frame]:
        name, event = self._ending
        return [self._renumber(name, {**event, "response": self._response()})] if event else []

    def whole(self) -> Body:
        return self._response()

    def hidden(self, lookups: Sequence[Lookup]) -> list[tuple[object, list[Any]]]:
        if lookups:  # beside a call of the client, before which ours stand
            ours = [_bare(item) for item in self._rounds[-1] if _is_ours(item)]
            self._pending = [*self._pending, *ours, *self._results(lookups)]
            others = (item for item in self._rounds[-1] if item.get("type") in _CALLS and not _is_ours(item))
            self._anchor(next(others, None))
        return self._hidden


def _is_ours(item: Body) -> bool:
    return bool(item.get("type") == "function_call" and item.get("name") in TOOL_NAMES)


def _bare(item: Body) -> Body:
    """Returns an item without its id, under which an upstream that stores nothing would look for it."""
    return {key: value for key, value in item.items() if key not in ("id", "status")}
