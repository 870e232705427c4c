"""Chat models behind an API: any endpoint that speaks OpenAI's chat completions or Anthropic's messages.

The official SDKs carry the request (retries on 408, 409, 429 and 5xx included); what comes back is checked here,
because an SDK takes any JSON. No environment variable is read: the key and the address are arguments.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ValidationError

from holdfast.engine.chat import ChatAnswer
from holdfast.engine.time_limit import run_within
from holdfast.errors import Failed

T = TypeVar("T")

SHOWN = 300
"""Characters of a server's own words that an error tells."""

NEXT = {
    400: "check the model's name and limits in holdfast.toml",
    401: "set the environment variable that key_env names in holdfast.toml to a valid key",
    403: "the key may not use this model; choose another model or key",
    404: "check base_url and model in holdfast.toml",
    413: "the session is too long for this model; lower max_input in holdfast.toml",
    429: "the endpoint limits the rate or the quota is used up; wait, or choose another endpoint",
}
OVERLOADED = "the endpoint is in trouble; try again later, or choose another endpoint"


@dataclass(frozen=True)
class Remote(ABC):
    """An endpoint and a model; calling it raises Failed with what to do next."""

    model: str
    base_url: str = ""
    """Empty for the provider's own."""
    key: str = field(default="", repr=False)
    max_input: int | None = None
    """Tokens of a prompt; None where it is not known."""
    max_output: int | None = None
    retries: int = 2
    """Attempts after the first; all of them share one time-out."""

    sdk: ClassVar[str]
    address: ClassVar[str]

    @property
    def name(self) -> str:
        return self.model

    def __call__(self, system: str, prompt: str, max_tokens: int, timeout: float) -> ChatAnswer:
        """Asks once. Raises Failed if no usable answer came within `timeout` seconds, retries included."""
        most = min(max_tokens, self.max_output or max_tokens)

        def post(sdk: Any) -> str:
            return self._post(sdk, system, prompt, most, timeout)

        return self.exchange(post, self._reply, timeout)

    def exchange(self, post: Callable[[Any], str], read: Callable[[str, float], T], timeout: float) -> T:
        """Returns what `read` makes of the body that `post` brings, with the seconds that it took; `post` is given the
        SDK. Raises Failed with what to do next.
        """
        sdk = _import_sdk(self.sdk)
        began = time.perf_counter()
        try:
            text = run_within(timeout, lambda: post(sdk))
            return read(text, time.perf_counter() - began)
        except TimeoutError as error:
            raise Failed(
                self._describe_failure(f"no answer within {timeout:g} s", "raise timeout, or choose a faster model")
            ) from error
        except ValidationError as error:
            first = error.errors()[0]
            what = f"{'.'.join(map(str, first['loc'])) or 'body'}: {first['msg']}"
            raise Failed(
                self._describe_failure(f"the answer is not of the {self.sdk} wire: {what}", NEXT[404])
            ) from error
        except _errors(sdk) as error:
            raise Failed(
                self._describe_failure(self._words(error), _next(error))
            ) from None  # a chained body may hold the key

    @abstractmethod
    def _post(self, sdk: Any, system: str, prompt: str, max_tokens: int, timeout: float) -> str:
        """Returns the body of the answer."""

    @abstractmethod
    def _reply(self, body: str, seconds: float) -> ChatAnswer:
        """Raises ValidationError where the body is not of this wire, Failed where the model refused."""

    def options(self, timeout: float) -> dict[str, Any]:
        """Returns the arguments of the SDK's client."""
        address = self.base_url or self.address
        return {"api_key": self.key or "none", "base_url": address, "timeout": timeout, "max_retries": self.retries}

    def _words(self, error: Exception) -> str:
        words = " ".join(str(getattr(error, "message", "") or error).split())[:SHOWN]
        status = getattr(error, "status_code", None)
        return f"{status}: {words}" if status and not words.startswith("Error code") else words

    def _describe_failure(self, what: str, then: str) -> str:
        said = f"{self.model} at {self.base_url or self.address}: {what}; {then}"
        return said.replace(self.key, "***") if self.key else said


class OpenAIChat(Remote):
    """Chat completions; servers without keys get a placeholder, since the SDK wants one."""

    sdk = "openai"
    address = "https://api.openai.com/v1"

    def _post(self, sdk: Any, system: str, prompt: str, max_tokens: int, timeout: float) -> str:
        # The provider's newer models refuse `max_tokens`; compatible servers know nothing else.
        limit = "max_tokens" if self.base_url and self.base_url != self.address else "max_completion_tokens"
        messages = [{"role": "system", "content": system}, {"role": "user", "content": prompt}]
        with sdk.OpenAI(**self.options(timeout)) as client:
            client.organization = client.project = None  # which the SDK takes from the environment
            raw = client.chat.completions.with_raw_response
            answer = raw.create(model=self.model, messages=messages, **{limit: max_tokens})
            return str(answer.text)

    def _reply(self, body: str, seconds: float) -> ChatAnswer:
        answer = _Completion.model_validate_json(body)
        choice, usage = answer.first, answer.usage or _Usage()
        _check_refusal(self, choice.finish_reason, choice.message.refusal or "")
        stopped = "length" if choice.finish_reason == "length" else "stop"
        return ChatAnswer(choice.message.content or "", usage.prompt_tokens, usage.completion_tokens, seconds, stopped)


class AnthropicChat(Remote):
    """Messages."""

    sdk = "anthropic"
    address = "https://api.anthropic.com"

    def _post(self, sdk: Any, system: str, prompt: str, max_tokens: int, timeout: float) -> str:
        messages = [{"role": "user", "content": prompt}]
        with sdk.Anthropic(**self.options(timeout)) as client:
            raw = client.messages.with_raw_response
            answer = raw.create(model=self.model, max_tokens=max_tokens, messages=messages, system=system)
            return bytes(answer.http_response.content).decode(errors="replace")

    def _reply(self, body: str, seconds: float) -> ChatAnswer:
        answer = _Message.model_validate_json(body)
        _check_refusal(self, answer.stop_reason, "")
        text = "".join(part.text for part in answer.content if part.type == "text")
        usage, stopped = answer.usage, "length" if answer.stop_reason == "max_tokens" else "stop"
        read = usage.input_tokens + usage.cache_creation_input_tokens + usage.cache_read_input_tokens
        return ChatAnswer(text, read, usage.output_tokens, seconds, stopped)


class _Usage(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _AnswerMessage(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _AnswerMessage
    finish_reason: str | None = None


class _Completion(BaseModel):
    choices: list[_Choice]
    usage: _Usage | None = None

    @property
    def first(self) -> _Choice:
        return self.choices[0] if self.choices else _Choice(message=_AnswerMessage())


class _Part(BaseModel):
    type: str
    text: str = ""


class _Tokens(BaseModel):
    input_tokens: int = 0
    output_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0


class _Message(BaseModel):
    content: list[_Part]
    stop_reason: str | None = None
    usage: _Tokens = _Tokens()


def _import_sdk(sdk: str) -> Any:
    try:
        return import_module(sdk)
    except ImportError as error:
        raise Failed(f"the {sdk} library is not installed; pip install 'holdfast[api]'") from error


def _errors(sdk: Any) -> tuple[type[Exception], ...]:
    return (getattr(sdk, "OpenAIError", None) or sdk.AnthropicError, ValueError, OSError)


def _next(error: Exception) -> str:
    status = getattr(error, "status_code", None)
    if status is None:
        return "check that the endpoint runs and base_url in holdfast.toml is right"
    return OVERLOADED if status >= 500 else NEXT.get(status, NEXT[400])


def _check_refusal(chat: Remote, reason: str | None, words: str) -> None:
    if reason in ("content_filter", "refusal") or words:
        raise Failed(f"{chat.name} refused to answer ({words[:SHOWN] or reason}); choose another model")


CHATS: dict[str, Callable[..., Remote]] = {"openai": OpenAIChat, "anthropic": AnthropicChat}
"""By the wire that the endpoint speaks."""
