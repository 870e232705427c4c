"""The order of a Claude Code session: the lines on the way from the last one back to the start.

Three things bend the chain of parents. A compaction boundary cuts it (its parent is null). Messages that a compaction
preserved hang behind the summary: the last boundary's record decides, those of earlier ones are stale. Parallel tool
calls fork it: each result names its own call as parent, so following parents alone would lose all results but one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
        self._stored = self._parents_by_uuid()
        self._parents = self._parents_after(self.boundaries)

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
        """The last line with a turn: the chain that leads to it is the session. What was only attached leads nowhere
        unless it hangs behind what was said last.
        """
        spoken = [line for line in self._lines if line.turns]
        said = next((line for line in reversed(spoken) if line.type != "attachment"), None)
        if said is None or spoken[-1] is said:
            return said or (spoken[-1] if spoken else None)
        return spoken[-1] if any(line is said for line in self._path(spoken[-1], self._parents)) else said

    def before(self, boundary: Line) -> Line | None:
        """Returns the last line before a compaction, which the boundary itself no longer has as parent."""
        named = self._by_uuid.get(text_or_empty(boundary.fields.get("logicalParentUuid")))
        earlier = (line for line in reversed(self._lines) if line.number < boundary.number and line.turns)
        return named or next(earlier, None)

    def chain_to(self, leaf: Line | None) -> list[Line]:
        """Returns the lines with turns from the start, or from the last compaction, up to `leaf`."""
        return self._chain(leaf, self._parents)

    def chain_before(self, boundary: Line) -> list[Line]:
        """Returns the lines with turns that a compaction replaced, in the order that they had until then."""
        earlier = [line for line in self.boundaries if line.number < boundary.number]
        return self._chain(self.before(boundary), self._parents_after(earlier))

    def _chain(self, leaf: Line | None, parents: Mapping[str, str]) -> list[Line]:
        path = self._path(leaf, parents)
        passed = {line.uuid for line in path}
        return self._add_forks([line for line in reversed(path) if line.turns], passed, parents)

    def _path(self, leaf: Line | None, parents: Mapping[str, str]) -> list[Line]:
        """Returns the lines from `leaf` back to the start."""
        path: dict[str, Line] = {}
        uuid = leaf.uuid if leaf else ""
        while uuid in self._by_uuid and uuid not in path:
            path[uuid] = self._by_uuid[uuid]
            uuid = parents[uuid]
        return list(path.values())

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

    def _parents_after(self, boundaries: Sequence[Line]) -> dict[str, str]:
        """Returns the parents after these compactions: what the last one preserved follows its anchor, one behind the
        other, and what followed the anchor follows that.
        """
        parents = dict(self._stored)
        anchor, kept = find_preserved(boundaries[-1].fields) if boundaries else ("", ())
        if not kept or not {anchor, *kept} <= self._by_uuid.keys():
            return parents
        followers = [uuid for uuid, parent in parents.items() if parent == anchor]
        # A segment names its ends, and what is between them hangs together already.
        links = zip((anchor, *kept), kept, strict=False) if preserves_messages(boundaries[-1].fields) else ()
        parents[kept[0]] = anchor
        parents.update({uuid: before for before, uuid in links})
        parents.update({uuid: kept[-1] for uuid in followers if uuid not in kept})
        return parents

    def _branches_off(self, line: Line, passed: set[str], parents: Mapping[str, str]) -> bool:
        """Returns True if the line's parents lead to the path: a line before a compaction may share its message."""
        seen: set[str] = set()
        uuid = parents[line.uuid]
        while uuid in self._by_uuid and uuid not in passed and uuid not in seen:
            seen.add(uuid)
            uuid = parents[uuid]
        return uuid in passed

    def _add_forks(self, path: list[Line], passed: set[str], parents: Mapping[str, str]) -> list[Line]:
        """Adds the lines that parallel calls forked off: other pieces of a message on the path, and results."""
        on_path = {line.number for line in path}
        answered = {call for line in path for call in line.answers}
        ends = _run_ends(path)
        last_piece = {line.message_id: at for at, line in enumerate(path) if line.message_id}
        called_at = {call: ends[at] for at, line in enumerate(path) for call in line.calls}
        # Sort key: place on the path; there the line itself, then pieces, then results; then file order.
        keyed = [((at, 0, line.number), line) for at, line in enumerate(path)]
        for line in self._lines:
            if (
                line.number not in on_path
                and line.message_id in last_piece
                and self._branches_off(line, passed, parents)
            ):
                at = last_piece[line.message_id]
                called_at.update(dict.fromkeys(line.calls - called_at.keys(), at))
                keyed.append(((at, 1, line.number), line))
        for line in self._lines:
            fresh = line.answers and line.answers.isdisjoint(answered) and line.answers <= called_at.keys()
            if line.number not in on_path and fresh:
                answered |= line.answers
                keyed.append(((max(called_at[call] for call in line.answers), 2, line.number), line))
        return [line for _, line in sorted(keyed, key=lambda pair: pair[0])]


def find_preserved(fields: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Returns the line that the preserved messages of a compaction follow, and them in order: all of them, or the first
    and the last of a segment. None: both are empty.
    """
    metadata = fields.get("compactMetadata")
    held = metadata if isinstance(metadata, dict) else {}
    messages, segment = held.get("preservedMessages"), held.get("preservedSegment")
    if isinstance(messages, dict) and isinstance(uuids := messages.get("uuids"), list):
        return text_or_empty(messages.get("anchorUuid")), tuple(uuid for uuid in uuids if isinstance(uuid, str))
    if not isinstance(segment, dict):
        return "", ()
    ends = (text_or_empty(segment.get("headUuid")), text_or_empty(segment.get("tailUuid")))
    return text_or_empty(segment.get("anchorUuid")), ends


def preserves_messages(fields: Mapping[str, Any]) -> bool:
    """Returns True if a compaction names every message that it preserved."""
    metadata = fields.get("compactMetadata")
    return isinstance(metadata, dict) and isinstance(metadata.get("preservedMessages"), dict)


def _run_ends(path: list[Line]) -> list[int]:
    """Returns for each place the end of the run of pieces of the same message."""
    ends = list(range(len(path)))
    for at in reversed(range(len(path) - 1)):
        if path[at].message_id and path[at].message_id == path[at + 1].message_id:
            ends[at] = ends[at + 1]
    return ends
