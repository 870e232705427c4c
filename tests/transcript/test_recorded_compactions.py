"""Compactions that the formats record: what stood before them is read, so that a checkup can say what they lost."""

import json

import pytest
from agent_samples import PI, jsonl, message, opencode_message, opencode_text, pi_message, pi_node, rollout, text_part
from sample_sessions import sdk_message

from holdfast.doctor import examine_session
from holdfast.transcript.token_estimate import estimate_tokens

TASK = "Fix it. Never edit setup.py."
FACT = "It listens on 8123."
SUMMARY = "So far /src/a.py was read. The user approved a rewrite."


def codex(**more):
    start = [message("user", TASK), message("assistant", FACT)]
    history = {"replacement_history": [message("user", "Kept."), message("user", SUMMARY)], **more}
    rows = [rollout("session_meta", {"id": "s", "cwd": "/r"}), *(rollout("response_item", item) for item in start)]
    return jsonl(*rows, rollout("compacted", {"message": SUMMARY, **history}))


def pi():
    said = [pi_message("a", None, "user", TASK), pi_message("b", "a", "assistant", [text_part(FACT)])]
    compaction = pi_node("c", "b", "compaction", summary=SUMMARY, firstKeptEntryId="b2", tokensBefore=9)
    return jsonl(PI[0], *said, pi_message("b2", "b", "user", "Kept."), {**compaction, "parentId": "b2"})


def opencode():
    said = [
        opencode_message("m1", "user", opencode_text(TASK)),
        opencode_message("m2", "assistant", opencode_text(FACT)),
    ]
    asks = opencode_message("m3", "user", {"type": "compaction", "auto": True})
    made = opencode_message("m4", "assistant", opencode_text(SUMMARY), summary=True, parentID="m3")
    return json.dumps({"info": {"id": "ses_1"}, "messages": [*said, asks, made]})


def openhands_v1():
    said = [sdk_message("e1", "user", "user", TASK), sdk_message("e2", "agent", "assistant", FACT)]
    condensation = {"kind": "Condensation", "id": "e3", "source": "environment", "summary": SUMMARY}
    return json.dumps([*said, {**condensation, "forgotten_event_ids": ["e1", "e2"], "summary_offset": 0}])


def openhands(**forgotten):
    said = [(0, "user", TASK), (1, "agent", FACT)]
    events = [{"id": n, "source": who, "action": "message", "args": {"content": text}} for n, who, text in said]
    forgotten = forgotten or {"forgotten_events_start_id": 0, "forgotten_events_end_id": 1}
    args = {**forgotten, "summary": SUMMARY, "summary_offset": 0}
    condensation = {"id": 2, "source": "agent", "action": "condensation", "args": args}
    later = {"id": 3, "source": "user", "action": "message", "args": {"content": "Go on."}}
    return json.dumps([*events, condensation, later])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("codex", codex()),
        ("codex", codex(replacement_history=None)),
        ("pi", pi()),
        ("opencode", opencode()),
        ("openhands_v1", openhands_v1()),
        ("openhands", openhands()),
        ("openhands", openhands(forgotten_event_ids=[0, 1])),
    ],
)
def test_a_compaction_that_a_format_records_is_held_to_what_was_said_before_it(tmp_path, name, text):
    path = tmp_path / "session.json"
    path.write_text(text)
    looked = examine_session(path)
    (found,) = looked.compactions
    lost = {fact.text for fact in found.lost}
    assert looked.format == name
    # Codex, where it lists no new history, keeps the user's messages.
    assert ("Never edit setup.py." in lost) is ('replacement_history": null' not in text)
    assert "8123" in lost
    assert found.tokens == estimate_tokens(SUMMARY) + 4
    assert [struck.sentence for struck in found.invented] == ["The user approved a rewrite."]


def test_the_summary_of_an_earlier_condensation_is_not_the_users_word(tmp_path):
    events = json.loads(openhands())
    again = {**events[2], "id": 4, "args": {**events[2]["args"], "forgotten_events_end_id": 3}}
    path = tmp_path / "session.json"
    path.write_text(json.dumps([*events, again]))
    assert [len(one.invented) for one in examine_session(path).compactions] == [1, 1]


@pytest.mark.parametrize(
    "args", [None, 3, {}, {"summary": 4, "forgotten_event_ids": 7}, {"summary": "x", "summary_offset": 10**30}]
)
def test_a_condensation_that_makes_no_sense_is_looked_over_all_the_same(tmp_path, args):
    events = json.loads(openhands())
    events[2]["args"] = args
    path = tmp_path / "session.json"
    path.write_text(json.dumps(events))
    (found,) = examine_session(path).compactions
    assert found.lost == ()
