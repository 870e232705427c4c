"""The fields that OpenAI's two text endpoints share: how to answer, and how an answer is accounted for."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Annotated, Any

from fastapi import Request
from pydantic import BaseModel, Field

from holdfast.server.protocol import AnswerEnd, Logprob
from holdfast.web.request_error import RequestError

WORST = -9999.0
"""What OpenAI writes for a token that could not come."""
SMALLEST_SHARE = 1e-9
Stop = Annotated[str, Field(min_length=1, max_length=1000)]


class StreamOptions(BaseModel):
    """The options of a streamed answer."""

    include_usage: bool | None = Field(None, description="Tell the usage in a chunk of its own at the end.")


class Common(BaseModel):
    """The settings of an answer. Unknown fields are ignored; those that cannot be honoured are refused by name."""

    model: str | None = Field(None, description="Any name: the model that the server was started with answers.")
    temperature: float | None = Field(None, ge=0, le=2, description="Default 0: the likeliest token each time.")
    top_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63, description="Default: another each time.")
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    max_tokens: int | None = Field(None, ge=1, lt=2**31)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, description="1 and nothing else.")
    frequency_penalty: float | None = Field(None, description="0 and nothing else.")
    presence_penalty: float | None = Field(None, description="0 and nothing else.")
    logit_bias: dict[str, Any] | None = Field(None, description="Empty and nothing else.")

    def sampling_fields(self) -> dict[str, Any]:
        """Returns the sampling fields of a GenerateRequest. Raises RequestError for what cannot be done."""
        self.refuse(n=self.n not in (None, 1), logit_bias=bool(self.logit_bias))
        self.refuse(frequency_penalty=bool(self.frequency_penalty), presence_penalty=bool(self.presence_penalty))
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        temperature = self.temperature or 0.0
        top_p = 1.0 if self.top_p is None else max(self.top_p, SMALLEST_SHARE)
        # without a seed two answers at a temperature must differ; a negative one is as good as its positive twin
        seed = secrets.randbits(31) if self.seed is None and temperature else (self.seed or 0) % 2**63
        return {"temperature": temperature, "top_p": top_p, "seed": seed, "stop": stop}

    def refuse(self, **wrong: bool) -> None:
        """Raises RequestError for the first field that asks for something unsupported."""
        for name, is_wrong in wrong.items():
            if is_wrong:
                told = repr(getattr(self, name))[:80]
                raise RequestError(
                    f"{name} {told} is not supported here; leave it out", name, code="unsupported_parameter"
                )

    @property
    def tells_usage(self) -> bool:
        """In a stream."""
        return bool(self.stream_options and self.stream_options.include_usage)


def limit_tokens(limit: int | None, request: Request) -> int | None:
    """Returns the limit of an answer within the server's; None leaves it to the host."""
    return None if limit is None else min(limit, request.app.state.settings.max_tokens)


class Details(BaseModel):
    """Of the prompt."""

    cached_tokens: int = Field(description="Those that the session already held.")


class Usage(BaseModel):
    """The tokens of one request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: Details


def usage_fields(done: AnswerEnd) -> dict[str, Any]:
    """Returns the `Usage` of an answer."""
    return {
        "prompt_tokens": done.prompt_tokens,
        "completion_tokens": done.completion_tokens,
        "total_tokens": done.prompt_tokens + done.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": done.cached_tokens},
    }


def chat_logprobs(told: Iterable[Logprob]) -> dict[str, Any]:
    """Log-probabilities as chat completions tell them."""
    content = [
        {
            **_token_logprob(one.token, one.logprob),
            "top_logprobs": [_token_logprob(token, value) for token, value in one.top],
        }
        for one in told
    ]
    return {"content": content, "refusal": None}


def _token_logprob(token: str, value: float) -> dict[str, Any]:
    return {"token": token, "logprob": max(value, WORST), "bytes": list(token.encode())}


def legacy_logprobs(told: Iterable[Logprob], offset: int) -> dict[str, Any]:
    """Log-probabilities as completions tell them; `offset` is where the first token stands, in characters."""
    held: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for one in told:
        held["tokens"].append(one.token)
        held["token_logprobs"].append(max(one.logprob, WORST))
        held["top_logprobs"].append({token: max(value, WORST) for token, value in one.top})
        held["text_offset"].append(offset)
        offset += len(one.token)
    return held
