"""Actions: how far two of them agree, what an action's turn begins with, and greedy answers along a draft."""

import pytest

from conftest import FAMILIES, build_pair, byte_tokenizer, small_session
from holdfast.blocks.render import call_opening_ids, render
from holdfast.context.segments import CompactContext, token_segment
from holdfast.engine.greedy_answer import answer_along
from holdfast.eval.actions import Action, compare_actions, read_action
from holdfast.eval.later_action import LATER_TURNS, find_later_action
from holdfast.eval.metrics import token_f1

PROMPT = tuple(range(40, 52))


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ('Bash", "arguments": {"command": "ls"}}\n</tool_call>', Action("Bash", '", "arguments": {"command": "ls"}}')),
        ("Bash>\n<parameter=command>\nls  -l\n</parameter>\n</function> and", None),
        ('Bash", "arguments": {"com', Action("Bash", '", "arguments": {"com')),
        ("", Action("", "")),
    ],
)
def test_a_call_is_read_up_to_its_end_or_to_where_it_breaks_off(text, action):
    expected = action or Action("Bash", "> <parameter=command> ls -l </parameter>")
    assert read_action(text, calls=True) == expected


def test_words_are_an_action_without_a_tool():
    assert read_action("All \n done.", calls=False) == Action(None, "All done.")


def test_another_tool_agrees_in_nothing_and_the_same_one_in_its_tokens():
    full = Action("read", "a.py 10 20")
    assert compare_actions(full, full) == (True, True, 1.0)
    assert compare_actions(Action("write", "a.py 10 20"), full) == (False, False, 0.0)
    same, exact, f1 = compare_actions(Action("read", "a.py 10 30"), full)
    assert (same, exact) == (True, False)
    assert f1 == pytest.approx(4 / 5)
    assert compare_actions(Action(None, "x"), Action(None, "x")).tool is None


def test_token_f1_counts_each_word_and_sign_once():
    assert token_f1("a a b", "a b b") == pytest.approx(2 / 3)
    assert token_f1("", "") == 1.0
    assert token_f1("a", "") == 0.0


def test_a_call_opens_as_the_template_writes_it_up_to_the_name():
    tokenizer = byte_tokenizer()
    opening = tokenizer.decode(call_opening_ids(tokenizer))
    assert opening.startswith("<|im_start|>assistant\n")
    assert f"{opening}read_file" in render(small_session(), tokenizer).text


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("draft", ["right", "wrong", "half"])
def test_an_answer_along_any_draft_is_the_greedy_answer(family, draft):
    engine = build_pair(family).engine
    live = engine.open(CompactContext((token_segment(range(60, 90), 0),), 30))
    plain = list(engine.generate(live, PROMPT, 24))
    drafts = {"right": plain, "wrong": [7, 8, 9] * 8, "half": [*plain[:9], 5, *plain[9:]]}
    assert answer_along(engine, live, PROMPT, drafts[draft], 24) == plain
    assert live.next_position == 30


def test_a_later_action_stands_behind_three_more_turns():
    session = small_session()
    rendered = render(session, byte_tokenizer())
    after = [b for b in rendered.blocks if b.origin.turn >= 2]
    later = find_later_action(session, after, 2)
    assert later.calls
    turns = [b.origin.turn for b in after if b.ids and b.origin.turn < 8]
    assert max(turns) - 2 >= LATER_TURNS
    assert later.before == tuple(i for b in after if b.origin.turn < 8 for i in b.ids)
    assert later.ids == tuple(i for b in after if b.origin.turn == 8 for i in b.ids)
    assert find_later_action(session, after, 8) is None


def test_one_pass_tells_the_first_token_that_is_not_the_drafts():
    engine = build_pair("llama").engine
    live = engine.open(CompactContext((token_segment(range(60, 90), 0),), 30))
    plain = list(engine.generate(live, PROMPT, 12))
    assert answer_along(engine, live, PROMPT, plain, 12, passes=1) == plain
    other = [*plain[:5], (plain[5] + 1) % 300, *plain[6:]]
    assert answer_along(engine, live, PROMPT, other, 12, passes=1) == plain[:6]
