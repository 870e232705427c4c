"""Closes the chain of parents of a Claude Code session over lines that went, and links new lines into it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from holdfast.transcript.formats.apply_draft import NewEntry
from holdfast.transcript.formats.claude_code_chain import Chains, find_preserved
from holdfast.transcript.json_fields import text_or_empty


def link_entries(items: Sequence[NewEntry], chains: Chains, where: Sequence[tuple[int, ...]]) -> list[NewEntry]:
    """Returns the entries with their parents set.

    `where` are the lines of each turn, in the session's order; a new entry stands before the line that follows it in
    the session, or at its end.
    """
    said = [number for numbers in where for number in numbers]
    items = _drop_loose_ends(_move_end_last(items, said), chains, set(said))
    runs = {
        at: next((later.value["uuid"] for later in items[at:] if later.number in said), "")
        for at, item in enumerate(items)
        if not item.number and (at == 0 or items[at - 1].number)
    }
    links = _Links(items, chains, where, set(runs.values()))
    made: list[NewEntry] = []
    for at, item in enumerate(items):
        if item.number:
            made.append(replace(item, value=links.relink(item.value)))
        elif at in runs:
            run = [new.value for new in items[at : _run_end(items, at)]]
            made += map(NewEntry, links.chain_rows(run, runs[at]))
    return made


def _run_end(items: Sequence[NewEntry], start: int) -> int:
    return next((at for at in range(start, len(items)) if items[at].number), len(items))


def _move_end_last(items: Sequence[NewEntry], said: Sequence[int]) -> Sequence[NewEntry]:
    """Moves the session's last line behind all others of it: a segment that a compaction preserved stands above the
    summary, and if all lines after it went, the summary would pass for the end.
    """
    places = {item.number: at for at, item in enumerate(items) if item.number}
    last = next((places[number] for number in reversed(said) if number in places), None)
    end = max((at for at, item in enumerate(items) if not item.number or item.number in set(said)), default=-1)
    if last is None or last == end or not items[end].number:
        return items
    start = last
    while start and not items[start - 1].number:  # new lines go with the line that they stand before
        start -= 1
    return [*items[:start], *items[last + 1 : end + 1], *items[start : last + 1], *items[end + 1 :]]


def _drop_loose_ends(items: Sequence[NewEntry], chains: Chains, said: set[int]) -> list[NewEntry]:
    """Drops abandoned branches behind the session's last line: without its last turns they would pass for its end."""
    last = max((at for at, item in enumerate(items) if not item.number or item.number in said), default=-1)
    spoken = {line.number for line in chains.lines if line.turns}
    return [item for at, item in enumerate(items) if at <= last or item.number not in spoken]


class _Links:
    """The parents of the lines that are left."""

    def __init__(
        self, items: Sequence[NewEntry], chains: Chains, where: Sequence[tuple[int, ...]], followed: set[str]
    ) -> None:
        """Takes `followed`, the lines that new lines will stand before."""
        self._chains = chains
        self._lines = {line.uuid: line for line in chains.lines}
        values = [item.value for item in items if item.number and isinstance(item.value, dict)]
        self._left = {text_or_empty(value.get("uuid")) for value in values}
        self._moved: dict[str, str] = {}
        self._pieces = {number: numbers for numbers in where for number in numbers}
        self._uuids = {line.number: line.uuid for line in chains.lines}
        # Preserved messages are bound by name; if one went or is followed, parents are written out.
        self._broken = any(not _find_bindings(line.fields) <= self._left - followed for line in chains.boundaries)

    def chain_rows(self, run: Sequence[dict[str, Any]], follows: str) -> list[dict[str, Any]]:
        """Chains new lines one behind the other; the line that follows them will hang on the last."""
        leaf = self._chains.leaf
        end = leaf.uuid if leaf else ""
        parent = self._nearest_left(self._chains.parent(follows) if follows else end)
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

    def relink(self, value: Any) -> Any:
        uuid = text_or_empty(value.get("uuid")) if isinstance(value, dict) else ""
        if uuid not in self._lines:
            return value
        parent = self._moved.get(uuid, self._nearest_left(self._chains.parent(uuid)))
        if uuid in self._moved or self._broken or parent != self._chains.parent(uuid):
            value = value if (value.get("parentUuid") or "") == parent else {**value, "parentUuid": parent or None}
        if self._broken and _find_bindings(value):
            metadata = {key: held for key, held in value["compactMetadata"].items() if not key.startswith("preserved")}
            value = {**value, "compactMetadata": metadata}
        return value

    def _nearest_left(self, uuid: str) -> str:
        """Returns the line itself, or the nearest before it that is left; empty if none is."""
        seen: set[str] = set()
        while uuid in self._lines and uuid not in self._left and uuid not in seen:
            seen.add(uuid)
            uuid = self._earlier_piece(uuid) or self._chains.parent(uuid)
        return uuid if uuid in self._left or uuid not in self._lines else ""

    def _earlier_piece(self, uuid: str) -> str:
        """Returns a line that is left of the same streamed message, which may have hung beside the chain; empty if none
        is.
        """
        gone = self._lines[uuid].number
        earlier = [self._uuids[number] for number in self._pieces.get(gone, ()) if number < gone]
        return next((piece for piece in reversed(earlier) if piece in self._left), "")


def _find_bindings(fields: dict[str, Any]) -> set[str]:
    """Returns the lines that a compaction binds by name."""
    anchor, kept = find_preserved(fields)
    return {uuid for uuid in (anchor, *kept) if uuid}
