"""The agents' own session files read to the turns that their model saw, and are told apart by content alone."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from agent_samples import (
    CLINE_XML,
    CODEX,
    CODEX_LEGACY,
    GEMINI,
    GEMINI_CHECKPOINT,
    GEMINI_LINES,
    ITEMS,
    OPENCODE,
    OTHER_LAYOUTS,
    PI,
    RESPONSES,
    SWE_CALLS,
    SWE_TEXT,
    event,
    function_call,
    function_output,
    jsonl,
    message,
    opencode_message,
    opencode_text,
    pi_call,
    pi_message,
    pi_node,
    rollout,
    thought,
)
from sample_sessions import BY_FORMAT

from holdfast.transcript.cuts import check_legal
from holdfast.transcript.document import decode
from holdfast.transcript.formats import FORMATS
from holdfast.transcript.read import parse
from holdfast.transcript.turn import Transcript
from long_samples import RECORDED, SAMPLES

DATA = RECORDED / "transcripts"

Shape = list[tuple[str, str]]


def shape(transcript: Transcript) -> Shape:
    return [(turn.role.value, turn.text) for turn in transcript.turns]


def claimants(text: str) -> list[str]:
    """The formats that say that this is theirs; where a dialect does, only the dialects."""
    matches = [known for known in FORMATS if known.sniff(decode(text))]
    return [known.name for known in [known for known in matches if known.dialect] or matches]


def test_each_sample_is_claimed_by_exactly_its_own_format() -> None:
    samples = [*BY_FORMAT.items(), *OTHER_LAYOUTS.items(), *((name, text) for name, (_, text) in SAMPLES.items())]
    assert [name for name, text in samples if claimants(text) != [name.split(maxsplit=1)[0]]] == []


@pytest.mark.skipif(not DATA.is_dir(), reason="recorded sessions are not in the repository")
def test_each_real_file_is_claimed_by_exactly_one_format() -> None:
    found = {path.name: claimants(path.read_text("utf-8")) for path in sorted(DATA.iterdir())}
    assert {name: names for name, names in found.items() if len(names) != 1} == {}
    assert found["cline-01-session.messages.json"] == ["cline"]


@pytest.mark.parametrize("name", OTHER_LAYOUTS)
def test_other_layouts_read_legal_and_whole(name: str) -> None:
    transcript = parse(OTHER_LAYOUTS[name])
    check_legal(transcript.turns)
    assert transcript.skipped == ()


# --- openai_responses

SAID: Shape = [
    ("system", "Be brief."),
    ("user", "Fix it"),
    ("assistant", "Looking."),
    ("tool", '{"output": "a.py", "metadata": {"exit_code": 2}}'),
    ("tool", "Done"),
    ("assistant", "Done."),
]


def test_responses_items_of_one_answer_are_one_turn() -> None:
    transcript = parse(json.dumps(RESPONSES))
    assert shape(transcript) == [("system", "Be an agent."), *SAID]
    acting = transcript.turns[3]
    assert acting.reasoning == "Look first."
    assert [(call.id, call.name, call.arguments) for call in acting.calls] == [
        ("c1", "shell", '{"command": ["ls"]}'),
        ("c2", "apply_patch", "*** Begin Patch"),
    ]
    assert [turn.is_error for turn in transcript.turns[4:6]] == [True, False]
    assert acting.extra["items"]["3"]["encrypted_content"] == "gAAA"
    assert transcript.meta == {"model": "m", "store": False}


def test_responses_lists_and_lines_read_alike() -> None:
    assert parse(jsonl(*ITEMS)).turns == parse(json.dumps(ITEMS)).turns == parse(json.dumps({"output": ITEMS})).turns


def test_responses_reasoning_goes_with_what_follows_it() -> None:
    items = [message("user", "Go"), message("assistant", "One."), thought("Then two."), function_call("c")]
    transcript = parse(json.dumps([*items, function_output("c", [{"type": "input_text", "text": "ok"}])]))
    assert shape(transcript) == [("user", "Go"), ("assistant", "One."), ("assistant", ""), ("tool", "ok")]
    assert [turn.reasoning for turn in transcript.turns] == ["", "", "Then two.", ""]


def test_responses_orphan_output_is_left_out_and_named() -> None:
    session = parse(json.dumps([message("user", "Go"), function_output("c", "x")]))
    assert shape(session) == [("user", "Go")]
    assert "no turn before it makes" in session.skipped[0]


def test_responses_compaction_and_server_side_calls_are_shown_and_kept() -> None:
    search = {"type": "web_search_call", "id": "ws", "status": "completed", "action": {"query": "x"}}
    compaction = {"type": "compaction", "encrypted_content": "gAAA"}
    transcript = parse(json.dumps([compaction, message("user", "Go"), search, message("assistant", "Found.")]))
    assert shape(transcript) == [
        ("system", "[compaction]"),
        ("user", "Go"),
        ("assistant", '[web_search_call]\n{"query": "x"}'),
        ("assistant", "Found."),
    ]
    assert transcript.turns[0].extra["encrypted_content"] == "gAAA"
    assert transcript.turns[2].extra["action"] == {"query": "x"}


def test_messages_of_other_wires_are_not_responses_items() -> None:
    anthropic = [
        {"type": "message", "role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "x", "input": {}}]}
    ]
    assert claimants(json.dumps(anthropic)) == ["anthropic"]
    assert claimants(json.dumps([{"role": "user", "content": "hi"}])) == ["openai_chat"]


# --- codex


def test_codex_screen_lines_are_counted_and_nothing_is_read_twice() -> None:
    transcript = parse(jsonl(*CODEX))
    assert shape(transcript) == SAID
    assert transcript.meta["other_lines"]["event_msg/exec_command_end"] == 1
    assert (transcript.meta["cwd"], transcript.meta["model"]) == ("/r", "gpt")


def test_codex_legacy_lines_without_an_envelope_read_alike() -> None:
    assert shape(parse(jsonl(*CODEX_LEGACY))) == SAID


def test_codex_result_that_only_the_screen_holds_is_used() -> None:
    rows = [
        row
        for row in CODEX
        if row["payload"].get("call_id") != "c1" or row["payload"]["type"] != "function_call_output"
    ]
    transcript = parse(jsonl(*rows))
    answers = {turn.call_id: turn for turn in transcript.turns if turn.call_id}
    assert (answers["c1"].text, answers["c1"].is_error) == ("a.py", True)


def test_codex_result_that_stands_twice_is_read_once() -> None:
    rows = [*CODEX, rollout("response_item", function_output("c2", "Done again"))]
    assert shape(parse(jsonl(*rows))) == SAID


def test_codex_compaction_with_its_history_restarts_the_session() -> None:
    compacted = rollout(
        "compacted", {"message": "Sum", "replacement_history": [message("user", "Fix it"), message("user", "Sum")]}
    )
    rows = [*CODEX, compacted, event("context_compacted"), rollout("response_item", message("user", "Go on"))]
    transcript = parse(jsonl(*rows))
    assert shape(transcript) == [("user", "Fix it"), ("user", "Sum"), ("user", "Go on")]
    (compaction,) = transcript.meta["compactions"]
    assert compaction["line"] == len(CODEX) + 1
    assert [turn.text for turn in compaction["turns"]] == [text for _, text in SAID]


def test_codex_compaction_without_a_history_keeps_instructions_user_and_summary() -> None:
    rows = [*CODEX, rollout("compacted", {"message": "Sum"}), rollout("compacted", {"message": "Sum of sums"})]
    transcript = parse(jsonl(*rows))
    assert shape(transcript) == [("system", "Be brief."), ("user", "Fix it"), ("user", "Sum of sums")]
    assert len(transcript.meta["compactions"]) == 2


# --- opencode


def test_opencode_steps_become_turns_and_states_results() -> None:
    transcript = parse(json.dumps(OPENCODE))
    assert shape(transcript) == [
        ("user", "Fix it\n[file]"),
        ("assistant", "Reading."),
        ("tool", "x = 1"),
        ("tool", "no such file"),
        ("assistant", ""),
        ("tool", "[Old tool result content cleared]"),
        ("assistant", "Done."),
        ("tool", "[Tool execution was interrupted]"),
    ]
    assert transcript.turns[1].reasoning == "Read first."
    assert [turn.is_error for turn in transcript.turns if turn.call_id] == [False, True, False, True]
    assert transcript.turns[5].extra["state"]["output"] == "long"
    assert transcript.meta == {"info": OPENCODE["info"]}


def opencode_compacted(tail: str = "") -> dict[str, Any]:
    ask = {"type": "compaction", "auto": True} | ({"tail_start_id": tail} if tail else {})
    return {
        "info": {"id": "ses_1"},
        "messages": [
            opencode_message("m1", "user", opencode_text("Go")),
            opencode_message("m2", "assistant", opencode_text("Long work.")),
            opencode_message("m3", "user", opencode_text("And b.py")),
            opencode_message("m4", "user", ask),
            opencode_message("m5", "assistant", opencode_text("Summary"), summary=True, parentID="m4"),
            opencode_message("m6", "user", opencode_text("Go on")),
        ],
    }


def test_opencode_compaction_restarts_the_session_and_keeps_its_tail() -> None:
    transcript = parse(json.dumps(opencode_compacted()))
    assert [turn.text for turn in transcript.turns] == ["Summary", "Go on"]
    (compaction,) = transcript.meta["compactions"]
    assert [turn.text for turn in compaction["turns"]] == ["Go", "Long work.", "And b.py"]
    kept = parse(json.dumps(opencode_compacted("m3")))
    assert [turn.text for turn in kept.turns] == ["Summary", "And b.py", "Go on"]


def test_opencode_compaction_that_did_not_end_changes_nothing() -> None:
    document = opencode_compacted()
    del document["messages"][4:]
    assert [turn.text for turn in parse(json.dumps(document)).turns] == ["Go", "Long work.", "And b.py"]


# --- pi


def test_pi_branch_of_the_newest_leaf_is_the_session() -> None:
    transcript = parse(jsonl(*PI))
    assert shape(transcript) == [
        ("user", "Fix it"),
        ("assistant", "Looking."),
        ("tool", "a.py"),
        ("tool", "Ran `pwd`\n/r"),
        ("tool", "Mind the gap."),
        ("assistant", "Done."),
    ]
    assert (transcript.turns[1].reasoning, transcript.turns[1].calls[0].arguments) == ("Look.", '{"command": "ls"}')
    assert [turn.call_id for turn in transcript.turns[2:5]] == ["c1", "", ""]
    assert transcript.turns[2].is_error
    assert transcript.meta["abandoned_lines"] == [5]
    assert transcript.meta["unsent_lines"] == [10]
    assert transcript.meta["other_lines"] == {"model_change": 1, "custom": 1}
    assert transcript.meta["cwd"] == "/r"


def test_pi_compaction_stands_before_what_it_kept() -> None:
    rows = [*PI, pi_node("c", "a8", "compaction", summary="Summary", firstKeptEntryId="a6", tokensBefore=9)]
    transcript = parse(jsonl(*rows, pi_message("z", "c", "user", "Go on")))
    assert [turn.text for turn in transcript.turns] == ["Summary", "Mind the gap.", "Done.", "Go on"]
    (compaction,) = transcript.meta["compactions"]
    assert (compaction["line"], compaction["metadata"]["tokensBefore"]) == (len(PI) + 1, 9)
    assert len(compaction["turns"]) == 6


def test_pi_result_of_a_call_that_was_cut_off_goes_with_it() -> None:
    rows = [
        PI[0],
        pi_message("a", None, "user", "Go"),
        pi_message("b", "a", "assistant", [pi_call("c1")], stopReason="error"),
        pi_message("c", "b", "toolResult", "skipped", toolCallId="c1"),
        pi_message("d", "c", "user", "Again"),
    ]
    assert shape(parse(jsonl(*rows))) == [("user", "Go"), ("user", "Again")]


def test_pi_lines_of_the_first_version_follow_each_other() -> None:
    rows = [{key: value for key, value in row.items() if key not in ("id", "parentId")} for row in PI[2:4]]
    head = {key: value for key, value in PI[0].items() if key != "version"}
    assert [turn.text for turn in parse(jsonl(head, *rows)).turns] == ["Fix it", "Looking."]


# --- swe_agent


def test_swe_agent_actions_in_text_become_calls_and_observations_results() -> None:
    transcript = parse(json.dumps(SWE_TEXT))
    assert [turn.role.value for turn in transcript.turns] == [
        "system", "user", "user", "assistant", "tool", "assistant", "tool", "assistant",
    ]  # fmt: skip
    assert transcript.turns[3].calls[0].arguments == '{"command": "ls"}'
    assert [turn.extra.get("is_demo") for turn in transcript.turns[1:3]] == [True, None]
    assert transcript.meta == {"environment": "swe_main", "info": SWE_TEXT["info"], "steps": 1}


def test_swe_agent_tool_calls_are_paired_by_their_ids() -> None:
    transcript = parse(json.dumps(SWE_CALLS))
    assert (transcript.turns[2].calls[0].id, transcript.turns[3].call_id) == ("k1", "k1")
    assert transcript.turns[2].reasoning == "Hm."


def test_swe_agent_prompts_repeated_in_the_steps_are_not_read() -> None:
    document = copy.deepcopy(SWE_TEXT)
    document["trajectory"] = [{"query": 7}]
    assert parse(json.dumps(document)).turns == parse(json.dumps(SWE_TEXT)).turns


# --- cline


def test_cline_reads_as_the_messages_that_it_stores() -> None:
    assert shape(parse(BY_FORMAT["cline"])) == [
        ("system", "Be brief."),
        ("user", "Fix it"),
        ("assistant", "Reading."),
        ("tool", "x = 1"),
        ("assistant", "Done."),
    ]


def test_cline_calls_in_xml_are_calls_and_the_users_feedback_stays_the_users() -> None:
    transcript = parse(json.dumps(CLINE_XML))
    assert [turn.role.value for turn in transcript.turns] == ["user", "assistant", "tool", "assistant", "tool", "user"]
    assert transcript.turns[1].text == "Reading."
    assert [(call.name, call.arguments) for call in transcript.turns[1].calls] == [("read_file", '{"path": "a.py"}')]
    assert transcript.turns[5].text == "<feedback>\nNever touch b.py\n</feedback>"


# --- gemini_cli


def test_gemini_record_holds_calls_with_their_results() -> None:
    transcript = parse(json.dumps(GEMINI))
    assert shape(transcript) == [
        ("user", "Fix it"),
        ("assistant", "Looking."),
        ("tool", "a.py"),
        ("tool", "no"),
        ("assistant", "Done."),
    ]
    assert transcript.turns[1].reasoning == "Plan\nLook first."
    assert [turn.is_error for turn in transcript.turns[2:4]] == [False, True]
    assert transcript.meta["other_messages"] == {"info": 1}


def test_gemini_lines_are_rewound_and_replaced_by_later_ones() -> None:
    transcript = parse(jsonl(*GEMINI_LINES))
    assert shape(transcript) == shape(parse(json.dumps(GEMINI)))
    assert transcript.meta["summary"] == "A fix"
    assert transcript.meta["abandoned_lines"] == [3, 5]


def test_gemini_checkpoint_pairs_results_in_order() -> None:
    transcript = parse(json.dumps(GEMINI_CHECKPOINT))
    assert shape(transcript) == [
        ("user", "Fix it"),
        ("assistant", "Looking."),
        ("tool", "a.py"),
        ("tool", '{"files": []}'),
        ("user", "Go on."),
        ("assistant", "Done."),
    ]
    assert transcript.turns[1].reasoning == "Hm."
    assert parse(json.dumps({"history": GEMINI_CHECKPOINT})).turns == transcript.turns
