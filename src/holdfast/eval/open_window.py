"""A window in memory: read once for all its methods and ratios.

Whoever reads the span behind the prefix again gets it from memory. The suffix is read over every context anew.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import takewhile
from typing import NamedTuple

import torch
from torch import Tensor

from holdfast.compaction.partition import Part
from holdfast.compaction.plan import Plan
from holdfast.compaction.walk import SharedStudy, StartingMemory, compact_in_memory
from holdfast.context.segments import CompactContext, Segment, TokenSegment, token_segment
from holdfast.engine.kv_context import KVContext, PrefillProgress
from holdfast.engine.local import LocalEngine
from holdfast.eval.windows import Window
from holdfast.model.attention import Observer
from holdfast.model.states import States
from holdfast.progress import Progress


@dataclass(frozen=True)
class OpenWindow:
    """A window's prefix and its two baselines in memory."""

    window: Window
    engine: SharedPrefill
    prefix: tuple[Segment, ...]
    full: KVContext
    none: KVContext
    """The window without its middle, everything else at its own position."""
    seconds: float
    """Of reading the window once."""

    @classmethod
    def read(cls, window: Window, engine: LocalEngine) -> OpenWindow:
        """Reads prefix, span and suffix."""
        began = time.perf_counter()
        prefix = tuple(_verbatim(part) for part in takewhile(lambda part: not part.compact, window.parts))
        rest = window.parts[len(prefix) :]
        start = rest[0].start if rest else window.tokens
        before = engine.open(CompactContext(prefix, start)) if prefix else KVContext(engine.model)
        sharing = SharedPrefill(engine, before)
        span = [_verbatim(part) for part in rest[:1]]
        after = before if not span else sharing.capture(before, span[0].ids, span[0].positions)[0]
        full = after.extend([_verbatim(part) for part in rest[1:]], window.tokens)
        seconds = time.perf_counter() - began
        none = before.extend([_verbatim(part) for part in rest if not part.compact], window.tokens)
        return cls(window, sharing, prefix, full, none, seconds)

    def compact(self, plan: Plan, progress: Progress, shared: SharedStudy) -> tuple[CompactContext, KVContext]:
        """Compacts the window; plans of one method share `shared`. Raises BadOption and Lost as every compaction."""
        begin = StartingMemory(self.engine.prefix, self.prefix)
        parts = list(self.window.parts[len(self.prefix) :])
        return compact_in_memory(parts, self.engine, plan, progress, shared, begin)


class _Reading(NamedTuple):
    after: KVContext
    states: States


class SharedPrefill(LocalEngine):
    """An engine that remembers what was read behind a window's prefix. Passes that are watched are always run."""

    def __init__(self, engine: LocalEngine, prefix: KVContext) -> None:
        super().__init__(engine.model)
        self.prefix = prefix
        self._readings: dict[tuple[tuple[float, ...], ...], _Reading] = {}

    @torch.no_grad()
    def capture(
        self,
        past: KVContext,
        ids: Tensor,
        positions: Tensor | None = None,
        report: PrefillProgress | None = None,
        observer: Observer | None = None,
    ) -> tuple[KVContext, States]:
        """Reads `ids [T]` on top of `past`, as every engine does; a second reading behind the prefix takes no time."""
        if past is not self.prefix or observer is not None:
            return super().capture(past, ids, positions, report, observer)
        asked = tuple(ids.tolist()), () if positions is None else tuple(positions.tolist())
        if asked not in self._readings:
            self._readings[asked] = _Reading(*super().capture(past, ids, positions, report))
        found = self._readings[asked]
        return found.after.fork(), found.states


def _verbatim(part: Part) -> TokenSegment:
    ids = [i for block in part.blocks for i in block.ids]
    return token_segment(ids, part.start, tuple(block.origin for block in part.blocks))
