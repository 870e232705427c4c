"""Describes what fills the window of a session, what was compacted and what was lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from holdfast.recall.pages import make_pages
from holdfast.recall.past import Past
from holdfast.transcript.draft import turn_size
from holdfast.transcript.token_estimate import estimate_tokens
from holdfast.transcript.turn import Turn

_LARGEST = 3
_LOST = 12
_WORDS = 60  # characters of a lost fact


def describe_status(past: Past) -> str:
    """Returns the state of a session in a few lines, each of which says what it counts."""
    return "\n".join((*_describe_window(past), *_describe_compactions(past), *_describe_lost(past)))


def _describe_window(past: Past) -> Iterator[str]:
    yield f"session {past.name}: {len(past.turns)} turns were said ({_tokens(past.turns):,} tokens)"
    if past.window is None:
        yield "window: not known here; the proxy or the server that holds this session compacts it by itself"
        return
    now = _tokens(past.window)
    kinds = Counter[str]()
    for turn in past.window:
        kinds[turn.role.value] += turn_size(turn, estimate_tokens)
    shares = ", ".join(f"{kind} {size:,}" for kind, size in kinds.most_common())
    yield f"window: {len(past.window)} turns, {now:,} tokens: {shares}"
    pages = make_pages(past.window)
    sizes = [(turn_size(turn, estimate_tokens), page.head) for turn, page in zip(past.window, pages, strict=True)]
    largest = sorted(sizes, key=lambda pair: -pair[0])[:_LARGEST]
    yield "largest: " + "; ".join(f"{size:,} {head}" for size, head in largest)


def _describe_compactions(past: Past) -> Iterator[str]:
    if not past.compactions and past.window is None:
        return
    if not past.compactions:
        yield "compacted: never; every turn stands in the window as it was said"
        return
    last = past.compactions[-1]
    when = f" at {last.time}" if last.time else ""
    sizes = f"{last.tokens_before:,} -> {last.tokens:,} {last.unit}"
    yield f"compacted: {len(past.compactions)} times, last by {last.method}{when}, {sizes}"


def _describe_lost(past: Past) -> Iterator[str]:
    if not past.compactions:
        return
    lost = past.lost
    if not lost:
        yield "lost: no fact; history_search and history_read give every word of earlier turns"
        return
    some = ", ".join(f"{fact.text[:_WORDS]!r} (turn {fact.turn})" for fact in lost[:_LOST])
    more = f" and {len(lost) - _LOST} more" if len(lost) > _LOST else ""
    yield f"lost from the window, not from the history: {len(lost)} facts: {some}{more}"


def _tokens(turns: Sequence[Turn]) -> int:
    return sum(turn_size(turn, estimate_tokens) for turn in turns)
