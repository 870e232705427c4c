"""One answer over several rounds, as a wire shows it: what the exchange asks of each wire."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Body = dict[str, Any]
Frame = tuple[str, Any]
"""The name of an event, which may be empty, and its data."""
MOST_ROUNDS = 8
"""Rounds of memory calls in one answer; behind them the answer ends with what the model said."""


@dataclass(frozen=True)
class MemoryCall:
    """A call of a memory tool."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Lookup:
    """A call with its result."""

    call: MemoryCall
    result: str


class WireAnswer(Protocol):
    """An answer that grows round by round."""

    def feed(self, frame: Frame) -> list[Frame]:
        """Takes an event of the stream; returns what the client sees of it now."""

    def take(self, whole: Body) -> None:
        """Takes the whole answer of a round that is not streamed."""

    def memory_calls(self) -> list[MemoryCall]:
        """Returns the calls of memory tools in the last round."""

    def is_mixed(self) -> bool:
        """Returns True if the last round calls tools of the client, too."""

    def next_body(self, body: Body, lookups: Sequence[Lookup]) -> Body:
        """Returns the request of the next round."""

    def end(self) -> list[Frame]:
        """Returns the events that end the stream."""

    def whole(self) -> Body:
        """Returns the joined answer, for a client that does not stream."""

    def hidden(self, lookups: Sequence[Lookup]) -> list[tuple[object, list[Any]]]:
        """Returns what later requests get back: places, by `place_of`, and the items that stand there."""


def parse_arguments(text: str) -> Any:
    """Returns arguments as JSON, an empty object for what is none."""
    try:
        return json.loads(text or "{}")
    except ValueError:
        return {}


def add_counts(last: Body | None, before: Sequence[Body | None], fields: Sequence[str]) -> Body | None:
    """Returns the usage of the last round with the counts of the answer's own tokens summed over all rounds."""
    if last is None:
        return None
    summed = {
        name: sum(int((usage or {}).get(name) or 0) for usage in (*before, last)) for name in fields if name in last
    }
    return {**last, **summed}
