"""A long history in chunks of turns, between which a session may be compacted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from holdfast.transcript.cuts import exchanges
from holdfast.transcript.turn import Transcript, Turn


def split_turns(
    before: Sequence[Turn], turns: Sequence[Turn], sizes: Mapping[int, int], most: int
) -> list[tuple[tuple[Turn, ...], int]]:
    """Splits new turns into chunks that end where a session may be cut; returns each with its tokens.

    A chunk has at most `most` tokens, unless it cannot be cut. `sizes` are the tokens of each new turn, by its index in
    the whole transcript.
    """
    whole, start = Transcript((*before, *turns)), len(before)
    chunks: list[tuple[int, int, int]] = []
    for a, b in exchanges(whole):
        if b > start:
            first, size = max(a, start), sum(sizes.get(at, 0) for at in range(max(a, start), b))
            if chunks and chunks[-1][2] + size <= most:
                first, _, more = chunks.pop()
                size += more
            chunks.append((first, b, size))
    return [(whole.turns[a:b], size) for a, b, size in chunks]
