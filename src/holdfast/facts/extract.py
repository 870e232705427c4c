"""Finds the atoms of a session: the exact literals that an agent cannot do without, and the tokens that hold them.

Narrow atoms (url, path, hash, version, identifier, number) never overlap: the longest wins, then the kind named first
here, so `src/app.js:12` is one path and not also a number. Wide atoms (quoted, error, command, instruction,
prohibition) hold narrow ones, which are reported too, and may lie in each other (a quoted string in a command); two of
one kind never overlap, nor do an instruction and a prohibition. A wide atom of exactly a narrow one's span is dropped:
`"src/app.js"` is a path; of wide ones with the same span the first of command, error, instruction, quoted stays.

It knows no model. What is a fact is a matter of form only: a name such as Ottilie is found in quotes or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from holdfast.facts.literals import FactKind, Span, find_literals
from holdfast.facts.masks import blank_escapes, blank_marks
from holdfast.facts.passages import find_commands, find_errors, find_quotes, find_rules
from holdfast.transcript.turn import Role

__all__ = ["FactKind", "TextFact", "extract_facts"]


@dataclass(frozen=True)
class TextFact:
    """One literal at one place; the same literal elsewhere is another atom."""

    kind: FactKind
    text: str
    """Exactly as it stands there, with any escapes inside it."""
    chars: tuple[int, int]
    """Character span in the text that was searched."""

    def shift(self, by: int) -> TextFact:
        """The same atom in a text that has `by` characters more before it."""
        return replace(self, chars=(self.chars[0] + by, self.chars[1] + by)) if by else self


def extract_facts(text: str, speaker: Role | None = None) -> tuple[TextFact, ...]:
    """The atoms of `text` by position, an outer one before those in it. Only a user's words hold instructions."""
    shown = blank_escapes(text)
    bare = blank_marks(shown)
    narrow = _longest(_without_line_numbers(bare, find_literals(bare)), len(text))
    taken = {(span.start, span.end) for span in narrow}
    wide: list[Span] = []
    asked = find_rules(bare) if speaker is Role.USER else ()
    for found in (find_commands(shown), find_errors(bare), asked, find_quotes(bare)):
        kept = [span for span in _longest(found, len(text)) if (span.start, span.end) not in taken]
        taken.update((span.start, span.end) for span in kept)
        wide += kept
    ordered = sorted([*narrow, *wide], key=lambda span: (span.start, -span.end))
    return tuple(TextFact(span.kind, text[span.start : span.end], (span.start, span.end)) for span in ordered)


def _longest(spans: Iterable[Span], length: int) -> list[Span]:
    """Spans that do not overlap: longer ones first, of equally long ones those that came first."""
    held = bytearray(length)
    kept = []
    for span in sorted(spans, key=lambda span: span.start - span.end):
        size = span.end - span.start
        if size > 0 and held.find(1, span.start, span.end) < 0:
            held[span.start : span.end] = b"\1" * size
            kept.append(span)
    return kept


_LINE_NUMBER = re.compile(r"^[ \t]*+(\d{1,6})(?=\t|[ ]{0,2}[|:│→]|[.)]?[ ]|[ ]*$)", re.MULTILINE)


def _without_line_numbers(text: str, spans: Iterable[Span]) -> Iterator[Span]:
    """Leave out the numbers that count lines: those that open two lines in a row and go up by one."""
    counting: set[int] = set()
    for one, two in pairwise(_LINE_NUMBER.finditer(text)):
        if int(two[1]) == int(one[1]) + 1 and text.count("\n", one.start(1), two.start(1)) == 1:
            counting |= {one.start(1), two.start(1)}
    return (span for span in spans if span.kind is not FactKind.NUMBER or span.start not in counting)
