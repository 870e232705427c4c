"""The events of a session's log, a tagged union. Each kind reads and writes its JSON `row`, and has two verbs: `apply`
returns the state after it, `validate` the reason why it cannot follow a state, or nothing.

The log is the truth and only grows; the state of a session is its events applied in turn. A new kind of event is one
more class here and one more name in `LogEvent`. A turn's token ids are part of its event, because what a model
generated need not be what its template would write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Self, get_args

from holdfast.blocks.block import Block, Kind, Origin
from holdfast.errors import BadContext
from holdfast.model.load import Model
from holdfast.session.checkpoints import Checkpoint, add_checkpoint, clip_checkpoints
from holdfast.storage.store import Store
from holdfast.transcript.turn import Turn
from holdfast.transcript.turn_rows import decode_turn, encode_turn

FORMAT = 1

Row = Mapping[str, Any]
"""An event as JSON. Besides the fields of its class it may tell sizes and seconds (`told`) and a time (`at`)."""


@dataclass(frozen=True)
class LogState:
    """The state of a session after some events, without its memory."""

    turns: tuple[Turn, ...] = ()
    blocks: tuple[Block, ...] = ()
    checkpoints: tuple[Checkpoint, ...] = ()
    pinned: frozenset[int] = frozenset()

    @property
    def compactions(self) -> int:
        """Compactions that stand."""
        return self.checkpoints[-1].compactions if self.checkpoints else 0


@dataclass(frozen=True)
class SessionOpened:
    """The first event: the model, and what else the session's owner says about it."""

    kind: ClassVar[str] = "opened"
    name: str
    model: str
    tokenizer: str
    template: str
    """Digests."""
    tools: list[Any]
    about: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    @classmethod
    def of(cls, model: Model, tools: Sequence[Row], about: Row) -> Self:
        """Returns the first event of a session with this model."""
        return cls(model.name, model.digest, model.tokenizer_digest, model.template_digest, list(tools), about)

    @classmethod
    def read(cls, row: Row) -> Self:
        own = {f.name for f in fields(cls)} - {"about"}
        about = {name: value for name, value in row.items() if name not in (*own, "kind", "at")}
        return cls(**{name: row[name] for name in own if name in row}, about=about)

    def row(self) -> dict[str, Any]:
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "about"}
        return {"kind": self.kind, **own, **self.about}

    def apply(self, state: LogState) -> LogState:
        return state

    def validate(self, state: LogState, vocabulary: int) -> str:
        return "opens the session again"

    def check_model(self, model: Model, session: str) -> None:
        """Raises BadContext if the session was recorded with another model, tokenizer or chat template."""
        own = SessionOpened.of(model, (), {})
        for what in ("model", "tokenizer", "template"):
            if (digest := getattr(self, what)) != getattr(own, what):
                raise BadContext(
                    f"session {session} was held with {self.name!r}, whose {what} (digest {digest}) is not that of "
                    f"{model.name!r} ({getattr(own, what)}); start with the model that it was held with"
                )


@dataclass(frozen=True)
class TurnsAppended:
    """Turns that were read or generated, and the blocks that they became."""

    kind: ClassVar[str] = "turns"
    turns: tuple[Turn, ...]
    blocks: tuple[tuple[int, Kind, tuple[int, ...]], ...]
    """Turn, kind and token ids of each."""

    @classmethod
    def of(cls, turns: Sequence[Turn], blocks: Sequence[Block]) -> Self:
        return cls(tuple(turns), tuple((block.origin.turn, block.kind, block.ids) for block in blocks))

    @classmethod
    def read(cls, row: Row) -> Self:
        blocks = tuple((turn, Kind(kind), tuple(ids)) for turn, kind, ids in row.get("blocks", ()))
        return cls(tuple(map(decode_turn, row["turns"])), blocks)

    def row(self) -> dict[str, Any]:
        blocks = [[turn, kind.value, list(ids)] for turn, kind, ids in self.blocks]
        return {"kind": self.kind, "turns": [encode_turn(turn) for turn in self.turns], "blocks": blocks}

    def apply(self, state: LogState) -> LogState:
        at, blocks = state.blocks[-1].origin.tokens[1] if state.blocks else 0, list(state.blocks)
        for turn, kind, ids in self.blocks:
            blocks.append(Block(ids, Origin(turn, kind, (0, 0), (at, at + len(ids)))))
            at += len(ids)
        return replace(state, turns=(*state.turns, *self.turns), blocks=tuple(blocks))

    def validate(self, state: LogState, vocabulary: int) -> str:
        turns, first = [turn for turn, _, _ in self.blocks], len(state.turns)
        if turns != sorted(turns) or any(not first <= turn < first + len(self.turns) for turn in turns):
            return "holds blocks of other turns than its own"
        if any(not 0 <= token < vocabulary for _, _, ids in self.blocks for token in ids):
            return "holds tokens that the model does not have"
        return ""


@dataclass(frozen=True)
class MementoAdded:
    """A memento was read behind all turns: the session holds it, and its client does not."""

    kind: ClassVar[str] = "memento"
    turn: int
    """The newest turn then; a rewind to before it takes the memento away."""
    ids: tuple[int, ...]

    @classmethod
    def of(cls, block: Block) -> Self:
        return cls(block.origin.turn, block.ids)

    @classmethod
    def read(cls, row: Row) -> Self:
        return cls(row["turn"], tuple(row["ids"]))

    def row(self) -> dict[str, Any]:
        return {"kind": self.kind, "turn": self.turn, "ids": list(self.ids)}

    def apply(self, state: LogState) -> LogState:
        at = state.blocks[-1].origin.tokens[1] if state.blocks else 0
        block = Block(self.ids, Origin(self.turn, Kind.MEMENTO, (0, 0), (at, at + len(self.ids))))
        return replace(state, blocks=(*state.blocks, block))

    def validate(self, state: LogState, vocabulary: int) -> str:
        if self.turn != len(state.turns) - 1:
            return "holds a memento of a turn that is not the newest"
        if any(not 0 <= token < vocabulary for token in self.ids):
            return "holds tokens that the model does not have"
        return ""


@dataclass(frozen=True)
class SessionSaved:
    """The whole memory was stored."""

    kind: ClassVar[str] = "saved"
    checkpoint: Checkpoint

    @classmethod
    def read(cls, row: Row) -> Self:
        return cls(Checkpoint(**{f.name: row[f.name] for f in fields(Checkpoint) if f.name in row}))

    def row(self) -> dict[str, Any]:
        return {"kind": self.kind, **vars(self.checkpoint)}

    def apply(self, state: LogState) -> LogState:
        return replace(state, checkpoints=add_checkpoint(state.checkpoints, self.checkpoint))

    def validate(self, state: LogState, vocabulary: int) -> str:
        if not self.checkpoint.tail <= self.checkpoint.blocks <= len(state.blocks):
            return "holds a memory of blocks that there are not"
        if self.checkpoint.compactions < state.compactions:
            own = self.checkpoint.compactions
            return f"holds the memory of {own} compactions, and {state.compactions} stand before it"
        return ""


@dataclass(frozen=True)
class SessionCompacted(SessionSaved):
    """Old turns were compacted, and the memory was stored."""

    kind: ClassVar[str] = "compacted"

    def validate(self, state: LogState, vocabulary: int) -> str:
        if self.checkpoint.compactions != state.compactions + 1 or self.checkpoint.saved:
            return f"is compaction {self.checkpoint.compactions}, and {state.compactions} stand before it"
        return super().validate(state, vocabulary)


@dataclass(frozen=True)
class CompactionRejected:
    """A compaction was prepared and not taken over: what it lost is in `told`."""

    kind: ClassVar[str] = "rejected"

    @classmethod
    def read(cls, row: Row) -> Self:
        return cls()

    def row(self) -> dict[str, Any]:
        return {"kind": self.kind}

    def apply(self, state: LogState) -> LogState:
        return state

    def validate(self, state: LogState, vocabulary: int) -> str:
        return ""


@dataclass(frozen=True)
class CompactionUndone:
    """The newest compaction was taken back."""

    kind: ClassVar[str] = "undone"
    checkpoints: int
    """Checkpoints that still count."""

    @classmethod
    def read(cls, row: Row) -> Self:
        return cls(row["checkpoints"])

    def row(self) -> dict[str, Any]:
        return {"kind": self.kind, **vars(self)}

    def apply(self, state: LogState) -> LogState:
        return replace(state, checkpoints=state.checkpoints[: self.checkpoints])

    def validate(self, state: LogState, vocabulary: int) -> str:
        return "takes back a compaction that there is not" if self.checkpoints >= len(state.checkpoints) else ""


@dataclass(frozen=True)
class SessionRewound:
    """The session went back to its first `turns` turns."""

    kind: ClassVar[str] = "rewound"
    turns: int

    @classmethod
    def read(cls, row: Row) -> Self:
        return cls(row["turns"])

    def row(self) -> dict[str, Any]:
        return {"kind": self.kind, **vars(self)}

    def apply(self, state: LogState) -> LogState:
        blocks = tuple(block for block in state.blocks if block.origin.turn < self.turns)
        pinned = frozenset(turn for turn in state.pinned if turn < self.turns)
        return LogState(state.turns[: self.turns], blocks, clip_checkpoints(state.checkpoints, len(blocks)), pinned)

    def validate(self, state: LogState, vocabulary: int) -> str:
        return "goes back to a turn that there is not" if self.turns >= len(state.turns) else ""


@dataclass(frozen=True)
class TurnPinned:
    """A turn is to stay verbatim, or no longer."""

    kind: ClassVar[str] = "pinned"
    turn: int
    pinned: bool

    @classmethod
    def read(cls, row: Row) -> Self:
        return cls(row["turn"], row["pinned"])

    def row(self) -> dict[str, Any]:
        return {"kind": self.kind, **vars(self)}

    def apply(self, state: LogState) -> LogState:
        return replace(state, pinned=state.pinned | {self.turn} if self.pinned else state.pinned - {self.turn})

    def validate(self, state: LogState, vocabulary: int) -> str:
        return "pins a turn that there is not" if self.turn >= len(state.turns) else ""


LogEvent = (
    SessionOpened
    | TurnsAppended
    | MementoAdded
    | SessionCompacted
    | SessionSaved
    | CompactionRejected
    | CompactionUndone
    | SessionRewound
    | TurnPinned
)
_KINDS: dict[str, type[LogEvent]] = {event.kind: event for event in get_args(LogEvent)}


def read_event(row: Row, session: str) -> LogEvent:
    """Returns the event of a row. Raises BadContext for a kind that this version does not know."""
    if row["kind"] not in _KINDS:
        raise BadContext(f"session {session}: its log has an event {row['kind']!r} that this version does not know")
    return _KINDS[row["kind"]].read(row)


def replay_log(rows: Sequence[Row], session: str) -> LogState:
    """Returns the state after all events. Raises BadContext for a log of a later version."""
    state = LogState()
    for row in rows:
        state = read_event(row, session).apply(state)
    return state


def read_opening(row: Row, session: str) -> SessionOpened:
    """Returns the first event of a log. Raises BadContext if it is not one of this version."""
    if row.get("kind") != SessionOpened.kind or row.get("format") != FORMAT:
        raise BadContext(f"session {session}: its log does not begin as this version of Holdfast writes it")
    return SessionOpened.read(row)


def find_referenced_objects(rows: Sequence[Row]) -> set[str]:
    """Returns the digests of the objects that a session with these events may still need."""
    return {digest for c in replay_log(rows, "").checkpoints for digest in (c.context, c.hidden)}


@dataclass
class EventLog:
    """The events of one session in a store, written one by one."""

    store: Store
    session: str
    length: int = 0

    def write(self, row: Row) -> None:
        """Writes one event, which is durable afterwards. Raises Conflict if another process has written meanwhile."""
        self.store.append(self.session, self.length, dict(row))
        self.length += 1
