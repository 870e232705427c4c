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

    def read_scores(self, network: object, past: KVContext, positions: Tensor) -> dict[int, Tensor] | None:
        """As `LocalEngine.read_scores`, for tokens of the tail."""
        part = self._find(past, len(positions), positions)
        if part is None or getattr(self.live.scorer, "network", None) is not network:
            return None
        return self.live.tail_scores(part)

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
        part = self._find(past, len(ids), positions)
        if observer is not None or part is None:
            return super().capture(past, ids, positions, report, observer)
        after, before = past.fork(), self.hidden[part.start - 1] if part.start else self.before
        after.take(self.live, part, self.hidden[part.stop - 1])
        return after, self.live.tail_states(part, ids.to(self.model.device), self.hidden[part], before)

    def _find(self, past: KVContext, count: int, positions: Tensor | None) -> slice | None:
        """Returns which tokens of the tail these are; None if they are not in it."""
        first = (past.next_position if positions is None or not count else int(positions[0])) - self.start
        return slice(first, first + count) if count and 0 <= first < first + count <= len(self.hidden) else None
