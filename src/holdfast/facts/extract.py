"""Finds the facts of one text: the exact strings that an agent cannot do without.

Literals (url, path, hash, version, identifier, number) never overlap: the longest wins, then the kind named first
here, so `src/app.js:12` is one path and not also a number. Passages and rules (quoted, error, command, instruction,
prohibition) hold literals, which are reported too, and may lie in each other (a quoted string in a command); two of
one kind never overlap, nor do an instruction and a prohibition. A passage of exactly a literal's span is dropped:
`"src/app.js"` is a path; of passages with the same span the first of command, error, instruction, quoted stays.

It knows no model. What is a fact is a matter of form only: a name such as Ottilie is found in quotes or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise

from holdfast.facts.fact import FactKind, Span, TextFact
from holdfast.facts.literals import find_literals
from holdfast.facts.masks import blank_escapes, blank_marks
from holdfast.facts.passages import find_commands, find_errors, find_quotes
from holdfast.facts.prohibitions import find_rules
from holdfast.transcript.turn import Role


def extract_facts(text: str, speaker: Role | None = None) -> tuple[TextFact, ...]:
    """Returns the facts of `text` by position, an outer one before those in it. Only a user's words hold rules."""
    shown = blank_escapes(text)
    bare = blank_marks(shown)
    literals = _drop_overlaps(_drop_line_numbers(bare, find_literals(bare)), len(text))
    used = {(span.start, span.end) for span in literals}
    passages: list[Span] = []
    rules = find_rules(bare) if speaker is Role.USER else ()
    for spans in (find_commands(shown), find_errors(bare), rules, find_quotes(bare)):
        new = [span for span in _drop_overlaps(spans, len(text)) if (span.start, span.end) not in used]
        used.update((span.start, span.end) for span in new)
        passages += new
    ordered = sorted([*literals, *passages], key=lambda span: (span.start, -span.end))
    return tuple(TextFact(span.kind, text[span.start : span.end], (span.start, span.end)) for span in ordered)


def _drop_overlaps(spans: Iterable[Span], length: int) -> list[Span]:
    """Returns spans that do not overlap: a longer one wins, of equally long ones the earlier one."""
    covered = bytearray(length)
    winners = []
    for span in sorted(spans, key=lambda span: span.start - span.end):
        size = span.end - span.start
        if size > 0 and covered.find(1, span.start, span.end) < 0:
            covered[span.start : span.end] = b"\1" * size
            winners.append(span)
    return winners


_LINE_NUMBER = re.compile(r"^[ \t]*+(\d{1,6})(?=\t|[ ]{0,2}[|:│→]|[.)]?[ ]|[ ]*$)", re.MULTILINE)


def _drop_line_numbers(text: str, spans: Iterable[Span]) -> Iterator[Span]:
    """Leaves out the numbers that count lines: those that open two lines in a row and go up by one."""
    counting: set[int] = set()
    for one, two in pairwise(_LINE_NUMBER.finditer(text)):
        if int(two[1]) == int(one[1]) + 1 and text.count("\n", one.start(1), two.start(1)) == 1:
            counting |= {one.start(1), two.start(1)}
    return (span for span in spans if span.kind is not FactKind.NUMBER or span.start not in counting)
