"""What each format writes: its own records, its own order, and every field that the change is not of."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rewriting import changed
from sample_sessions import (
    ANTHROPIC,
    BY_FORMAT,
    CLAUDE_CODE,
    MINI,
    OPENAI,
    OPENHANDS,
    claude_line,
    lines,
    openai_call,
    tool_result,
    tool_use,
)
from test_write import holds

from holdfast.errors import BadInput
from holdfast.transcript.draft import Draft, Line, Piece, new_draft, piece_of_lines
from holdfast.transcript.legality import find_problems
from holdfast.transcript.read import parse
from holdfast.transcript.turn import Role, Turn
from holdfast.transcript.write import write

SUMMARY = piece_of_lines([Line("Summary", (0, 1, 2))], "summarize")


def rewritten(text: str, index: int, to: str = "rewritten") -> Any:
    made = write(text, new_draft(parse(text)).replace_text(index, to, "clamp"))
    try:
        return json.loads(made)
    except ValueError:
        return [json.loads(row) for row in made.splitlines()]


LISTS = {
    "openai_chat": (OPENAI, None),
    "anthropic": (ANTHROPIC, "messages"),
    "mini_swe_agent": (MINI, "messages"),
    "openhands": (OPENHANDS, "history"),
    "claude_code": (CLAUDE_CODE, None),
}


@pytest.mark.parametrize("name", LISTS)
def test_every_entry_but_the_one_that_changed_is_as_it_was(name: str) -> None:
    whole, key = LISTS[name]
    entries: Any = whole[key] if key else whole  # type: ignore[index]
    count = len(parse(BY_FORMAT[name]).turns)
    for index in range(count):
        made = rewritten(BY_FORMAT[name], index)
        new = made[key] if key else made
        assert len(new) == len(entries)
        touched = sum(one != two for one, two in zip(new, entries, strict=True))
        assert touched <= (2 if name == "openhands" else 1)
        if key:
            assert {k: v for k, v in made.items() if k not in (key, "system")} == {
                k: v
                for k, v in whole.items()
                if k not in (key, "system")  # type: ignore[union-attr]
            }


# --- openai_chat


def test_openai_image_stays_where_the_text_still_shows_it_and_goes_where_not() -> None:
    assert rewritten(BY_FORMAT["openai_chat"], 1, "See\n[image]")[1]["content"] == [
        {"type": "text", "text": "See"},
        {"type": "image_url", "image_url": {"url": "x"}},
    ]
    assert rewritten(BY_FORMAT["openai_chat"], 1, "No picture")[1]["content"] == [
        {"type": "text", "text": "No picture"}
    ]


def test_openai_calls_keep_their_fields_and_legacy_calls_their_shape() -> None:
    call = openai_call("k", '{"a": 1}') | {"index": 0}
    legacy = {"name": "f", "arguments": '{"b": 1}'}
    rows = [
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "k", "content": "ok"},
        {"role": "assistant", "content": None, "function_call": legacy},
        {"role": "function", "name": "f", "content": "ok"},
    ]
    text = json.dumps(rows)
    held = new_draft(parse(text))
    for at in (0, 2):
        turn = held.pieces[at].turn
        (old,) = turn.calls
        new = Turn(turn.role, turn.text, turn.reasoning, (type(old)(old.id, old.name, "{}"),), extra=turn.extra)
        held = held.replace_pieces(at, at + 1, Piece(new, (at,), "clamp"))
    made = json.loads(write(text, held))
    assert made[0]["tool_calls"] == [{**call, "function": {"name": "bash", "arguments": "{}"}}]
    assert made[2]["function_call"] == {"name": "f", "arguments": "{}"}
    assert (made[1], made[3]) == (rows[1], rows[3])


# --- anthropic


def test_anthropic_drop_between_two_of_one_role_joins_them_with_results_first() -> None:
    session = copy.deepcopy(ANTHROPIC)
    session["messages"] += [{"role": "user", "content": "Thanks"}, {"role": "assistant", "content": "Bye."}]
    text = json.dumps(session)
    held = new_draft(parse(text))
    messages = json.loads(write(text, held.keep([0, 1, 2, 3, 4, 5, 7, 8])))["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user", "assistant"]
    assert messages[2]["content"] == [*ANTHROPIC["messages"][2]["content"], {"type": "text", "text": "Thanks"}]
    assert {found.rule for found in find_problems(messages, "anthropic")} == {"user_last"}


def test_anthropic_thinking_stays_whole_when_the_text_beside_it_changes() -> None:
    content = rewritten(BY_FORMAT["anthropic"], 2, "Read.")["messages"][1]["content"]
    old = ANTHROPIC["messages"][1]["content"]
    assert content == [old[0], {"type": "text", "text": "Read."}, *old[2:]]


def test_anthropic_results_of_one_message_are_edited_apart() -> None:
    content = rewritten(BY_FORMAT["anthropic"], 4, "gone")["messages"][2]["content"]
    old = ANTHROPIC["messages"][2]["content"]
    assert content == [old[0], {**old[1], "content": [{"type": "text", "text": "gone"}]}, old[2]]


def test_anthropic_system_prompt_is_written_where_it_stood() -> None:
    assert rewritten(BY_FORMAT["anthropic"], 0, "Be long.")["system"] == [{"type": "text", "text": "Be long."}]


# --- claude_code


def long_claude() -> list[dict[str, Any]]:
    """Two calls streamed in lines of their own, their forked results, an attachment, a branch, a later compaction."""
    return [
        claude_line("user", "u1", None, "Fix it", version="2", timestamp="t1"),
        claude_line("assistant", "a1", "u1", [{"type": "text", "text": "Both."}], message_id="m1"),
        claude_line("assistant", "a2", "a1", tool_use("c1"), message_id="m1"),
        claude_line("assistant", "a3", "a2", tool_use("c2"), message_id="m1"),
        claude_line("user", "r1", "a2", tool_result("c1", "one")),
        claude_line("user", "r2", "a3", tool_result("c2", "two")),
        claude_line("assistant", "x1", "r2", [{"type": "text", "text": "Abandoned."}], message_id="mx"),
        claude_line("attachment", "q1", "r2", attachment={"type": "queued_command", "prompt": "And b.py"}),
        claude_line("assistant", "a4", "q1", [{"type": "text", "text": "Yes."}], message_id="m2"),
        claude_line("user", "u2", "a4", "Now c.py", timestamp="t2"),
        claude_line("assistant", "a5", "u2", [{"type": "text", "text": "Done."}], message_id="m3"),
    ]


def preserved_claude() -> list[dict[str, Any]]:
    """A compaction that kept two messages."""
    segment = {"headUuid": "u2", "anchorUuid": "s", "tailUuid": "a2"}
    return [
        claude_line("user", "u1", None, "Go"),
        claude_line("assistant", "a1", "u1", [{"type": "text", "text": "Long work."}], message_id="m1"),
        claude_line("user", "u2", "a1", "More"),
        claude_line("assistant", "a2", "u2", [{"type": "text", "text": "More work."}], message_id="m2"),
        claude_line(
            "system", "b", None, subtype="compact_boundary", logicalParentUuid="a2",
            compactMetadata={"trigger": "auto", "preTokens": 9, "preservedSegment": segment},
        ),
        claude_line("user", "s", "b", "Summary", isCompactSummary=True),
        claude_line("user", "u3", "s", "On"),
        claude_line("assistant", "a3", "u3", [{"type": "text", "text": "Going on."}], message_id="m3"),
    ]  # fmt: skip


@given(st.sampled_from([long_claude, preserved_claude]), st.data())
def test_any_change_of_a_forked_or_compacted_claude_session_reads_back(make: Any, data: st.DataObject) -> None:
    text = lines(*make())
    holds(text, data.draw(changed(parse(text))))


def test_claude_fold_of_the_head_is_written_as_the_agents_own_compaction() -> None:
    text = lines(*long_claude())
    held = new_draft(parse(text)).replace_pieces(0, 6, SUMMARY)
    made = write(text, held)
    rows = made.splitlines()
    assert rows[:9] == text.splitlines()[:9]
    boundary, summary, kept = (json.loads(row) for row in rows[9:12])
    assert (boundary["subtype"], boundary["parentUuid"], boundary["logicalParentUuid"]) == (
        "compact_boundary",
        None,
        "a4",
    )
    assert boundary["compactMetadata"]["trigger"] == "manual"
    assert boundary["compactMetadata"]["preTokens"] > boundary["compactMetadata"]["postTokens"] > 0
    assert (summary["isCompactSummary"], summary["isVisibleInTranscriptOnly"]) == (True, True)
    assert summary["message"] == {"role": "user", "content": "Summary"}
    assert (summary["parentUuid"], summary["sessionId"], summary["timestamp"]) == (boundary["uuid"], "s", "t2")
    assert kept == {**long_claude()[9], "parentUuid": summary["uuid"]}
    assert rows[12:] == text.splitlines()[10:]
    (compaction,) = parse(made).meta["compactions"]
    assert [turn.text for turn in compaction["turns"]] == [turn.text for turn in parse(text).turns[:6]]
    assert write(text, held) == made


def test_claude_task_that_stays_before_the_summary_is_told_again_behind_the_boundary() -> None:
    text = lines(*long_claude())
    made = parse(write(text, new_draft(parse(text)).replace_pieces(1, 6, SUMMARY)))
    assert [turn.text for turn in made.turns] == ["Fix it", "Summary", "Now c.py", "Done."]
    assert len(made.meta["compactions"]) == 1


def test_claude_session_that_is_compacted_again_shows_the_last_summary() -> None:
    text = lines(*long_claude())
    once = write(text, new_draft(parse(text)).replace_pieces(0, 6, SUMMARY))
    twice = parse(
        write(once, new_draft(parse(once)).replace_pieces(0, 2, piece_of_lines([Line("Later", (0, 1))], "summarize")))
    )
    assert [turn.text for turn in twice.turns] == ["Later", "Done."]
    assert len(twice.meta["compactions"]) == 2


def test_claude_edit_inside_stays_in_its_line_and_writes_no_compaction() -> None:
    text = lines(*long_claude())
    made = write(text, new_draft(parse(text)).replace_text(1, "Rewritten.", "clamp").replace_text(2, "gone", "clamp"))
    old, new = text.splitlines(), made.splitlines()
    assert [at for at in range(len(old)) if old[at] != new[at]] == [1, 4]
    assert json.loads(new[1])["message"]["content"] == [{"type": "text", "text": "Rewritten."}]


def test_claude_code_chain_closes_over_lines_that_went() -> None:
    text = lines(*long_claude())
    held = new_draft(parse(text))
    made = [json.loads(row) for row in write(text, held.keep([0, 4, 5, 6, 7])).splitlines()]
    assert {row["uuid"]: row["parentUuid"] for row in made} == {
        "u1": None,
        "x1": "u1",
        "q1": "u1",
        "a4": "q1",
        "u2": "a4",
        "a5": "u2",
    }


# --- openhands, mini_swe_agent, aider


def test_openhands_text_changes_where_the_model_said_it_and_where_the_action_shows_it() -> None:
    event = rewritten(BY_FORMAT["openhands"], 2)["history"][3]
    assert event["args"] == {"command": "ls", "thought": "rewritten"}
    message = event["tool_call_metadata"]["model_response"]["choices"][0]["message"]
    assert message["content"] == "rewritten"
    assert [call["id"] for call in message["tool_calls"]] == ["c1"]


def test_openhands_new_turn_has_an_id_that_no_event_has() -> None:
    text = BY_FORMAT["openhands"]
    held = new_draft(parse(text))
    made = json.loads(write(text, Draft(held.raw, (*held.pieces, SUMMARY))))["history"]
    assert [event["id"] for event in made] == [*range(9), 9]
    assert (made[-1]["source"], made[-1]["action"], made[-1]["args"]["content"]) == ("user", "message", "Summary")


@pytest.mark.parametrize("name", ["openhands", "openhands_v1"])
def test_openhands_refuses_a_result_that_no_event_made(name: str) -> None:
    text = BY_FORMAT[name]
    held = new_draft(parse(text))
    with pytest.raises(BadInput, match="fold it into a user turn"):
        write(text, Draft(held.raw, (*held.pieces, Piece(Turn(Role.TOOL, "x", call_id="c1"), (), "odd"))))


def test_mini_action_is_recorded_where_its_fence_went_from_the_text() -> None:
    bare = {**MINI, "messages": [{k: v for k, v in message.items() if k != "extra"} for message in MINI["messages"]]}
    text = json.dumps(bare)
    made = rewritten(text, 2, "Look.")
    assert made["messages"][2] == {"role": "assistant", "content": "Look.", "extra": {"actions": [{"command": "ls"}]}}
    assert parse(json.dumps(made)).turns[3].role is Role.TOOL


def test_aider_text_of_the_model_cannot_pass_for_the_user_or_leave_a_fence_open() -> None:
    text = BY_FORMAT["aider"]
    held = new_draft(parse(text))
    at = next(at for at, turn in enumerate(held.turns) if turn.role is Role.ASSISTANT)
    back = parse(write(text, held.replace_text(at, "#### not the user\n```\ncut", "clamp")))
    assert [turn.role for turn in back.turns] == [turn.role for turn in held.turns]
    assert back.turns[at].text == " #### not the user\n```\ncut\n```".strip()


def test_claude_message_that_a_compaction_cut_in_two_is_not_put_together_again() -> None:
    rows = [
        claude_line("user", "u1", None, "Fix it"),
        claude_line("assistant", "a1", "u1", tool_use("c1"), message_id="m1"),
        claude_line("user", "r1", "a1", tool_result("c1")),
        claude_line("assistant", "a2", "r1", tool_use("c2"), message_id="m1"),
        claude_line("user", "r2", "a2", tool_result("c2")),
    ]
    text = lines(*rows)
    made = parse(write(text, new_draft(parse(text)).replace_pieces(0, 3, SUMMARY)))
    assert [turn.text for turn in made.turns] == ["Summary", "", "ok"]
    assert [call.id for call in made.turns[1].calls] == ["c2"]


# --- arguments of calls


PATCH, LESS = "*** Begin Patch\n+x", "[holdfast: 2 lines]"
TEXT_INPUTS = {
    "anthropic": {"type": "tool_use", "id": "t1", "name": "Read", "input": {"path": "a.py"}},
    "claude_code": {"input": {"command": "c1"}},
    "opencode": {"input": {"filePath": "a.py"}},
    "pi": {"arguments": {"command": "ls"}},
    "gemini_cli": {"args": {"path": "."}},
}


@pytest.mark.parametrize("name", TEXT_INPUTS)
def test_arguments_that_are_a_text_where_an_object_is_usual_stay_a_text(name: str) -> None:
    (key, value) = list(TEXT_INPUTS[name].items())[-1]
    old = json.dumps(value)
    text = BY_FORMAT[name].replace(f'"{key}": {old}', f'"{key}": {json.dumps(PATCH)}', 1)
    held = new_draft(parse(text))
    at, call = next((at, c) for at, turn in enumerate(held.turns) for c in turn.calls if c.arguments == PATCH)
    calls = tuple(replace(c, arguments=LESS) if c == call else c for c in held.turns[at].calls)
    made = held.replace_calls(at, calls, "mask_calls")
    assert LESS in [c.arguments for turn in parse(write(text, made)).turns for c in turn.calls]
    holds(text, made)


def test_gemini_signature_beside_a_call_stays_when_its_arguments_change() -> None:
    part = {"functionCall": {"name": "w", "args": {"text": "long"}}, "thoughtSignature": "s"}
    answer = {"functionResponse": {"name": "w", "response": {"output": "ok"}}}
    rows = [{"role": "user", "parts": [{"text": "Go"}]}, {"role": "model", "parts": [part]}]
    text = json.dumps([*rows, {"role": "user", "parts": [answer]}])
    held = new_draft(parse(text))
    (call,) = held.turns[1].calls
    made = json.loads(write(text, held.replace_calls(1, (replace(call, arguments='{"text": "-"}'),), "mask_calls")))
    assert made[1]["parts"] == [{**part, "functionCall": {"name": "w", "args": {"text": "-"}}}]


def test_swe_agent_action_in_the_text_takes_the_new_command_and_keeps_its_result() -> None:
    text = BY_FORMAT["swe_agent"]
    held = new_draft(parse(text))
    at = next(at for at, turn in enumerate(held.turns) if turn.calls)
    (call,) = held.turns[at].calls
    made = held.replace_calls(at, (replace(call, arguments='{"command": "ls -a"}'),), "mask_calls")
    assert "ls -a" in [message.get("action") for message in json.loads(write(text, made))["history"]]
    holds(text, made)
