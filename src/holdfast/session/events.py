"""A session's events as JSON: what was appended, compacted, taken back. Everything else follows from them.

The log is the truth and only grows. A turn's token ids are part of its event, because what a model generated need not
be what its template would write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

from torch import Tensor

from holdfast.blocks.block import Block, Kind, Origin
from holdfast.context import store as contexts
from holdfast.context.segments import CompactContext
from holdfast.errors import BadContext
from holdfast.model.load import Model
from holdfast.storage.store import Store
from holdfast.transcript.turn import Role, ToolCall, Turn

FORMAT = 1

Event = Mapping[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """A memory as it was stored: what a resumed, rewound or undone session begins from."""

    blocks: int
    """Blocks that it holds, compacted or not."""
    tail: int
    """The first of them that was verbatim and is its last segment."""
    context: str
    hidden: str
    """Digests of the context and of the tail's hidden states."""
    compactions: int
    """How many compactions made it."""
    saved: bool = False
    """Of the whole memory at some time, and not of a compaction: the next one takes its place."""


@dataclass
class Log:
    """The events of one session in a store, written one by one."""

    store: Store
    id: str
    length: int = 0

    def write(self, event: Event) -> None:
        """Durable when this returns. Raises Conflict where another process has written meanwhile."""
        self.store.append(self.id, self.length, dict(event))
        self.length += 1


class CheckpointStore:
    """Where a session's memories are stored: in a store, or in this process where there is none."""

    def __init__(self, store: Store | None) -> None:
        self._store = store
        self._here: dict[str, tuple[CompactContext, Tensor]] = {}

    def put(self, context: CompactContext, hidden: Tensor, model: Model) -> tuple[str, str]:
        """What to call them in a checkpoint."""
        if self._store:
            return self._store.put(contexts.to_bytes(context, model)), self._store.put(hidden_bytes(hidden))
        name = uuid4().hex
        self._here[name] = context, hidden
        return name, name

    def get(self, checkpoint: Checkpoint, model: Model, session: str) -> tuple[CompactContext, Tensor]:
        """Raises Missing and BadContext."""
        if not self._store:
            return self._here[checkpoint.context]
        context = contexts.from_bytes(self._store.get(checkpoint.context), model, name=f"session {session}")
        return context, hidden_of(self._store.get(checkpoint.hidden)).to(model.device, model.dtype)


def opening(model: Model, tools: Sequence[Mapping[str, Any]]) -> Event:
    """The first event of a session."""
    digests = {"model": model.digest, "tokenizer": model.tokenizer_digest, "template": model.template_digest}
    return {"kind": "opened", "format": FORMAT, "name": model.name, **digests, "tools": list(tools)}


def check_opening(event: Event, model: Model, name: str) -> None:
    """Raise BadContext where a session was not recorded with this model, by this version."""
    if event.get("kind") != "opened" or event.get("format") != FORMAT:
        raise BadContext(f"session {name}: its log does not begin as this version of Holdfast writes it")
    own = {"model": model.digest, "tokenizer": model.tokenizer_digest, "template": model.template_digest}
    for what, digest in own.items():
        if event.get(what) != digest:
            raise BadContext(
                f"session {name} was held with {event.get('name')!r}, whose {what} (digest {event.get(what)}) is not "
                f"that of {model.name!r} ({digest}); start with the model that it was held with"
            )


def appended_event(turns: Sequence[Turn], blocks: Sequence[Block]) -> Event:
    """Turns that were read or generated, and the blocks that they became."""
    rows = [[block.origin.turn, block.kind.value, list(block.ids)] for block in blocks]
    return {"kind": "turns", "turns": [turn_row(turn) for turn in turns], "blocks": rows}


def blocks_of(event: Event, at: int) -> tuple[Block, ...]:
    """The blocks of an appended event; the first token is the session's token `at`."""
    made: list[Block] = []
    for turn, kind, ids in event["blocks"]:
        made.append(Block(tuple(ids), Origin(turn, Kind(kind), (0, 0), (at, at + len(ids)))))
        at += len(ids)
    return tuple(made)


def checkpoint_event(kind: str, checkpoint: Checkpoint, told: Mapping[str, Any]) -> Event:
    """`compacted` or `saved`."""
    return {"kind": kind, **vars(checkpoint), "told": dict(told)}


def checkpoint_of(event: Event) -> Checkpoint:
    return Checkpoint(**{name: event[name] for name in Checkpoint.__dataclass_fields__ if name in event})


def followed(checkpoints: Sequence[Checkpoint], checkpoint: Checkpoint) -> list[Checkpoint]:
    """The checkpoints that still count once another was stored: those of compactions, and the newest save."""
    return [*(c for c in checkpoints if not c.saved), checkpoint]


@dataclass(frozen=True)
class Past:
    """What stands after all events of a log, but for its memory."""

    turns: tuple[Turn, ...] = ()
    blocks: tuple[Block, ...] = ()
    checkpoints: list[Checkpoint] = field(default_factory=list)
    pinned: frozenset[int] = frozenset()

    def after(self, event: Event, name: str) -> Past:
        """With one more event. Raises BadContext for one of a kind that there is not."""
        kind = event["kind"]
        if kind == "turns":
            at = self.blocks[-1].origin.tokens[1] if self.blocks else 0
            turns = (*self.turns, *map(turn_of, event["turns"]))
            return replace(self, turns=turns, blocks=(*self.blocks, *blocks_of(event, at)))
        if kind in ("compacted", "saved"):
            return replace(self, checkpoints=followed(self.checkpoints, checkpoint_of(event)))
        if kind == "undone":
            return replace(self, checkpoints=self.checkpoints[: event["checkpoints"]])
        if kind == "rewound":
            return self._rewound(event["turns"])
        if kind == "pinned":
            pinned = self.pinned | {event["turn"]} if event["pinned"] else self.pinned - {event["turn"]}
            return replace(self, pinned=pinned)
        if kind != "opened":
            raise BadContext(f"session {name}: its log has an event {kind!r} that this version does not know")
        return self

    def _rewound(self, turns: int) -> Past:
        blocks = tuple(block for block in self.blocks if block.origin.turn < turns)
        pinned = frozenset(turn for turn in self.pinned if turn < turns)
        return Past(self.turns[:turns], blocks, still(self.checkpoints, len(blocks)), pinned)


def replayed(events: Sequence[Event], name: str) -> Past:
    """What stands after all events. Raises BadContext where a log holds what this version does not know."""
    past = Past()
    for event in events:
        past = past.after(event, name)
    return past


def still(checkpoints: Sequence[Checkpoint], blocks: int) -> list[Checkpoint]:
    """The checkpoints that serve the first `blocks` blocks; what one holds beyond them does not count any more."""
    return [replace(c, blocks=min(c.blocks, blocks)) for c in checkpoints if c.tail <= blocks]


def named(events: Sequence[Event]) -> set[str]:
    """The objects that a session with these events may still need."""
    standing = replayed(events, "").checkpoints
    return {digest for checkpoint in standing for digest in (checkpoint.context, checkpoint.hidden)}


def hidden_bytes(hidden: Tensor) -> bytes:
    """Hidden states `[T, d]` as the bytes of a safetensors file."""
    from safetensors.torch import save

    return bytes(save({"hidden": hidden.detach().cpu().contiguous()}))


def hidden_of(data: bytes) -> Tensor:
    """What `hidden_bytes` wrote. Raises BadContext for anything else."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        hidden: Tensor = load(data)["hidden"]
        return hidden
    except (SafetensorError, KeyError) as error:
        raise BadContext(f"stored hidden states are damaged: {error}") from error


def turn_row(turn: Turn) -> dict[str, Any]:
    """A turn as JSON; what is empty is left out."""
    row: dict[str, Any] = {"role": turn.role.value}
    row |= {name: value for name in ("text", "reasoning", "call_id", "is_error") if (value := getattr(turn, name))}
    if turn.calls:
        row["calls"] = [[call.id, call.name, call.arguments] for call in turn.calls]
    return row


def turn_of(row: Mapping[str, Any]) -> Turn:
    """The turn that `turn_row` wrote."""
    plain = {name: row[name] for name in ("text", "reasoning", "call_id", "is_error") if name in row}
    return replace(Turn(Role(row["role"]), **plain), calls=tuple(ToolCall(*call) for call in row.get("calls", ())))
