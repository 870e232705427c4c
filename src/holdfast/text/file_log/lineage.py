"""The lineage of a session file: its raw turns, numbered for good, and which of them each of its turns stands for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

from holdfast.errors import BadInput
from holdfast.text.file_log.describe import PrintedLine
from holdfast.text.file_log.log import OVERWRITE, UNDO, Event, Origin, log_path, read_log
from holdfast.text.file_log.three_way_merge import continues, without_record
from holdfast.transcript.read import decode_text, parse, read_bytes
from holdfast.transcript.turn import Transcript, Turn


@dataclass(frozen=True)
class State:
    """A version of the file, and where its turns came from."""

    transcript: Transcript
    origins: tuple[Origin, ...]
    """Of each turn, in raw turns."""


@dataclass(frozen=True)
class Lineage:
    """A session file with its past."""

    raw: tuple[Turn, ...]
    """Every turn that was ever said in it, as it was said, in order."""
    now: State
    steps: tuple[tuple[Event, State], ...] = ()
    """The changes that led here, the oldest first, each with the file as it was before. What was undone, or never took
    place, is not among them."""

    def sources(self, line: PrintedLine) -> tuple[int, ...]:
        """Returns the 0-based raw turns that a printed line of the file stands for."""
        origin = self.now.origins[line.at]
        own = line.line is not None and line.line < len(origin.lines)
        return origin.lines[line.line or 0] if own else origin.turns


def read_lineage(path: Path, data: bytes | None = None) -> Lineage:
    """Reads the past of a session file, or of `data` as its content.

    Raises BadTranscript for a file that is no session, BadInput for a damaged log.
    """
    data = read_bytes(path) if data is None else data
    events = find_applied_events(read_log(path), data, path)
    raw: list[Turn] = []
    turns: tuple[Turn, ...] = ()
    origins: tuple[Origin, ...] = ()
    steps = []
    for event in events:
        state = _read_state(event.before, path, turns, origins, raw)
        steps.append((event, state))
        turns, origins = _turns_after(event, len(raw), path), event.origins
    now = _read_state(data, path, turns, origins, raw)
    return Lineage(tuple(raw), now, tuple(steps))


def parse_version(data: bytes, path: Path) -> Transcript:
    """Parses a version of the file leniently, because a file with skipped lines may have been compacted."""
    return parse(decode_text(data, path), path=str(path), lenient=True)


def find_applied_events(events: Sequence[Event], data: bytes, path: Path) -> tuple[Event, ...]:
    """Returns the events that led to this content, the oldest first, without those that were undone.

    Events are matched by content, so an event whose change never took place (a crash between log and file) falls out.
    """
    found: list[Event] = []
    newest = math.inf
    for event in reversed(events):
        if event.number >= newest:
            continue
        if event.kind == OVERWRITE:
            if any(event.after == later.after for later in found) or (not found and continues(event.after, data)):
                break  # all before it is the past of the file that stood there
            continue
        if not _took_place(event, data, path):
            continue
        if event.kind == UNDO:
            newest = int(event.plan["of"])  # that was the last one then: nothing since counts
        else:
            found.append(event)
            data = event.before
    return tuple(reversed(found))


def match_turns(old: Sequence[Turn], new: Sequence[Turn]) -> list[int | None]:
    """Returns for each new turn the index of the old turn that it equals, or None for a new one."""
    found: list[int | None] = [None] * len(new)
    for a, b, size in _matcher(old, new).get_matching_blocks():
        found[b : b + size] = range(a, a + size)
    return found


def trace_turns(old: Sequence[Turn], new: Sequence[Turn]) -> list[tuple[int, ...]]:
    """Returns for each new turn the old turns that it was written from: a format may join turns, or word them its own
    way.
    """
    found: list[tuple[int, ...]] = []
    for _, a, a_end, b, b_end in _matcher(old, new).get_opcodes():
        if a_end - a == b_end - b:
            found += [(at,) for at in range(a, a_end)]
        else:
            found += [tuple(range(a, a_end))] * (b_end - b)
    return found


def _matcher(old: Sequence[Turn], new: Sequence[Turn]) -> SequenceMatcher[object]:
    return SequenceMatcher(None, [_turn_key(turn) for turn in old], [_turn_key(turn) for turn in new], autojunk=False)


def _turn_key(turn: Turn) -> object:
    return turn.role, turn.text, turn.reasoning, tuple((call.name, call.arguments) for call in turn.calls)


def _goes_on(event: Event, data: bytes) -> bool:
    """Returns whether the file is as the event left it, with something appended, also before an appended record."""
    return continues(event.after, data) or without_record(event.before, event.after, data) is not None


def _took_place(event: Event, data: bytes, path: Path) -> bool:
    after, before = _goes_on(event, data), continues(event.before, data)
    if after and before:  # one of them begins with the other
        return len(event.after) >= len(event.before)
    if after or before:
        return after
    # Changed by somebody else since: what it has more of. Half, because any two sessions may share a system prompt.
    now = {_turn_key(turn) for turn in parse_version(data, path).turns}
    share = [_share(parse_version(version, path), now) for version in (event.before, event.after)]
    return share[1] >= max(share[0], 0.5)


def _share(transcript: Transcript, now: set[object]) -> float:
    said = {_turn_key(turn) for turn in transcript.turns}
    return len(said & now) / len(said)


def _read_state(
    data: bytes, path: Path, turns: tuple[Turn, ...], origins: tuple[Origin, ...], raw: list[Turn]
) -> State:
    """Parses a version of the file that continues `turns`, and appends its new turns to `raw`."""
    transcript = parse_version(data, path)
    found = []
    for turn, old in zip(transcript.turns, match_turns(turns, transcript.turns), strict=True):
        if old is None:
            raw.append(turn)
        found.append(Origin((len(raw) - 1,)) if old is None else origins[old])
    return State(transcript, tuple(found))


def _turns_after(event: Event, raw: int, path: Path) -> tuple[Turn, ...]:
    """Returns the turns of the file after an event. Raises BadInput if its origins do not fit the session."""
    turns = parse_version(event.after, path).turns
    named = {at for origin in event.origins for at in (*origin.turns, *(at for line in origin.lines for at in line))}
    if len(turns) != len(event.origins) or not named <= set(range(raw)):
        raise BadInput(f"{log_path(path)}: event {event.number} does not fit its own session; restore the log")
    return turns
