"""kvpress's presses as Holdfast methods: the same span, states and budget as ours; scores and choice are kvpress's.

Options are kvpress's own with its own defaults. Each class says how its press is made and how it chooses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from kvpress import ExpectedAttentionPress, KeyDiffPress, KnormPress, SnapKVPress
from reading import KVzipRecorder, Recorder, check_model, check_same, now, prefix_ids, read
from selecting import over_all, per_head, per_layer
from torch import Tensor

from holdfast.context.budget import Budget
from holdfast.context.segments import Segment
from holdfast.context.surgery import keep_pairs
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import LocalEngine
from holdfast.errors import BadOption
from holdfast.methods.base import Span, prefill_progress
from holdfast.methods.registry import LATENT, Entry
from holdfast.model.states import States
from holdfast.progress import Progress, quiet


class Study(NamedTuple):
    """A span as kvpress scored it."""

    span: Span
    states: States
    scores: Tensor
    """`[L, G, T]`"""
    prefix: int
    """Tokens before the span, which are not evicted."""


class Rival:
    """The parts that all rivals share."""

    by_turn: ClassVar[bool] = False
    least: ClassVar[int] = 4
    """A prompt needs more tokens than this."""

    def press(self) -> Recorder | KVzipRecorder:
        raise NotImplementedError

    def choose(self, study: Study, slots: int) -> Tensor:
        """Returns masks `[L, G, T]` of the pairs that stay."""
        return per_head(study.scores, slots)

    def study(self, span: Span, past: KVContext, engine: LocalEngine, progress: Progress = quiet) -> Study:
        check_model(engine.model)
        before, began = engine.reading_seconds, now(engine.model.device)
        prefix = prefix_ids(past)
        if span.start != len(prefix):
            raise BadOption(f"kvpress has no gaps: the span must start at {len(prefix)}, got {span.start}")
        ids = torch.cat((prefix, span.ids))
        if len(ids) <= self.least:
            raise BadOption(f"this press needs a prompt of more than {self.least} tokens, got {len(ids)}")
        after, states = engine.capture(past, span.ids, span.positions, prefill_progress(progress))
        progress("score", 0, 1, "kvpress")
        got = read(self.press(), engine.model, ids)
        check_same(got, after)
        # only the scoring is the method's: not its second prefill, nor our look-up and comparison
        engine.reading_seconds = before + now(engine.model.device) - began - got.seconds
        return Study(span, states, got.scores[..., len(prefix) :], len(prefix))

    def compress(self, study: Study, budget: Budget, progress: Progress = quiet) -> tuple[Segment, ...]:
        if budget.holds(len(study.span)):
            masks: list[Any] = [None] * len(study.scores)
        else:
            masks = list(self.choose(study, budget.slots).to(study.states.positions.device))
        return (keep_pairs(study.states, masks, study.span.origins),)


@dataclass(frozen=True)
class RivalKVzip(Rival):
    """KVzip, whose repeat covers the whole prompt and not the span alone."""

    chunk_size: int = 2048
    n_sink: int = 4

    name: ClassVar[str] = "rival_kvzip"

    def press(self) -> KVzipRecorder:
        return KVzipRecorder(compression_ratio=0.5, n_sink=self.n_sink, chunk_size=self.chunk_size)

    def choose(self, study: Study, slots: int) -> Tensor:
        return over_all(study.scores, slots, max(0, self.n_sink - study.prefix))


@dataclass(frozen=True)
class RivalSnapKV(Rival):
    """SnapKV with the span's last tokens as its window."""

    window_size: int = 64
    kernel_size: int = 5

    name: ClassVar[str] = "rival_snapkv"

    @property
    def least(self) -> int:  # type: ignore[override]
        return self.window_size

    def press(self) -> Recorder:
        return Recorder(SnapKVPress(window_size=self.window_size, kernel_size=self.kernel_size))


@dataclass(frozen=True)
class RivalExpectedAttention(Rival):
    """ExpectedAttention."""

    n_future_positions: int = 512
    n_sink: int = 4
    epsilon: float = 0.0

    name: ClassVar[str] = "rival_expected_attention"

    def press(self) -> Recorder:
        return Recorder(ExpectedAttentionPress(0.0, self.n_future_positions, self.n_sink, epsilon=self.epsilon))


@dataclass(frozen=True)
class RivalAdaKVExpectedAttention(RivalExpectedAttention):
    """Scores of expected attention, shared out over the heads of each layer by AdaKV."""

    alpha_safeguard: float = 0.2

    name: ClassVar[str] = "rival_adakv_expected_attention"

    def choose(self, study: Study, slots: int) -> Tensor:
        return per_layer(study.scores, slots, self.alpha_safeguard)


@dataclass(frozen=True)
class RivalKeyDiff(Rival):
    """KeyDiff."""

    name: ClassVar[str] = "rival_keydiff"

    def press(self) -> Recorder:
        return Recorder(KeyDiffPress())


@dataclass(frozen=True)
class RivalKnorm(Rival):
    """Knorm."""

    name: ClassVar[str] = "rival_knorm"

    def press(self) -> Recorder:
        return Recorder(KnormPress())


RIVALS = (RivalKVzip, RivalSnapKV, RivalExpectedAttention, RivalAdaKVExpectedAttention, RivalKeyDiff, RivalKnorm)


def register() -> tuple[str, ...]:
    """Registers the rivals beside our methods for this process and returns their names."""
    for rival in RIVALS:
        LATENT[rival.name] = Entry(f"rivals:{rival.__name__}", f"{(rival.__doc__ or '').strip()} (kvpress)")
    return tuple(rival.name for rival in RIVALS)
