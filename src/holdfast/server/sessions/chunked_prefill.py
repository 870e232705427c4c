"""A long history in chunks of turns, between which a session may be compacted, and whether it can be read so at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from holdfast.blocks.block import Block
from holdfast.compaction.partition import stays
from holdfast.errors import PromptTooLong
from holdfast.session.session import Session
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


def check_fit(session: Session, pieces: Sequence[tuple[Sequence[Turn], int]], blocks: Sequence[Block]) -> None:
    """Raises PromptTooLong for new turns that no compaction brings into the model's window, before any of it is read.

    `pieces` are those of `split_turns`, `blocks` the new turns as they would be rendered. What stays verbatim of the
    turns before a piece, and the piece, stand in the window at one time; so do the newest exchanges, which all stay.
    """
    turns, window = [*session.turns, *(turn for piece, _ in pieces for turn in piece)], session.engine.model.max_tokens
    units, keep = exchanges(Transcript(tuple(turns))), session.plan.policy.keep_recent
    recent = units[-min(keep, len(units))][0] if keep and units else len(turns)
    at, verbatim, most = len(session.turns), 0, 0
    staying = [0] * (len(turns) + 1)  # tokens of each turn that are never compacted
    for block in (*session.cache.blocks, *blocks):
        turn = block.origin.turn
        pinned = turn in session.pinned or stays(block, turns[turn], session.plan.policy)
        staying[turn] += len(block) if pinned or turn >= recent else 0
    verbatim = sum(staying[:at])
    for piece, tokens in pieces:
        most = max(most, verbatim + tokens)
        verbatim, at = verbatim + sum(staying[at : at + len(piece)]), at + len(piece)
    if max(most, verbatim) > window:
        tokens = session.cache.tokens + sum(map(len, blocks))
        raise PromptTooLong(
            f"the history has {tokens:,} tokens, of which {max(most, verbatim):,} must stand verbatim at one time, and "
            f"{session.engine.model.name} reads {window:,}; send less, pin less, or use a model with a longer context",
            tokens=tokens,
            most=window,
        )
