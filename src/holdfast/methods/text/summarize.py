"""A model writes notes on the older turns, under fixed headings; code writes what it knows itself.

Standing notes of an earlier compaction are kept line by line and newer lines are merged into them, so that no summary
is ever summarised. Raises Failed where the model's answer cannot be used, so that the caller can take another way.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from holdfast.config import describe_config_places
from holdfast.engine.chat import Chat, ChatAnswer, input_limit
from holdfast.errors import BadOption, Failed
from holdfast.facts.notes import NOTES_WRITER, Notes, NotesSection, fit_notes, merge_notes, notes_to_piece, read_notes
from holdfast.methods.text.activity_notes import activity_notes
from holdfast.methods.text.answer import SummaryRequest, parse_answer
from holdfast.methods.text.base import Room
from holdfast.methods.text.briefing import SYSTEM, replaceable_lines, write_briefing
from holdfast.transcript.draft import MESSAGE_TOKENS, Draft, task_piece, turn_size, units
from holdfast.transcript.speaker import extract_own_words

SMALLEST = 120
"""Tokens: less than this holds no notes."""
LEAST_OF_WINDOW = 0.2
_WORDS = 0.6  # words of notes in a token, with their turns in brackets


@dataclass(frozen=True)
class Summarize:
    """The older exchanges become notes; system prompt, task and newest exchanges stay."""

    name: ClassVar[str] = NOTES_WRITER

    trigger: int = 12_000
    """Tokens below which a session is left alone."""
    window: int = 0
    """Tokens of the agent's window: a session under a fifth of it is left alone too; 0 where it is not known."""
    share: float = 0.1
    """Most that the notes take of what they stand for."""
    most: int = 8_000
    """Tokens that the notes take at most."""
    max_input: int = 100_000
    """Tokens that the model is given at most; long parts are cut evenly, and said to be."""
    timeout: float = 60.0
    """Seconds that the model may take."""

    def __post_init__(self) -> None:
        sizes = {"trigger": (self.trigger, 0), "window": (self.window, 0), "most": (self.most, SMALLEST)}
        for key, (value, least) in {**sizes, "max_input": (self.max_input, 1000)}.items():
            if value < least:
                raise BadOption(f"{NOTES_WRITER}: {key} must be at least {least}, got {value}")
        if not 0 < self.share <= 1:
            raise BadOption(f"{NOTES_WRITER}: share must be over 0 and at most 1, got {self.share}")
        if not 0 < self.timeout <= 3600:
            raise BadOption(f"{NOTES_WRITER}: timeout must be over 0 and at most 3600 seconds, got {self.timeout}")

    def rewrite(self, held: Draft, room: Room) -> Draft:
        """Raises Failed where no usable notes came, BadOption where there is no model to write them."""
        size, least = held.size(room.count), max(self.trigger, int(LEAST_OF_WINDOW * self.window))
        gone = _pieces_to_replace(held, room)
        if room.fits(held) or not gone:
            return held
        if size < least:
            return _add_notes(
                held, f"{NOTES_WRITER}: {size:,} tokens are under the {least:,} from which notes are made"
            )
        if room.chat is None:
            raise BadOption(
                f"{NOTES_WRITER} needs a model: give [routes.compactor] in {describe_config_places()}; or choose tiered"
            )
        job = _job(held, gone, room)
        rest = size - sum(turn_size(held.pieces[at].turn, room.count) for at in gone)
        most = min(int(self.share * job.tokens), self.most, room.budget - rest) - MESSAGE_TOKENS
        if most < SMALLEST:
            raise Failed(f"only {max(most, 0)} tokens are left for notes on {job.tokens:,}; they need {SMALLEST}")
        return self._summarize(held, job, most, room)

    def _summarize(self, held: Draft, job: _NotesJob, most: int, room: Room) -> Draft:
        assert room.chat is not None
        shown = {at: held.raw.turns[at] for at in job.new}
        given = min(self.max_input, input_limit(room.chat) or self.max_input)
        told = write_briefing(shown, _newest_request(held), job.old, int(most * _WORDS), given, room.count)
        reply = _ask_model(room.chat, told.prompt, most, self.timeout)
        users = {at: words for at, turn in enumerate(held.raw.turns) if (words := extract_own_words(turn))}
        answer = parse_answer(reply.text, SummaryRequest(told.fence, job.new, users, replaceable_lines(job.old)))
        new = _join_notes(activity_notes(held.raw.turns, job.new, room.activity_of(held)), answer.notes)
        new = replace(new, turns=len(job.new), tokens=job.tokens - job.old.tokens)
        # state is what holds now: newer lines of it take the place of all older ones
        stale = job.old.of(NotesSection.STATE) if answer.notes.of(NotesSection.STATE) else ()
        whole = merge_notes(job.old, new, (*answer.replaced, *stale))
        notes, left_out = fit_notes(whole, most, room.count)
        made = _place_notes(held, job, notes)
        said = [*told.notes, *(f"{NOTES_WRITER}: struck, {reason}" for reason in answer.struck)]
        if left_out:
            said.append(f"{NOTES_WRITER}: {left_out} lines went, so that the notes take at most {most:,} tokens")
        return _add_notes(made, *said)


@dataclass(frozen=True)
class _NotesJob:
    """The pieces that become notes, and the raw turns that the notes stand for."""

    gone: tuple[int, ...]
    """Pieces."""
    old: Notes
    new: tuple[int, ...]
    """Raw turns that no notes stand for yet."""
    covered: tuple[int, ...]
    """Raw turns that the notes will stand for."""
    tokens: int
    """Of everything that they will stand for, as it once was."""


def _pieces_to_replace(held: Draft, room: Room) -> tuple[int, ...]:
    """Returns the pieces of whole exchanges that may be touched."""
    free = set(room.free(held))
    spans = (range(start, stop) for start, stop in units(held))
    return tuple(at for span in spans if free.issuperset(span) for at in span)


def _job(held: Draft, gone: tuple[int, ...], room: Room) -> _NotesJob:
    old, new, covered = Notes({}), set[int](), set[int]()
    for at in gone:
        piece = held.pieces[at]
        notes = read_notes(piece)
        covered |= set(piece.turns)
        if notes:
            old = merge_notes(old, notes)
        else:
            new |= set(piece.turns)
    tokens = old.tokens + sum(turn_size(held.raw.turns[at], room.count) for at in new)
    return _NotesJob(gone, old, tuple(sorted(new)), tuple(sorted(covered)), tokens)


def _join_notes(code: Notes, said: Notes) -> Notes:
    """Joins code's lines and the model's, code's first; neither replaces the other."""
    return Notes({name: (*code.of(name), *said.of(name)) for name in {*code.lines, *said.lines}})


def _ask_model(chat: Chat, prompt: str, most: int, timeout: float) -> ChatAnswer:
    reply = chat(SYSTEM, prompt, most + most // 2 + 300, timeout)  # room for the turns in brackets
    if reply.stopped == "length":
        raise Failed(f"{chat.name} did not end its summary within {most + most // 2 + 300:,} tokens")
    return reply


def _newest_request(held: Draft) -> str:
    """Returns the newest words of the user."""
    said = (extract_own_words(piece.turn).strip() for piece in reversed(held.pieces))
    return next(filter(None, said), "(none)")


def _place_notes(held: Draft, job: _NotesJob, notes: Notes) -> Draft:
    """Returns the draft with the notes in place of the pieces that they stand for, after the task."""
    task = task_piece(held)
    after = task if task is not None and task not in job.gone else -1
    place = next((at for at in job.gone if at > after), job.gone[0])
    note, gone = notes_to_piece(notes, job.covered), set(job.gone)
    before = [piece for at, piece in enumerate(held.pieces[:place]) if at not in gone]
    behind = [piece for at, piece in enumerate(held.pieces) if at >= place and at not in gone]
    return replace(held, pieces=(*before, note, *behind))


def _add_notes(held: Draft, *notes: str) -> Draft:
    return replace(held, notes=(*held.notes, *notes))
