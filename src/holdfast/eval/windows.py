"""Windows: parts of a long session that fit the model, cut the way an agent would meet them.

A window is the session's prefix, a middle that is compacted, and the last exchange before a turn of the assistant;
that turn, as the session recorded it, is the next action. A later action follows behind more turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from holdfast.blocks.block import Block, Kind, Origin
from holdfast.blocks.render import RenderedSession
from holdfast.compaction.partition import Part
from holdfast.errors import BadOption
from holdfast.eval.later_action import NEXT_TOKENS, LaterAction, find_later_action
from holdfast.eval.probes import Probe, check_static_rules
from holdfast.transcript.turn import Role, Transcript

SHARE = 4  # prefix and suffix each get at most this part of the window


@dataclass(frozen=True)
class LocatedProbe:
    """A probe and the tokens of its evidence in the rendered session."""

    probe: Probe
    start: int
    stop: int
    literal: tuple[int, int]
    """The tokens of the probe's literal in it, or of all the evidence where it is not there word by word."""


@dataclass(frozen=True)
class Window:
    """A cut of a session: what stays, what is compacted, and what really came next."""

    id: str
    parts: tuple[Part, ...]
    """Prefix (verbatim), middle (compacted), suffix (verbatim), at consecutive positions from 0."""
    probes: tuple[Probe, ...]
    literals: tuple[tuple[int, int], ...]
    """The range of each probe's literal, in tokens of the session."""
    next_ids: tuple[int, ...]
    """The session's next tokens, at most `NEXT_TOKENS`."""
    action: int
    """Count of `next_ids` that belong to the assistant's next turn."""
    calls: bool = False
    """True if that turn calls a tool."""
    later: LaterAction | None = None

    @property
    def tokens(self) -> int:
        return sum(map(len, self.parts))

    def ids(self) -> tuple[int, ...]:
        """Returns all token ids."""
        return tuple(i for part in self.parts for block in part.blocks for i in block.ids)

    def select(self, kept: Sequence[bool]) -> Window:
        """Returns the window with the probes that `kept` marks."""
        pick = [i for i, ok in enumerate(kept) if ok]
        probes, literals = tuple(self.probes[i] for i in pick), tuple(self.literals[i] for i in pick)
        return replace(self, probes=probes, literals=literals)


def locate(probes: Sequence[Probe], rendered: RenderedSession) -> tuple[list[LocatedProbe], list[tuple[Probe, str]]]:
    """Finds every probe's evidence; the second list names those without, and why."""
    found, missing = [], []
    for probe in probes:
        quote = probe.evidence
        if quote not in rendered.text and rendered.text.count(probe.literal) == 1:
            quote = probe.literal  # a template may write a call's arguments differently from the quote
        at = rendered.text.find(quote)
        if at < 0:
            missing.append((probe, "its evidence does not stand in the rendered session"))
            continue
        exact = quote.find(probe.literal) if probe.literal else -1
        first, size = (at, len(quote)) if exact < 0 else (at + exact, len(probe.literal))
        found.append(LocatedProbe(probe, *_tokens(rendered, at, len(quote)), _tokens(rendered, first, size)))
    return sorted(found, key=lambda x: (x.start, x.probe.id)), missing


def _tokens(rendered: RenderedSession, char: int, length: int) -> tuple[int, int]:
    return rendered.token_at(char), rendered.token_at(char + length - 1) + 1


def windows(
    transcript: Transcript, rendered: RenderedSession, located: Sequence[LocatedProbe], size: int
) -> tuple[list[Window], list[tuple[Probe, str]]]:
    """Cuts windows of `size` tokens that cover the probes, as few as greedy choice finds; also returns probes left out.

    Raises BadOption when the size is too small to hold anything.
    """
    if size < 64:
        raise BadOption(f"a window needs at least 64 tokens, got {size}")
    cuts = _cuts(transcript, rendered, size)
    todo, out, dropped = list(located), [], []
    while todo:
        best = max(cuts, key=lambda cut: _worth(cut, todo, rendered), default=None)
        if best is None or not best.covers(todo[:1], rendered):
            # nothing that ends before a turn reaches it: look into the long turn that holds it
            best = next((c for c in (_around(cut, todo[0]) for cut in cuts) if c.holds(todo[0], rendered)), None)
        if best is None:
            dropped.append((todo[0].probe, _why_not(todo[0], cuts, rendered)))
            todo.pop(0)
            continue
        covered = best.covers(todo, rendered)
        out.append(best.window(transcript, rendered, covered))
        todo = [x for x in todo if x not in covered]
    return out, dropped


def turn_windows(
    transcript: Transcript, rendered: RenderedSession, located: Sequence[LocatedProbe], size: int
) -> tuple[list[Window], list[tuple[Probe, str]]]:
    """Cuts windows whose middle is one turn: the prefix, the turn that holds the evidence, and nothing after it.

    A turn longer than `size` is left out.
    """
    prefix = _prefix(rendered.blocks, size)
    spans: dict[int, tuple[int, int]] = {}
    for b in rendered.blocks:
        first, _ = spans.get(b.origin.turn, b.origin.tokens)
        spans[b.origin.turn] = (first, b.origin.tokens[1])
    by_turn: dict[int, list[LocatedProbe]] = {}
    dropped = []
    for x in located:
        turn = next(t for t, (first, last) in spans.items() if first <= x.start < last)
        cut = _turn_cut(transcript, prefix, spans[turn], turn)
        if not cut.holds(x, rendered):
            dropped.append((x.probe, _why_not(x, [cut], rendered)))
        elif spans[turn][1] - spans[turn][0] > size:
            dropped.append((x.probe, f"its turn is longer than {size} tokens"))
        else:
            by_turn.setdefault(turn, []).append(x)
    out = []
    for turn, found in by_turn.items():
        cut = _turn_cut(transcript, prefix, spans[turn], turn)
        out.append(cut.window(transcript, rendered, found))
    return out, dropped


def _turn_cut(transcript: Transcript, prefix: tuple[int, int], span: tuple[int, int], turn: int) -> _Cut:
    follows = transcript.turns[turn + 1 : turn + 2]
    speaks = bool(follows) and follows[0].role is Role.ASSISTANT
    return _Cut(prefix, span, (span[1], span[1]), turn + 1 if speaks else None)


@dataclass(frozen=True)
class _Cut:
    """Token ranges of a window that ends where an assistant turn begins."""

    prefix: tuple[int, int]
    middle: tuple[int, int]
    suffix: tuple[int, int]
    turn: int | None
    """The next turn, if the assistant speaks it."""

    def holds(self, x: LocatedProbe, rendered: RenderedSession) -> bool:
        inside = self.middle[0] <= x.start and x.stop <= self.middle[1]
        return inside and not check_static_rules(x.probe, self.verbatim(rendered))

    def covers(self, todo: Sequence[LocatedProbe], rendered: RenderedSession) -> list[LocatedProbe]:
        return [x for x in todo if self.holds(x, rendered)]

    def verbatim(self, rendered: RenderedSession) -> str:
        return "\n".join(_text(rendered, *span) for span in (self.prefix, self.suffix))

    def window(self, transcript: Transcript, rendered: RenderedSession, found: Sequence[LocatedProbe]) -> Window:
        spans = [(self.prefix, False), (self.middle, True), (self.suffix, False)]
        parts, at = [], 0
        for span, compact in spans:
            blocks = tuple(_clip_blocks(rendered.blocks, *span))
            if blocks:
                parts.append(Part(blocks, at, compact))
                at += len(parts[-1])
        after = [b for b in rendered.blocks if b.origin.tokens[0] >= self.suffix[1]]
        following = [i for b in after for i in b.ids][:NEXT_TOKENS]
        action = sum(len(b) for b in after if b.origin.turn == self.turn)
        name = f"tokens {self.middle[0]}-{self.suffix[1]}"
        probes, literals = tuple(x.probe for x in found), tuple(x.literal for x in found)
        calls = self.turn is not None and bool(transcript.turns[self.turn].calls)
        later = None if self.turn is None else find_later_action(transcript, after, self.turn)
        return Window(name, tuple(parts), probes, literals, tuple(following), min(action, len(following)), calls, later)


def _cuts(transcript: Transcript, rendered: RenderedSession, size: int) -> list[_Cut]:
    """Returns every window that ends where the assistant is about to speak."""
    blocks = rendered.blocks
    prefix = _prefix(blocks, size)
    cuts = []
    starts = {b.origin.turn: b.origin.tokens[0] for b in reversed(blocks)}
    for turn, said in enumerate(transcript.turns):
        if said.role is not Role.ASSISTANT or turn not in starts or turn == 0:
            continue
        end = starts[turn]
        last = max(starts.get(_exchange_start(transcript, turn), prefix[1]), end - size // SHARE, prefix[1])
        room = size - (prefix[1] - prefix[0]) - (end - last)
        first = _snap_to_block(blocks, max(prefix[1], last - room), last)
        if first < last:
            cuts.append(_Cut(prefix, (first, last), (last, end), turn))
    return cuts


def _around(cut: _Cut, x: LocatedProbe) -> _Cut:
    """Centres the middle of a cut on `x`, as if the end of a very long tool result had been left out."""
    first, last = cut.middle
    if x.stop > last or x.start < cut.prefix[1]:
        return cut
    room = last - first
    start = max(cut.prefix[1], min(x.start - room // 2, last - room))
    return _Cut(cut.prefix, (start, start + room), cut.suffix, cut.turn)


def _prefix(blocks: Sequence[Block], size: int) -> tuple[int, int]:
    """Returns the range of the system prompt, or of the first request without one; of its head if it is very long."""
    head = list(takewhile(lambda b: b.kind is Kind.SYSTEM, blocks)) or [blocks[0]]
    return 0, min(head[-1].origin.tokens[1], size // SHARE)


def _exchange_start(transcript: Transcript, turn: int) -> int:
    """Returns the first turn of the exchange before `turn`: the last assistant or user turn and its results."""
    start = turn - 1
    while start > 0 and transcript.turns[start].role is Role.TOOL:
        start -= 1
    return start


def _snap_to_block(blocks: Sequence[Block], first: int, last: int) -> int:
    """Returns the next block edge, unless that leaves out more than half: then a long block is cut in its middle."""
    edge = next((b.origin.tokens[0] for b in blocks if b.origin.tokens[0] >= first), last)
    return edge if last - edge >= (last - first) / 2 else first


def _clip_blocks(blocks: Sequence[Block], start: int, stop: int) -> list[Block]:
    out = []
    for b in blocks:
        first, last = max(start, b.origin.tokens[0]), min(stop, b.origin.tokens[1])
        if first < last:
            offset = b.origin.tokens[0]
            origin = Origin(b.origin.turn, b.origin.kind, b.origin.chars, (first, last))
            out.append(Block(b.ids[first - offset : last - offset], origin))
    return out


def _worth(cut: _Cut, todo: Sequence[LocatedProbe], rendered: RenderedSession) -> tuple[bool, int, float]:
    """Ranks a cut: by the next probe first, then by the number of probes, then by evidence near the middle."""
    covered = cut.covers(todo, rendered)
    centre = (cut.middle[0] + cut.middle[1]) / 2
    return todo[0] in covered, len(covered), -sum(abs(x.start - centre) for x in covered)


def _why_not(x: LocatedProbe, cuts: Sequence[_Cut], rendered: RenderedSession) -> str:
    inside = [c for c in cuts if c.middle[0] <= x.start and x.stop <= c.middle[1]]
    if not inside:
        return "no window of this size ends before a turn of the assistant and holds its evidence"
    return check_static_rules(x.probe, inside[0].verbatim(rendered))


def _text(rendered: RenderedSession, start: int, stop: int) -> str:
    ends = (*rendered.offsets, len(rendered.text))
    return rendered.text[ends[start] : ends[stop]]
