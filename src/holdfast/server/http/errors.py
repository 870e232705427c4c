"""Errors as each provider's clients know them: one place for statuses and for both shapes."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from holdfast.errors import (
    BadInput,
    Busy,
    Conflict,
    Failed,
    HoldfastError,
    Lost,
    Missing,
    PromptTooLong,
    TooLarge,
    UnsupportedModel,
)
from holdfast.web.request_error import RequestError

ANTHROPIC_PATHS = re.compile(r"/v1/messages(/|$)")
GEMINI_PATHS = re.compile(r"/v1beta/")
_GEMINI = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_OPENAI = {401: "authentication_error", 403: "permission_error", 409: "conflict_error", 429: "rate_limit_error"}
_ANTHROPIC = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_STATUS: tuple[tuple[type[HoldfastError], int], ...] = (  # the first that fits
    (TooLarge, 413),
    (Missing, 404),
    (BadInput, 400),
    (Busy, 503),
    (Conflict, 409),
    (Lost, 422),
    (UnsupportedModel, 400),
    (Failed, 500),
)
_CODES = {401: "invalid_api_key", 404: "not_found", 429: "rate_limit_exceeded", 503: "overloaded", 504: "timeout"}
_UNROUTED = {
    404: "there is no such path here; /docs and /openapi.json list those that there are",
    405: "this path does not answer that method; /docs and /openapi.json list those that it does",
}
OVERFLOW = "context_length_exceeded"
_OVERFLOW_WORDS = (  # of each wire, by its paths: agents know them, and compact by themselves
    (ANTHROPIC_PATHS, "prompt is too long: {tokens} tokens > {most} maximum"),
    (
        re.compile(r"/v1/responses(/|$)"),
        "Your input exceeds the context window of this model. Please adjust your input and try again. "
        "({tokens} tokens, and it reads {most})",
    ),
    (GEMINI_PATHS, "The input token count ({tokens}) exceeds the maximum number of tokens allowed ({most})."),
    (
        re.compile(r"/v1/(chat/)?completions$"),
        "This model's maximum context length is {most} tokens. However, your messages resulted in {tokens} tokens. "
        "Please reduce the length of the messages.",
    ),
)
UNEXPECTED = "the server failed in a way that it did not expect; its log says how"


class TimedOut(Failed):
    """An answer that took longer than the server allows."""


@dataclass(frozen=True)
class Problem:
    """An error on its way to a client, in no provider's shape yet."""

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    retry_after: int = 1
    """Seconds, beside 429 and 503."""
    close: bool = False
    """End the connection behind the answer."""
    overflow: tuple[int, int] | None = None
    """Tokens of a prompt that is too long, and those that the model reads."""

    @property
    def headers(self) -> dict[str, str]:
        named = {"Retry-After": str(self.retry_after)} if self.status in (429, 503) else {}
        named |= {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}
        return named | ({"Connection": "close"} if self.close else {})


class OpenAIDetail(BaseModel):
    """The details of an error in OpenAI's form."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class OpenAIError(BaseModel):
    """The body of every error, but under /v1/messages."""

    error: OpenAIDetail


class GeminiDetail(BaseModel):
    """The details of an error in Google's form."""

    code: int
    message: str
    status: str


class GeminiError(BaseModel):
    """The body of every error under /v1beta."""

    error: GeminiDetail


class AnthropicDetail(BaseModel):
    """The details of an error in Anthropic's form."""

    type: str
    message: str


class AnthropicError(BaseModel):
    """The body of every error under /v1/messages."""

    type: str = "error"
    error: AnthropicDetail


def problem_of(error: BaseException) -> Problem:
    """Returns what a client is told of an error. Of an unexpected one nothing but that it happened."""
    if isinstance(error, RequestError):
        code = error.code or _CODES.get(error.status)
        return Problem(error.status, str(error), error.param, code, error.retry_after, error.close)
    if isinstance(error, TimedOut):
        return Problem(504, str(error), code=_CODES[504])
    if isinstance(error, HoldfastError):
        status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
        if isinstance(error, PromptTooLong):
            return Problem(400, str(error), code=OVERFLOW, overflow=(error.tokens, error.most))
        code = OVERFLOW if isinstance(error, TooLarge) else _CODES.get(status)
        return Problem(status, str(error), code=code)
    if isinstance(error, RequestValidationError):
        return _validation_problem(error)
    if isinstance(error, HTTPException):
        told = _UNROUTED.get(error.status_code, str(error.detail))
        return Problem(error.status_code, told, code=_CODES.get(error.status_code))
    return Problem(500, UNEXPECTED)


def _validation_problem(error: RequestValidationError) -> Problem:
    """Returns the first of what pydantic found; what was sent is not repeated, for it may be long or secret."""
    first = error.errors()[0]
    where, *path = first["loc"]
    param = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")[:200]
    return Problem(400, f"{param or where}: {first['msg']}", param or None)


def in_words_of(path: str, problem: Problem) -> Problem:
    """Returns an error in the words by which the wire's agents know a prompt that is too long."""
    if problem.overflow is None:
        return problem
    tokens, most = problem.overflow
    words = next((words for paths, words in _OVERFLOW_WORDS if paths.match(path)), None)
    return replace(problem, message=words.format(tokens=tokens, most=most)) if words else problem


def error_body(problem: Problem, path: str) -> dict[str, Any]:
    """Returns the body that clients of `path` expect."""
    problem = in_words_of(path, problem)
    if ANTHROPIC_PATHS.match(path):
        kind = _ANTHROPIC.get(problem.status, "invalid_request_error" if problem.status < 500 else "api_error")
        return {"type": "error", "error": {"type": kind, "message": problem.message}}
    if GEMINI_PATHS.match(path):
        kind = _GEMINI.get(problem.status, "INTERNAL" if problem.status >= 500 else "INVALID_ARGUMENT")
        return {"error": {"code": problem.status, "message": problem.message, "status": kind}}
    kind = _OPENAI.get(problem.status, "invalid_request_error" if problem.status < 500 else "server_error")
    detail = {"message": problem.message, "type": kind, "param": problem.param, "code": problem.code}
    return {"error": detail}


def error_response(error: BaseException, path: str) -> JSONResponse:
    """Returns the whole response; a prompt that is too long is a plain bad request to OpenAI's clients."""
    problem = problem_of(error)
    context = problem.code == OVERFLOW and not ANTHROPIC_PATHS.match(path)
    extra = dict(getattr(error, "headers", None) or {})  # e.g. Allow, beside a 405
    return JSONResponse(error_body(problem, path), 400 if context else problem.status, problem.headers | extra)
