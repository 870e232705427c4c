"""Closes the chain of parents of a Claude Code session over lines that went, and links new lines into it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from holdfast.transcript.formats.claude_chain import Chains
from holdfast.transcript.formats.rebuild import Item
from holdfast.transcript.wire import text_or_empty

_ENDS = ("headUuid", "anchorUuid", "tailUuid")


def linked(items: Sequence[Item], chains: Chains, said: set[int]) -> list[Item]:
    """The items with their parents set. `said` are the lines of the session's turns; a new item stands before the
    line that follows it in the session, or at its end."""
    items = _without_loose_ends(items, chains, said)
    runs = {
        at: next((later.value["uuid"] for later in items[at:] if later.number in said), "")
        for at, item in enumerate(items)
        if not item.number and (at == 0 or items[at - 1].number)
    }
    links = _Links(items, chains, set(runs.values()))
    made: list[Item] = []
    for at, item in enumerate(items):
        if item.number:
            made.append(replace(item, value=links.relinked(item.value)))
        elif at in runs:
            run = [new.value for new in items[at : _run_end(items, at)]]
            made += map(Item, links.chained(run, runs[at]))
    return made


def _run_end(items: Sequence[Item], start: int) -> int:
    return next((at for at in range(start, len(items)) if items[at].number), len(items))


def _without_loose_ends(items: Sequence[Item], chains: Chains, said: set[int]) -> list[Item]:
    """Where the session's last turns went, an abandoned branch behind them would pass for its end."""
    last = max((at for at, item in enumerate(items) if not item.number or item.number in said), default=-1)
    spoken = {line.number for line in chains.lines if line.turns}
    return [item for at, item in enumerate(items) if at <= last or item.number not in spoken]


class _Links:
    """Parents of what is left."""

    def __init__(self, items: Sequence[Item], chains: Chains, led: set[str]) -> None:
        """`led` are the lines that new lines will stand before."""
        self._chains = chains
        self._lines = {line.uuid: line for line in chains.lines}
        values = [item.value for item in items if item.number and isinstance(item.value, dict)]
        self._held = {text_or_empty(value.get("uuid")) for value in values}
        self._moved: dict[str, str] = {}
        segments = [_segment(line.fields) for line in chains.boundaries]
        # A preserved segment binds its ends by name; where one went or is led, every parent is written out instead.
        self._broken = any(not ids <= self._held - led for ids in segments)

    def chained(self, run: Sequence[dict[str, Any]], follows: str) -> list[dict[str, Any]]:
        """New lines one behind the other; the line that follows them will hang on the last."""
        leaf = self._chains.leaf
        end = leaf.uuid if leaf else ""
        parent = self._alive(self._chains.parent(follows) if follows else end)
        made = []
        for value in run:
            key = "logicalParentUuid" if value["type"] == "system" else "parentUuid"
            # The same session rewritten in the same way has the same ids.
            uuid = str(uuid5(NAMESPACE_URL, f"holdfast:{parent}:{follows}:{json.dumps(value, sort_keys=True)}"))
            made.append({**value, "uuid": uuid, key: parent or None})
            parent = uuid
        if follows:
            self._moved[follows] = parent
        return made

    def relinked(self, value: Any) -> Any:
        uuid = text_or_empty(value.get("uuid")) if isinstance(value, dict) else ""
        if uuid not in self._lines:
            return value
        parent = self._moved.get(uuid, self._alive(self._chains.parent(uuid)))
        if uuid in self._moved or self._broken or parent != self._chains.parent(uuid):
            value = value if (value.get("parentUuid") or "") == parent else {**value, "parentUuid": parent or None}
        if self._broken and _segment(value):
            metadata = {key: held for key, held in value["compactMetadata"].items() if key != "preservedSegment"}
            value = {**value, "compactMetadata": metadata}
        return value

    def _alive(self, uuid: str) -> str:
        """The line itself, or the nearest before it that is left; empty where none is."""
        seen: set[str] = set()
        while uuid in self._lines and uuid not in self._held and uuid not in seen:
            seen.add(uuid)
            uuid = self._earlier_piece(uuid) or self._chains.parent(uuid)
        return uuid if uuid in self._held or uuid not in self._lines else ""

    def _earlier_piece(self, uuid: str) -> str:
        """A line that is left of the same streamed message."""
        gone = self._lines[uuid]
        lines = self._lines.values() if gone.message_id else ()
        same = (line for line in lines if line.message_id == gone.message_id and line.number < gone.number)
        return next((line.uuid for line in same if line.uuid in self._held), "")


def _segment(fields: dict[str, Any]) -> set[Any]:
    metadata = fields.get("compactMetadata")
    segment = metadata.get("preservedSegment") if isinstance(metadata, dict) else None
    return {segment[end] for end in _ENDS if isinstance(segment.get(end), str)} if isinstance(segment, dict) else set()
