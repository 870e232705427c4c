"""Every reader of prohibitions asks one module: what is forbidden for one is forbidden for all."""

from __future__ import annotations

import pytest

from holdfast.facts.extract import extract_facts
from holdfast.facts.fact import FactKind
from holdfast.facts.lifts import find_lifts
from holdfast.facts.notes import Notes, NotesSection, fit_notes
from holdfast.facts.prohibitions import forbids, negates
from holdfast.methods.text.base import Room
from holdfast.methods.text.user_words import UserWords
from holdfast.transcript.draft import Line, new_draft
from holdfast.transcript.token_estimate import estimate_tokens
from holdfast.transcript.turn import Role
from small_sessions import says, session, user

FORBIDDEN = (
    "Please refuse merges into the main branch.",
    "You may not touch the billing code.",
    "There are to be no new dependencies here.",
    "Go on without changing the public names.",
    "Leave config alone in all of this.",
    "Never push to the main branch.",
)


@pytest.mark.parametrize("rule", FORBIDDEN)
def test_a_prohibition_is_one_for_every_reader(rule: str) -> None:
    assert forbids(rule)
    assert [fact.text for fact in extract_facts(rule, Role.USER) if fact.kind is FactKind.PROHIBITION] == [rule]

    said = session(user("Fix it."), user(rule), user("That went well, my friend, and so on."), says("ok"), user("Go."))
    rest = new_draft(said).keep([0, 1, 2, 5]).size(estimate_tokens)
    kept = UserWords().rewrite(new_draft(said), Room(rest, keep_recent=1))
    assert rule in [turn.text for turn in kept.turns]

    lines = (Line(f"- {rule}", (1,)), Line(f"- {'x' * (len(rule) // 2)}", (2,)), Line("- The sky is blue today.", (3,)))
    notes = Notes({NotesSection.CONSTRAINTS: lines})
    frame = sum(estimate_tokens(line.text) + 1 for line in Notes({NotesSection.CONSTRAINTS: (Line(""),)}).render())
    left, _ = fit_notes(notes, frame + estimate_tokens(lines[0].text) + 1, estimate_tokens)
    assert left.of(NotesSection.CONSTRAINTS) == lines[:1]


@pytest.mark.parametrize("words", ["not push to main", "push nothing to main", "push only to dev", "avoid main"])
def test_a_sentence_that_says_no_lifts_no_rule(words: str) -> None:
    assert negates(words) or "only" in words
    assert find_lifts([(0, "Do not push to main."), (1, f"You may now {words}.")]) == ()
