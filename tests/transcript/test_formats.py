"""Each wire format reads to the turns that the model saw."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sample_sessions import (
    ANTHROPIC,
    BY_FORMAT,
    CLAUDE_CODE,
    MINI,
    OPENAI,
    OPENHANDS,
    OPENHANDS_V1,
    claude_line,
    lines,
    openai_call,
    tool_result,
    tool_use,
)

from holdfast.transcript.cuts import check_legal
from holdfast.transcript.formats import FORMATS
from holdfast.transcript.read import parse
from holdfast.transcript.turn import Role, Transcript


def shape(transcript: Transcript) -> list[tuple[str, str]]:
    return [(turn.role.value, turn.text) for turn in transcript.turns]


def test_every_registered_format_has_an_example_here() -> None:
    assert {known.name for known in FORMATS if known.write} == set(BY_FORMAT)


@pytest.mark.parametrize("name", BY_FORMAT)
def test_format_is_known_by_its_content_and_reads_legal(name: str) -> None:
    transcript = parse(BY_FORMAT[name])
    assert transcript.format == name
    assert transcript.skipped == ()
    check_legal(transcript.turns)


@pytest.mark.parametrize("name", ["openai_chat", "anthropic", "mini_swe_agent", "openhands", "openhands_v1"])
@pytest.mark.parametrize("indent", [None, 2])
def test_layout_of_the_json_does_not_matter(name: str, indent: int | None) -> None:
    text = json.dumps(json.loads(BY_FORMAT[name]), indent=indent)
    assert parse(text) == parse(BY_FORMAT[name])


# --- openai_chat


def test_openai_roles_texts_reasoning_and_calls() -> None:
    transcript = parse(json.dumps(OPENAI))
    assert shape(transcript) == [
        ("system", "Be brief."),
        ("user", "Look\n[image]"),
        ("assistant", ""),
        ("tool", "two"),
        ("tool", "one"),
        ("assistant", "Done."),
    ]
    acting = transcript.turns[2]
    assert acting.reasoning == "I should list."
    assert [(c.id, c.name, c.arguments) for c in acting.calls] == [
        ("k1", "bash", '{"command": "ls"}'),
        ("k2", "bash", "{}"),
    ]
    assert [turn.call_id for turn in transcript.turns[3:5]] == ["k2", "k1"]
    assert transcript.turns[1].extra == {"parts": {"1": {"type": "image_url", "image_url": {"url": "x"}}}}


def test_openai_wrapped_lines_and_list_read_alike() -> None:
    bare = parse(json.dumps(OPENAI))
    assert parse(lines(*OPENAI)).turns == bare.turns
    wrapped = parse(json.dumps({"messages": OPENAI, "tools": [1], "instance_id": "i"}))
    assert wrapped.turns == bare.turns
    assert wrapped.meta == {"tools": [1], "instance_id": "i"}


def test_openai_legacy_function_call_is_paired_without_ids() -> None:
    call = {"name": "grep", "arguments": '{"q": "x"}'}
    transcript = parse(
        lines(
            {"role": "assistant", "content": None, "function_call": call},
            {"role": "function", "name": "grep", "content": "hit"},
        )
    )
    (made,) = transcript.turns[0].calls
    assert (made.name, made.arguments) == ("grep", '{"q": "x"}')
    assert transcript.turns[1].call_id == made.id
    check_legal(transcript.turns)


def test_openai_result_without_any_call_is_an_orphan() -> None:
    session = parse(json.dumps([{"role": "user", "content": "Go"}, {"role": "tool", "content": "x"}]))
    assert "no turn before it makes" in session.skipped[0]


def test_openai_refusal_is_text_and_unknown_call_fields_are_kept() -> None:
    call = openai_call("k") | {"index": 0}
    transcript = parse(json.dumps([{"role": "assistant", "refusal": "I will not.", "tool_calls": [call]}]))
    assert transcript.turns[0].text == "I will not."
    assert transcript.turns[0].extra == {"tool_calls": {"0": {"index": 0}}}


# --- anthropic


def test_anthropic_results_become_tool_turns_before_the_users_words() -> None:
    transcript = parse(json.dumps(ANTHROPIC))
    assert shape(transcript) == [
        ("system", "Be brief."),
        ("user", "Fix it"),
        ("assistant", "Reading."),
        ("tool", "x = 1"),
        ("tool", "no"),
        ("user", "Go on."),
        ("assistant", "Done."),
    ]
    assert transcript.turns[2].reasoning == "Read first."
    assert [call.arguments for call in transcript.turns[2].calls] == ['{"path": "a.py"}', '{"path": "b.py"}']
    assert [turn.is_error for turn in transcript.turns[3:5]] == [False, True]
    assert {turn.source for turn in transcript.turns[3:6]} == {3}
    assert transcript.meta == {"model": "m"}


def test_anthropic_signature_is_kept_with_what_it_signs() -> None:
    signed = {"type": "thinking", "thinking": "Read first.", "signature": "sig"}
    assert parse(json.dumps(ANTHROPIC)).turns[2].extra == {"parts": {"0": signed}}


def test_anthropic_unknown_blocks_are_shown_and_kept() -> None:
    blocks = [
        {"type": "redacted_thinking", "data": "zz"},
        {"type": "hologram"},
        {"type": "file", "content": "x=1"},
    ]
    (turn,) = parse(json.dumps([{"role": "assistant", "content": blocks}])).turns
    assert (turn.text, turn.reasoning) == ("[hologram]\n[file]\nx=1", "[redacted_thinking]")
    assert turn.extra["parts"]["0"] == {"type": "redacted_thinking", "data": "zz"}
    assert turn.extra["parts"]["1"] == {"type": "hologram"}


# --- claude_code


def test_claude_pieces_of_one_message_become_one_turn() -> None:
    transcript = parse(lines(*CLAUDE_CODE))
    assert shape(transcript) == [
        ("user", "Fix it"),
        ("assistant", "Reading."),
        ("tool", "x = 1"),
        ("assistant", "Done."),
    ]
    merged = transcript.turns[1]
    assert [call.id for call in merged.calls] == ["c1"]
    assert (merged.source, merged.extra["requestId"]) == (3, "r")
    assert transcript.turns[2].extra["toolUseResult"] == {"stdout": "x = 1"}
    assert transcript.meta["other_lines"] == {"file-history-snapshot": 1, "progress": 1}
    assert transcript.meta["sessionId"] == "s"


def test_claude_order_is_the_chain_not_the_file() -> None:
    shuffled = [CLAUDE_CODE[at] for at in (0, 5, 3, 1, 4, 2, 6)]
    assert [t.text for t in parse(lines(*shuffled)).turns] == [t.text for t in parse(lines(*CLAUDE_CODE)).turns]


def test_claude_results_of_parallel_calls_are_all_kept() -> None:
    rows = [
        claude_line("user", "u", None, "Go"),
        claude_line("assistant", "a", "u", tool_use("c1"), message_id="m"),
        claude_line("assistant", "b", "a", tool_use("c2"), message_id="m"),
        claude_line("user", "r2", "b", tool_result("c2", "two")),
        claude_line("user", "r1", "a", tool_result("c1", "one")),
        claude_line("assistant", "d", "r2", [{"type": "text", "text": "Done."}], message_id="n"),
    ]
    transcript = parse(lines(*rows))
    assert sorted(turn.text for turn in transcript.turns[2:4]) == ["one", "two"]
    assert transcript.turns[-1].text == "Done."
    check_legal(transcript.turns)
    # The agent may also have stopped with the fork as its last line.
    stopped = parse(lines(*rows[:-1]))
    assert [call.id for call in stopped.turns[1].calls] == ["c1", "c2"]
    assert {turn.call_id for turn in stopped.turns[2:]} == {"c1", "c2"}


def test_claude_abandoned_branches_and_sidechains_are_counted_not_read() -> None:
    rows = [
        claude_line("user", "u", None, "Go"),
        claude_line("user", "old", "u", "A question that was taken back"),
        claude_line("user", "side", None, "Sub-agent", isSidechain=True),
        claude_line("user", "meta", "u", "Caveat", isMeta=True),
    ]
    transcript = parse(lines(*rows))
    assert [turn.text for turn in transcript.turns] == ["Go", "Caveat"]
    assert transcript.turns[1].extra["isMeta"] is True
    assert (transcript.meta["abandoned_lines"], transcript.meta["sidechain_lines"]) == ([2], 1)


def test_claude_file_of_a_sub_agent_is_read_as_the_session_it_is() -> None:
    rows = [row | {"isSidechain": True} for row in CLAUDE_CODE]
    assert shape(parse(lines(*rows))) == shape(parse(lines(*CLAUDE_CODE)))


def test_claude_file_of_one_line_is_read() -> None:
    assert shape(parse(lines(CLAUDE_CODE[1]))) == [("user", "Fix it")]


def compacted(**metadata: Any) -> list[dict[str, Any]]:
    boundary = claude_line("system", "b", None, subtype="compact_boundary", logicalParentUuid="a")
    return [
        claude_line("user", "u", None, "Go"),
        claude_line("assistant", "a", "u", [{"type": "text", "text": "Long work."}], message_id="m"),
        boundary | {"compactMetadata": {"trigger": "auto", **metadata}},
        claude_line("user", "s", "b", "Summary", isCompactSummary=True),
        claude_line("assistant", "z", "s", [{"type": "text", "text": "Going on."}], message_id="n"),
    ]


def test_claude_compaction_shows_what_the_model_saw_and_keeps_what_came_before() -> None:
    transcript = parse(lines(*compacted()))
    assert [turn.text for turn in transcript.turns] == ["Summary", "Going on."]
    (compaction,) = transcript.meta["compactions"]
    assert (compaction["line"], compaction["lines"]) == (3, [1, 2])
    assert [turn.text for turn in compaction["turns"]] == ["Go", "Long work."]
    assert "abandoned_lines" not in transcript.meta


def test_claude_segment_that_a_compaction_preserved_follows_the_summary() -> None:
    segment = {"headUuid": "a", "anchorUuid": "s", "tailUuid": "a"}
    transcript = parse(lines(*compacted(preservedSegment=segment)))
    assert [turn.text for turn in transcript.turns] == ["Summary", "Long work.", "Going on."]


def test_claude_prompt_typed_while_the_agent_worked_is_a_user_turn() -> None:
    queued = claude_line("attachment", "q", "u", attachment={"type": "queued_command", "prompt": "And b.py"})
    transcript = parse(lines(claude_line("user", "u", None, "Go"), queued))
    assert shape(transcript) == [("user", "Go"), ("user", "And b.py")]


def test_claude_code_chain_survives_a_skipped_line() -> None:
    text = lines(*CLAUDE_CODE).split("\n")
    text[2] = text[2][:40]
    transcript = parse("\n".join(text), lenient=True)
    assert transcript.turns[0].text == "Fix it"
    assert transcript.turns[-1].text == "Done."
    assert [reason.split(":")[0] for reason in transcript.skipped] == ["line 3"]


# --- mini_swe_agent


def test_mini_fence_actions_become_calls_and_their_observations_results() -> None:
    transcript = parse(json.dumps(MINI))
    assert [turn.role.value for turn in transcript.turns] == [
        "system", "user", "assistant", "tool", "assistant", "user", "assistant",
    ]  # fmt: skip
    (call,) = transcript.turns[2].calls
    assert (call.name, call.arguments) == ("bash", '{"command": "ls"}')
    assert transcript.turns[3].call_id == call.id
    assert transcript.turns[2].extra == {"extra": {"cost": 1}}
    assert transcript.meta["exit"][0]["content"] == "diff"
    check_legal(transcript.turns)


@pytest.mark.parametrize("strip", ["extra", "header"])
def test_mini_older_files_read_alike(strip: str) -> None:
    messages = [{key: m[key] for key in m if key != "extra"} for m in MINI["messages"]]
    old: Any = messages if strip == "header" else {"info": MINI["info"], "messages": messages}
    transcript = parse(json.dumps(old))
    assert transcript.format == "mini_swe_agent"
    assert [t.text for t in transcript.turns] == [t.text for t in parse(json.dumps(MINI)).turns]
    assert [t.calls for t in transcript.turns] == [t.calls for t in parse(json.dumps(MINI)).turns]


def test_mini_tool_calls_are_not_doubled_by_recorded_actions() -> None:
    acting = {
        "role": "assistant",
        "content": "",
        "tool_calls": [openai_call("k")],
        "extra": {"actions": [{"command": "ls"}]},
    }
    answer = {"role": "tool", "tool_call_id": "k", "content": "a.py"}
    transcript = parse(json.dumps({"trajectory_format": "mini-swe-agent-1.1", "messages": [acting, answer]}))
    assert [call.id for call in transcript.turns[0].calls] == ["k"]
    assert transcript.turns[0].extra == {"extra": {}}


# --- openhands


def test_openhands_actions_of_one_response_are_one_turn() -> None:
    transcript = parse(json.dumps(OPENHANDS))
    assert shape(transcript) == [
        ("system", "Be brief."),
        ("user", "Fix it"),
        ("assistant", "Looking."),
        ("tool", "a.py\n[exit code 1]"),
        ("tool", "a.py\n[exit code 1]"),
        ("tool", "Bad call."),
        ("assistant", "Done.\nAll green."),
    ]
    assert [call.id for call in transcript.turns[2].calls] == ["c1", "c2"]
    assert transcript.turns[2].calls[0].arguments == '{"command": "ls"}'
    assert [turn.call_id for turn in transcript.turns[3:6]] == ["c1", "c2", ""]
    assert all(turn.is_error for turn in transcript.turns[3:6])
    assert transcript.meta == {"instance_id": "i", "other_events": {"recall": 1}}


def test_openhands_without_function_calling_pairs_by_cause() -> None:
    events = [
        {"id": 5, "source": "agent", "action": "run", "args": {"command": "ls", "thought": "Look."}},
        {"id": 6, "source": "agent", "observation": "run", "content": "a.py", "cause": 5},
    ]
    transcript = parse(json.dumps(events))
    assert transcript.turns[0].calls[0].arguments == '{"command": "ls"}'
    assert transcript.turns[1].call_id == transcript.turns[0].calls[0].id


# --- aider


def test_aider_speakers_are_told_apart_and_code_is_not_the_user() -> None:
    transcript = parse(BY_FORMAT["aider"])
    assert [turn.role for turn in transcript.turns] == [
        Role.TOOL, Role.USER, Role.ASSISTANT, Role.TOOL, Role.USER, Role.TOOL,
    ]  # fmt: skip
    assert transcript.turns[1].text == "fix it\nplease"
    assert "#### a heading, not the user" in transcript.turns[2].text
    assert transcript.turns[2].text.endswith("Done.")
    assert transcript.turns[5].text == "Removed: abc1234"
    assert transcript.meta == {"sessions": ["2024-01-01 10:00:00"]}


# --- openhands_v1


def test_sdk_events_read_as_the_model_saw_them_with_the_condensation_applied() -> None:
    transcript = parse(BY_FORMAT["openhands_v1"])
    assert shape(transcript) == [
        ("system", "Be brief.\nToday is Monday."),
        ("user", "Fix it"),
        ("user", "So far: nothing."),
        ("assistant", "Looking."),
        ("tool", "a.py"),
        ("tool", "a.py"),
        ("assistant", ""),
        ("tool", "bad"),
        ("assistant", "Done."),
    ]
    assert [call.id for call in transcript.turns[3].calls] == ["k1", "k2"]
    assert transcript.turns[3].reasoning == "I should list."
    assert transcript.turns[7].is_error
    assert transcript.meta["other_events"] == {"ConversationStateUpdateEvent": 1}
    assert transcript.meta["forgotten_events"] == {"ActionEvent": 1, "ObservationEvent": 1}


def test_sdk_events_one_per_line_read_alike() -> None:
    assert parse(lines(*OPENHANDS_V1)).turns == parse(BY_FORMAT["openhands_v1"]).turns


def test_summary_that_a_later_condensation_forgot_is_gone() -> None:
    later = {**OPENHANDS_V1[5], "id": "e12", "forgotten_event_ids": ["e4-summary"], "summary": "Again."}
    texts = [turn.text for turn in parse(json.dumps([*OPENHANDS_V1, later])).turns]
    assert texts[2] == "Again."
    assert "So far: nothing." not in texts
