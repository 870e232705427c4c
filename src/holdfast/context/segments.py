"""The one type that everything meets in: an ordered list of segments that stands for a history.

Values only: nothing here runs a model. Positions are data; the logical length is kept, so that 4,000 tokens
compacted to 500 slots still end at position 4,000.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from holdfast.blocks.block import Origin
from holdfast.model.quantized_slots import CODES, AnySlots, Form
from holdfast.model.slots import MODEL

PLAIN_FORMS: tuple[Form, ...] = (MODEL, *CODES)
"""The forms of slots that need nothing but the slots: all but the coded one."""


@dataclass(frozen=True)
class TokenSegment:
    """Verbatim tokens."""

    ids: Tensor
    """`[n]` int64"""
    positions: Tensor
    """`[n]` float32"""
    origins: tuple[Origin, ...] = ()

    def __len__(self) -> int:
        return self.ids.shape[0]

    @property
    def last_position(self) -> float:
        return float(self.positions.max()) if len(self) else -1.0


@dataclass(frozen=True)
class SoftSegment:
    """Input embeddings that no token has: virtual tokens, memory tokens."""

    embeds: Tensor
    """`[n, d_model]`"""
    positions: Tensor
    """`[n]` float32, fractional where they were interpolated"""
    origins: tuple[Origin, ...] = ()

    def __len__(self) -> int:
        return self.embeds.shape[0]

    @property
    def last_position(self) -> float:
        return float(self.positions.max()) if len(self) else -1.0


@dataclass(frozen=True)
class StateSegment:
    """KV pairs per layer and head, keys un-rotated; heads may hold different numbers of them."""

    layers: tuple[AnySlots, ...]
    """Packed head by head, all layers in one form; here `keys` are un-rotated."""
    origins: tuple[Origin, ...] = ()
    scores: tuple[Tensor, ...] = ()
    """Per layer `[N]` float32, what each slot was worth when it was kept (`[0]` where a layer is not scored);
    empty where the method has no scores."""

    def __len__(self) -> int:
        """Returns the slots of the longest head: what a padded store would hold."""
        return max((n for layer in self.layers for n in layer.lengths), default=0)

    @property
    def form(self) -> Form:
        """The form of the slots, one of `holdfast.model.slots.FORMS`."""
        return self.layers[0].form if self.layers else MODEL

    @property
    def last_position(self) -> float:
        return max((float(s.positions.max()) for s in self.layers if s.positions.numel()), default=-1.0)


Segment = TokenSegment | SoftSegment | StateSegment


@dataclass(frozen=True)
class CompactContext:
    """A history as the model will read it."""

    segments: tuple[Segment, ...]
    next_position: int
    """The position of the next token; greater than every position held."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """The recipe of the context: method, options, ratio, policy."""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """The cost, and what survived."""
    model_digest: str = ""
    """The model whose states it holds; empty where it holds token ids alone."""

    def __post_init__(self) -> None:
        last = max((s.last_position for s in self.segments), default=-1.0)
        if self.next_position <= last:
            raise ValueError(f"next_position {self.next_position} is not beyond the last position held, {last:g}")


def token_segment(
    ids: tuple[int, ...] | list[int] | Tensor, start: int, origins: tuple[Origin, ...] = ()
) -> TokenSegment:
    """Returns a TokenSegment of `ids` at consecutive positions from `start`."""
    tensor = torch.as_tensor(ids, dtype=torch.int64)
    return TokenSegment(tensor, torch.arange(start, start + len(tensor), dtype=torch.float32), origins)
