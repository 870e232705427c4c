"""The objective of every method whose memory are input embeddings: cross-entropy, and KL to the full context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from holdfast.learn.loop import Loss
from holdfast.learn.pieces import Example, Verbatim, assemble, predicting_states
from holdfast.methods.memory_tokens import Encoder
from holdfast.model.forward import LOGIT_ROWS, logits
from holdfast.model.load import Model


@dataclass
class SoftObjective:
    """Trains an encoder whose vectors a decoder reads, or a decoder alone."""

    base: Model
    encoder: Encoder
    decoder: Model
    distil: float = 0.0
    """Share of the loss that is the KL from the model over the full text, the rest is cross-entropy."""
    recompute: bool = False
    """Runs a row's passes a second time while going back, instead of holding what they computed."""

    def parameters(self) -> dict[str, nn.Parameter]:
        own = self.encoder.parameters()
        if self.decoder is self.base:
            return own
        return own | {f"decoder.{n}": p for n, p in self.decoder.hf.named_parameters() if p.requires_grad}

    def loss(self, rows: Sequence[Example]) -> Loss:
        if not rows:
            return Loss(torch.zeros(()), 0)
        passed: Any = self._states
        hidden, targets = checkpoint(passed, rows, use_reentrant=False) if self.recompute else passed(rows)
        tokens = sum(len(getattr(piece, "ids", ())) for row in rows for piece in row)
        teacher = None
        if self.distil:
            with torch.no_grad():
                teacher = predicting_states(assemble(rows, Verbatim(self.base), self.base), self.base)[0]
        return Loss(divergence(self.base, hidden, targets, teacher, self.distil), len(targets), tokens)

    def _states(self, rows: Sequence[Example]) -> tuple[Tensor, Tensor]:
        return predicting_states(assemble(rows, self.encoder, self.decoder), self.decoder)


def divergence(model: Model, hidden: Tensor, targets: Tensor, teacher: Tensor | None, share: float) -> Tensor:
    """Returns the sum over tokens of (1 - share) times -log p and share times the KL from `teacher [N, d]`.

    `hidden [N, d]` predicts `targets [N]`. Float32; vocabulary-sized matrices exist for a few rows at a time.
    """
    total = hidden.new_zeros((), dtype=torch.float32)
    for at in range(0, len(hidden), LOGIT_ROWS):
        part = slice(at, at + LOGIT_ROWS)
        theirs = None if teacher is None else teacher[part]
        given = (model, hidden[part], targets[part], theirs, share)
        total = total + (checkpoint(_rows, *given, use_reentrant=False) if len(hidden) > LOGIT_ROWS else _rows(*given))
    return total


def _rows(model: Model, hidden: Tensor, targets: Tensor, teacher: Tensor | None, share: float) -> Tensor:
    ours = logits(model, hidden).log_softmax(-1)
    total = -(1 - share) * ours.gather(-1, targets[:, None]).sum()
    if teacher is not None:
        theirs = logits(model, teacher).log_softmax(-1)
        total = total + share * (theirs.exp() * (theirs - ours)).sum()
    return total
