"""A raw turn as a page of numbered lines: what is searched, shown and read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from holdfast.transcript.activity import find_steps
from holdfast.transcript.turn import Role, ToolCall, Turn

WIDTH = 240
"""Characters of a line; a longer one of the turn is several lines here, which joined are exactly it."""
_GIST = 60
_AIM = 300  # characters of what an agent says before a call, the newest
_BREAK = re.compile(r"[\s,;)\]}]")


@dataclass(frozen=True)
class Page:
    """The text of one turn, whole, and where its lines end."""

    number: int
    """Of the raw turn, counted from 1."""
    role: Role
    about: str
    """The call that a result answers: the tool and its arguments in one line; empty for any other turn."""
    aim: str
    """The words with which the agent made that call; empty for any other turn."""
    text: str
    ends: tuple[int, ...]
    """The offset behind each line, its line end included."""
    call_line: int | None = None
    """The first line of its calls, counted from 0; None if it makes none."""

    @property
    def lines(self) -> int:
        return len(self.ends)

    @property
    def head(self) -> str:
        """The speaker, and for a result the call that it answers, cut to a few words."""
        gist = self.about if len(self.about) <= _GIST else f"{self.about[: _GIST - 1]}…"
        return f"{self.role.value} {gist}".strip()

    def slice(self, first: int, last: int) -> str:
        """Returns lines `first` to `last`, counted from 0, exactly as they stand, without the last line end."""
        if last < first:
            return ""
        start = self.ends[first - 1] if first else 0
        return self.text[start : self.ends[last]].removesuffix("\n")


def make_pages(turns: Sequence[Turn]) -> tuple[Page, ...]:
    """Returns a page for each turn."""
    about: dict[int, tuple[str, str]] = {}
    for step in find_steps(turns):
        if step.result is not None:
            caller = turns[step.turn]
            calls = [call for call in caller.calls if call.id == turns[step.result].call_id]
            asked = _one_line(calls[0]) if calls else " ".join((step.name, *step.action.commands))
            about[step.result] = asked, (caller.text or caller.reasoning)[-_AIM:]
    return tuple(_page(at + 1, turn, *about.get(at, ("", ""))) for at, turn in enumerate(turns))


def _page(number: int, turn: Turn, about: str, aim: str) -> Page:
    said = [part for part in (turn.text, f"(thinks) {turn.reasoning}" if turn.reasoning else "") if part]
    text = "\n".join([*said, *map(_print_call, turn.calls)])
    ends = tuple(_find_ends(text))
    behind = len("\n".join(said))  # of what is said the last line end is behind its last line
    call_line = sum(end <= behind + 1 for end in ends) if turn.calls else None
    return Page(number, turn.role, about, aim, text, ends, call_line)


def _print_call(call: ToolCall) -> str:
    """Returns a call with each argument on lines of its own, without the escapes of JSON."""
    return "\n".join([f"(calls) {call.name}", *(f"{name}: {value}" for name, value in _arguments(call))])


def _one_line(call: ToolCall) -> str:
    return " ".join(" ".join([call.name, *(value for _, value in _arguments(call))])[:400].split())


def _arguments(call: ToolCall) -> list[tuple[str, str]]:
    try:
        value = json.loads(call.arguments)
    except (ValueError, RecursionError):  # a custom tool's input is plain text, and models write broken JSON
        value = None
    if not isinstance(value, dict):
        return [("input", call.arguments)] if call.arguments else []
    return [
        (name, item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)) for name, item in value.items()
    ]


def _find_ends(text: str) -> Iterator[int]:
    start = 0
    while start < len(text):
        end = text.find("\n", start) + 1 or len(text)
        while end - start > WIDTH + 1:
            cuts = [match.end() for match in _BREAK.finditer(text, start + WIDTH // 2, start + WIDTH)]
            start = cuts[-1] if cuts else start + WIDTH
            yield start
        yield end
        start = end
