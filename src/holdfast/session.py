"""The live object: turns are appended, answers generated, the past compacted in place.

    session = Session(load())
    session.append(read("session.json").turns)
    answer = session.answer()
    print(answer.text())
    session.commit(answer)
    session.compact()                # what stays keeps its states; restart=True reads it again
    session.ask("Which port?")       # on a fork: the session does not notice

Every change is made beside the memory, written to the log, and only then taken over: what fails leaves the session as
it was, and what was acknowledged is in the log. Not for several threads at once; `server.host` has the locks.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor

from holdfast.blocks.block import Block, Kind, Origin
from holdfast.blocks.render import answer_ids, appended, question_ids
from holdfast.context import store as contexts
from holdfast.context.segments import CompactContext
from holdfast.engine.answering import Answer
from holdfast.engine.local import LocalEngine, spoken
from holdfast.engine.sampling import Sampling
from holdfast.errors import BadContext, BadInput, Missing, TooLarge
from holdfast.held import Held, closed, compacted, opened
from holdfast.latent import Plan, stays
from holdfast.methods.base import Progress, quiet, reading
from holdfast.record import (
    Checkpoint,
    Event,
    Log,
    appended_event,
    blocks_of,
    check_opening,
    checkpoint_event,
    checkpoint_of,
    hidden_bytes,
    hidden_of,
    opening,
    turn_of,
)
from holdfast.store import Store
from holdfast.transcript.cuts import exchanges
from holdfast.transcript.turn import Role, Transcript, Turn

FULL = 0.75
"""Of the positions that a model reads, from which on a compaction draws the past together."""
DRAWN = 0.5
"""Of them, to which it does."""


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
        """With a `store` every change is durable when its call returns, and `resume` finds it by `name`. `about` is
        what else its first event says."""
        self._start(engine, plan, tools, name or uuid4().hex, store)
        self._write({**opening(engine.model, self.tools), **(about or {})})

    def _start(
        self,
        engine: LocalEngine,
        plan: Plan | None,
        tools: Sequence[Mapping[str, Any]],
        name: str,
        store: Store | None,
        length: int = 0,
    ) -> None:
        self.engine, self.plan, self.tools = engine, plan or Plan(), tuple(tools)
        self.name = name
        self.turns: tuple[Turn, ...] = ()
        self.pinned: frozenset[int] = frozenset()
        """Turns that are never compacted, besides those that the policy pins."""
        self.held = Held.empty(engine.model)
        self.events: list[Event] = []
        self._log = Log(store, name, length) if store else None
        self._checkpoints: list[Checkpoint] = []
        self._kept: dict[str, Any] = {}  # what checkpoints name, where there is no store

    # -- growing ---------------------------------------------------------------------------------------------------

    def append(self, turns: Sequence[Turn], progress: Progress = quiet) -> int:
        """Read more turns; returns how many tokens they took.

        Raises BadInput for turns that the template refuses, TooLarge where they go beyond what the model reads.
        """
        if not turns:
            return 0
        blocks = self.rendered(turns)
        count = sum(map(len, blocks))
        self.check_room(count)
        after = self.held.read(blocks, reading(progress))
        self._grow(after, turns, blocks, {})
        return count

    def rendered(self, turns: Sequence[Turn]) -> tuple[Block, ...]:
        """The blocks that `turns` would be behind this session. Raises TooLarge for a turn that no tokenizing is
        needed to know as longer than what the model reads."""
        self._check_turns(turns)
        meta = {"tools": list(self.tools)} if self.tools else {}
        whole = Transcript(tuple(map(_whole, (*self.turns, *turns))), meta=meta)
        return appended(whole, len(self.turns), self.engine.model.tokenizer, self.held.tokens)

    def _check_turns(self, turns: Sequence[Turn]) -> None:
        model = self.engine.model
        most = model.max_tokens * _longest(model.tokenizer)
        for turn in turns:
            if len(turn.text) > most and (size := sum(map(len, turn.text.split()))) > most:
                raise TooLarge(
                    f"one turn has {size:,} characters, more than fit the {model.max_tokens} tokens that {model.name} "
                    "reads; send it in parts, or a shorter one"
                )

    def check_room(self, tokens: int) -> None:
        """Raise TooLarge where so many more tokens go beyond the positions that the model reads."""
        needed, most = self.held.live.next_position + tokens, self.engine.model.max_tokens
        if needed > most:
            raise TooLarge(
                f"the session ends at position {needed - tokens} and {tokens} more tokens do not fit the {most} that "
                f"{self.engine.model.name} reads; compact it, send less, or use a model with a longer context"
            )

    def answer(self, limit: int = 256, sampling: Sampling | None = None) -> Answer:
        """An answer to what stands; nothing changes until it is committed. Raises TooLarge where it has no room."""
        opens, closes = answer_ids(self.engine.model.tokenizer)
        self.check_room(len(opens) + limit + len(closes))
        return Answer(self.engine, self.held.live, opens, limit, sampling)

    def commit(
        self, answer: Answer, turn: Turn | None = None, *, cut: bool = False, told: Mapping[str, Any] | None = None
    ) -> None:
        """Make what was answered so far the session's next turn; `turn` is what its caller was told.

        What was generated stays in memory as it is, token for token. A turn that says less, because it was `cut`, is
        read as the template writes it. `told` goes into the event.
        """
        tokenizer = self.engine.model.tokenizer
        turn = turn or Turn(Role.ASSISTANT, tokenizer.decode(answer.ids))
        if cut or not answer.ids:
            blocks = self.rendered((turn,))
            self._grow(self.held.read(blocks), (turn,), blocks, told or {})
            return
        ids, live, hidden = answer.closed(answer_ids(tokenizer)[1])
        at = self.held.tokens
        block = Block(ids, Origin(len(self.turns), Kind.ACTION, (0, 0), (at, at + len(ids))))
        self._grow(self.held.grown(live, (block,), hidden), (turn,), (block,), told or {})

    def ask(self, question: str, limit: int = 128, sampling: Sampling | None = None) -> Iterator[str]:
        """Answer a question on a fork: the session does not notice. Raises TooLarge where it has no room."""
        prompt = question_ids(self.engine.model.tokenizer, question)
        self.check_room(len(prompt) + limit)
        yield from spoken(self.engine.generate(self.held.live, prompt, limit, sampling), self.engine.model.tokenizer)

    # -- compacting ------------------------------------------------------------------------------------------------

    @property
    def recent(self) -> int:
        """The first turn of the newest exchanges, which stay verbatim."""
        units, keep = exchanges(Transcript(self.turns)), self.plan.policy.keep_recent
        if not keep or not units:
            return len(self.turns)
        return units[-min(keep, len(units))][0]

    def stays(self, block: Block) -> bool:
        """Whether a block is never compacted."""
        turn = block.origin.turn
        return turn in self.pinned or stays(block, self.turns[turn], self.plan.policy)

    @property
    def compactable(self) -> int:
        """Verbatim tokens that a compaction would take up now."""
        rest, recent = self.held.blocks[self.held.tail :], self.recent
        return sum(len(block) for block in rest if block.origin.turn < recent and not self.stays(block))

    def compact(
        self, plan: Plan | None = None, *, restart: bool = False, why: str = "asked", progress: Progress = quiet
    ) -> Event:
        """Compact what the policy lets go; returns the event: sizes, seconds, and what the gate found.

        In place, what stays keeps the states that it has, which know the text that goes. With `restart` it is read
        again over the compact memory. Raises BadInput where there is nothing to compact; all is then as it was.
        """
        plan, most = plan or self.plan, self.engine.model.max_tokens
        after, told = compacted(
            self.held, self.engine, plan, self.stays, self.recent, restart=restart, progress=progress
        )
        if after.live.next_position > FULL * most:
            after = closed(after, int(DRAWN * most))
            told["next_position"] = [self.held.live.next_position, after.live.next_position]
        checkpoint = self._stored(after, self.compactions + 1)
        self._write(checkpoint_event("compacted", checkpoint, {**told, "restart": restart, "why": why}))
        self._checkpoints.append(checkpoint)
        self.held = after
        return self.events[-1]

    @property
    def compactions(self) -> int:
        """Compactions that stand."""
        standing = self._checkpoints  # another thread may look while one takes a compaction back
        return standing[-1].compactions if standing else 0

    def undo(self, progress: Progress = quiet) -> None:
        """Take back the newest compaction: its text is read again. Raises BadInput where there is none."""
        standing = self.compactions
        if not standing:
            raise BadInput("nothing is compacted in this session, so that there is nothing to undo")
        earlier = [c for c in self._checkpoints if c.compactions < standing]
        after = self._rebuilt(earlier, len(self.held.blocks), progress)
        self._write({"kind": "undone", "checkpoints": len(earlier), "told": _sizes(after)})
        self._checkpoints, self.held = earlier, after

    def pin(self, turn: int, pinned: bool = True) -> None:
        """Keep a turn (counted from 0) verbatim from now on, or let it go. Raises Missing for one that there is not."""
        self.turn(turn)
        self._write({"kind": "pinned", "turn": turn, "pinned": pinned})
        self.pinned = self.pinned | {turn} if pinned else self.pinned - {turn}

    def turn(self, turn: int) -> Turn:
        """A raw turn, counted from 0, whatever became of it. Raises Missing for one that there is not."""
        if not 0 <= turn < len(self.turns):
            raise Missing(f"there is no turn {turn + 1}: the session has {len(self.turns)}")
        return self.turns[turn]

    # -- other pasts and futures -----------------------------------------------------------------------------------

    def rewind(self, turns: int, progress: Progress = quiet) -> None:
        """Go back to the first `turns` turns. What is still verbatim costs nothing; other text is read again from the
        compaction before it. Raises BadInput for more turns than there are."""
        if not 0 <= turns <= len(self.turns):
            raise BadInput(f"can go back to 0 to {len(self.turns)} turns, got {turns}")
        if turns == len(self.turns):
            return
        blocks = next((at for at, b in enumerate(self.held.blocks) if b.origin.turn >= turns), len(self.held.blocks))
        earlier, near = _still(self._checkpoints, blocks), blocks >= self.held.tail
        after = self.held.cropped(blocks) if near else self._rebuilt(earlier, blocks, progress)
        self._write({"kind": "rewound", "turns": turns})
        self._checkpoints, self.held, self.turns = earlier, after, self.turns[:turns]
        self.pinned = frozenset(turn for turn in self.pinned if turn < turns)

    def fork(self, name: str = "") -> Session:
        """A second future of the same past. Memory is shared until it grows; the log is its own."""
        twin = Session.__new__(Session)
        store = self._log.store if self._log else None
        twin._start(self.engine, self.plan, self.tools, name or uuid4().hex, store)
        twin._kept, twin._checkpoints = dict(self._kept), list(self._checkpoints)
        twin._write({**self.events[0], "parent": self.name})
        if self.turns:
            twin._write({**appended_event(self.turns, self.held.blocks), "told": _sizes(self.held)})
        for checkpoint in self._checkpoints:
            twin._write(checkpoint_event("saved", checkpoint, _sizes(self.held)))
        for turn in sorted(self.pinned):
            twin._write({"kind": "pinned", "turn": turn, "pinned": True})
        twin.turns, twin.held, twin.pinned = self.turns, self.held, self.pinned
        return twin

    # -- durable ---------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Store the whole memory, so that resuming reads nothing again. Turns and compactions are stored anyway."""
        checkpoint = self._stored(self.held, self.compactions)
        self._write(checkpoint_event("saved", checkpoint, _sizes(self.held)))
        self._checkpoints.append(checkpoint)

    @classmethod
    def resume(
        cls, name: str, engine: LocalEngine, store: Store, plan: Plan | None = None, progress: Progress = quiet
    ) -> Session:
        """A stored session as it was. Raises Missing where there is none, BadContext where its model was another."""
        events = store.events(name)
        if not events:
            raise Missing(f"there is no session {name!r} in this store")
        check_opening(events[0], engine.model, name)
        session = cls.__new__(cls)
        session._start(engine, plan, events[0]["tools"], name, store, len(events))
        blocks: list[Block] = []
        for event in events:
            _replay(session, event, blocks)
        session.events = list(events)
        session.held = replace(session.held, blocks=tuple(blocks))
        session.held = session._rebuilt(session._checkpoints, len(blocks), progress)
        return session

    def context(self) -> CompactContext:
        """The memory as one context, for `holdfast.save` and everything that takes one."""
        recipe = {"latent": self.plan.latent, "ratio": self.plan.ratio, "policy": asdict(self.plan.policy)}
        evidence = {"compactions": [event["told"] for event in self.events if event["kind"] == "compacted"]}
        return replace(self.held.context(), recipe=recipe, evidence=evidence)

    def _grow(self, after: Held, turns: Sequence[Turn], blocks: Sequence[Block], told: Mapping[str, Any]) -> None:
        self._write({**appended_event(turns, blocks), "told": {**told, **_sizes(after)}})
        self.held, self.turns = after, (*self.turns, *turns)

    def _write(self, event: Event) -> None:
        event = {**event, "at": round(time.time(), 3)}
        if self._log:
            self._log.write(event)
        self.events.append(event)

    def _stored(self, held: Held, compactions: int) -> Checkpoint:
        context = held.context()
        hidden = torch.cat(held.hidden) if held.hidden else torch.empty(0, self.engine.model.family.d_model)
        if self._log:
            names = [
                self._log.store.put(data)
                for data in (contexts.to_bytes(context, self.engine.model), hidden_bytes(hidden))
            ]
        else:
            names = [uuid4().hex, uuid4().hex]
            self._kept |= dict(zip(names, (context, hidden), strict=True))
        return Checkpoint(len(held.blocks), held.tail, names[0], names[1], compactions)

    def _rebuilt(self, checkpoints: Sequence[Checkpoint], blocks: int, progress: Progress) -> Held:
        """The memory of the first `blocks` blocks, from the newest checkpoint that serves."""
        whole, model = self.held.blocks, self.engine.model
        held = Held.empty(model)
        if checkpoints:
            last = checkpoints[-1]
            context, hidden = self._loaded(last)
            held = opened(context, whole[: last.blocks], last.tail, hidden, model)
        if len(held.blocks) > blocks:
            return held.cropped(blocks)
        return held.read(whole[len(held.blocks) : blocks], reading(progress))

    def _loaded(self, checkpoint: Checkpoint) -> tuple[CompactContext, Tensor]:
        if not self._log:
            return self._kept[checkpoint.context], self._kept[checkpoint.hidden]
        store, model = self._log.store, self.engine.model
        context = contexts.from_bytes(store.get(checkpoint.context), model, name=f"session {self.name}")
        return context, hidden_of(store.get(checkpoint.hidden)).to(model.device, model.dtype)


def _whole(turn: Turn) -> Turn:
    """A turn as a tokenizer can read it: half a character (a lone surrogate) stands as U+FFFD."""
    said = turn.text, turn.reasoning, *(call.arguments for call in turn.calls)
    if "".join(said).isascii():
        return turn
    calls = tuple(replace(call, arguments=_characters(call.arguments)) for call in turn.calls)
    return replace(turn, text=_characters(turn.text), reasoning=_characters(turn.reasoning), calls=calls)


def _characters(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@cache
def _longest(tokenizer: Any) -> int:
    """Characters of the longest token: a text has no fewer tokens than so many fit into it."""
    return max(map(len, tokenizer.get_vocab()))


def _sizes(held: Held) -> dict[str, Any]:
    return {"tokens": held.tokens, "slots": round(held.slots, 1), "bytes": held.nbytes}


def _replay(session: Session, event: Event, blocks: list[Block]) -> None:
    """One event of the log, without its memory."""
    kind = event["kind"]
    if kind == "turns":
        blocks += blocks_of(event, blocks[-1].origin.tokens[1] if blocks else 0)
        session.turns = (*session.turns, *map(turn_of, event["turns"]))
    elif kind in ("compacted", "saved"):
        session._checkpoints.append(checkpoint_of(event))
    elif kind == "undone":
        del session._checkpoints[event["checkpoints"] :]
    elif kind == "rewound":
        session.turns = session.turns[: event["turns"]]
        blocks[:] = [block for block in blocks if block.origin.turn < event["turns"]]
        session._checkpoints = _still(session._checkpoints, len(blocks))
        session.pinned = frozenset(turn for turn in session.pinned if turn < event["turns"])
    elif kind == "pinned":
        session.pinned = session.pinned | {event["turn"]} if event["pinned"] else session.pinned - {event["turn"]}
    elif kind != "opened":
        raise BadContext(f"session {session.name}: its log has an event {kind!r} that this version does not know")


def _still(checkpoints: Sequence[Checkpoint], blocks: int) -> list[Checkpoint]:
    """The checkpoints that serve the first `blocks` blocks; what one holds beyond them does not count any more."""
    return [replace(c, blocks=min(c.blocks, blocks)) for c in checkpoints if c.tail <= blocks]
