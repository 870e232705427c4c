"""Statistics of records: blocks and their sizes, ratios, scores by round, facts lost."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, median

from pydantic import BaseModel

from holdfast.mementos.kv import curve_of_blocks
from holdfast.mementos.records import MementoRecord, Refinement

ACCEPTED = 8.0


class MementoStatistics(BaseModel):
    """The numbers of a data set."""

    traces: int
    blocks: int
    blocks_per_trace: float
    """Median."""
    block_characters: float
    """Median, as the next ones."""
    memento_characters: float
    block_tokens: float
    memento_tokens: float
    trace_tokens: float
    """Of all blocks of a trace."""
    trace_memento_tokens: float
    ratio: float
    """Tokens of all mementos over those of all blocks."""
    peak: float
    """Most slots at once where blocks go at their memento's end, over the tokens of all blocks; median of traces."""
    area: float
    """Slots over tokens, as a share of what the blocks without mementos would take; median of traces."""
    live_facts: int
    lost_facts: int
    score: float | None
    """Mean over blocks; None where no model judged, as the next ones."""
    accepted_first: float | None
    """Share of blocks with at least 8 points after one round, and after all."""
    accepted: float | None
    seconds: float


def describe_records(records: Sequence[MementoRecord]) -> MementoStatistics:
    """Returns the statistics of records, at least one."""
    made = [one for record in records for one in record.refinement_metadata]
    texts = [text for record in records for text in record.block_texts()]
    mementos = [text for record in records for text in record.block_summaries]
    whole = [sum(one.block_tokens for one in record.refinement_metadata) for record in records]
    short = [sum(one.final.tokens for one in record.refinement_metadata) for record in records]
    finals = [score for one in made if (score := _best(one)) is not None]
    firsts = [score for one in made if (score := one.iterations[0].score) is not None]
    curves = [
        curve_of_blocks((one.block_tokens, one.final.tokens) for one in record.refinement_metadata)
        for record in records
    ]
    return MementoStatistics(
        traces=len(records),
        blocks=len(made),
        blocks_per_trace=median(len(record.blocks) for record in records),
        block_characters=median(map(len, texts)),
        memento_characters=median(map(len, mementos)),
        block_tokens=median(one.block_tokens for one in made),
        memento_tokens=median(one.final.tokens for one in made),
        trace_tokens=median(whole),
        trace_memento_tokens=median(short),
        ratio=round(sum(short) / max(1, sum(whole)), 4),
        peak=round(median(curve.peak / size for curve, size in zip(curves, whole, strict=True)), 4),
        area=round(median(2 * curve.area / size**2 for curve, size in zip(curves, whole, strict=True)), 4),
        live_facts=sum(one.live_facts for one in made),
        lost_facts=sum(len(one.lost_facts) for one in made),
        score=round(mean(finals), 3) if finals else None,
        accepted_first=_share(firsts),
        accepted=_share(finals),
        seconds=round(sum(record.seconds for record in records), 3),
    )


def _best(made: Refinement) -> float | None:
    return max((one.score for one in made.iterations if one.score is not None), default=None)


def _share(scores: Sequence[float]) -> float | None:
    return round(sum(score >= ACCEPTED for score in scores) / len(scores), 4) if scores else None
