"""An answer as the items of OpenAI's Responses, and the events in which they come piece by piece.

Calls wait for the end of the answer, so that all its text is one message: so it is read when it is sent back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal
from uuid import uuid4

from holdfast.server.http.errors import OVERFLOW, Problem, in_words_of
from holdfast.server.protocol import AnswerEnd, AnswerStart, GenerateOutput, ReasoningDelta, TextDelta, ToolCallDelta
from holdfast.server.wires.response_tools import ToolOffer
from holdfast.transcript.turn import ToolCall

Kind = Literal["reasoning", "message"]
_PARTS: dict[Kind, dict[str, Any]] = {
    "reasoning": {"type": "reasoning_text", "text": ""},
    "message": {"type": "output_text", "text": "", "annotations": [], "logprobs": []},
}
_CODES = {429: "rate_limit_exceeded"}
EventData = dict[str, Any]


def new_id(prefix: str) -> str:
    """Returns an id that nothing else has."""
    return f"{prefix}_{uuid4().hex}"


class Answer:
    """One response as it is made: `response` is its state; `to_events` gives the events of this wire."""

    def __init__(self, head: Mapping[str, Any], offer: ToolOffer | None = None) -> None:
        """Takes the fields that stand from the start, and the tools that the model was offered."""
        self._offer = offer or ToolOffer()
        self.response: dict[str, Any] = {**head, "status": "in_progress", "output": []}
        self._calls: list[ToolCall] = []
        self._open: Kind | None = None
        self._item: dict[str, Any] = {}
        self._text = ""
        self._sequence = 0

    def to_events(self, event: GenerateOutput) -> Iterator[EventData]:
        """Yields one event of the host as events of this wire."""
        if isinstance(event, AnswerStart):
            yield from self.to_opening()
        elif isinstance(event, TextDelta):
            yield from self._say("message", event.text)
        elif isinstance(event, ReasoningDelta):
            yield from self._say("reasoning", event.text)
        elif isinstance(event, ToolCallDelta):
            self._calls.append(event.call)
        else:
            yield from self._end(event)

    def to_opening(self) -> Iterator[EventData]:
        """Yields the events with which every answer begins."""
        yield self._event("response.created", response=dict(self.response))
        yield self._event("response.in_progress", response=dict(self.response))

    def to_failure(self, problem: Problem) -> EventData:
        """Returns the last event of an answer that broke off."""
        code = OVERFLOW if problem.code == OVERFLOW else _CODES.get(problem.status, "server_error")
        error = {"code": code, "message": in_words_of("/v1/responses", problem).message}
        self.response |= {"status": "failed", "error": error}
        return self._event("response.failed", response=self.response)

    def _say(self, kind: Kind, text: str) -> Iterator[EventData]:
        if self._open != kind:
            yield from self._close("completed")
            yield from self._begin(kind)
        self._text += text
        beside: EventData = {"logprobs": []} if kind == "message" else {}
        yield self._of_part(f"response.{_PARTS[kind]['type']}.delta", delta=text, **beside)

    def _begin(self, kind: Kind) -> Iterator[EventData]:
        self._open, self._text = kind, ""
        beside: EventData = {"summary": []} if kind == "reasoning" else {"role": "assistant"}
        item_id = new_id("rs" if kind == "reasoning" else "msg")
        self._item = {"type": kind, "id": item_id, **beside, "content": [], "status": "in_progress"}
        yield self._of_item("response.output_item.added", item=self._item)
        yield self._of_part("response.content_part.added", part=_PARTS[kind])

    def _close(self, status: str) -> Iterator[EventData]:
        if not self._open:
            return
        part = {**_PARTS[self._open], "text": self._text}
        beside: EventData = {"logprobs": []} if self._open == "message" else {}
        yield self._of_part(f"response.{part['type']}.done", text=self._text, **beside)
        yield self._of_part("response.content_part.done", part=part)
        yield from self._finish_item({**self._item, "content": [part], "status": status})
        self._open = None

    def _end(self, end: AnswerEnd) -> Iterator[EventData]:
        cut = end.reason == "length"
        yield from self._close("incomplete" if cut else "completed")
        for call in self._calls:
            yield from self._call(call)
        status = "incomplete" if cut else "completed"
        self.response |= {
            "status": status,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "usage": usage_fields(end.prompt_tokens, end.cached_tokens, end.completion_tokens),
            "holdfast": dict(end.extension),
        }
        yield self._event(f"response.{status}", response=self.response)

    def _call(self, call: ToolCall) -> Iterator[EventData]:
        item = {"id": new_id("fc"), **self._offer.to_item(call)}
        field, name = ("arguments", "function_call_arguments")
        if "input" in item:
            field, name = ("input", "custom_tool_call_input")
        yield self._of_item("response.output_item.added", item={**item, field: "", "status": "in_progress"})
        place = {"item_id": item["id"]}
        yield self._of_item(f"response.{name}.delta", **place, delta=item[field])
        whole = {"name": item["name"]} if field == "arguments" else {}
        yield self._of_item(f"response.{name}.done", **place, **whole, **{field: item[field]})
        yield from self._finish_item({**item, "status": "completed"})

    def _finish_item(self, item: dict[str, Any]) -> Iterator[EventData]:
        yield self._of_item("response.output_item.done", item=item)
        self.response["output"] = [*self.response["output"], item]

    def _of_part(self, type_: str, **fields: Any) -> EventData:
        return self._of_item(type_, item_id=self._item["id"], content_index=0, **fields)

    def _of_item(self, type_: str, **fields: Any) -> EventData:
        return self._event(type_, output_index=len(self.response["output"]), **fields)

    def _event(self, type_: str, **fields: Any) -> EventData:
        self._sequence += 1
        return {"type": type_, "sequence_number": self._sequence - 1, **fields}


def usage_fields(prompt: int, cached: int, completion: int) -> dict[str, Any]:
    """Returns tokens in this wire's fields; those of reasoning are among the others."""
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt + completion,
    }
