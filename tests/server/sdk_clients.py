"""The official SDKs as agents use them: each keeps its own history and sends it back as its own objects."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import anthropic
import openai

PARAMETERS: Any = {
    "type": "object",
    "properties": {"command": {"type": "string"}, "seconds": {"type": "integer"}},
    "required": ["command", "seconds"],
    "additionalProperties": False,
}
ABOUT = {"name": "bash", "description": "Run it."}
SYSTEM = "You are careful."


@dataclass(frozen=True)
class Heard:
    """One answer as its client has it."""

    text: str
    calls: tuple[tuple[str, str], ...]
    """Id and name."""
    prompt: int
    cached: int
    completion: int
    about: Mapping[str, Any]
    """`holdfast` of the answer."""

    @property
    def session(self) -> str:
        return str(self.about["session"])


class Client(ABC):
    """What a test asks of each. `history` is what the agent keeps."""

    client: Any
    """The SDK's own."""
    history: list[Any]

    def __init__(self, url: str, *, stream: bool = False, key: str = "mine") -> None:
        self.stream, self.history = stream, []
        self.client = self.connect(url, key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def connect(self, url: str, key: str) -> Any:
        return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)

    def say(self, text: str) -> Heard:
        self.history.append({"role": "user", "content": text})
        return self.answer()

    def results(self, results: Mapping[str, str]) -> Heard:
        """Send what the tools gave, by the ids of their calls."""
        self.history += self.told(results)
        return self.answer()

    @abstractmethod
    def told(self, results: Mapping[str, str]) -> list[Any]:
        """Results as this wire has them."""

    @abstractmethod
    def answer(self) -> Heard:
        """Ask, and keep the answer as the SDK gives it."""


class Chat(Client):
    """OpenAI's chat completions."""

    tools: ClassVar[Any] = [{"type": "function", "function": ABOUT | {"parameters": PARAMETERS, "strict": True}}]

    def told(self, results: Mapping[str, str]) -> list[Any]:
        return [{"role": "tool", "tool_call_id": id_, "content": text} for id_, text in results.items()]

    def answer(self) -> Heard:
        system = {"role": "system", "content": SYSTEM}
        how: Any = {"model": "any", "messages": [system, *self.history], "tools": self.tools}
        if self.stream:
            about: Any = None
            with self.client.chat.completions.stream(**how, stream_options={"include_usage": True}) as stream:
                for event in stream:
                    about = getattr(event.chunk, "holdfast", None) if event.type == "chunk" else about
                whole: Any = stream.get_final_completion()
        else:
            whole = self.client.chat.completions.create(**how)
            about = whole.holdfast
        said = whole.choices[0].message
        self.history.append(said)
        calls = tuple((call.id, call.function.name) for call in said.tool_calls or ())
        used = whole.usage
        cached = used.prompt_tokens_details.cached_tokens
        return Heard(said.content or "", calls, used.prompt_tokens, cached, used.completion_tokens, about)


class Messages(Client):
    """Anthropic's messages."""

    tools: ClassVar[Any] = [ABOUT | {"input_schema": PARAMETERS}]

    def connect(self, url: str, key: str) -> Any:
        return anthropic.Anthropic(base_url=url, api_key=key, max_retries=0)

    def told(self, results: Mapping[str, str]) -> list[Any]:
        blocks = [{"type": "tool_result", "tool_use_id": id_, "content": text} for id_, text in results.items()]
        return [{"role": "user", "content": blocks}]

    def answer(self) -> Heard:
        how: Any = {"model": "any", "max_tokens": 500, "system": SYSTEM}
        how |= {"messages": self.history, "tools": self.tools}
        if self.stream:
            about: Any = None
            with self.client.messages.stream(**how) as stream:
                for event in stream:
                    about = event.holdfast if event.type == "message_delta" else about
                said: Any = stream.get_final_message()
        else:
            said = self.client.messages.create(**how)
            about = said.holdfast
        self.history.append({"role": "assistant", "content": said.content})
        text = "".join(block.text for block in said.content if block.type == "text")
        calls = tuple((block.id, block.name) for block in said.content if block.type == "tool_use")
        used = said.usage
        prompt = used.input_tokens + used.cache_read_input_tokens
        return Heard(text, calls, prompt, used.cache_read_input_tokens, used.output_tokens, about)


class Responses(Client):
    """OpenAI's responses, with the whole history as items in every request."""

    named = False
    last: str | None = None
    tools: ClassVar[Any] = [{"type": "function", **ABOUT, "parameters": PARAMETERS, "strict": True}]

    def told(self, results: Mapping[str, str]) -> list[Any]:
        return [{"type": "function_call_output", "call_id": id_, "output": text} for id_, text in results.items()]

    def answer(self) -> Heard:
        how: Any = {"model": "any", "instructions": SYSTEM, "input": self.history, "tools": self.tools}
        if self.named:
            how["previous_response_id"] = self.last
        if self.stream:
            with self.client.responses.stream(**how) as stream:
                whole: Any = stream.get_final_response()
        else:
            whole = self.client.responses.create(**how)
        self.last = whole.id
        self.history = [] if self.named else [*self.history, *whole.output]
        calls = tuple((item.call_id, item.name) for item in whole.output if item.type == "function_call")
        used = whole.usage
        cached = used.input_tokens_details.cached_tokens
        return Heard(whole.output_text, calls, used.input_tokens, cached, used.output_tokens, whole.holdfast)


class Named(Responses):
    """OpenAI's responses, where each request names the response before it and sends only what is new."""

    named = True
