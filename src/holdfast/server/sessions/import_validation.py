"""Validation of the events of an imported session: as strict as what a session writes.

Each event has exactly the fields of its kind, with finite numbers; and each fits what stands after those before it, so
that events which are left out, doubled or in another order are refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from holdfast.blocks.block import Kind
from holdfast.errors import BadContext
from holdfast.model.load import Model
from holdfast.session.events import check_opening, replayed
from holdfast.transcript.turn import Role

Count = Annotated[int, Field(ge=0, lt=2**53)]
Number = Annotated[float, Field(ge=0, lt=2**53)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class _Fact(_Open):
    turn: Count
    kind: str
    text: str


class _Gate(_Open):
    lost: list[_Fact] = []
    repaired: list[_Fact] = []


class _Sizes(_Open):
    """The field `told`: sizes of the session, and the evidence of a compaction."""

    tokens: Count | None = None
    slots: Number | None = None
    bytes: Count | None = None
    prompt: Count | None = None
    prefilled: Count | None = None
    first: Number | None = None
    gate: _Gate | None = None


class _Event(_Strict):
    at: Number


class _Opened(_Event):
    kind: Literal["opened"]
    format: int
    name: str
    model: str
    tokenizer: str
    template: str
    tools: list[dict[str, Any]]
    parent: str = ""
    key: str = ""


class _Turn(_Strict):
    role: Role
    text: str = ""
    reasoning: str = ""
    call_id: str = ""
    is_error: bool = False
    calls: list[tuple[str, str, str]] = []


class _Turns(_Event):
    kind: Literal["turns"]
    turns: Annotated[list[_Turn], Field(min_length=1)]
    blocks: list[tuple[Count, Kind, Annotated[list[Count], Field(min_length=1)]]]
    told: _Sizes = _Sizes()


class _Checkpoint(_Event):
    kind: Literal["compacted", "saved"]
    blocks: Count
    tail: Count
    context: Digest
    hidden: Digest
    compactions: Count
    saved: bool = False
    told: _Sizes = _Sizes()


class _Undone(_Event):
    kind: Literal["undone"]
    checkpoints: Count
    told: _Sizes = _Sizes()


class _Rewound(_Event):
    kind: Literal["rewound"]
    turns: Count


class _Pinned(_Event):
    kind: Literal["pinned"]
    turn: Count
    pinned: bool


_LATER = TypeAdapter(
    list[Annotated[_Turns | _Checkpoint | _Undone | _Rewound | _Pinned, Field(discriminator="kind")]],
    config=ConfigDict(strict=True),
)


def decode_events(data: bytes) -> list[Any]:
    """Returns the JSON of an events file. Raises ValueError for NaN, infinite numbers and fields that stand twice."""
    events = json.loads(data, parse_constant=_parse_float, parse_float=_parse_float, object_pairs_hook=_object)
    if not isinstance(events, list) or not all(isinstance(event, dict) for event in events):
        raise ValueError("the events are no list of objects")
    return events


def check_events(events: Sequence[Mapping[str, Any]], model: Model) -> None:
    """Raises BadContext unless a session of this model could have written these events in this order."""
    if not events:
        raise BadContext("the exported session holds no event; export it again")
    check_opening(events[0], model, "in the file")
    try:
        _Opened.model_validate(events[0])
        # JSON has no tuples, so that lists stand for them
        later = _LATER.validate_json(json.dumps(events[1:]))
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(map(str, first["loc"]))[:200]
        raise BadContext(f"the exported session has an event that is none ({where}: {first['msg']})") from None
    state = _Standing(model.hf.config.vocab_size)
    for number, event in enumerate(later, 1):
        if problem := state.refuse(event):
            raise BadContext(f"event {number} of the exported session {problem}; export it again")
    replayed(events, "in the file")


class _Standing:
    """The counts that stand after some events: turns, the turn of each block, and the compactions of checkpoints."""

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary
        self.turns = 0
        self.blocks: list[int] = []
        self.checkpoints: list[_Checkpoint] = []

    @property
    def compactions(self) -> int:
        return self.checkpoints[-1].compactions if self.checkpoints else 0

    def refuse(self, event: BaseModel) -> str:
        """Takes up an event; returns the reason why it cannot stand here, or nothing."""
        if isinstance(event, _Turns):
            return self._grow(event)
        if isinstance(event, _Checkpoint):
            return self._store(event)
        if isinstance(event, _Undone):
            if event.checkpoints >= len(self.checkpoints):
                return "takes back a compaction that there is not"
            del self.checkpoints[event.checkpoints :]
        elif isinstance(event, _Rewound):
            if event.turns >= self.turns:
                return "goes back to a turn that there is not"
            self._rewind(event.turns)
        elif isinstance(event, _Pinned) and event.turn >= self.turns:
            return "pins a turn that there is not"
        return ""

    def _grow(self, event: _Turns) -> str:
        before, self.turns = self.turns, self.turns + len(event.turns)
        places = [turn for turn, _, _ in event.blocks]
        if places != sorted(places) or any(not before <= turn < self.turns for turn in places):
            return "holds blocks of other turns than its own"
        if any(token >= self.vocabulary for _, _, ids in event.blocks for token in ids):
            return "holds tokens that the model does not have"
        self.blocks += places
        return ""

    def _store(self, event: _Checkpoint) -> str:
        standing = self.compactions
        if not event.tail <= event.blocks <= len(self.blocks):
            return "holds a memory of blocks that there are not"
        if event.kind == "compacted" and (event.compactions != standing + 1 or event.saved):
            return f"is compaction {event.compactions}, and {standing} stand before it"
        if event.compactions < standing:
            return f"holds the memory of {event.compactions} compactions, and {standing} stand before it"
        self.checkpoints = [*(c for c in self.checkpoints if not c.saved), event]
        return ""

    def _rewind(self, turns: int) -> None:
        self.turns = turns
        self.blocks = [turn for turn in self.blocks if turn < turns]
        count = len(self.blocks)
        self.checkpoints = [
            c.model_copy(update={"blocks": min(c.blocks, count)}) for c in self.checkpoints if c.tail <= count
        ]


def _parse_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is no finite number")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a field stands twice")
    return value
