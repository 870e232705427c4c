"""Models behind an API with tools: OpenAI's chat completions and Anthropic's messages, `holdfast serve` among them.

On Anthropic's wire three breakpoints are set: behind the system prompt, behind the task, and at the end, so that each
request reads from the cache what the one before wrote, and after a compaction still the stable head.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, model_validator

from holdfast.agent.models import ModelAnswer
from holdfast.cost.prices import Prices
from holdfast.cost.usage import Usage
from holdfast.engine.remote import AnthropicChat, OpenAIChat, Remote
from holdfast.errors import Failed, PromptTooLong
from holdfast.transcript.provider_requests import merge_messages, to_anthropic_message, to_openai_message
from holdfast.transcript.turn import Role, ToolCall, Turn

_TOO_LONG = re.compile(
    r"prompt is too long|context.length|context window|maximum.{0,30}tokens|too many (input )?tokens|input is too long"
    r"|exceeds? the (available )?context",
    re.IGNORECASE,
)
"""The words of providers and local servers for a prompt that the model cannot read."""
_MARK = {"type": "ephemeral"}


@dataclass(frozen=True)
class EndpointModel:
    """A model of an endpoint."""

    remote: Remote
    window: int | None = None
    prices: Prices | None = None
    caching: bool = True
    """Set cache breakpoints where the wire has them."""

    @property
    def name(self) -> str:
        return self.remote.model

    def begin(self, steps: int, tools: Sequence[Mapping[str, Any]], folder: Path | None = None) -> None:
        """Does nothing: an endpoint remembers nothing between two requests."""

    def answer(
        self, turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]], max_tokens: int, seconds: float
    ) -> ModelAnswer:
        """Asks once. Raises PromptTooLong or Failed, in the provider's words."""
        most = min(max_tokens, self.remote.max_output or max_tokens)
        post, read = (_anthropic if isinstance(self.remote, AnthropicChat) else _openai)(self, turns, tools, most)
        try:
            return self.remote.exchange(lambda sdk: post(sdk, seconds), read, seconds)
        except Failed as error:
            if _TOO_LONG.search(str(error)):
                raise PromptTooLong(str(error), tokens=0, most=self.window or 0) from error
            raise


Wire = tuple[Callable[[Any, float], str], Callable[[str, float], ModelAnswer]]
"""A function that posts a request with the SDK, and one that reads the body of its answer."""


def _openai(model: EndpointModel, turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]], most: int) -> Wire:
    remote = model.remote
    own = bool(remote.base_url) and remote.base_url != OpenAIChat.address
    request: dict[str, Any] = {
        "model": remote.model,
        "messages": [to_openai_message(turn) for turn in turns],
        "max_tokens" if own else "max_completion_tokens": most,
    }
    if tools:
        request["tools"] = list(tools)

    def post(sdk: Any, seconds: float) -> str:
        with sdk.OpenAI(**remote.options(seconds)) as client:
            client.organization = client.project = None  # which the SDK takes from the environment
            return str(client.chat.completions.with_raw_response.create(**request).text)

    def read(body: str, seconds: float) -> ModelAnswer:
        choice = _Completion.model_validate_json(body)
        said, usage = choice.choices[0], choice.usage
        calls = tuple(
            ToolCall(call.id, call.function.name, call.function.arguments) for call in said.message.tool_calls
        )
        turn = Turn(Role.ASSISTANT, said.message.content, said.message.reasoning_content, calls)
        cached = min(usage.prompt_tokens_details.cached_tokens, usage.prompt_tokens)
        used = Usage(usage.prompt_tokens - cached, cached, output=usage.completion_tokens)
        return ModelAnswer(turn, used, seconds, said.finish_reason == "length")

    return post, read


def _anthropic(model: EndpointModel, turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]], most: int) -> Wire:
    remote = model.remote
    system = "\n\n".join(turn.text for turn in turns if turn.role is Role.SYSTEM)
    request: dict[str, Any] = {
        "model": remote.model,
        "max_tokens": most,
        "system": [{"type": "text", "text": system}] if system else [],
        "messages": _anthropic_messages([turn for turn in turns if turn.role is not Role.SYSTEM]),
    }
    if tools:
        request["tools"] = [
            {
                "name": tool["function"]["name"],
                "description": tool["function"]["description"],
                "input_schema": tool["function"]["parameters"],
            }
            for tool in tools
        ]
    if model.caching:
        set_breakpoints(request)

    def post(sdk: Any, seconds: float) -> str:
        with sdk.Anthropic(**remote.options(seconds)) as client:
            answer = client.messages.with_raw_response.create(**request)
            return bytes(answer.http_response.content).decode(errors="replace")

    def read(body: str, seconds: float) -> ModelAnswer:
        answer = _Message.model_validate_json(body)
        text = "".join(part.text for part in answer.content if part.type == "text")
        calls = tuple(
            ToolCall(part.id, part.name, json.dumps(part.input, ensure_ascii=False))
            for part in answer.content
            if part.type == "tool_use"
        )
        usage = answer.usage
        hour = min(usage.cache_creation.ephemeral_1h_input_tokens, usage.cache_creation_input_tokens)
        used = Usage(
            usage.input_tokens,
            usage.cache_read_input_tokens,
            usage.cache_creation_input_tokens - hour,
            hour,
            usage.output_tokens,
        )
        return ModelAnswer(Turn(Role.ASSISTANT, text, calls=calls), used, seconds, answer.stop_reason == "max_tokens")

    return post, read


def _anthropic_messages(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """Returns messages whose roles alternate, as the wire wants them."""
    messages: list[dict[str, Any]] = []
    for turn in turns:
        message = to_anthropic_message(turn)
        if messages and messages[-1]["role"] == message["role"]:
            messages[-1] = merge_messages(messages[-1], message)
        else:
            messages.append(message)
    return messages


def set_breakpoints(request: dict[str, Any]) -> None:
    """Marks the ends up to which Anthropic caches a request: the system prompt, the first message and the last."""
    messages = request["messages"]
    for blocks in (request["system"], *(message["content"] for message in (*messages[:1], *messages[-1:]))):
        if blocks:
            blocks[-1] = {**blocks[-1], "cache_control": _MARK}


class _Lenient(BaseModel):
    """A part of an answer in which a null is a field that is not there."""

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        return {key: held for key, held in value.items() if held is not None} if isinstance(value, dict) else value


class _Details(_Lenient):
    cached_tokens: int = 0


class _OpenAIUsage(_Lenient):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details = _Details()


class _Function(_Lenient):
    name: str
    arguments: str = ""


class _Call(_Lenient):
    id: str = ""
    function: _Function


class _AnswerMessage(_Lenient):
    content: str = ""
    reasoning_content: str = ""
    tool_calls: list[_Call] = []


class _Choice(_Lenient):
    message: _AnswerMessage
    finish_reason: str = ""


class _Completion(_Lenient):
    choices: list[_Choice] = Field(min_length=1)
    usage: _OpenAIUsage = _OpenAIUsage()


class _Part(_Lenient):
    type: str
    text: str = ""
    id: str = ""
    name: str = ""
    input: dict[str, Any] = {}


class _Creation(_Lenient):
    ephemeral_1h_input_tokens: int = 0


class _AnthropicUsage(_Lenient):
    input_tokens: int = 0
    output_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation: _Creation = _Creation()


class _Message(_Lenient):
    content: list[_Part]
    stop_reason: str = ""
    usage: _AnthropicUsage = _AnthropicUsage()
