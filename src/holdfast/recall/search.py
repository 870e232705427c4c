"""Answers a query with the places of a session that fit it best, within a few hundred tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from holdfast.recall.index import Hit, Index
from holdfast.recall.pages import Page
from holdfast.transcript.token_estimate import estimate_tokens

ROOM = 300
"""Tokens of an answer."""
SNIPPET = 40
"""Tokens of a place, about."""
_HEAD = 14
"""Tokens that a line of numbers and the head of a page take beside the text, about."""
_SMALLEST = 24
"""Tokens below which no further place is looked for."""


@dataclass(frozen=True)
class Place:
    """Consecutive lines of a page, counted from 0."""

    page: int
    first: int
    last: int


@dataclass(frozen=True)
class SearchAnswer:
    """The places that one answer shows."""

    places: tuple[Place, ...]
    text: str
    more: bool
    """True if there are places behind these."""


@dataclass
class ShownLines:
    """The lines that were shown already: by their place, and by what they say."""

    lines: set[tuple[int, int]] = field(default_factory=set)
    texts: set[str] = field(default_factory=set)


def search(index: Index, query: str, skip: int = 0, room: int = ROOM, within: range | None = None) -> SearchAnswer:
    """Returns the best places behind the first `skip` ones, as many as fit into `room` tokens.

    `within` are the pages that are looked at, counted from 0.
    """
    places: list[Place] = []
    size, left = 0, False
    for number, place in enumerate(find_places(index, index.search(query, within))):
        if number < skip:
            continue
        more = estimate_tokens(_print_place(index.pages, place, places)) + 1
        if size + more > room:
            left = True
            break
        places.append(place)
        size += more
    return SearchAnswer(tuple(places), print_places(index.pages, places), left)


def find_places(index: Index, hits: Iterable[Hit]) -> Iterable[Place]:
    """Yields places around the hits; no line is shown twice, nor what reads the same elsewhere."""
    shown = ShownLines()
    for hit in hits:
        page = index.pages[hit.page]
        text = page.slice(hit.line, hit.line).strip()
        if not text or text in shown.texts or (hit.page, hit.line) in shown.lines:
            continue
        place = _grow(page, hit, shown)
        for line in range(place.first, place.last + 1):
            shown.lines.add((hit.page, line))
            shown.texts.add(page.slice(line, line).strip())
        yield place


def print_places(pages: Sequence[Page], places: Sequence[Place]) -> str:
    """Prints places, each under its turn and lines."""
    return "\n".join(_print_place(pages, place, places[:at]) for at, place in enumerate(places))


def _print_place(pages: Sequence[Page], place: Place, before: Sequence[Place]) -> str:
    page = pages[place.page]
    lines = f"{place.first + 1}" if place.first == place.last else f"{place.first + 1}-{place.last + 1}"
    known = any(other.page == place.page for other in before)
    head = f"[{page.number}:{lines}]" + ("" if known else f" {page.head}")
    return f"{head}\n{page.slice(place.first, place.last)}"


def _grow(page: Page, hit: Hit, shown: ShownLines) -> Place:
    """Returns the line with lines behind and before it, as long as the place stays small."""
    first = last = hit.line
    size, open_ends = estimate_tokens(page.slice(first, last)), [1, -1]
    while open_ends:
        for step in tuple(open_ends):
            edge = last + 1 if step > 0 else first - 1
            fits = 0 <= edge < page.lines and (hit.page, edge) not in shown.lines
            more = estimate_tokens(page.slice(edge, edge)) if fits else 0
            if not fits or size + more > SNIPPET:
                open_ends.remove(step)
                continue
            first, last, size = min(first, edge), max(last, edge), size + more
    return Place(hit.page, first, last)
