"""Standing messages that a format joined to the user's own are told apart, and stay one over any number of rounds."""

import json

import pytest

from holdfast.engine.chat import ChatAnswer
from holdfast.facts.notes import Notes, NotesSection, notes_to_piece
from holdfast.text.rewrite import TextPlan, rewrite
from holdfast.text.split_messages import split_messages
from holdfast.transcript.draft import Line, new_draft
from holdfast.transcript.read import parse
from holdfast.transcript.speaker import SECTION_TITLE as HEADER
from holdfast.transcript.speaker import is_notes
from holdfast.transcript.turn import Role, Transcript, Turn
from holdfast.transcript.write import write

NOTES = notes_to_piece(Notes({NotesSection.STATE: (Line("- half done"),)}, 7, 900), (1,)).turn.text
FACTS = f"{HEADER}\n- user forbids (turn 0): Never push."
TASK = "Fix the parser.\nNever push."


def parts(text, role=Role.USER):
    return [piece.turn.text for piece in split_messages(new_draft(Transcript((Turn(role, text, call_id="c"),)))).pieces]


@pytest.mark.parametrize("joined", ["\n", "\n\n"])
def test_notes_and_facts_come_after_what_the_user_said(joined):
    assert parts(joined.join([TASK, FACTS, NOTES])) == [TASK, FACTS, NOTES]
    assert parts(joined.join([TASK, NOTES, FACTS, "Now the docs."])) == [
        f"{TASK}{joined * 3}Now the docs.",
        NOTES,
        FACTS,
    ]


@pytest.mark.parametrize("text", [TASK, NOTES, FACTS, f"> {NOTES}", f"see {HEADER}", ""])
def test_what_is_one_message_stays_as_it_is(text):
    held = new_draft(Transcript((Turn(Role.USER, text),)))
    assert split_messages(held) is held


def test_what_a_tool_printed_is_never_told_apart():
    assert parts(f"{TASK}\n{NOTES}", Role.TOOL) == [f"{TASK}\n{NOTES}"]


def test_a_line_of_unfolded_notes_names_the_turn_that_it_was_read_from():
    held = split_messages(new_draft(Transcript((Turn(Role.USER, f"{TASK}\n{NOTES}"),))))
    assert held.pieces[0].at == 0
    assert held.pieces[1].at is None
    assert {line.turns for line in held.pieces[1].lines} == {(0,)}
    assert held.dropped == ()


class Says:
    """A model whose notes are of use."""

    name = "fake"

    def __call__(self, system, prompt, max_tokens, timeout):
        return ChatAnswer("## State and next step\n- half done\n")


def anthropic_steps(label, count):
    for at in range(count):
        call = {"type": "tool_use", "id": f"{label}{at}", "name": "bash", "input": {"command": f"make part{label}{at}"}}
        yield {"role": "assistant", "content": [{"type": "text", "text": f"step {at}"}, call]}
        result = {"type": "tool_result", "tool_use_id": f"{label}{at}", "content": "lorem ipsum dolor " * 150}
        yield {"role": "user", "content": [result]}


def test_a_file_whose_roles_alternate_holds_one_set_of_notes_over_many_rounds():
    text = json.dumps({"messages": [{"role": "user", "content": TASK}]})
    for label in "abcde":
        value = json.loads(text)
        value["messages"] += anthropic_steps(label, 12)
        text = json.dumps(value)
        made = rewrite(parse(text), TextPlan("summarize:trigger=0", ratio=1.5), Says())
        assert made.method == "summarize:trigger=0"
        text = write(text, made.draft)
        again = parse(text)
        assert text.count("# Notes on") == 1
        assert text.count(HEADER) <= 1
        assert again.turns[0].text.startswith(TASK)
        assert sum(is_notes(piece.turn) for piece in split_messages(new_draft(again)).pieces) == 1
        assert f"make part{label}0" in text
