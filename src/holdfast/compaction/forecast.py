"""Tells, before a compaction, how much of the session is in it and how long it takes about."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from holdfast.blocks.render import render
from holdfast.compaction.compact import ROOM
from holdfast.compaction.partition import parts
from holdfast.compaction.plan import Plan
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import LocalEngine
from holdfast.transcript.turn import Transcript

PROBE = 128  # tokens that are read to learn the speed of this machine
READS = {False: (2.0, 3.5), True: (5.0, 11.0)}
"""Times that reading a context takes, least and most, without and with a gate; measured with `informed`."""


@dataclass(frozen=True)
class Forecast:
    """The size and the time of a compaction that has not begun."""

    session: int
    """Tokens of the whole session."""
    compacted: int
    verbatim: int
    left_out: int
    """Tokens older than the window."""
    longest: int
    """Tokens that the model reads, with room for a question."""
    seconds: tuple[float, float]
    """Least and most, of a method that keeps pairs; one that tunes takes longer."""


def forecast(transcript: Transcript, engine: LocalEngine, plan: Plan) -> Forecast:
    """Returns the forecast of `compact` with the same arguments; it reads a few tokens to learn the machine's speed."""
    rendered = render(transcript, engine.model.tokenizer)
    cut = parts(transcript, rendered, plan.policy)
    compacted = sum(len(part) for part in cut if part.compact)
    length = sum(map(len, cut))
    each = _seconds_per_token(engine, rendered.ids)
    least, most = READS[plan.gate is not None]
    return Forecast(
        session=len(rendered.ids),
        compacted=compacted,
        verbatim=length - compacted,
        left_out=len(rendered.ids) - length,
        longest=engine.model.max_tokens - ROOM,
        seconds=(least * length * each, most * length * each),
    )


def _seconds_per_token(engine: LocalEngine, ids: Sequence[int]) -> float:
    probe = torch.tensor(ids[:PROBE])
    began = time.perf_counter()
    with torch.no_grad():
        KVContext(engine.model).feed(probe)
    return (time.perf_counter() - began) / max(len(probe), 1)
