"""pydantic-ai: a history processor that compacts the messages before each request.

    agent = Agent(model, capabilities=[ProcessHistory(HoldfastProcessor(Compactor(trigger=30_000)))])

The library makes the processed history the run's own, so what goes in next time is what came out here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from holdfast.adapters.compactor import Compactor
from holdfast.adapters.extras import missing_library
from holdfast.transcript.document import MalformedEntry
from holdfast.transcript.turn import Role, ToolCall, Turn

try:
    from pydantic_ai.messages import (
        ModelMessage,
        ModelRequest,
        ModelResponse,
        NativeToolCallPart,
        NativeToolReturnPart,
        RetryFeedbackPart,
        SystemPromptPart,
        TextPart,
        ThinkingPart,
        ToolCallPart,
        ToolReturnPart,
        UserPromptPart,
    )
except ImportError as error:
    raise missing_library("pydantic-ai 2.x", "pydantic-ai") from error


@dataclass(frozen=True)
class TurnSource:
    """The source of one turn: a response, or one part of a request."""

    message: ModelMessage
    part: Any = None
    """None of a response, and of a request without parts."""


class HoldfastProcessor:
    """Called by the library with the history. One may serve many agents and runs."""

    def __init__(self, compactor: Compactor | None = None) -> None:
        self.compactor = compactor or Compactor()

    def __call__(self, messages: list[ModelMessage]) -> list[ModelMessage]:
        said = list(_turn_sources(messages))
        made = self.compactor.apply(said, _turns, _write_turn)
        return list(_join_parts(made))


def _turn_sources(messages: Iterable[ModelMessage]) -> Iterator[TurnSource]:
    for message in messages:
        if isinstance(message, ModelRequest) and message.parts:
            yield from (TurnSource(message, part) for part in message.parts)
        else:
            yield TurnSource(message)


def _join_parts(said: Iterable[TurnSource]) -> Iterator[ModelMessage]:
    """Joins parts of one request to a request: the very one that was given if all its parts are there."""
    for _, run in groupby(said, key=lambda one: id(one.message)):
        held = list(run)
        message, parts = held[0].message, [one.part for one in held]
        if isinstance(message, ModelRequest) and message.parts and not _same(parts, message.parts):
            message = replace(message, parts=parts)
        yield message


def _same(parts: Sequence[Any], others: Sequence[Any]) -> bool:
    return len(parts) == len(others) and all(one is other for one, other in zip(parts, others, strict=True))


def _turns(said: Sequence[TurnSource]) -> list[Turn]:
    return [_turn(one, number) for number, one in enumerate(said, 1)]


def _turn(said: TurnSource, number: int) -> Turn:
    """Raises MalformedEntry for a part whose place in a history only the library knows."""
    message, part = said.message, said.part
    if isinstance(message, ModelResponse):
        return _response(message, number)
    if part is None:
        return Turn(Role.USER, source=number)
    if isinstance(part, SystemPromptPart):
        return Turn(Role.SYSTEM, part.content, source=number)
    if isinstance(part, UserPromptPart):
        return Turn(Role.USER, _prompt(part.content), source=number)
    if isinstance(part, ToolReturnPart):
        failed = part.outcome != "success"
        return Turn(Role.TOOL, part.model_response_str(), call_id=part.tool_call_id, is_error=failed, source=number)
    if isinstance(part, RetryFeedbackPart):
        return Turn(Role.TOOL, part.model_response(), is_error=True, source=number)
    raise MalformedEntry(f"a history with a {type(part).__name__} cannot be compacted")


def _prompt(content: Any) -> str:
    """Returns the words, with a placeholder for what is no text."""
    if isinstance(content, str):
        return content
    return "\n".join(item if isinstance(item, str) else getattr(item, "content", f"[{item.kind}]") for item in content)


def _response(message: ModelResponse, number: int) -> Turn:
    texts, thoughts, calls = [], [], []
    for part in message.parts:
        if isinstance(part, TextPart):
            texts.append(part.content)
        elif isinstance(part, ThinkingPart):
            thoughts.append(part.content)
        elif isinstance(part, ToolCallPart):
            calls.append(ToolCall(part.tool_call_id, part.tool_name, part.args_as_json_str()))
        elif isinstance(part, NativeToolCallPart | NativeToolReturnPart):
            texts.append(f"[{part.part_kind}: {part.tool_name}]")
        else:
            raise MalformedEntry(f"a history with a {type(part).__name__} cannot be compacted")
    return Turn(Role.ASSISTANT, "\n".join(texts), "\n".join(thoughts), tuple(calls), source=number)


def _write_turn(turn: Turn, original: TurnSource | None) -> TurnSource:
    """Returns a rewritten turn in the place of its source, or as a message of its own."""
    if original and isinstance(original.message, ModelResponse) and turn.role is Role.ASSISTANT:
        return TurnSource(replace(original.message, parts=list(_response_parts(turn, original.message.parts))))
    if original and isinstance(original.part, ToolReturnPart) and turn.role is Role.TOOL:
        return TurnSource(original.message, replace(original.part, content=turn.text))
    if original and isinstance(original.part, UserPromptPart | SystemPromptPart) and turn.role is not Role.ASSISTANT:
        return TurnSource(original.message, replace(original.part, content=turn.text))
    if turn.role is Role.ASSISTANT:
        return TurnSource(ModelResponse(parts=list(_response_parts(turn, ()))))
    part = SystemPromptPart(turn.text) if turn.role is Role.SYSTEM else UserPromptPart(turn.text)
    return TurnSource(ModelRequest(parts=[part]), part)


def _response_parts(turn: Turn, parts: Iterable[Any]) -> Iterator[Any]:
    """Thoughts and calls that the turn still has, and its text in one part, without the id of what it replaces."""
    text, calls = turn.text, {call.id: call for call in turn.calls}
    for part in parts:
        if isinstance(part, TextPart):
            if text:
                yield TextPart(text)
            text = ""
        elif isinstance(part, ToolCallPart):
            if text:
                yield TextPart(text)
            text = ""
            call = calls.pop(part.tool_call_id, None)
            if call:
                yield part if call.arguments == part.args_as_json_str() else replace(part, args=call.arguments)
        elif not isinstance(part, ThinkingPart) or turn.reasoning:
            yield part
    if text:
        yield TextPart(text)
    yield from (ToolCallPart(call.name, call.arguments, call.id) for call in calls.values())
