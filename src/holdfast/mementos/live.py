"""Blocks and mementos in a live session: a block goes at its memento's end; what was computed beside it stays.

An eviction is a compaction of the session like any other: it is in the log with its own checkpoint, and rewind, fork,
undo and resume know nothing of mementos.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from holdfast.blocks.block import Block, Kind, Origin
from holdfast.blocks.render import answer_ids
from holdfast.engine.answer import Answer, Token
from holdfast.engine.sampling import Sampling
from holdfast.mementos.rules import MementoRules
from holdfast.mementos.tracker import BlockSpan, BlockTracker, Phase, find_spans
from holdfast.model.forward import logits
from holdfast.session.cache import SessionCache
from holdfast.session.events import TurnsAppended
from holdfast.session.eviction import evict_blocks
from holdfast.session.session import Session
from holdfast.transcript.turn import Role, Turn

WHY = "a memento ended"


class MementoAnswer(Answer):
    """An answer that drops its own blocks. Its memory is a `SessionCache` of its own until it is committed."""

    def __init__(
        self, session: Session, rules: MementoRules, limit: int = 256, sampling: Sampling | None = None
    ) -> None:
        """Begins an answer; the session does not change. Raises TooLarge if it has no room."""
        opens, self._closing = answer_ids(session.engine.model.tokenizer)
        session.check_room(len(opens) + limit + len(self._closing))
        super().__init__(session.engine, session.cache.live, opens, limit, sampling)
        self.cache, self.rules, self.turn = session.cache, rules, len(session.turns)
        self.evictions: list[tuple[SessionCache, Mapping[str, Any]]] = []
        self.curve: list[tuple[int, float]] = [(session.cache.tokens, session.cache.slots)]
        """Tokens said and slots held, at each pass of the model and each eviction."""
        self._tracker = BlockTracker(session.engine.model.tokenizer, rules.delimiters, rules.mask_delimiters)
        self._forced: list[int] = []
        self._first, self._flushed, self._gone, self._due = session.cache.tokens, 0, 0, False

    @torch.no_grad()
    def _next(self) -> Token | None:
        self._feed([self.ids[-1]] if self.ids else list(self.opening))
        scores = logits(self.engine.model, self.hidden[-1][-1])
        if self._due:
            self._evict(self.rules.keep_last_block_for_answer)
        chosen = self._forced.pop(0) if self._forced else self.sampling.choose(scores, self._generator)
        if chosen in self.engine.stop_ids:
            self.ended = True
            return None
        self.ids.append(chosen)
        self._due = self._tracker.feed(chosen)
        self._cap()
        return Token(chosen, scores)

    def _feed(self, ids: list[int]) -> None:
        live = self.live.fork()
        hidden = live.feed(ids)
        self.live, self.hidden = live, [*self.hidden, hidden]
        self.curve.append((self._first + sum(map(len, self.hidden)), self._slots()))

    def _slots(self) -> float:
        return SessionCache(self.live, self.live).slots

    def _cap(self) -> None:
        """Makes the next tokens close a block or a memento that is as long as it may be."""
        phase = self._tracker.phase
        most = self.rules.max_block_tokens if phase is Phase.BLOCK else self.rules.max_memento_tokens
        if most and not self._forced and phase in (Phase.BLOCK, Phase.MEMENTO) and self._tracker.length >= most:
            self._forced = self._tracker.closing()

    def _evict(self, waits: bool) -> None:
        """Drops the blocks that are noted, but the newest that the rules keep; with `waits` the last one stays until
        another opens.
        """
        keep = self.rules.keep_last_n_blocks
        ready = [] if keep < 0 else self._tracker.done[: max(0, len(self._tracker.done) - keep)]
        if waits and ready and self._tracker.phase is not Phase.BLOCK and ready[-1] is self._tracker.done[-1]:
            ready = ready[:-1]
        for span in ready[self._gone :]:
            self._drop(span)
        self._gone = max(self._gone, len(ready))
        self._due = False

    def _drop(self, span: BlockSpan) -> None:
        self._flush()
        first, last = (at + len(self.opening) + self._first for at in span.block)
        self.cache, told = drop_spans(self.cache, [(first, last)], self.rules)
        self.live = self.cache.live
        self.evictions.append((self.cache, told))
        self.curve.append((self.cache.tokens, self.cache.slots))

    def _flush(self) -> None:
        """Makes what was read so far blocks of the cache."""
        ids = (*self.opening, *self.ids, *self._closing)[: sum(map(len, self.hidden))]
        if len(ids) == self._flushed:
            return
        spans = [_shift(span, len(self.opening)) for span in self._tracker.done]
        blocks = cut_turn(ids, spans, self.turn, self._first, self._flushed)
        hidden = torch.cat(self.hidden)[self._flushed :]
        self.cache = self.cache.extend(self.live, blocks, (hidden,))
        self._flushed = len(ids)

    @torch.no_grad()
    def finish(self) -> SessionCache:
        """Closes the answer as the template does; returns the memory behind it. Blocks that waited for its end go."""
        rest = (*self.opening, *self.ids, *self._closing)[sum(map(len, self.hidden)) :]
        self._feed(list(rest))
        self._evict(False)
        self._flush()
        return self.cache

    def describe(self) -> dict[str, Any]:
        """Returns the blocks of the answer, the most slots that it held, and the area under its curve."""
        return {"mementos": len(self._tracker.done), "evicted": len(self.evictions), "curve": simplify(self.curve)}


def begin_answer(session: Session, rules: MementoRules | None, limit: int, sampling: Sampling) -> Answer:
    """Begins an answer by the rules; without any, delimiters are text."""
    return session.answer(limit, sampling) if rules is None else MementoAnswer(session, rules, limit, sampling)


def commit_answer(
    session: Session,
    answer: Answer,
    turn: Turn | None = None,
    *,
    cut: bool = False,
    told: Mapping[str, Any] | None = None,
) -> None:
    """Makes the answer the session's next turn, as `Session.commit` does; each eviction is a compaction of its own.

    An answer that was cut is read again as the template writes it, with its blocks, which then go.
    """
    if not isinstance(answer, MementoAnswer):
        session.commit(answer, turn, cut=cut, told=told)
        return
    turn = turn or Turn(Role.ASSISTANT, session.engine.model.tokenizer.decode(answer.ids))
    if cut or not answer.ids:
        append_turns(session, (turn,), answer.rules)
        return
    after = answer.finish()
    event = TurnsAppended.of((turn,), after.blocks[len(session.cache.blocks) :])
    session.record(event, after, {**(told or {}), **answer.describe()}, answer.evictions)


def append_turns(session: Session, turns: Sequence[Turn], rules: MementoRules | None) -> int:
    """Reads turns as `Session.append` does; the blocks of the assistant that have a memento go once all is read."""
    if rules is None or not turns:
        return session.append(turns)
    rendered = session.render_turns(turns)
    count = sum(map(len, rendered))
    session.check_room(count)
    blocks, spans = _split_rendered(rendered, session, turns, rules)
    session.record(TurnsAppended.of(turns, blocks), session.cache.read(blocks))
    if rules.keep_last_n_blocks >= 0:
        spans = spans[: len(spans) - rules.keep_last_n_blocks]
        if spans:
            after, told = drop_spans(session.cache, spans, rules)
            session.replace_memory(after, told, "the prompt was read")
    return count


def drop_spans(
    cache: SessionCache, spans: Sequence[tuple[int, int]], rules: MementoRules
) -> tuple[SessionCache, dict[str, Any]]:
    """Returns the cache without the blocks that lie in `spans` of the session's tokens, and what is told of it."""
    gone = [
        at
        for at, block in enumerate(cache.blocks[cache.tail :], cache.tail)
        if any(first <= block.origin.tokens[0] and block.origin.tokens[1] <= last for first, last in spans)
    ]
    after = evict_blocks(cache, gone, restart=rules.restart_mode)
    dropped = [list(cache.blocks[at].origin.tokens) for at in gone]
    before = {"slots": round(cache.slots, 1), "bytes": cache.nbytes}
    return after, {"why": WHY, "before": before, "dropped": dropped, "restart": rules.restart_mode}


def cut_turn(ids: Sequence[int], spans: Sequence[BlockSpan], turn: int, at: int, start: int = 0) -> list[Block]:
    """Returns a turn's tokens from `start` on as blocks: content of blocks, mementos, and what is between.

    `at` is the place of the turn's first token in the session.
    """
    labels = [(Kind.ACTION, 0)] * len(ids)
    for number, span in enumerate(spans, 1):
        for kind, (first, last) in ((Kind.REASONING, span.block), (Kind.MEMENTO, span.memento)):
            labels[first:last] = [(kind, number)] * (min(last, len(ids)) - first)
    blocks: list[Block] = []
    for first, last in _equal_runs(labels, start):
        part = tuple(ids[first:last])
        blocks.append(Block(part, Origin(turn, labels[first][0], (0, 0), (at + first, at + last))))
    return blocks


def simplify(curve: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Returns a curve without the points that lie on the line between their neighbours."""
    kept: list[tuple[int, float]] = []
    for at, point in enumerate(curve):
        if 0 < at < len(curve) - 1 and kept:
            (x0, y0), (x1, y1), (x2, y2) = curve[at - 1], point, curve[at + 1]
            if x2 > x1 > x0 and abs((y1 - y0) * (x2 - x1) - (y2 - y1) * (x1 - x0)) < 1e-6:
                continue
        kept.append((point[0], round(point[1], 3)))
    return kept


def _split_rendered(
    rendered: Sequence[Block], session: Session, turns: Sequence[Turn], rules: MementoRules
) -> tuple[list[Block], list[tuple[int, int]]]:
    """Returns rendered blocks cut at the delimiters in turns of the assistant, and the spans of what may go."""
    tokenizer, first = session.engine.model.tokenizer, len(session.turns)
    blocks: list[Block] = []
    gone: list[tuple[int, int]] = []
    for block in rendered:
        spans: list[BlockSpan] = []
        if turns[block.origin.turn - first].role is Role.ASSISTANT:
            spans = find_spans(block.ids, tokenizer, rules.delimiters, rules.mask_delimiters)
        if not spans:
            blocks.append(block)
            continue
        at = block.origin.tokens[0]
        blocks += cut_turn(block.ids, spans, block.origin.turn, at)
        gone += [(at + span.block[0], at + span.block[1]) for span in spans]
    return blocks, gone


def _shift(span: BlockSpan, by: int) -> BlockSpan:
    return BlockSpan(*((first + by, last + by) for first, last in (span.block, span.memento)))


def _equal_runs(labels: Sequence[object], start: int) -> Iterator[tuple[int, int]]:
    """Yields the spans of equal neighbours from `start` on."""
    first = start
    for at in range(start + 1, len(labels) + 1):
        if at == len(labels) or labels[at] != labels[first]:
            yield first, at
            first = at
