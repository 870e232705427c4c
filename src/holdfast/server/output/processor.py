"""Generated tokens to the pieces of an answer: characters, stop texts, reasoning, calls and log-probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from holdfast.engine.answer import Answer, Token
from holdfast.engine.detokenizer import Detokenizer
from holdfast.server.output.stop_texts import StopTexts
from holdfast.server.protocol import FinishReason, GenerateRequest, Logprob, TextDelta, ToolCallDelta
from holdfast.transcript.tool_parser import Delta, ToolParser, join_deltas
from holdfast.transcript.turn import Turn


class OutputProcessor:
    """One answer on its way to a wire. Its properties are those of the whole answer once `generate` has ended."""

    def __init__(self, answer: Answer, request: GenerateRequest, call_prefix: str) -> None:
        """Takes `call_prefix`: it goes into the ids of calls, so that those of two answers differ."""
        self.answer, self.request = answer, request
        self.stopped_by = ""
        self._tokenizer = answer.engine.model.tokenizer
        self._detokenizer = Detokenizer(self._tokenizer)
        self._stop = StopTexts(request.stop)
        self._parser = ToolParser(bool(request.tools), definitions=request.tools, call_prefix=call_prefix)
        self._deltas: list[Delta] = []
        self._logprobs: list[Logprob] = []

    def generate(self) -> Iterator[Delta]:
        """Yields the pieces of the answer as its tokens are generated."""
        for token in self.answer:
            if self.request.logprobs is not None:
                self._logprobs.append(self._logprob(token))
            yield from self._record(self._parser.feed(self._stop.feed(self._detokenizer.feed(token.id))))
            if self._stop.hit:
                break
        self.stopped_by = self._stop.hit
        if not self._stop.hit:
            yield from self._record(self._parser.feed(self._stop.feed(self._detokenizer.end()) + self._stop.end()))
        yield from self._record(self._parser.end())

    @property
    def turn(self) -> Turn:
        """The answer as its caller knows it."""
        return join_deltas(self._deltas)

    @property
    def reason(self) -> FinishReason:
        """The cause that ended the answer."""
        if any(isinstance(delta, ToolCallDelta) for delta in self._deltas):
            return "tool_calls"
        return "stop" if self.answer.ended or self.stopped_by else "length"

    def _record(self, deltas: Sequence[Delta]) -> Iterator[Delta]:
        for delta in deltas:
            self._deltas.append(delta)
            if isinstance(delta, TextDelta) and self._logprobs:
                yield replace(delta, logprobs=tuple(self._logprobs))
                self._logprobs = []
            else:
                yield delta

    def _logprob(self, token: Token) -> Logprob:
        scores = token.logits.log_softmax(-1)
        best = torch.topk(scores, min(self.request.logprobs or 0, len(scores)))
        name = self._tokenizer.decode
        top = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return Logprob(name([token.id]), float(scores[token.id]), tuple((name([i]), p) for i, p in top))
