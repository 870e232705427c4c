"""Chat completions: an answer over rounds, streamed or whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from holdfast.proxy.memory.event_stream import DONE
from holdfast.proxy.memory.wire_answer import Body, Frame, Lookup, MemoryCall, add_counts
from holdfast.recall.tools import TOOL_NAMES, TOOLS

FIELD = "messages"
TOOL_FIELDS = [
    {"type": "function", "function": {"name": t.name, "description": t.description, "parameters": t.schema()}}
    for t in TOOLS
]


def place_of(message: Any) -> object:
    """Returns what tells an answer again when a client sends it back."""
    if not isinstance(message, dict) or message.get("role") != "assistant":
        return None
    content = message.get("content")
    parts = content if isinstance(content, list) else [{"text": content or ""}]
    text = "".join(str(part.get("text") or "") for part in parts if isinstance(part, dict))
    return text.strip(), tuple(str(call.get("id")) for call in message.get("tool_calls") or ())


class ChatAnswer:
    """An answer of chat completions."""

    def __init__(self) -> None:
        self._rounds: list[Body] = []  # the message of each round, with all calls
        self._usages: list[Body | None] = []
        self._head: Body = {}
        self._finish: Body = {}
        self._behind: list[Any] = []
        self._begin()

    def _begin(self) -> None:
        self._message: Body = {"role": "assistant", "content": ""}
        self._calls: dict[int, Body] = {}
        self._shown: dict[int, int] = {}
        self._usage: Body | None = None
        self._open = True

    def feed(self, frame: Frame) -> list[Frame]:
        name, chunk = frame
        if chunk == DONE:
            self._close()
            return []
        if not isinstance(chunk, dict):
            return [frame]
        if not self._open:
            self._begin()
        self._usage = chunk.get("usage") or self._usage
        if not chunk.get("choices"):
            return [] if "usage" in chunk else [frame]
        self._head = self._head or {key: chunk[key] for key in ("id", "created", "model") if key in chunk}
        choice = chunk["choices"][0]
        delta = self._visible(choice.get("delta") or {})
        if choice.get("finish_reason"):
            self._finish = {**chunk, **self._head}
        if not delta:
            return []
        shown = {**choice, "delta": delta, "finish_reason": None}
        return [(name, {**{k: v for k, v in chunk.items() if k != "usage"}, **self._head, "choices": [shown]})]

    def _visible(self, delta: Body) -> Body:
        """Records a delta; returns what the client sees of it."""
        shown: Body = {}
        for key, value in delta.items():
            if key == "tool_calls":
                calls = [call for part in value or () if (call := self._call(part)) is not None]
                shown |= {key: calls} if calls else {}
            elif key == "role":
                shown |= {} if self._rounds else {key: value}
            elif isinstance(value, str) and value:
                self._message[key] = f"{self._message.get(key) or ''}{value}"
                shown[key] = value
            elif value is not None and not isinstance(value, str):
                shown[key] = value
        if shown and "role" in shown:
            shown.setdefault("content", delta.get("content"))
        return shown

    def _call(self, part: Body) -> Body | None:
        at, function = int(part.get("index") or 0), part.get("function") or {}
        if at not in self._calls:
            self._calls[at] = {"id": part.get("id"), "type": "function", "function": {"name": "", "arguments": ""}}
        call = self._calls[at]["function"]
        call["name"] += function.get("name") or ""
        call["arguments"] += function.get("arguments") or ""
        if call["name"] in TOOL_NAMES:
            return None
        return {**part, "index": self._shown.setdefault(at, len(self._shown))}

    def _close(self) -> None:
        if self._open:
            calls = [self._calls[at] for at in sorted(self._calls)]
            self._rounds.append({**self._message, **({"tool_calls": calls} if calls else {})})
            self._usages.append(self._usage)
            self._open = False

    def take(self, whole: Body) -> None:
        self._head = self._head or {key: whole[key] for key in ("id", "created") if key in whole}
        self._finish = whole
        self._rounds.append(dict(whole["choices"][0]["message"]))
        self._usages.append(whole.get("usage"))
        self._open = False

    def memory_calls(self) -> list[MemoryCall]:
        self._close()
        calls = self._rounds[-1].get("tool_calls") or ()
        return [
            MemoryCall(str(call["id"]), call["function"]["name"], call["function"]["arguments"])
            for call in calls
            if call.get("function", {}).get("name") in TOOL_NAMES
        ]

    def is_mixed(self) -> bool:
        return len(self.memory_calls()) < len(self._rounds[-1].get("tool_calls") or ())

    def next_body(self, body: Body, lookups: Sequence[Lookup]) -> Body:
        self._behind += self._describe(lookups)
        return {**body, FIELD: [*body[FIELD], *self._describe(lookups)]}

    def _describe(self, lookups: Sequence[Lookup]) -> list[Any]:
        results = [{"role": "tool", "tool_call_id": one.call.id, "content": one.result} for one in lookups]
        message = self._rounds[-1]
        return [message if message.get("content") else {**message, "content": None}, *results]

    def _join_message(self) -> Body:
        last = self._rounds[-1]
        calls = [call for call in last.get("tool_calls") or () if call["function"]["name"] not in TOOL_NAMES]
        text = "".join(message.get("content") or "" for message in self._rounds)
        rest = {key: value for key, value in last.items() if key != "tool_calls"}
        return {**rest, "content": text or None, **({"tool_calls": calls} if calls else {})}

    def _reason(self, choice: Body) -> str | None:
        reason: str | None = choice.get("finish_reason")
        return "stop" if reason == "tool_calls" and not self._join_message().get("tool_calls") else reason

    def _counts(self) -> Body | None:
        usage = add_counts(self._usages[-1], self._usages[:-1], ("completion_tokens",))
        if usage and "total_tokens" in usage:
            usage["total_tokens"] = int(usage.get("prompt_tokens") or 0) + int(usage.get("completion_tokens") or 0)
        return usage

    def end(self) -> list[Frame]:
        self._close()
        usage, frames = self._counts(), list[Frame]()
        if self._finish:
            choice = self._finish["choices"][0]
            ended = {**choice, "delta": {}, "finish_reason": self._reason(choice)}
            alone = {**{key: value for key, value in self._finish.items() if key != "usage"}, "choices": [ended]}
            frames.append(("", alone))
            frames += [("", {**alone, "choices": [], "usage": usage})] if usage else []
        return [*frames, ("", DONE)]

    def whole(self) -> Body:
        choice = self._finish["choices"][0]
        joined = {**choice, "message": self._join_message(), "finish_reason": self._reason(choice)}
        usage = {"usage": self._counts()} if "usage" in self._finish else {}
        return {**self._finish, **self._head, "choices": [joined], **usage}

    def hidden(self, lookups: Sequence[Lookup]) -> list[tuple[object, list[Any]]]:
        if not self._behind and not lookups:
            return []
        return [(place_of(self._join_message()), [*self._behind, *self._describe(lookups)])]
