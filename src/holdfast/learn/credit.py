"""The worth of a memory for what comes later: the change of an action's log-probability when one memory is left out.

An encoder that is trained on the next action alone has no reason to keep what the tenth one needs; this measures it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from holdfast.blocks.block import Kind
from holdfast.blocks.render import RenderedSession
from holdfast.learn.icae import Steps, cut_history
from holdfast.learn.pieces import CompressedText, Example, Text
from holdfast.learn.reconstruct import log_likelihood
from holdfast.methods.memory_tokens import Encoder
from holdfast.model.load import Model

AFTER = (1, 2, 5, 10)


class Omission(NamedTuple):
    """An action behind a history, with all its memories and without one."""

    after: int
    """Actions from the memory to this one, itself included."""
    tokens: int
    """Of the action."""
    whole: Example
    without: Example


def list_omissions(
    sessions: Sequence[RenderedSession], steps: Steps, after: Sequence[int] = AFTER
) -> Iterator[Omission]:
    """Yields every action with every memory that stands one of `after` actions before it."""
    clean = replace(steps, prefix="clean")  # a piece for each block
    for session in sessions:
        for row, blocks in cut_history(session, clean):
            scored = row[-1]
            assert isinstance(scored, Text)
            for at, piece in enumerate(row[:-1]):
                count = 1 + sum(block.kind is Kind.ACTION for block in blocks[at:])
                if isinstance(piece, CompressedText) and count in after:
                    yield Omission(count, len(scored.ids), row, (*row[:at], *row[at + 1 :]))


def measure_omission(omission: Omission, encoder: Encoder, decoder: Model) -> float:
    """Returns the nats a token that the action gains from the memory."""
    whole, without = (log_likelihood([row], encoder, decoder) for row in (omission.whole, omission.without))
    return (whole - without) / omission.tokens
