"""Validation of the events of an imported session: as strict as what a session writes.

Each event has exactly the fields of its kind, with finite numbers; and each may follow those before it (`validate` in
`session/events.py`), so that events which are left out, doubled or in another order are refused.
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
from holdfast.session.events import LogState, read_event, read_opening
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
    curve: list[tuple[Count, Number]] | None = None
    dropped: list[tuple[Count, Count]] | None = None


class _Event(_Strict):
    at: Number


class _OpenedRow(_Event):
    kind: Literal["opened"]
    format: int
    name: str
    model: str
    tokenizer: str
    template: str
    tools: list[dict[str, Any]]
    parent: str = ""
    head: bool = False
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


class _Memento(_Event):
    kind: Literal["memento"]
    turn: Count
    ids: Annotated[list[Count], Field(min_length=1)]
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


class _RejectedRow(_Event):
    kind: Literal["rejected"]
    told: dict[str, Any] = {}


class _Undone(_Event):
    kind: Literal["undone"]
    checkpoints: Count
    told: _Sizes = _Sizes()


class _Rewound(_Event):
    kind: Literal["rewound"]
    turns: Count


class _PinnedRow(_Event):
    kind: Literal["pinned"]
    turn: Count
    pinned: bool


_LATER = TypeAdapter(
    list[
        Annotated[
            _Turns | _Memento | _Checkpoint | _RejectedRow | _Undone | _Rewound | _PinnedRow,
            Field(discriminator="kind"),
        ]
    ],
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
    read_opening(events[0], "in the file").check_model(model, "in the file")
    try:
        _OpenedRow.model_validate(events[0])
        # JSON has no tuples, so that lists stand for them
        _LATER.validate_json(json.dumps(events[1:]))
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(map(str, first["loc"]))[:200]
        raise BadContext(f"the exported session has an event that is none ({where}: {first['msg']})") from None
    state = LogState()
    for number, row in enumerate(events[1:], 1):
        event = read_event(row, "in the file")
        if problem := event.validate(state, model.hf.config.vocab_size):
            raise BadContext(f"event {number} of the exported session {problem}; export it again")
        state = event.apply(state)


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
