"""The questions to a context of a window: its probes, the session's next turns, and the actions there and later."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from holdfast.blocks.render import answer_ids, call_opening_ids, question_ids
from holdfast.context.segments import token_segment
from holdfast.engine.greedy_answer import answer_along
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import Continuation, LocalEngine
from holdfast.eval.windows import Window
from holdfast.model.forward import logits

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Openings:
    """The ids with which a turn of the assistant begins: one that speaks, and one that calls a tool."""

    speech: Ids
    call: Ids

    @classmethod
    def of(cls, tokenizer: Any) -> Openings:
        return cls(tuple(answer_ids(tokenizer)[0]), tuple(call_opening_ids(tokenizer)))

    def of_action(self, calls: bool) -> Ids:
        """Returns the beginning of an action; if the session calls a tool there, the model is made to call one."""
        return self.call if calls else self.speech


@dataclass(frozen=True)
class Limits:
    """The most tokens of a greedy answer and of a greedy action; 0 asks for none."""

    answer: int
    action: int
    passes: int = 0
    """Of the model for an action, at most; 0 is as many as it takes."""


@dataclass(frozen=True)
class GreedyAction:
    """An action there or later: what the context gives the recorded one, and what the model does itself."""

    logprob: float | None
    """Of the recorded action, in nats."""
    tokens: int | None
    ids: Ids = ()
    """The greedy action behind its opening; empty where none was asked for."""


NO_ACTION = GreedyAction(None, None)


@dataclass(frozen=True)
class ContextResult:
    """The results of one context on a window's probes and on its next turns."""

    answers: list[float]
    distractors: list[float]
    said: list[Ids]
    """The greedy answers."""
    next_log_probs: Tensor | None
    """`[n, V]` of the next turns of the session."""
    action: GreedyAction
    later: GreedyAction
    seconds: float
    """Of the asking."""

    def select(self, kept: list[bool]) -> ContextResult:
        """Returns the results of the probes that `kept` marks."""
        pick = [i for i, ok in enumerate(kept) if ok]
        answers, distractors = [self.answers[i] for i in pick], [self.distractors[i] for i in pick]
        return replace(self, answers=answers, distractors=distractors, said=[self.said[i] for i in pick])


@dataclass(frozen=True)
class Drafts:
    """Texts that a context is expected to say, along which it is asked: they save passes and change no answer."""

    said: Sequence[Ids]
    action: Ids
    later: Ids


def drafts_of(result: ContextResult) -> Drafts:
    """Returns what a context said as drafts for others."""
    return Drafts(result.said, result.action.ids, result.later.ids)


@dataclass(frozen=True)
class Inquiry:
    """All that every context of a window is asked; the window must be the same one each time."""

    engine: LocalEngine
    window: Window
    limits: Limits
    openings: Openings

    def ask(self, live: KVContext, drafts: Drafts) -> ContextResult:
        """Asks a context, which is not changed."""
        began = time.perf_counter()
        tokenizer, probes = self.engine.model.tokenizer, self.window.probes
        asked = [tuple(question_ids(tokenizer, p.question)) for p in probes]
        targets = [token_ids(tokenizer, text) for p in probes for text in (p.answer, p.distractor)]
        scored = self.engine.score(live, [Continuation(asked[i // 2], t) for i, t in enumerate(targets)])
        sums = [float(s.sum()) for s in scored]
        pairs = zip(asked, drafts.said, strict=True)
        said = [tuple(answer_along(self.engine, live, prompt, x, self.limits.answer)) for prompt, x in pairs]
        after, log_probs = self._read_next(live)
        action, later = self._act(live, log_probs, drafts.action), self._act_later(live, after, drafts.later)
        return ContextResult(sums[0::2], sums[1::2], said, log_probs, action, later, time.perf_counter() - began)

    @torch.no_grad()
    def _read_next(self, live: KVContext) -> tuple[KVContext, Tensor | None]:
        """Reads the session's next tokens up to the last one; returns the memory then, and `[n, V]` what it expects."""
        after, ids = live.fork(), self.window.next_ids
        if len(ids) < 2:
            return after, None
        # the first next token is scaffolding that every context predicts; scoring starts behind it
        return after, logits(self.engine.model, after.feed(list(ids[:-1]))).log_softmax(-1)

    def _act(self, live: KVContext, log_probs: Tensor | None, draft: Ids) -> GreedyAction:
        count = self.window.action - 1
        if log_probs is None or count < 1:
            return NO_ACTION
        targets = torch.tensor(self.window.next_ids[1 : count + 1], device=log_probs.device)[:, None]
        found = float(log_probs[:count].gather(1, targets).sum())
        return GreedyAction(found, len(targets), self._act_freely(live, self.window.calls, draft))

    def _act_later(self, live: KVContext, after: KVContext, draft: Ids) -> GreedyAction:
        """Asks for the later action behind the turns before it, which are read word by word."""
        later, read = self.window.later, len(self.window.next_ids) - 1
        if later is None:
            return NO_ACTION
        if len(later.before) < read:  # the next tokens go beyond these turns
            after, read = live, 0
        rest = later.before[read:]
        after = after.extend([token_segment(rest, after.next_position)], after.next_position + len(rest))
        scored = self.engine.score(after, [Continuation(later.ids[:1], later.ids[1:])])[0]
        return GreedyAction(float(scored.sum()), len(scored), self._act_freely(after, later.calls, draft))

    def _act_freely(self, live: KVContext, calls: bool, draft: Ids) -> Ids:
        opening = self.openings.of_action(calls)
        limits = self.limits
        return tuple(answer_along(self.engine, live, opening, draft, limits.action, limits.passes))


def drafts_from_session(asking: Inquiry) -> Drafts:
    """Returns what the session really said as drafts, for the first context that is asked."""
    window, openings = asking.window, asking.openings
    answers = [token_ids(asking.engine.model.tokenizer, p.answer) for p in window.probes]
    action = window.next_ids[: window.action][len(openings.of_action(window.calls)) :]
    later = window.later.ids[len(openings.of_action(window.later.calls)) :] if window.later else ()
    return Drafts(answers, action, later)


def token_ids(tokenizer: Any, text: str) -> Ids:
    """Returns the ids of a text without the tokens that a tokenizer adds around it."""
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
