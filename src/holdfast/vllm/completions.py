"""A context sent to a server's `/v1/completions`: token ids to any that speaks OpenAI's wire, embeddings to vLLM.

Token segments travel as ids. With soft segments among them everything travels as prompt embeddings, for which vLLM must
run with `--enable-prompt-embeds` and, because its prefix cache confuses such prompts, `--no-enable-prefix-caching`.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor

from holdfast.context.segments import CompactContext, SoftSegment, StateSegment
from holdfast.engine.local import Continuation
from holdfast.engine.sampling import Sampling
from holdfast.errors import BadInput, BadOption, Failed
from holdfast.model.forward import embed
from holdfast.model.load import Model

SHOWN = 300  # characters of a server's own words that an error tells


@dataclass(frozen=True)
class Prefix:
    """The beginning of every prompt, as the server reads it."""

    ids: tuple[int, ...] = ()
    embeds: Tensor | None = None
    """`[n, d_model]`, in place of ids."""
    readable: bool = True
    """True if the ids are words, so that the server can tell the log-probabilities of a prompt; not so for
    placeholders of pages."""

    def __len__(self) -> int:
        return len(self.ids) if self.embeds is None else len(self.embeds)


class _Logprobs(BaseModel):
    token_logprobs: list[float | None] = []
    top_logprobs: list[dict[str, float] | None] = []


class _Choice(BaseModel):
    index: int = 0
    text: str = ""
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None


class _Completion(BaseModel):
    choices: list[_Choice]


@dataclass(frozen=True)
class RemoteEngine:
    """A model behind an API. Raises Failed, with what the server said, where no usable answer comes."""

    base_url: str
    """Up to and with `/v1`."""
    model: str
    """The name by which the server knows it."""
    words: Model | None = None
    """This model in memory, for its embedding matrix; needed for soft segments alone."""
    key: str = field(default="", repr=False)
    timeout: float = 600.0
    """Seconds without a byte from the server."""

    def open(self, context: CompactContext, *, renumber: bool = False) -> Prefix:
        """Returns the context as a prompt's beginning. Raises BadInput for what a prompt cannot carry.

        A server counts positions one by one. `renumber` closes the gaps of a context that kept its logical length,
        which moves virtual tokens away from where they were made for.
        """
        embeds: list[Tensor] = []
        ids: list[int] = []
        soft = any(isinstance(s, SoftSegment) for s in context.segments)
        if not renumber:
            _check_positions(context)
        for index, segment in enumerate(context.segments):
            if isinstance(segment, StateSegment):
                raise BadInput(
                    f"segment {index} holds keys and values, which no prompt can carry; serve the context through "
                    "holdfast.vllm, or compact with a text method or with virtual tokens"
                )
            if isinstance(segment, SoftSegment):
                embeds.append(segment.embeds)
            elif soft:
                embeds.append(self._embed(segment.ids))
            else:
                ids += segment.ids.tolist()
        if not soft:
            return Prefix(tuple(ids))
        self._check_model(context)
        dtype = self._embed([0]).dtype
        return Prefix(embeds=torch.cat([e.cpu().to(dtype) for e in embeds]))

    def generate(
        self, prefix: Prefix, prompt: Sequence[int], limit: int = 256, sampling: Sampling | None = None
    ) -> Iterator[str]:
        """Yields the text that follows `prompt`, piece by piece, up to `limit` tokens or the end of turn."""
        if limit < 1:
            raise BadOption(f"an answer needs a limit of at least 1 token, got {limit}")
        how = sampling or Sampling()
        body = self.prompts(prefix, [prompt]) | {"max_tokens": limit, "stream": True}
        body |= {"temperature": how.temperature, "top_p": how.top_p, "seed": how.seed}
        for chunk in self._stream(body):
            if chunk.choices and chunk.choices[0].finish_reason == "error":
                raise Failed(self._describe_failure("the server ended the answer with an error", "see its log"))
            if chunk.choices and chunk.choices[0].text:
                yield chunk.choices[0].text

    def score(self, prefix: Prefix, continuations: Sequence[Continuation]) -> list[Tensor]:
        """Log-probabilities of every target token, one `[n]` float32 per continuation.

        A prompt of words is echoed with its log-probabilities. Where it is not (embeddings, pages), each target
        token is asked for by its id, which vLLM alone can tell.
        """
        if prefix.embeds is None and prefix.readable:
            return self._score_by_echo(prefix, continuations)
        return [self._score_by_ids(prefix, one) for one in continuations]

    def top(self, prefix: Prefix, prompt: Sequence[int], count: int = 20) -> dict[int, float]:
        """Log-probabilities of the `count` likeliest next tokens by their ids; vLLM alone tells ids."""
        body = self.prompts(prefix, [prompt]) | {"max_tokens": 1, "temperature": 0, "logprobs": count}
        (row,) = self._tops(body | {"return_tokens_as_token_ids": True}, 1)
        return row

    def _score_by_echo(self, prefix: Prefix, continuations: Sequence[Continuation]) -> list[Tensor]:
        rows = [(*c.prompt, *c.target) for c in continuations]
        body = self.prompts(prefix, rows) | {"max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 0}
        scores = []
        for choice, row, c in zip(self._choices(body, len(rows)), rows, continuations, strict=True):
            told = choice.logprobs.token_logprobs if choice.logprobs else []
            end = len(prefix) + len(row)
            mine = told[end - len(c.target) : end]
            if len(mine) != len(c.target) or any(x is None for x in mine):
                raise Failed(
                    self._describe_failure("it told no log-probabilities of the prompt", "use a server that can echo")
                )
            scores.append(torch.tensor(mine, dtype=torch.float32))
        return scores

    def _score_by_ids(self, prefix: Prefix, one: Continuation) -> Tensor:
        rows = [(*one.prompt, *one.target[:i]) for i in range(len(one.target))]
        body = self.prompts(prefix, rows) | {"max_tokens": 1, "temperature": 0, "logprobs": 1}
        body |= {"logprob_token_ids": sorted(set(one.target)), "return_tokens_as_token_ids": True}
        tops = self._tops(body, len(rows))
        if any(token not in row for row, token in zip(tops, one.target, strict=True)):
            raise Failed(
                self._describe_failure("it told no log-probability of a token asked for", "use vLLM 0.32 or newer")
            )
        return torch.tensor([row[token] for row, token in zip(tops, one.target, strict=True)])

    def prompts(self, prefix: Prefix, rows: Sequence[Sequence[int]]) -> dict[str, Any]:
        """Returns the part of a request's body that says what is read: `prefix` and then each of `rows`."""
        if prefix.embeds is None:
            return {"prompt": [[*prefix.ids, *row] for row in rows]}
        return {"prompt_embeds": [_encode_embeds(torch.cat((prefix.embeds, self._embed(row)))) for row in rows]}

    def _embed(self, ids: Sequence[int] | Tensor) -> Tensor:
        if self.words is None:
            raise BadInput("the context has soft segments, which are sent as embeddings; give words=, the model itself")
        with torch.no_grad():
            return embed(self.words, torch.as_tensor(ids, dtype=torch.int64, device=self.words.device)).cpu()

    def _check_model(self, context: CompactContext) -> None:
        if self.words is not None and context.model_digest not in ("", self.words.digest):
            raise BadInput(f"the context's soft segments are of another model than {self.words.name}; give that one")

    def _tops(self, body: dict[str, Any], count: int) -> list[dict[int, float]]:
        """Returns the likeliest tokens of each choice, by their ids."""
        rows = []
        for choice in self._choices(body, count):
            top = choice.logprobs.top_logprobs[:1] if choice.logprobs else []
            if not top or top[0] is None or not all(name.startswith("token_id:") for name in top[0]):
                raise Failed(self._describe_failure("it told no log-probabilities by token id", "use vLLM"))
            rows.append({int(name.removeprefix("token_id:")): value for name, value in top[0].items()})
        return rows

    def _choices(self, body: dict[str, Any], count: int) -> list[_Choice]:
        with self._request(body) as response:
            choices = sorted(self._parse_completion(response.read().decode()).choices, key=lambda c: c.index)
        if len(choices) != count or any(c.finish_reason == "error" for c in choices):
            raise Failed(
                self._describe_failure(f"{len(choices)} answers to {count} prompts, or one that failed", "see its log")
            )
        return choices

    def _stream(self, body: dict[str, Any]) -> Iterator[_Completion]:
        with self._request(body) as response:
            for line in response.iter_lines():
                name, _, data = line.partition(":")
                if data.strip() == "[DONE]":
                    return
                if name == "data":
                    yield self._parse_completion(data)
        raise Failed(self._describe_failure("the answer broke off", "see the server's log"))

    @contextmanager
    def _request(self, body: dict[str, Any]) -> Iterator[Any]:
        """Yields the server's answer to a request, once it said that there will be one."""
        httpx = _httpx()
        headers = {"authorization": f"Bearer {self.key}"} if self.key else {}
        url = f"{self.base_url.rstrip('/')}/completions"
        try:
            sent = {"model": self.model, **body}
            with httpx.stream("POST", url, json=sent, headers=headers, timeout=self.timeout) as response:
                if response.status_code != 200:
                    words = " ".join(response.read().decode(errors="replace").split())[:SHOWN]
                    raise Failed(
                        self._describe_failure(f"{response.status_code}: {words}", _next(response.status_code))
                    )
                yield response
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeDecodeError) as error:
            said = str(error) or type(error).__name__
            raise Failed(self._describe_failure(said, "check that the server runs and base_url is right")) from None

    def _parse_completion(self, text: str) -> _Completion:
        try:
            return _Completion.model_validate_json(text)
        except ValidationError as error:
            # vLLM tells an error in the middle of a stream as an object of another shape
            raise Failed(
                self._describe_failure(f"not a completion: {' '.join(text.split())[:SHOWN]}", "see its log")
            ) from error

    def _describe_failure(self, what: str, then: str) -> str:
        said = f"{self.model} at {self.base_url}: {what}; {then}"
        return said.replace(self.key, "***") if self.key else said


def _httpx() -> Any:
    try:
        return import_module("httpx")
    except ImportError as error:
        raise Failed("the httpx library is not installed; pip install 'holdfast[server]'") from error


def _next(status: int) -> str:
    if status in (401, 403):
        return "give the key that the server wants"
    if status == 404:
        return "check base_url and model"
    if status >= 500:
        return "see the server's log"
    return "start vLLM with --enable-prompt-embeds where embeddings are sent, and check the length of the prompt"


def _check_positions(context: CompactContext) -> None:
    """Raises BadInput unless the segments stand one behind another, position by position."""
    held = [s.positions for s in context.segments if not isinstance(s, StateSegment)]
    if not held or len(held) < len(context.segments):
        return
    positions = torch.cat([p.cpu() for p in held])
    wanted = torch.arange(context.next_position - len(positions), context.next_position, dtype=torch.float32)
    wrong = (positions != wanted).nonzero()
    if len(wrong):
        at = int(wrong[0])
        raise BadInput(
            f"slot {at} of the context stands at position {float(positions[at]):g} where a server counts "
            f"{float(wanted[at]):g}: virtual tokens keep the length of what they stand for; send it with renumber=True "
            "and measure what that costs, or compact with a text method"
        )


def _encode_embeds(embeds: Tensor) -> str:
    """Encodes embeddings as vLLM reads them: a saved tensor in base64."""
    file = io.BytesIO()
    torch.save(embeds.contiguous().clone(), file)
    return base64.b64encode(file.getvalue()).decode()
