"""Parses a summariser's answer: its lines with their turns, and the lines struck because nobody said them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from holdfast.errors import Failed
from holdfast.facts.notes import Notes, NotesSection
from holdfast.transcript.claim_patterns import USER_CLAIM
from holdfast.transcript.draft import Line

UNSOURCED = " (source not given)"
SHORTEST_QUOTE = 6
"""Letters and digits: fewer would stand in any user's words by chance."""

_NAMES = {
    "intent": NotesSection.INTENT,
    "constraint": NotesSection.CONSTRAINTS,
    "decision": NotesSection.DECISIONS,
    "file": NotesSection.FILES,
    "command": NotesSection.COMMANDS,
    "error": NotesSection.ERRORS,
    "state": NotesSection.STATE,
}
_HEADING = re.compile(r"(?:#{1,6}[ ]*(?P<a>[^#\n]+)|\*\*(?P<b>[^*\n]{1,60})\*\*:?|(?P<c>[A-Z][\w ,]{1,60}):)\s*")
_BULLET = re.compile(r"(?:[-*\u2022]|\d{1,3}[.)])\s+")
_REPLACES = re.compile(r"\s*\[replaces ([^\]]{1,80})\]", re.IGNORECASE)
_NUMBERS = r"\d{1,6}(?:\s*[-\u2013]\s*\d{1,6})?"
_SOURCE = re.compile(rf"\s*\[(?:turns?\s+)?({_NUMBERS}(?:\s*,\s*{_NUMBERS})*)\][.;]?\s*$", re.IGNORECASE)
_NOTHING = {"", "none", "nothing", "n/a", "(none)", "none.", "-"}
_ROLE_PLAY = re.compile(r"<tool_call|<function_call|<\|im_start\|>|<invoke|\"tool_calls\"", re.IGNORECASE)
_QUOTED = re.compile(
    r'"([^"\n]+)"|\u201c([^\u201d\n]+)\u201d|\u201e([^\u201c\n]+)\u201c|\u00ab([^\u00bb\n]+)\u00bb'
    r"|[\u300c\u300e]([^\u300d\u300f\n]+)[\u300d\u300f]"
)
_WIDE = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]")
_EDGES = (r"(?<!\w)", r"(?!\w)")
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|[。！？]|\n")


@dataclass(frozen=True)
class Answer:
    """The lines of an answer that may stand."""

    notes: Notes
    replaced: tuple[Line, ...] = ()
    struck: tuple[str, ...] = ()
    """Lines that were left out, each with the reason."""


@dataclass(frozen=True)
class SummaryRequest:
    """The request that an answer is checked against."""

    fence: str
    turns: Collection[int]
    """The raw turns that it is about."""
    users: Mapping[int, str]
    """Everything that the user said in the session, by raw turn."""
    numbered: Sequence[Line] = ()
    """The standing lines S1, S2, …"""


def parse_answer(text: str, asked: SummaryRequest) -> Answer:
    """Parses the lines of an answer. Raises Failed if it is empty, has no section, or continues the session."""
    if not text.strip():
        raise Failed("the summary is empty")
    if asked.fence in text or _ROLE_PLAY.search(text):
        raise Failed("the summariser went on with the session instead of summarising it")
    lines: dict[NotesSection, list[Line]] = {}
    replaced: list[Line] = []
    struck: list[str] = []
    for section, said in _section_lines(text):
        body, gone = _split_replacement(said, asked.numbered)
        line, reason = _check_line(section, body, asked)
        if line is None:
            struck.append(f"{reason}: {body[:120]!r}")
        else:
            lines.setdefault(section, []).append(line)
            replaced += gone
    if not lines:
        why = struck[0] if struck else f"it begins {text.strip()[:60]!r}"
        raise Failed(f"the summary has no section with a line that may stand ({why})")
    return Answer(
        Notes({name: tuple(dict.fromkeys(found)) for name, found in lines.items()}), tuple(replaced), tuple(struck)
    )


def _section_lines(text: str) -> Iterator[tuple[NotesSection, str]]:
    """Yields every line under a known heading; lines before the first heading are talk."""
    section = None
    for raw in text.splitlines():
        line = raw.strip()
        heading = _HEADING.fullmatch(line)
        named = _section(heading) if heading else None
        if heading and (named or line.startswith("#")):
            section = named
        elif section and not line.startswith("```"):
            body = _BULLET.sub("", line, count=1).strip()
            if body.casefold() not in _NOTHING:
                yield section, body


def _section(heading: re.Match[str]) -> NotesSection | None:
    name = next(filter(None, heading.groups())).strip("*: ").casefold()
    name = re.sub(r"^\d+[.)]\s*", "", name)
    return next((section for start, section in _NAMES.items() if name.startswith(start)), None)


def _split_replacement(said: str, numbered: Sequence[Line]) -> tuple[str, list[Line]]:
    """Returns the line without its mark, and the standing lines that it replaces."""
    named = [int(number) for found in _REPLACES.findall(said) for number in re.findall(r"\d{1,6}", found)]
    return _REPLACES.sub("", said).strip(), [numbered[n - 1] for n in named if 0 < n <= len(numbered)]


def _check_line(section: NotesSection, body: str, asked: SummaryRequest) -> tuple[Line | None, str]:
    """Returns the line if it may stand, else None and the reason."""
    if section is NotesSection.COMMANDS:
        return None, "commands are taken from the session itself"
    fact, sources = _split_sources(body, asked.turns)
    if section is NotesSection.CONSTRAINTS:
        said = _quote_user(fact, asked.users)
        return (said, "") if said else (None, "the user did not say this")
    if USER_CLAIM.search(fact) and not _quote_user(fact, asked.users):
        return None, "it claims what the user said without quoting it"
    return Line(f"- {fact}" if sources else f"- {fact}{UNSOURCED}", sources or tuple(asked.turns)), ""


def _split_sources(body: str, turns: Collection[int]) -> tuple[str, tuple[int, ...]]:
    """Returns the fact without its turn numbers, and the turns that they name; numbers of other turns are ignored."""
    found: set[int] = set()
    while match := _SOURCE.search(body):
        for number in match[1].split(","):
            ends = [int(end) - 1 for end in re.findall(r"\d+", number)]
            found |= {at for at in turns if ends[0] <= at <= ends[-1]}
        body = body[: match.start()].rstrip()
    return body, tuple(sorted(found))


def _quote_user(fact: str, users: Mapping[int, str]) -> Line | None:
    """Returns the user's whole sentences that hold the quotes of a line, so that no "never" is cut off, else None."""
    quotes = ["".join(found) for found in _QUOTED.findall(fact)] or [fact]
    said: dict[str, int] = {}
    for quote in quotes:
        found = _find_sentence(quote, users)
        if found is None:
            return None
        said[found[0]] = found[1]
    return Line("- " + " ".join(f'"{sentence}"' for sentence in said), tuple(sorted(set(said.values()))))


def _edges(words: Sequence[str]) -> tuple[str, str]:
    """Returns the first and the last character of words."""
    return words[0][0], words[-1][-1]


def _find_sentence(quote: str, users: Mapping[int, str]) -> tuple[str, int] | None:
    """Returns the sentence, on one line, of the newest user turn that holds the quote, and that turn."""
    words = quote.strip().strip("\"'\u201c\u201d.!?").split()
    if sum(map(str.isalnum, quote)) < SHORTEST_QUOTE:
        return None
    # in a script without blanks between words a quote may begin and end anywhere
    before, after = ("" if _WIDE.match(edge) else edge_of for edge, edge_of in zip(_edges(words), _EDGES, strict=True))
    pattern = re.compile(before + r"\s+".join(map(re.escape, words)) + after, re.IGNORECASE)
    for at in sorted(users, reverse=True):
        if match := pattern.search(users[at]):
            text = users[at]
            start = max((end.end() for end in _SENTENCE_END.finditer(text, 0, match.start())), default=0)
            stop = _SENTENCE_END.search(text, match.end())
            return " ".join(text[start : stop.end() if stop else len(text)].split()), at
    return None
