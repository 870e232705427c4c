"""The order of a Claude Code session: the lines on the way from the last one back to the start.

Three things bend the chain of parents. A compaction boundary cuts it (its parent is null). A segment that a compaction
preserved hangs behind the summary. Parallel tool calls fork it: each result names its own call as parent, so following
parents alone would lose all results but one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from holdfast.transcript.json_fields import text_or_empty
from holdfast.transcript.turn import Role, Turn


@dataclass(frozen=True)
class Line:
    """One decoded line, with its turns (none for bookkeeping)."""

    number: int
    fields: dict[str, Any]
    turns: tuple[Turn, ...]
    message_id: str = ""

    @property
    def uuid(self) -> str:
        return text_or_empty(self.fields.get("uuid"))

    @property
    def type(self) -> str:
        return text_or_empty(self.fields.get("type"))

    @property
    def sidechain(self) -> bool:
        return self.fields.get("isSidechain") is True

    @property
    def is_boundary(self) -> bool:
        return self.type == "system" and self.fields.get("subtype") == "compact_boundary"

    @property
    def calls(self) -> set[str]:
        return {call.id for turn in self.turns for call in turn.calls}

    @property
    def answers(self) -> set[str]:
        return {turn.call_id for turn in self.turns if turn.role is Role.TOOL}


class Chains:
    """Lines that belong together, and their parents."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self._by_uuid: dict[str, Line] = {}
        for line in lines:
            # A resumed session may repeat lines; the first copy stands.
            if line.uuid:
                self._by_uuid.setdefault(line.uuid, line)
        self._lines = list(self._by_uuid.values())
        self._parents = self._parents_by_uuid()
        for boundary in self.boundaries:
            self._attach_segment(boundary)

    @property
    def lines(self) -> tuple[Line, ...]:
        """Every line with an id, once."""
        return tuple(self._lines)

    def parent(self, uuid: str) -> str:
        """Returns the id of the line before; empty if there is none."""
        return self._parents[uuid]

    @property
    def boundaries(self) -> list[Line]:
        return [line for line in self._lines if line.is_boundary]

    @property
    def leaf(self) -> Line | None:
        """The last line with a turn: the chain that leads to it is the session."""
        return next((line for line in reversed(self._lines) if line.turns), None)

    def before(self, boundary: Line) -> Line | None:
        """Returns the last line before a compaction, which the boundary itself no longer has as parent."""
        named = self._by_uuid.get(text_or_empty(boundary.fields.get("logicalParentUuid")))
        earlier = (line for line in reversed(self._lines) if line.number < boundary.number and line.turns)
        return named or next(earlier, None)

    def chain_to(self, leaf: Line | None) -> list[Line]:
        """Returns the lines with turns from the start, or from the last compaction, up to `leaf`."""
        path: list[Line] = []
        seen: set[str] = set()
        uuid = leaf.uuid if leaf else ""
        while uuid in self._by_uuid and uuid not in seen:
            seen.add(uuid)
            path.append(self._by_uuid[uuid])
            uuid = self._parents[uuid]
        return self._add_forks([line for line in reversed(path) if line.turns], seen)

    def _parents_by_uuid(self) -> dict[str, str]:
        parents: dict[str, str] = {}
        previous = ""
        for line in self._lines:
            parent = line.fields.get("parentUuid")
            lost = isinstance(parent, str) and parent not in self._by_uuid
            # A parent that was skipped as malformed, or is in another file: the line above is the best guess.
            parents[line.uuid] = previous if lost else text_or_empty(parent)
            previous = line.uuid
        return parents

    def _attach_segment(self, boundary: Line) -> None:
        """Attaches the messages that a compaction preserved: their head follows the anchor, the lines behind it their
        tail.
        """
        metadata = boundary.fields.get("compactMetadata")
        segment = metadata.get("preservedSegment") if isinstance(metadata, dict) else None
        if not isinstance(segment, dict):
            return
        head, anchor, tail = (text_or_empty(segment.get(f"{end}Uuid")) for end in ("head", "anchor", "tail"))
        if not {head, anchor, tail} <= self._by_uuid.keys():
            return
        for uuid, parent in self._parents.items():
            if parent == anchor:
                self._parents[uuid] = tail
        self._parents[head] = anchor

    def _branches_off(self, line: Line, passed: set[str]) -> bool:
        """Returns True if the line's parents lead to the path: a line before a compaction may share its message."""
        seen: set[str] = set()
        uuid = self._parents[line.uuid]
        while uuid in self._by_uuid and uuid not in passed and uuid not in seen:
            seen.add(uuid)
            uuid = self._parents[uuid]
        return uuid in passed

    def _add_forks(self, path: list[Line], passed: set[str]) -> list[Line]:
        """Adds the lines that parallel calls forked off: other pieces of a message on the path, and results."""
        on_path = {line.number for line in path}
        answered = {call for line in path for call in line.answers}
        ends = _run_ends(path)
        last_piece = {line.message_id: at for at, line in enumerate(path) if line.message_id}
        called_at = {call: ends[at] for at, line in enumerate(path) for call in line.calls}
        # Sort key: place on the path; there the line itself, then pieces, then results; then file order.
        keyed = [((at, 0, line.number), line) for at, line in enumerate(path)]
        for line in self._lines:
            if line.number not in on_path and line.message_id in last_piece and self._branches_off(line, passed):
                at = last_piece[line.message_id]
                called_at.update(dict.fromkeys(line.calls - called_at.keys(), at))
                keyed.append(((at, 1, line.number), line))
        for line in self._lines:
            fresh = line.answers and line.answers.isdisjoint(answered) and line.answers <= called_at.keys()
            if line.number not in on_path and fresh:
                answered |= line.answers
                keyed.append(((max(called_at[call] for call in line.answers), 2, line.number), line))
        return [line for _, line in sorted(keyed, key=lambda pair: pair[0])]


def _run_ends(path: list[Line]) -> list[int]:
    """Returns for each place the end of the run of pieces of the same message."""
    ends = list(range(len(path)))
    for at in reversed(range(len(path) - 1)):
        if path[at].message_id and path[at].message_id == path[at + 1].message_id:
            ends[at] = ends[at + 1]
    return ends
