"""Anthropic's messages: an answer over rounds, streamed or whole."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from holdfast.proxy.memory.wire_answer import Body, Frame, Lookup, MemoryCall, add_counts, parse_arguments
from holdfast.recall.tools import TOOL_NAMES, TOOLS

FIELD = "messages"
TOOL_FIELDS = [{"name": t.name, "description": t.description, "input_schema": t.schema()} for t in TOOLS]
_DELTAS = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}
_PROMPT = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


def place_of(message: Any) -> object:
    """Returns what tells an answer again when a client sends it back."""
    if not isinstance(message, dict) or message.get("role") != "assistant":
        return None
    content = message.get("content")
    blocks = content if isinstance(content, list) else [{"type": "text", "text": content}]
    blocks = [block for block in blocks if isinstance(block, dict)]
    text = "".join(str(block.get("text") or "") for block in blocks if block.get("type") == "text")
    return text.strip(), tuple(str(block.get("id")) for block in blocks if block.get("type") == "tool_use")


class MessagesAnswer:
    """An answer of Anthropic's messages."""

    def __init__(self) -> None:
        self._rounds: list[list[Body]] = []
        self._usages: list[Body | None] = []
        self._first: Body = {}
        self._ending: Body = {}
        self._behind: list[Any] = []
        self._count = 0
        self._begin()

    def _begin(self) -> None:
        self._blocks: dict[int, Body] = {}
        self._inputs: dict[int, str] = {}
        self._shown: dict[int, int] = {}
        self._usage: Body = {}
        self._open = True

    def feed(self, frame: Frame) -> list[Frame]:
        event = frame[1]
        kind = event.get("type") if isinstance(event, dict) else None
        if kind == "message_start":
            if not self._open:
                self._begin()
            self._usage = dict(event["message"].get("usage") or {})
            first, self._first = not self._first, self._first or event["message"]
            return [frame] if first else []
        if kind == "message_delta":
            self._ending = event
            self._usage |= event.get("usage") or {}
            return []
        if kind == "message_stop":
            self._close()
            return []
        return self._block(frame) if str(kind).startswith("content_block") else [frame]

    def _block(self, frame: Frame) -> list[Frame]:
        name, event = frame
        at = int(event["index"])
        if event["type"] == "content_block_start":
            block = self._blocks[at] = dict(event["content_block"])
            if not _is_ours(block):
                self._shown[at] = self._count
                self._count += 1
        elif event["type"] == "content_block_delta":
            delta = event["delta"]
            field = _DELTAS.get(delta.get("type"), "")
            if field:
                self._blocks[at][field] = self._blocks[at].get(field, "") + delta.get(field, "")
            elif delta.get("type") == "input_json_delta":
                self._inputs[at] = self._inputs.get(at, "") + delta.get("partial_json", "")
        return [(name, {**event, "index": self._shown[at]})] if at in self._shown else []

    def _close(self) -> None:
        if not self._open:
            return
        for at, text in self._inputs.items():
            self._blocks[at]["input"] = parse_arguments(text)
        self._rounds.append([self._blocks[at] for at in sorted(self._blocks)])
        self._usages.append(self._usage)
        self._open = False

    def take(self, whole: Body) -> None:
        self._first = self._first or whole
        self._ending = whole
        self._rounds.append(list(whole.get("content") or ()))
        self._usages.append(whole.get("usage"))
        self._open = False

    def memory_calls(self) -> list[MemoryCall]:
        self._close()
        ours = [block for block in self._rounds[-1] if _is_ours(block)]
        return [MemoryCall(str(block["id"]), block["name"], _json(block.get("input"))) for block in ours]

    def is_mixed(self) -> bool:
        return any(block.get("type") == "tool_use" and not _is_ours(block) for block in self._rounds[-1])

    def next_body(self, body: Body, lookups: Sequence[Lookup]) -> Body:
        self._behind += self._describe(lookups)
        return {**body, FIELD: [*body[FIELD], *self._describe(lookups)]}

    def _describe(self, lookups: Sequence[Lookup]) -> list[Any]:
        blocks = [block for block in self._rounds[-1] if block.get("type") != "text" or block.get("text")]
        results = [{"type": "tool_result", "tool_use_id": one.call.id, "content": one.result} for one in lookups]
        return [{"role": "assistant", "content": blocks}, *([{"role": "user", "content": results}] if results else [])]

    def _content(self) -> list[Body]:
        return [block for blocks in self._rounds for block in blocks if not _is_ours(block)]

    def _reason(self, reason: str | None) -> str | None:
        return "end_turn" if reason == "tool_use" and not self.is_mixed() else reason

    def _counts(self) -> Body:
        return add_counts(self._usages[-1], self._usages[:-1], ("output_tokens",)) or {}

    def end(self) -> list[Frame]:
        self._close()
        frames = list[Frame]()
        if self._ending:
            delta = self._ending.get("delta") or {}
            usage = self._counts()
            several = len(self._rounds) > 1  # the first event told the tokens of a shorter prompt
            told = {key: value for key, value in usage.items() if several or key not in _PROMPT}
            usage = {**(self._ending.get("usage") or {}), **told}
            ended = {
                **self._ending,
                "delta": {**delta, "stop_reason": self._reason(delta.get("stop_reason"))},
                "usage": usage,
            }
            frames.append(("message_delta", ended))
        return [*frames, ("message_stop", {"type": "message_stop"})]

    def whole(self) -> Body:
        reason = self._reason(self._ending.get("stop_reason"))
        told = {"id": self._first.get("id"), "content": self._content(), "stop_reason": reason, "usage": self._counts()}
        return {**self._ending, **told}

    def hidden(self, lookups: Sequence[Lookup]) -> list[tuple[object, list[Any]]]:
        if not self._behind and not lookups:
            return []
        visible = {"role": "assistant", "content": self._content()}
        return [(place_of(visible), [*self._behind, *self._describe(lookups)])]


def _is_ours(block: Body) -> bool:
    return bool(block.get("type") == "tool_use" and block.get("name") in TOOL_NAMES)


def _json(value: Any) -> str:
    return json.dumps(value or {}, ensure_ascii=False)
