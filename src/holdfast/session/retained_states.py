"""An engine for what a running session has read already: capturing that costs no pass, and what it knew stays known."""

from __future__ import annotations

import torch
from torch import Tensor

from holdfast.engine.kv_context import KVContext, PrefillProgress
from holdfast.engine.local import LocalEngine
from holdfast.model.attention import Observer
from holdfast.model.load import Model
from holdfast.model.states import States


class RetainedStatesEngine(LocalEngine):
    """Gives the states that tokens of a memory's tail got when they were read, over everything that stood there then.

    In-place retention: text that is dropped later has left its mark on the states behind it, which a fresh reading
    would lose (Memento, "two channels"). What is not in the tail, or watched by an observer, is read as ever.
    """

    def __init__(self, model: Model, live: KVContext, start: int, hidden: Tensor, before: Tensor | None) -> None:
        """Takes the tail's `hidden [T, d]`, whose first token stands at position `start`; `before [d]` predicted it."""
        super().__init__(model)
        self.live, self.start, self.hidden, self.before = live, start, hidden, before

    @torch.no_grad()
    def capture(
        self,
        past: KVContext,
        ids: Tensor,
        positions: Tensor | None = None,
        report: PrefillProgress | None = None,
        observer: Observer | None = None,
    ) -> tuple[KVContext, States]:
        """As `LocalEngine.capture`."""
        first = (past.next_position if positions is None else int(positions[0])) - self.start
        stop = first + len(ids)
        if observer is not None or not len(ids) or not 0 <= first < stop <= len(self.hidden):
            return super().capture(past, ids, positions, report, observer)
        part, before = slice(first, stop), self.hidden[first - 1] if first else self.before
        after = past.fork()
        after.take(self.live, part, self.hidden[stop - 1])
        return after, self.live.tail_states(part, ids.to(self.model.device), self.hidden[part], before)
