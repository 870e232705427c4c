"""A session as lines to read: what show, diff and expand print."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.transcript.turn import Turn


def label(number: int, turn: Turn) -> str:
    """A raw turn's name, by its 1-based number."""
    return f"turn {number}, {turn.role.value}"


def shown(turn: Turn) -> list[str]:
    """All that a turn says, in lines."""
    lines = [f"(thinks) {line}" for line in turn.reasoning.split("\n")] if turn.reasoning else []
    lines += turn.text.split("\n") if turn.text else []
    return lines + [f"(calls) {call.name} {call.arguments}" for call in turn.calls]


def numbers(turns: Sequence[int]) -> str:
    """0-based turns as 1-based ranges: `3-7, 9`."""
    parts: list[list[int]] = []
    for at in sorted(turns):
        if parts and parts[-1][1] == at:
            parts[-1][1] = at + 1
        else:
            parts.append([at + 1, at + 1])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)
