"""What a look at a session says: sizes, waste, past compactions, who would take it."""

from __future__ import annotations

import json

import pytest

from holdfast.doctor import STRATEGIES, examine_compactions, examine_session, find_rereads, tokens_by_kind
from holdfast.errors import BadOption, BadTranscript
from holdfast.text.file_log import compact_file
from holdfast.text.rewrite import TextPlan
from holdfast.transcript.draft import new_draft
from holdfast.transcript.token_estimate import estimate_tokens
from holdfast.transcript.turn import Role, ToolCall, Transcript, Turn


def reading(number, path, text):
    call = ToolCall(f"c{number}", "Read", json.dumps({"file_path": path}))
    return [Turn(Role.ASSISTANT, calls=(call,)), Turn(Role.TOOL, text, call_id=f"c{number}")]


def writing(number, path):
    call = ToolCall(f"c{number}", "Write", json.dumps({"file_path": path, "content": "x"}))
    return [Turn(Role.ASSISTANT, calls=(call,)), Turn(Role.TOOL, "written", call_id=f"c{number}")]


START = [Turn(Role.SYSTEM, "You are an agent."), Turn(Role.USER, "Fix it. Never edit setup.py.")]


def summary(text):
    return Turn(Role.USER, text, extra={"isCompactSummary": True})


def test_tokens_by_kind_add_up_to_the_session():
    turns = [*START, *reading(1, "/a.py", "x = 1\n" * 9), Turn(Role.ASSISTANT, "Done.", reasoning="Hm."), START[1]]
    kinds = tokens_by_kind(turns)
    assert kinds.keys() == {"system", "task", "user", "assistant", "reasoning", "calls of Read", "results of Read"}
    assert kinds.total() == new_draft(Transcript(tuple(turns))).size(estimate_tokens)


def test_a_file_read_again_is_told_with_what_it_cost_and_whether_it_had_changed():
    turns = [
        *START,
        *reading(1, "/a.py", "word " * 50),
        *reading(2, "/a.py", "word " * 50),
        *writing(3, "/a.py"),
        *reading(4, "/a.py", "word " * 10),
        *reading(5, "/b.py", "other"),
    ]
    (found,) = find_rereads(turns)
    assert (found.path, found.times, found.unchanged) == ("/a.py", 3, 1)
    assert found.tokens == sum(estimate_tokens("word " * n) + 4 for n in (50, 10))


def test_a_summary_is_held_to_what_was_said_before_it():
    before = (*START, *reading(1, "/src/a.py", "PORT = 8123"), Turn(Role.ASSISTANT, "It listens on 8123."))
    after = (summary("Only /src/a.py was read. The user approved a rewrite."),)
    transcript = Transcript(after, meta={"compactions": [{"turns": before}]})
    (found,) = examine_compactions(transcript)
    lost = {fact.text for fact in found.lost}
    assert "Never edit setup.py." in lost
    assert "8123" in lost
    assert "/src/a.py" not in lost
    assert found.lost[0].text.startswith(("Never", "Fix"))
    assert [struck.sentence for struck in found.invented] == ["The user approved a rewrite."]
    assert found.live.total() - found.held.total() == len(found.lost)


def test_a_fact_in_a_turn_that_was_kept_is_not_lost():
    kept = Turn(Role.ASSISTANT, "It listens on 8123.")
    transcript = Transcript((summary("Nothing."), kept), meta={"compactions": [{"turns": (*START, kept)}]})
    assert "8123" not in {fact.text for fact in examine_compactions(transcript)[0].lost}


def test_an_earlier_summary_bears_out_nothing_that_the_user_said():
    first = summary("The user approved a rewrite of the parser.")
    records = [{"turns": tuple(START)}, {"turns": (first, Turn(Role.ASSISTANT, "Going on."))}]
    found = examine_compactions(
        Transcript((summary("The user approved a rewrite of the parser."),), meta={"compactions": records})
    )
    assert [len(one.invented) for one in found] == [1, 1]


def test_a_session_is_looked_over_whole(tmp_path):
    path = tmp_path / "session.json"
    messages = [
        {"role": "system", "content": "You are an agent."},
        {"role": "user", "content": "Fix it."},
        {"role": "assistant", "content": "word " * 500},
        {"role": "user", "content": ""},
        3,
    ]
    path.write_text(json.dumps(messages))
    found = examine_session(path, "claude-sonnet-4-5")
    assert (found.format, found.turns) == ("openai_chat", 4)
    assert (found.biggest[0].turn, found.biggest[0].what[:15]) == (3, "assistant: word")
    assert found.problems["openai"][0].turn == 3
    assert found.savings.keys() == set(STRATEGIES)
    assert found.cost.money > 0
    assert len(found.skipped) == 1


def test_a_session_that_ended_well_is_legal_for_its_provider(tmp_path):
    path = tmp_path / "session.json"
    path.write_text(json.dumps([{"role": "user", "content": "Fix it."}, {"role": "assistant", "content": "Done."}]))
    assert not examine_session(path).problems["anthropic"]


def test_the_log_of_the_session_is_told(tmp_path):
    path = tmp_path / "session.json"
    path.write_text(json.dumps([{"role": "user", "content": f"{n} " + "word " * 50} for n in range(8)]))
    compact_file(path, TextPlan("truncate", ratio=2))
    assert [event.kind for event in examine_session(path).logged] == ["compact"]


def test_no_cost_where_no_model_is_named_and_an_error_for_one_without_a_price(tmp_path):
    path = tmp_path / "session.json"
    path.write_text('[{"role": "user", "content": "Hi."}]')
    assert examine_session(path).cost is None
    with pytest.raises(BadOption):
        examine_session(path, "no-such-model")


@pytest.mark.parametrize("text", ["", "nothing that is known", '{"a": 1}', "\0"])
def test_what_is_no_session_is_refused(tmp_path, text):
    path = tmp_path / "session"
    path.write_text(text)
    with pytest.raises(BadTranscript):
        examine_session(path)
