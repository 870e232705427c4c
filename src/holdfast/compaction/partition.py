"""Partitions a rendered session into runs of blocks that stay verbatim and runs that are compacted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile

from holdfast.blocks.block import Block, Kind
from holdfast.blocks.render import RenderedSession
from holdfast.compaction.plan import Policy
from holdfast.errors import BadOption
from holdfast.methods.base import Span
from holdfast.transcript.cuts import exchanges
from holdfast.transcript.speaker import find_speaker
from holdfast.transcript.turn import Role, Transcript, Turn


@dataclass(frozen=True)
class Part:
    """A run of blocks that is either kept verbatim or compacted as one span."""

    blocks: tuple[Block, ...]
    start: int
    compact: bool

    def __len__(self) -> int:
        return sum(map(len, self.blocks))


def parts(transcript: Transcript, rendered: RenderedSession, policy: Policy) -> list[Part]:
    """Cuts a rendered session into runs of blocks that stay and runs that are compacted."""
    units = exchanges(transcript)
    newest = units[-min(policy.keep_recent, len(units)) :] if policy.keep_recent else ()
    recent = newest[0][0] if newest else len(transcript.turns)
    blocks = apply_window(rendered.blocks, [start for start, _ in units], policy)
    turns = transcript.turns
    return list(runs(blocks, [stays(b, turns[b.origin.turn], policy) or b.origin.turn >= recent for b in blocks]))


def stays(block: Block, turn: Turn, policy: Policy) -> bool:
    """Returns True if the policy keeps a block of this turn verbatim. A tool's text in a user's
    message is the tool's.
    """
    return block.kind in policy.pin and (block.kind is not Kind.USER or find_speaker(turn) is Role.USER)


def ratio_for(cut: Sequence[Part], slots: int, by_turn: bool = False) -> float:
    """Returns the ratio at which a context takes `slots` in all. Raises BadOption if what is pinned leaves too few.

    A span takes one slot at least, so spans shorter than the ratio take more than their share.
    """
    pinned = sum(len(part) for part in cut if not part.compact)
    lengths = [len(span) for part in cut for span in spans(part, by_turn)]
    if slots < pinned + len(lengths):
        least = pinned + len(lengths)
        raise BadOption(
            f"a budget of {slots} slots does not hold the {pinned} tokens that stay verbatim ({_describe_pinned(cut)}) "
            f"and one slot for each of {len(lengths)} compacted spans; give at least {least} (--budget), "
            "pin fewer kinds of block (--pin none, Policy.pin), or keep fewer recent exchanges (--keep-recent 0)"
        )
    room, ratio = slots - pinned, 1.0
    while lengths:
        ratio = max(1.0, math.nextafter(sum(lengths) / room, 0))  # so that dividing by it does not round a slot away
        longer = [n for n in lengths if n >= ratio]
        if len(longer) == len(lengths):
            break
        lengths, room = longer, room - (len(lengths) - len(longer))
    return ratio


def _describe_pinned(cut: Sequence[Part]) -> str:
    """Returns the tokens that stay verbatim by kind of block, the largest first."""
    sizes: Counter[str] = Counter()
    for part in cut:
        if not part.compact:
            for block in part.blocks:
                sizes[block.kind.value] += len(block)
    return ", ".join(f"{kind} {tokens:,}" for kind, tokens in sizes.most_common())


def apply_window(blocks: tuple[Block, ...], starts: list[int], policy: Policy) -> tuple[Block, ...]:
    """Returns the pinned head and the newest whole exchanges (which begin at turns `starts`) within the window."""
    if policy.window is None or sum(map(len, blocks)) <= policy.window:
        return blocks
    task = max((at for at, block in enumerate(blocks) if block.kind is Kind.TASK), default=-1)
    head = blocks[: task + 1] or tuple(takewhile(lambda b: b.kind is Kind.SYSTEM, blocks))
    room = policy.window - sum(map(len, head))
    at, left = len(head), sum(map(len, blocks[len(head) :]))
    for start in starts:  # blocks and starts are both in the order of turns
        while at < len(blocks) and blocks[at].origin.turn < start:
            left -= len(blocks[at])
            at += 1
        if at < len(blocks) and left <= room:
            return head + blocks[at:]
    raise BadOption(
        f"--window {policy.window} is too small: the system prompt and the task take {sum(map(len, head))} tokens "
        f"and the last exchange {sum(len(b) for b in blocks if b.origin.turn >= starts[-1])}"
    )


def runs(blocks: tuple[Block, ...], stay: list[bool]) -> Iterator[Part]:
    """Yields neighbouring blocks of the same fate, with the position of their first token."""
    at = 0
    for fate, group in groupby(zip(blocks, stay, strict=True), key=lambda pair: pair[1]):
        part = Part(tuple(block for block, _ in group), at, not fate)
        at += len(part)
        yield part


def spans(part: Part, by_turn: bool) -> Iterator[Span]:
    """Yields the spans of a part that are compressed one after another; none if it stays verbatim."""
    if not part.compact:
        return
    at = part.start
    key = (lambda b: b.origin.turn) if by_turn else (lambda b: 0)
    for _, group in groupby(part.blocks, key=key):
        span = Span(tuple(group), at)
        at += len(span)
        yield span
