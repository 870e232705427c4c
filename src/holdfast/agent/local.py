"""A model of this process: one session that grows with the run, compacted in place where the context is latent."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.agent.contexts import Compaction, SentHistory
from holdfast.agent.models import ModelAnswer
from holdfast.cost.prices import Prices, Rates
from holdfast.cost.usage import Usage
from holdfast.errors import BadContext, BadInput, Failed, TooLarge
from holdfast.session.trigger import CircuitBreaker, SessionStatus, Trigger, due
from holdfast.transcript.tool_parser import ToolParser, join_deltas
from holdfast.transcript.turn import Turn

_STORED = "run"
"""The name of a run's session in its store."""

if TYPE_CHECKING:
    from holdfast.compaction.plan import Plan
    from holdfast.engine.local import LocalEngine
    from holdfast.engine.sampling import Sampling
    from holdfast.session.session import Session


class LocalModel:
    """Answers over a live session: what it has read once is not read again."""

    def __init__(self, engine: LocalEngine, sampling: Sampling | None = None) -> None:
        self.engine, self.sampling = engine, sampling
        self.name, self.window = engine.model.name, engine.model.max_tokens
        self.prices: Prices | None = Prices(self.name, Rates(0, 0, 0, 0, 0), source="a model of this process")
        self.plan: Plan | None = None
        """The plan of its session; the context sets it before the run begins."""
        self.begin(0, ())

    def begin(self, steps: int, tools: Sequence[Mapping[str, Any]], folder: Path | None = None) -> None:
        """Opens a session, stored where there is a `folder`; one that a resumed run has stored goes on as it was,
        compacted as it was. One that cannot be read is begun anew: the run's log has its turns.
        """
        from holdfast.session.session import Session
        from holdfast.storage.store import Store

        store = Store(folder) if folder else None
        try:
            if store and store.events(_STORED):
                self.session: Session = Session.resume(_STORED, self.engine, store, self.plan)
                if list(self.session.tools) == list(tools):
                    return
                store = None
        except BadContext:
            store = None
        self.session = Session(self.engine, self.plan, tools=tools, store=store, name=_STORED if store else "")

    def read(self, turns: Sequence[Turn]) -> int:
        """Brings the session to these turns; returns the tokens that it read. Raises TooLarge, with the turns that fit.

        Turns that another context has rewritten are read again from the first that differs.
        """
        session, same = self.session, 0
        for held, wanted in zip(session.turns, turns, strict=False):
            if _plain(held) != _plain(wanted):
                break
            same += 1
        if same < len(session.turns):
            session.rewind(same)
        return sum(session.append((turn,)) for turn in turns[same:])

    def answer(
        self, turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]], max_tokens: int, seconds: float
    ) -> ModelAnswer:
        """Answers greedily, or as it was sampled. Raises TooLarge, and Failed where the time is over."""
        began, held = time.perf_counter(), round(self.session.cache.slots)
        new = self.read(turns)
        answer = self.session.answer(max_tokens, self.sampling)
        for _ in answer:
            if time.perf_counter() - began > seconds:
                raise Failed(f"{self.name}: no answer within {seconds:g} s; allow more, or take a faster model")
        tokenizer = self.engine.model.tokenizer
        parser = ToolParser(bool(tools), definitions=tools, call_prefix=f"{len(turns)}_")
        text = tokenizer.decode(answer.ids, skip_special_tokens=True)
        turn = join_deltas([*parser.feed(text), *parser.end()])
        self.session.commit(answer, turn, cut=not answer.ended)
        usage = Usage(new, held, output=len(answer.ids))
        return ModelAnswer(turn, usage, time.perf_counter() - began, not answer.ended)


def _plain(turn: Turn) -> Turn:
    """Returns the turn as the model reads it."""
    return replace(turn, source=0, extra={}, is_error=False)


Shrink = Callable[["Session"], object]
"""Compacts a session in place. Raises BadInput where nothing may go, Failed where it could not be done."""


class LatentContext:
    """The history compacted inside the model, by any latent method or by mementos: what is sent stays whole."""

    def __init__(self, spec: str, model: LocalModel, plan: Plan, trigger: Trigger, shrink: Shrink) -> None:
        self.spec, self.model, self.trigger, self.shrink = spec, model, trigger, shrink
        self.breaker, self.failure = CircuitBreaker(), ""
        model.plan = plan
        model.begin(0, ())

    def prepare(self, turns: Sequence[Turn], force: bool = False) -> SentHistory:
        """Reads the turns, and compacts the session if it is due, is asked to, or has no room for them."""
        self.failure = ""
        made = self._compact() if force else None
        try:
            self.model.read(turns)
        except TooLarge:
            made = made or self._compact()
            self._read_again(turns)
        if made is None and due(self._status(), self.trigger):
            made = self._compact()
        return SentHistory(tuple(turns), made, self.failure)

    def _read_again(self, turns: Sequence[Turn]) -> None:
        try:
            self.model.read(turns)
        except TooLarge:
            return  # the model says so itself when it is asked

    def _status(self) -> SessionStatus:
        session = self.model.session
        verbatim = sum(map(len, session.cache.blocks[session.cache.tail :]))
        held = round(session.cache.slots)
        return SessionStatus(
            len(session.turns), held, session.compactable, verbatim, self.model.window, breaker=self.breaker
        )

    def _compact(self) -> Compaction | None:
        session, began = self.model.session, time.perf_counter()
        before = round(session.cache.slots)
        try:
            self.shrink(session)
        except (BadInput, Failed) as error:
            self.failure = str(error)
            self.breaker = self.breaker.after(len(session.turns), before, None)
            return None
        after = round(session.cache.slots)
        self.breaker = self.breaker.after(len(session.turns), before, after)
        return Compaction(self.spec, before, after, time.perf_counter() - began)
