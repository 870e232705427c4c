"""What a session file is made of: its raw turns from the first on, numbered for good, and which of them each turn of
the file stands for, through any number of compactions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

from holdfast.errors import BadInput
from holdfast.text.file_log.describe import Shown
from holdfast.text.file_log.log import UNDO, Event, Origin, log_path, read_log
from holdfast.text.file_log.three_way_merge import continues
from holdfast.transcript.read import bytes_of, parse, text_of
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
    intact: bool = True
    """Whether, since the last step, turns were appended at most."""

    def sources(self, line: Shown) -> tuple[int, ...]:
        """The 0-based raw turns that a line of the file, as `words.shown` lists them, stands for."""
        origin = self.now.origins[line.at]
        own = line.line is not None and line.line < len(origin.lines)
        return origin.lines[line.line or 0] if own else origin.turns


def lineage(path: Path, data: bytes | None = None) -> Lineage:
    """The past of a session file, or of `data` as its content.

    Raises BadTranscript for a file that is no session, BadInput for a damaged log.
    """
    data = bytes_of(path) if data is None else data
    events = applied(read_log(path), data, path)
    raw: list[Turn] = []
    turns: tuple[Turn, ...] = ()
    origins: tuple[Origin, ...] = ()
    steps = []
    for event in events:
        state = _state(event.before, path, turns, origins, raw)
        steps.append((event, state))
        turns, origins = _after(event, len(raw), path), event.origins
    now = _state(data, path, turns, origins, raw)
    return Lineage(tuple(raw), now, tuple(steps), not events or continues(events[-1].after, data))


def session(data: bytes, path: Path) -> Transcript:
    """A version of the file, read leniently, as every compaction of a file with skipped lines was."""
    return parse(text_of(data, path), path=str(path), lenient=True)


def applied(events: Sequence[Event], data: bytes, path: Path) -> tuple[Event, ...]:
    """The events that led to this content, the oldest first, without what was undone. Known by content, so that an
    event whose change never took place (a crash between log and file) falls out."""
    found: list[Event] = []
    newest = math.inf
    for event in reversed(events):
        if event.number >= newest or not _took_place(event, data, path):
            continue
        if event.kind == UNDO:
            newest = int(event.plan["of"])  # that was the last one then: nothing since counts
        else:
            found.append(event)
            data = event.before
    return tuple(reversed(found))


def follow(old: Sequence[Turn], new: Sequence[Turn]) -> list[int | None]:
    """For each new turn the old one that it is; None for one that is new."""
    found: list[int | None] = [None] * len(new)
    for a, b, size in _matcher(old, new).get_matching_blocks():
        found[b : b + size] = range(a, a + size)
    return found


def spread(old: Sequence[Turn], new: Sequence[Turn]) -> list[tuple[int, ...]]:
    """For each new turn the old ones that it was written from: a format may join turns, or word them its own way."""
    found: list[tuple[int, ...]] = []
    for _, a, a_end, b, b_end in _matcher(old, new).get_opcodes():
        if a_end - a == b_end - b:
            found += [(at,) for at in range(a, a_end)]
        else:
            found += [tuple(range(a, a_end))] * (b_end - b)
    return found


def _matcher(old: Sequence[Turn], new: Sequence[Turn]) -> SequenceMatcher[object]:
    return SequenceMatcher(None, [_said(turn) for turn in old], [_said(turn) for turn in new], autojunk=False)


def _said(turn: Turn) -> object:
    return turn.role, turn.text, turn.reasoning, tuple((call.name, call.arguments) for call in turn.calls)


def _took_place(event: Event, data: bytes, path: Path) -> bool:
    after, before = continues(event.after, data), continues(event.before, data)
    if after and before:  # one of them begins with the other
        return len(event.after) >= len(event.before)
    if after or before:
        return after
    # Changed by somebody else since: what it has more of. Half, because any two sessions may share a system prompt.
    now = {_said(turn) for turn in session(data, path).turns}
    share = [_share(session(version, path), now) for version in (event.before, event.after)]
    return share[1] >= max(share[0], 0.5)


def _share(transcript: Transcript, now: set[object]) -> float:
    said = {_said(turn) for turn in transcript.turns}
    return len(said & now) / len(said)


def _state(data: bytes, path: Path, turns: tuple[Turn, ...], origins: tuple[Origin, ...], raw: list[Turn]) -> State:
    """A version of the file that went on from `turns`; what is new in it becomes raw."""
    transcript = session(data, path)
    found = []
    for turn, old in zip(transcript.turns, follow(turns, transcript.turns), strict=True):
        if old is None:
            raw.append(turn)
        found.append(Origin((len(raw) - 1,)) if old is None else origins[old])
    return State(transcript, tuple(found))


def _after(event: Event, raw: int, path: Path) -> tuple[Turn, ...]:
    """The turns of the file after an event, of whose origins each is one of so many raw turns."""
    turns = session(event.after, path).turns
    named = {at for origin in event.origins for at in (*origin.turns, *(at for line in origin.lines for at in line))}
    if len(turns) != len(event.origins) or not named <= set(range(raw)):
        raise BadInput(f"{log_path(path)}: event {event.number} does not fit its own session; restore the log")
    return turns
