"""A draft laid over a file's entries: what is untouched stays, and new turns stand where the draft has them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from holdfast.transcript.document import decode
from holdfast.transcript.draft import Draft, Piece, new_draft
from holdfast.transcript.formats.apply_draft import Change, NewEntry, apply_draft, render_file
from holdfast.transcript.turn import Role, Transcript, Turn

# entry 1 is bookkeeping, entry 2 holds two turns, turn c lies in entries 4 and 6, entries 3 and 8 are bookkeeping
ROWS = [{"n": 1}, {"t": "ab"}, {"n": 3}, {"t": "c1"}, {"t": "d"}, {"t": "c2"}, {"t": "e"}, {"n": 8}]
TEXT = "\n".join(json.dumps(row) for row in ROWS) + "\n"
WHERE = [(2,), (2,), (4, 6), (5,), (7,)]
RAW = Transcript(tuple(Turn(Role.USER, name, source=WHERE[at][0]) for at, name in enumerate("abcde")))
SUMMARY = Piece(Turn(Role.USER, "new"), (0, 1), "summarize")


def edit(values: list[Any], changes: tuple[Change, ...]) -> list[Any]:
    said = [change.new.text if change.new else "-" for change in changes]
    return [{"t": "+".join(said)}, *[None] * (len(values) - 1)]


def new(turn: Turn, near: Any) -> Any:
    return {"new": turn.text, "near": near}


def laid(held: Draft) -> list[Any]:
    return [item.value for item in apply_draft(decode(TEXT).lines, held, edit, new, WHERE)]


def test_draft_without_changes_gives_every_entry_as_it_was() -> None:
    document = decode(TEXT)
    items = apply_draft(document.lines, new_draft(RAW), edit, new, WHERE)
    assert [item.value for item in items] == ROWS
    assert all(item.value is entry.value for item, entry in zip(items, document.lines, strict=True))
    assert render_file(document, items) == TEXT


def test_entry_of_two_turns_is_edited_once_with_both_and_others_stay() -> None:
    assert laid(new_draft(RAW).replace_text(1, "B", "clamp")) == [ROWS[0], {"t": "a+B"}, *ROWS[2:]]
    assert laid(new_draft(RAW).keep([0, 2, 3, 4])) == [ROWS[0], {"t": "a+-"}, *ROWS[2:]]


def test_turn_of_two_entries_goes_from_both_when_it_is_dropped() -> None:
    assert laid(new_draft(RAW).keep([0, 1, 3, 4])) == [*ROWS[:3], ROWS[4], *ROWS[6:]]


def test_new_turn_stands_before_what_follows_it_and_sees_that_entry() -> None:
    held = new_draft(RAW).replace_pieces(0, 2, SUMMARY)
    assert laid(held) == [ROWS[0], *ROWS[2:3], {"new": "new", "near": {"t": "c1"}}, *ROWS[3:]]


def test_new_turn_inside_an_entry_is_given_to_its_edit() -> None:
    held = new_draft(RAW)
    held = Draft(RAW, (held.pieces[0], SUMMARY, *held.pieces[1:]))
    assert laid(held)[1] == {"t": "a+new+b"}


def test_new_turn_at_the_end_comes_before_trailing_bookkeeping() -> None:
    held = Draft(RAW, (*new_draft(RAW).pieces, SUMMARY))
    assert laid(held)[-2:] == [{"new": "new", "near": {"t": "e"}}, ROWS[-1]]


@pytest.mark.parametrize(("kept", "stays"), [((0, 4), True), ((2, 3), True), ((4,), False)])
def test_bookkeeping_goes_only_when_both_its_neighbours_went(kept: tuple[int, ...], stays: bool) -> None:
    result = laid(new_draft(RAW).keep(kept))
    assert (ROWS[2] in result) is stays
    assert ROWS[0] in result
    assert ROWS[-1] in result


@pytest.mark.parametrize(
    "text",
    [
        '[{"a": 1}, {"b": "é"}]',
        '[{"a":1},{"b":"é"}]\n',
        '[\n    {\n        "a": 1\n    }\n]\n\n',
        '{\n\t"x": [],\n\t"messages": [\n\t\t{\n\t\t\t"a": 1\n\t\t}\n\t],\n\t"y": 2\n}',
    ],
)
def test_layout_of_a_document_is_kept(text: str) -> None:
    document = decode(text)
    assert render_file(document, [NewEntry(entry.value, entry.number) for entry in document.entries]) == text


def test_untouched_lines_keep_their_bytes_and_new_ones_the_files_layout() -> None:
    text = '{"a":1 , "b":"\\u00e9"}\r\n{"a":2}\r\n'
    document = decode(text)
    first, second = document.lines
    items = [NewEntry(first.value, 1), NewEntry({"c": "é"}), NewEntry({"a": 3}, second.number)]
    assert render_file(document, items) == '{"a":1 , "b":"\\u00e9"}\r\n{"c":"é"}\r\n{"a":3}\r\n'


def test_malformed_line_stays_as_it_stood() -> None:
    document = decode('{"a": 1}\n{broken\n{"a": 2}\n', lenient=True)
    assert render_file(document, [NewEntry(entry.value, entry.number) for entry in document.lines]) == document.text
