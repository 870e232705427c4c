"""A long history in pieces, between which a session may be compacted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from holdfast.transcript.cuts import exchanges
from holdfast.transcript.turn import Transcript, Turn


def split_turns(
    before: Sequence[Turn], turns: Sequence[Turn], sizes: Mapping[int, int], most: int
) -> list[tuple[tuple[Turn, ...], int]]:
    """New turns in pieces that end where a session may be cut, with their tokens: `most`, or what cannot be cut.

    `sizes` are the tokens of each new turn, by its place in the whole.
    """
    whole, start = Transcript((*before, *turns)), len(before)
    made: list[tuple[int, int, int]] = []
    for a, b in exchanges(whole):
        if b > start:
            first, size = max(a, start), sum(sizes.get(at, 0) for at in range(max(a, start), b))
            if made and made[-1][2] + size <= most:
                first, _, more = made.pop()
                size += more
            made.append((first, b, size))
    return [(whole.turns[a:b], size) for a, b, size in made]
