"""From tokens to what a wire sends: whole characters, stop texts, reasoning, calls and log-probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from holdfast.engine.answer import Answer, Token
from holdfast.server.output.tool_parser import ToolParser, turn_of
from holdfast.server.protocol import FinishReason, GenerateRequest, Logprob, ReasoningDelta, TextDelta, ToolCallDelta
from holdfast.server.sessions.step_scheduler import StepScheduler
from holdfast.transcript.turn import Turn

AT_ONCE = 16  # tokens that are decoded together, so that a long answer is not decoded again and again


class OutputProcessor:
    """One answer being spoken. When `pieces` has ended, the rest is known."""

    def __init__(self, answer: Answer, ask: GenerateRequest, model: StepScheduler, place: str) -> None:
        self.answer, self.ask, self.model = answer, ask, model
        self.stopped_by = ""
        self._tokenizer = answer.engine.model.tokenizer
        self._speech = ToolParser(bool(ask.tools), definitions=ask.tools, place=place)
        self._pieces: list[TextDelta | ReasoningDelta | ToolCallDelta] = []
        self._logprobs: list[Logprob] = []
        self._text = Detokenizer(self._tokenizer)
        self._stop = StopTexts(ask.stop)

    def pieces(self) -> Iterator[TextDelta | ReasoningDelta | ToolCallDelta]:
        """Generate, one token at a time and each in its turn."""
        tokens = iter(self.answer)
        while True:
            with self.model:
                token = next(tokens, None)
            if token is None:
                break
            if self.ask.logprobs is not None:
                self._logprobs.append(self._logprob(token))
            yield from self._told(self._speech.feed(self._stop.feed(self._text.feed(token.id))))
            if self._stop.hit:
                break
        self.stopped_by = self._stop.hit
        if not self._stop.hit:
            yield from self._told(self._speech.feed(self._stop.feed(self._text.end()) + self._stop.end()))
        yield from self._told(self._speech.end())

    @property
    def turn(self) -> Turn:
        """What was said, as the caller knows it."""
        return turn_of(self._pieces)

    @property
    def reason(self) -> FinishReason:
        if any(isinstance(piece, ToolCallDelta) for piece in self._pieces):
            return "tool_calls"
        return "stop" if self.answer.ended or self.stopped_by else "length"

    def _told(
        self, pieces: Sequence[TextDelta | ReasoningDelta | ToolCallDelta]
    ) -> Iterator[TextDelta | ReasoningDelta | ToolCallDelta]:
        for piece in pieces:
            self._pieces.append(piece)
            if isinstance(piece, TextDelta) and self._logprobs:
                yield replace(piece, logprobs=tuple(self._logprobs))
                self._logprobs = []
            else:
                yield piece

    def _logprob(self, token: Token) -> Logprob:
        scores = token.logits.log_softmax(-1)
        best = torch.topk(scores, min(self.ask.logprobs or 0, len(scores)))
        name = self._tokenizer.decode
        top = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return Logprob(name([token.id]), float(scores[token.id]), tuple((name([i]), p) for i, p in top))


class Detokenizer:
    """Token ids to text, piece by piece and never half a character."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._said = ""  # of the ids that are still here

    def feed(self, token: int) -> str:
        """The text that is settled now."""
        self._ids.append(token)
        text = str(self._tokenizer.decode(self._ids))
        if text.endswith("\ufffd"):  # half a character: wait for the rest
            return ""
        new, self._said = text[len(self._said) :], text
        if len(self._ids) > AT_ONCE:  # what a token says may depend on the one before it
            self._ids = self._ids[-1:]
            self._said = str(self._tokenizer.decode(self._ids))
        return new

    def end(self) -> str:
        """The rest, half a character or not."""
        return str(self._tokenizer.decode(self._ids))[len(self._said) :]


class StopTexts:
    """Ends a text before the first of some texts; what may begin one of them is held back."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.hit = ""

    def feed(self, text: str) -> str:
        """What may be said of it. After a hit: nothing more."""
        if self.hit:
            return ""
        self._held += text
        found = [(at, stop) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            at, self.hit = min(found)
            said, self._held = self._held[:at], ""
            return said
        keep = max((_begun(self._held, stop) for stop in self._stops), default=0)
        said, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return said

    def end(self) -> str:
        """What was held back."""
        said, self._held = self._held, ""
        return said


def _begun(text: str, stop: str) -> int:
    """How many characters at the end of a text may begin a stop text."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if stop.startswith(text[-n:])), 0)
