"""A turn as one JSON object, as our own logs hold it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from holdfast.transcript.turn import Role, ToolCall, Turn


def encode_turn(turn: Turn) -> dict[str, Any]:
    """Writes a turn as JSON, without fields that are empty."""
    row: dict[str, Any] = {"role": turn.role.value}
    row |= {name: value for name in ("text", "reasoning", "call_id", "is_error") if (value := getattr(turn, name))}
    if turn.calls:
        row["calls"] = [[call.id, call.name, call.arguments] for call in turn.calls]
    return row


def decode_turn(row: Mapping[str, Any]) -> Turn:
    """Reads the JSON of `encode_turn`."""
    plain = {name: row[name] for name in ("text", "reasoning", "call_id", "is_error") if name in row}
    return replace(Turn(Role(row["role"]), **plain), calls=tuple(ToolCall(*call) for call in row.get("calls", ())))
