"""The live session: turns are appended, answers generated, old turns compacted in place.

    session = Session(load())
    session.append(read("session.json").turns)
    answer = session.answer()
    print(answer.text())
    session.commit(answer)
    session.compact()                # what stays keeps its states; restart=True reads it again
    session.ask("Which port?")       # on a fork: the session does not notice

Every change is made beside the memory, written to the log, and only then taken over: a change that fails leaves the
session as it was, and one that was acknowledged is in the log. Not for several threads at once; the server's host has
the locks.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any
from uuid import uuid4

import torch

from holdfast.blocks.block import Block, Kind, Origin
from holdfast.blocks.render import answer_ids, question_ids, render_new_turns, replace_surrogates
from holdfast.compaction.partition import stays
from holdfast.compaction.plan import Plan, Policy
from holdfast.context.segments import CompactContext
from holdfast.engine.answer import Answer
from holdfast.engine.local import LocalEngine, stream_text
from holdfast.engine.sampling import Sampling
from holdfast.errors import BadInput, Conflict, Missing, TooLarge
from holdfast.methods.base import prefill_progress
from holdfast.methods.latent.surrogate import find_scorer
from holdfast.methods.registry import build
from holdfast.progress import Progress, quiet
from holdfast.session.cache import KeepRule, PreparedCompaction, SessionCache, catch_up, compact_cache, open_cache
from holdfast.session.checkpoints import Checkpoint, CheckpointStore, clip_checkpoints
from holdfast.session.events import (
    CompactionRejected,
    CompactionUndone,
    EventLog,
    LogEvent,
    LogState,
    Row,
    SessionCompacted,
    SessionOpened,
    SessionRewound,
    SessionSaved,
    TurnPinned,
    TurnsAppended,
    read_opening,
    replay_log,
)
from holdfast.session.length_limits import check_positions, check_turns
from holdfast.storage.store import Store
from holdfast.transcript.cuts import exchanges
from holdfast.transcript.turn import Role, Transcript, Turn


class Session:
    """One conversation with one model."""

    def __init__(
        self,
        engine: LocalEngine,
        plan: Plan | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        store: Store | None = None,
        name: str = "",
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """Opens a session. With a `store` every change is durable when its call returns; `resume` finds it by `name`.

        `about` are further fields of its first event.
        """
        self._start(engine, plan, tools, name or uuid4().hex, store)
        self._write(SessionOpened.of(engine.model, self.tools, about or {}))

    def _start(
        self,
        engine: LocalEngine,
        plan: Plan | None,
        tools: Sequence[Mapping[str, Any]],
        name: str,
        store: Store | None,
        length: int = 0,
    ) -> None:
        self.engine, self.plan, self.tools, self.name = engine, plan or Plan(), tuple(tools), name
        self._scorer = find_scorer(build(self.plan.latent), engine)
        self.cache = SessionCache.empty(engine.model, self._scorer)
        self.events: list[Row] = []
        """The log so far, one JSON row each."""
        self._log = EventLog(store, name, length) if store else None
        self._state, self._memories = LogState(), CheckpointStore(store)

    @property
    def turns(self) -> tuple[Turn, ...]:
        """All turns as they were given, compacted or not."""
        return self._state.turns

    @property
    def pinned(self) -> frozenset[int]:
        """Turns that are never compacted, besides those that the policy pins."""
        return self._state.pinned

    def append(self, turns: Sequence[Turn], progress: Progress = quiet) -> int:
        """Reads more turns; returns the number of their tokens.

        Raises BadInput for turns that the template refuses, TooLarge if they do not fit the model's window.
        """
        if not turns:
            return 0
        blocks = self.render_turns(turns)
        count = sum(map(len, blocks))
        self.check_room(count)
        after = self.cache.read(blocks, prefill_progress(progress))
        self.record(TurnsAppended.of(turns, blocks), after)
        return count

    def render_turns(self, turns: Sequence[Turn]) -> tuple[Block, ...]:
        """Renders `turns` as the blocks that they would be behind this session.

        Raises TooLarge for a turn whose characters alone show that the model cannot read it.
        """
        check_turns(turns, self.engine.model)
        meta = {"tools": list(self.tools)} if self.tools else {}
        whole = Transcript(tuple(map(replace_surrogates, (*self.turns, *turns))), meta=meta)
        return render_new_turns(whole, len(self.turns), self.engine.model.tokenizer, self.cache.tokens)

    def check_room(self, tokens: int) -> None:
        """Raises TooLarge if so many more tokens go beyond the positions that the model reads."""
        check_positions(self.cache.live.next_position, tokens, self.engine.model)

    def answer(self, limit: int = 256, sampling: Sampling | None = None) -> Answer:
        """Begins an answer; nothing changes until it is committed. Raises TooLarge if it has no room."""
        opens, closes = answer_ids(self.engine.model.tokenizer)
        self.check_room(len(opens) + limit + len(closes))
        return Answer(self.engine, self.cache.live, opens, limit, sampling)

    def commit(
        self, answer: Answer, turn: Turn | None = None, *, cut: bool = False, told: Mapping[str, Any] | None = None
    ) -> None:
        """Makes the answer so far the session's next turn; `turn` is the turn as the caller got it.

        The generated tokens stay in memory as they are. A turn that is shorter, because it was `cut`, is read as the
        template writes it. `told` are further sizes and seconds for the event.
        """
        tokenizer = self.engine.model.tokenizer
        turn = turn or Turn(Role.ASSISTANT, tokenizer.decode(answer.ids))
        if cut or not answer.ids:
            blocks = self.render_turns((turn,))
            self.record(TurnsAppended.of((turn,), blocks), self.cache.read(blocks), told)
            return
        ids, live, hidden = answer.close(answer_ids(tokenizer)[1])
        at = self.cache.tokens
        block = Block(ids, Origin(len(self.turns), Kind.ACTION, (0, 0), (at, at + len(ids))))
        self.record(TurnsAppended.of((turn,), (block,)), self.cache.extend(live, (block,), hidden), told)

    def record(
        self,
        event: LogEvent,
        after: SessionCache,
        told: Row | None = None,
        evictions: Sequence[tuple[SessionCache, Row]] = (),
    ) -> None:
        """Takes over a memory that grew by what `event` says. What grew may have dropped parts of itself: `evictions`
        are the memories behind each drop, with what is told of it, and each can be undone.
        """
        self._write(event, {**(told or {}), **after.sizes()})
        for cache, evidence in evictions:
            self._write_compaction(cache, evidence)
        self.cache = after  # after the turns: `prepare` may look from another thread

    def ask(self, question: str, limit: int = 128, sampling: Sampling | None = None) -> Iterator[str]:
        """Yields the answer to a question, on a fork: the session stays as it is. Raises TooLarge if it has no room."""
        prompt = question_ids(self.engine.model.tokenizer, question)
        self.check_room(len(prompt) + limit)
        yield from stream_text(
            self.engine.generate(self.cache.live, prompt, limit, sampling), self.engine.model.tokenizer
        )

    # -- compacting ------------------------------------------------------------------------------------------------

    @property
    def recent(self) -> int:
        """The first turn of the newest exchanges, which stay verbatim."""
        return self._recent(self.plan.policy)

    def _recent(self, policy: Policy) -> int:
        units, keep = exchanges(Transcript(self.turns)), policy.keep_recent
        if not keep or not units:
            return len(self.turns)
        return units[-min(keep, len(units))][0]

    def stays(self, block: Block) -> bool:
        """Returns True for a block that is never compacted."""
        turn = block.origin.turn
        return turn in self.pinned or stays(block, self.turns[turn], self.plan.policy)

    @property
    def compactable(self) -> int:
        """Verbatim tokens that a compaction would compact now."""
        rest, recent = self.cache.blocks[self.cache.tail :], self.recent
        return sum(len(block) for block in rest if block.origin.turn < recent and not self.stays(block))

    def compact(
        self,
        plan: Plan | None = None,
        *,
        restart: bool = False,
        why: str = "asked",
        target: int | None = None,
        progress: Progress = quiet,
    ) -> Row:
        """Compacts the turns that the policy lets go; returns the event with sizes, seconds and the gate's findings.

        In place, verbatim turns keep their states, which know the text that goes. With `restart` they are read again
        over the compact memory. The plan's `slots` are a bound, `target` a size that is reached if it can be.
        Raises BadInput if there is nothing to compact; the session is then as it was.
        """
        return self.adopt(self.prepare(plan, restart=restart, target=target, progress=progress), why)

    def prepare(
        self,
        plan: Plan | None = None,
        *,
        restart: bool = False,
        target: int | None = None,
        progress: Progress = quiet,
    ) -> PreparedCompaction:
        """Compacts beside the session, which may read and answer meanwhile; `adopt` takes the result over."""
        plan, before = plan or self.plan, self.cache
        policy, turns, pinned = plan.policy, self.turns, self.pinned
        rule = KeepRule(
            lambda b: b.origin.turn in pinned or stays(b, turns[b.origin.turn], policy), self._recent(policy), restart
        )
        after, evidence = compact_cache(before, self.engine, plan, rule, target, progress)
        return PreparedCompaction(before, after, {**evidence, "restart": restart}, pinned)

    def adopt(self, made: PreparedCompaction, why: str = "asked") -> Row:
        """Takes over a prepared compaction, with the turns since. Raises Conflict if the session went another way."""
        if made.pinned != self.pinned:
            raise Conflict("turns were pinned or let go while the session was being compacted")
        return self.replace_memory(catch_up(made, self.cache), made.evidence, why)

    def replace_memory(self, after: SessionCache, evidence: Mapping[str, Any], why: str) -> Row:
        """Takes over a memory that holds less, as a compaction; returns its event."""
        self._write_compaction(after, {**evidence, "why": why})
        self.cache = after
        return self.events[-1]

    def _write_compaction(self, after: SessionCache, told: Mapping[str, Any]) -> None:
        checkpoint = self._store_memory(after, self.compactions + 1)
        self._write(SessionCompacted(checkpoint), {**told, **after.sizes()})

    def reject(self, evidence: Mapping[str, Any], why: str) -> None:
        """Writes to the log that a prepared compaction was not taken over, and how it was measured."""
        self._write(CompactionRejected(), {**evidence, "why": why})

    @property
    def compactions(self) -> int:
        """Compactions that stand."""
        return self._state.compactions

    def undo(self, progress: Progress = quiet) -> None:
        """Takes back the newest compaction: its text is read again.

        Raises BadInput if there is none, TooLarge if the model does not read that much.
        """
        standing = self.compactions
        if not standing:
            raise BadInput("nothing is compacted in this session, so that there is nothing to undo")
        earlier = [c for c in self._state.checkpoints if c.compactions < standing]
        after = self._read_again(earlier, len(self.cache.blocks), progress, self.engine.model.max_tokens)
        self._write(CompactionUndone(len(earlier)), after.sizes())
        self.cache = after

    def pin(self, turn: int, pinned: bool = True) -> None:
        """Keeps a turn (counted from 0) verbatim from now on, or lets it go. Raises Missing if there is none."""
        self.turn(turn)
        self._write(TurnPinned(turn, pinned))

    def turn(self, turn: int) -> Turn:
        """Returns a turn as it was given, counted from 0, compacted or not. Raises Missing if there is no such turn."""
        if not 0 <= turn < len(self.turns):
            raise Missing(f"there is no turn {turn + 1}: the session has {len(self.turns)}")
        return self.turns[turn]

    def rewind(self, turns: int, progress: Progress = quiet) -> None:
        """Goes back to the first `turns` turns. Raises BadInput for more turns than there are.

        Turns that are still verbatim cost nothing; others are read again from the compaction before them.
        """
        if turns == len(self.turns):
            return
        after, _ = self._go_back(turns, progress)
        self._write(SessionRewound(turns))
        self.cache = after

    def fork(self, name: str = "", turns: int | None = None) -> Session:
        """Forks the session, or its first `turns` turns, into another one.

        Memory is shared until it grows; the log is its own. Raises BadInput for more turns than there are.
        """
        turns = len(self.turns) if turns is None else turns
        cache, checkpoints = self._go_back(turns, quiet)
        twin, store = Session.__new__(Session), self._log.store if self._log else None
        twin._start(self.engine, self.plan, self.tools, name or uuid4().hex, store)
        twin._memories = self._memories
        opening = read_opening(self.events[0], self.name)
        twin._write(replace(opening, about={**opening.about, "parent": self.name}))
        if turns:
            twin._write(TurnsAppended.of(self.turns[:turns], cache.blocks), cache.sizes())
        for checkpoint in checkpoints:
            twin._write(SessionSaved(checkpoint), cache.sizes())
        twin.cache = cache
        for turn in sorted(self.pinned):
            if turn < turns:
                twin.pin(turn)
        return twin

    def _go_back(self, turns: int, progress: Progress) -> tuple[SessionCache, Sequence[Checkpoint]]:
        """Returns the memory of the first `turns` turns, and the checkpoints that then count."""
        if not 0 <= turns <= len(self.turns):
            raise BadInput(f"can go back to 0 to {len(self.turns)} turns, got {turns}")
        blocks = next((at for at, b in enumerate(self.cache.blocks) if b.origin.turn >= turns), len(self.cache.blocks))
        earlier = clip_checkpoints(self._state.checkpoints, blocks)
        if blocks >= self.cache.tail:
            return self.cache.crop(blocks), earlier
        return self._read_again(earlier, blocks, progress), earlier

    # -- durable ---------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Stores the whole memory, so that resuming reads nothing again. Turns and compactions are stored anyway."""
        checkpoint = replace(self._store_memory(self.cache, self.compactions), saved=True)
        self._write(SessionSaved(checkpoint), self.cache.sizes())

    @classmethod
    def resume(
        cls, name: str, engine: LocalEngine, store: Store, plan: Plan | None = None, progress: Progress = quiet
    ) -> Session:
        """Loads a stored session as it was. Raises Missing if there is none, BadContext if its model was another."""
        events = store.events(name)
        if not events:
            raise Missing(f"there is no session {name!r} in this store")
        opening = read_opening(events[0], name)
        opening.check_model(engine.model, name)
        session = cls.__new__(cls)
        session._start(engine, plan, opening.tools, name, store, len(events))
        session.events, session._state = list(events), replay_log(events, name)
        blocks = session._state.blocks
        session.cache = replace(session.cache, blocks=blocks)
        session.cache = session._read_again(session._state.checkpoints, len(blocks), progress)
        return session

    def context(self) -> CompactContext:
        """Returns the memory as one context, for `holdfast.save` and everything else that takes one."""
        recipe = {"latent": self.plan.latent, "ratio": self.plan.ratio, "policy": asdict(self.plan.policy)}
        evidence = {"compactions": [event["told"] for event in self.events if event["kind"] == SessionCompacted.kind]}
        return replace(self.cache.context(), recipe=recipe, evidence=evidence)

    def _write(self, event: LogEvent, told: Mapping[str, Any] | None = None) -> None:
        """Writes an event to the log, and only then applies it. `told` are sizes and seconds for whoever reads it."""
        row = {**event.row(), **({} if told is None else {"told": dict(told)}), "at": round(time.time(), 3)}
        if self._log:
            self._log.write(row)
        self.events.append(row)
        self._state = event.apply(self._state)

    def _store_memory(self, cache: SessionCache, compactions: int) -> Checkpoint:
        hidden = torch.cat(cache.hidden) if cache.hidden else torch.empty(0, self.engine.model.family.d_model)
        names = self._memories.put(cache.context(), hidden, self.engine.model)
        return Checkpoint(len(cache.blocks), cache.tail, *names, compactions)

    def _read_again(
        self, checkpoints: Sequence[Checkpoint], blocks: int, progress: Progress, most: int | None = None
    ) -> SessionCache:
        """Rebuilds the memory of the first `blocks` blocks from a checkpoint. Raises TooLarge beyond `most`."""
        whole, model = self.cache.blocks, self.engine.model
        cache = SessionCache.empty(model, self._scorer)
        if checkpoints:
            last = checkpoints[-1]
            context, hidden = self._memories.get(last, model, self.name)
            cache = open_cache(context, whole[: last.blocks], last.tail, hidden, cache)
        if len(cache.blocks) > blocks:
            return cache.crop(blocks)
        rest = whole[len(cache.blocks) : blocks]
        needed = cache.live.next_position + sum(map(len, rest))
        if most is not None and needed > most:
            raise TooLarge(
                f"without that compaction the session takes {needed} positions, and {model.name} reads {most}; "
                "keep it, or fork the session at an earlier turn"
            )
        return cache.read(rest, prefill_progress(progress))
