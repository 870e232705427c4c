"""Falls back to a deterministic method if the one that was asked for fails, is slow, or gives something unusable."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from holdfast.errors import BadTranscript, Failed
from holdfast.facts.session_facts import SessionFacts
from holdfast.gate.text.gate import drop_section, reserve_tokens
from holdfast.methods.registry import TEXT, build_text
from holdfast.methods.text.base import Room
from holdfast.transcript.cuts import check_legal
from holdfast.transcript.draft import Draft

FALLBACKS = ("tiered", "truncate")
"""Deterministic methods for when the one that was asked for fails, in this order."""


def run_methods(held: Draft, method: str, room: Room, known: SessionFacts | None) -> tuple[Draft, str, tuple[str, ...]]:
    """Returns the first result that may be used, the name of its method, and the reasons why other methods gave way."""
    bare = change_behind(held, room.frozen, drop_section) if known else held
    left = reserve_tokens(bare, known, room) if known else 0
    inner = replace(room, budget=max(1, room.budget - left))
    notes: tuple[str, ...] = ()
    for spec in _methods(method):
        try:
            made = bare if inner.fits(bare) else build_text(spec).rewrite(bare, inner)
            if problem := _find_problem(bare, made, inner):
                raise Failed(problem)
        except (Failed, BadTranscript) as error:
            notes = (*notes, f"{spec} gave way: {error}")
            continue
        return made, spec, (*notes, *made.notes[len(bare.notes) :])
    return bare, "", notes


def _methods(first: str) -> Iterator[str]:
    yield first
    yield from (name for name in FALLBACKS if name in TEXT and name != first.partition(":")[0])


def _find_problem(held: Draft, made: Draft, room: Room) -> str:
    """Returns the problem of a method's result, or an empty text if it may be used. Raises BadTranscript if it is
    illegal.
    """
    check_legal(made.turns)
    free, kept = set(room.free(held)), set(map(id, made.pieces))
    fixed = [piece for at, piece in enumerate(held.pieces) if at not in free]
    if any(id(piece) not in kept and piece not in made.pieces for piece in fixed):
        return "it touched what must stay: system prompt, task or newest exchanges"
    if any(piece.writer and not piece.turn.text.strip() and not piece.turn.calls for piece in made.pieces):
        return "it left a message empty"
    if made.size(room.count) > held.size(room.count):
        return "the result is larger than the session"
    return ""


def change_behind(held: Draft, start: int, change: Callable[[Draft], Draft]) -> Draft:
    """Applies a change to the pieces behind the first `start` ones."""
    if not start:
        return change(held)
    rest = change(replace(held, pieces=held.pieces[start:]))
    return replace(rest, pieces=(*held.pieces[:start], *rest.pieces))
