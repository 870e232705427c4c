"""A row of training as a list of pieces: text, scored or not; spans that are compressed; marks.

reconstruction      CompressedText(text) [AE] Text(text, scored)
continuation        CompressedText(text) [LM] Text(8 tokens) Text(what follows, scored)
an answer           CompressedText(text) [FT] Text(question) Text(answer, scored)
a step of a session Text … CompressedText(observation) Text … Text(action, scored)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from holdfast.methods.memory_tokens import MARKS, Encoder, Memory, read_batch
from holdfast.model.forward import embed
from holdfast.model.load import Model

UNSCORED = -1


@dataclass(frozen=True)
class Text:
    """Tokens that the decoder reads as they are."""

    ids: tuple[int, ...]
    scored: bool = False


@dataclass(frozen=True)
class CompressedText:
    """Tokens that the decoder reads as what the encoder makes of them."""

    ids: tuple[int, ...]
    learn: bool = True
    """False: the encoder gets no gradient from it."""


@dataclass(frozen=True)
class Mark:
    """One of `MARKS`. Behind `ae` the text begins again at the positions of what was compressed."""

    name: str


Piece = Text | CompressedText | Mark
Example = Sequence[Piece]


class Batch(NamedTuple):
    """Rows as the decoder reads them, padded on the right."""

    inputs: Tensor
    """`[B, Q, d]`"""
    positions: Tensor
    """`[B, Q]`"""
    targets: Tensor
    """`[B, Q]`: the id that is scored at each place, else `UNSCORED`."""
    lengths: tuple[int, ...]
    """Of the rows, without padding."""


class Verbatim:
    """The encoder that compresses nothing."""

    marks: Tensor | None = None

    def __init__(self, model: Model) -> None:
        self.model = model

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        return {}

    def encode(self, spans: Sequence[Tensor]) -> list[Memory]:
        """Returns the embeddings of the tokens."""
        made = (embed(self.model, ids.to(self.model.device)) for ids in spans)
        return [Memory(x, torch.arange(len(x), dtype=torch.float32), len(x)) for x in made]


class Omit(Verbatim):
    """The encoder that leaves spans out: deletion. Positions run on, as they do where a turn was never there."""

    def encode(self, spans: Sequence[Tensor]) -> list[Memory]:
        return [Memory(x.vectors[:0], x.positions[:0], 0) for x in super().encode(spans)]


def assemble(rows: Sequence[Example], encoder: Encoder, decoder: Model) -> Batch:
    """Encodes all spans of the rows in one batch and lays the rows out for the decoder."""
    memories = _encode(rows, encoder)
    laid = [_lay_out(row, memories, encoder, decoder) for row in rows]
    longest = max(len(inputs) for inputs, _, _ in laid)

    def pad(values: list[Tensor], fill: float) -> Tensor:
        sizes = [(*([0, 0] * (v.ndim - 1)), 0, longest - len(v)) for v in values]
        return torch.stack([torch.nn.functional.pad(v, s, value=fill) for v, s in zip(values, sizes, strict=True)])

    inputs, positions, targets = zip(*laid, strict=True)
    lengths = tuple(map(len, inputs))
    return Batch(pad(list(inputs), 0.0), pad(list(positions), 0.0), pad(list(targets), UNSCORED), lengths)


def predicting_states(batch: Batch, decoder: Model) -> tuple[Tensor, Tensor]:
    """Reads a batch; returns the hidden states `[N, d]` that predict the scored tokens, and their ids `[N]`."""
    hidden = read_batch(decoder, batch.inputs, batch.positions)
    scored = batch.targets[:, 1:] != UNSCORED  # [B, Q - 1]
    return hidden[:, :-1][scored], batch.targets[:, 1:][scored]


def _encode(rows: Sequence[Example], encoder: Encoder) -> dict[int, Memory]:
    """Returns what stands for each span, by the identity of its piece."""
    found: dict[int, Memory] = {}
    for learn in (True, False):
        pieces = {id(p): p for row in rows for p in row if isinstance(p, CompressedText) and p.learn is learn}
        if pieces:
            with torch.set_grad_enabled(learn and torch.is_grad_enabled()):
                made = encoder.encode([torch.tensor(p.ids) for p in pieces.values()])
            found |= dict(zip(pieces, made, strict=True))
    return found


def _lay_out(
    row: Example, memories: dict[int, Memory], encoder: Encoder, decoder: Model
) -> tuple[Tensor, Tensor, Tensor]:
    at, parts = 1.0, []  # [AE] stands at 0, and the text that it asks for begins at 1 like what was compressed
    for piece in row:
        if isinstance(piece, CompressedText):
            vectors, offsets, advance = memories[id(piece)]
            targets = torch.full((len(vectors),), UNSCORED)
        elif isinstance(piece, Mark):
            if encoder.marks is None:
                continue
            at = 0.0 if piece.name == "ae" and _keeps_length(row, memories) else at
            vectors, offsets, advance = encoder.marks[MARKS.index(piece.name)][None], torch.zeros(1), 1
            targets = torch.full((1,), UNSCORED)
        else:
            ids = torch.tensor(piece.ids, dtype=torch.int64)
            vectors, offsets = embed(decoder, ids.to(decoder.device)), torch.arange(len(ids), dtype=torch.float32)
            advance, targets = len(ids), ids if piece.scored else torch.full_like(ids, UNSCORED)
        parts.append((vectors.to(decoder.dtype), offsets.float() + at, targets))
        at += advance
    inputs, positions, wanted = (torch.cat(found) for found in zip(*parts, strict=True))
    return inputs, positions.to(decoder.device), wanted.to(decoder.device)


def _keeps_length(row: Example, memories: dict[int, Memory]) -> bool:
    """Returns True if the spans of a row take up the positions of their tokens."""
    return all(memories[id(p)].advance == len(p.ids) for p in row if isinstance(p, CompressedText))
