"""What an agent demands of a file that it goes on with: ids, versions, counts of tokens, links and line ends."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from agent_samples import AGENTS, OPENCODE, PI, jsonl, opencode_message, opencode_text, pi_message

from holdfast.errors import BadInput
from holdfast.transcript.document import decode
from holdfast.transcript.draft import Draft, Line, new_draft, piece_of_lines
from holdfast.transcript.formats import FORMATS, pi_write
from holdfast.transcript.read import parse
from holdfast.transcript.turn import Role, Turn
from holdfast.transcript.write import relink, write

MODEL = {"providerID": "p", "modelID": "m"}
USED = {"input": 900, "output": 5, "reasoning": 0, "cache": {"read": 70_000, "write": 0}}
NONE = {"input": 0, "output": 0, "reasoning": 0, "cache": {"read": 0, "write": 0}}
ANSWER = {
    "parentID": "msg_000000000001a",
    "mode": "build",
    "path": {"cwd": "/r", "root": "/r"},
    "tokens": USED,
    **MODEL,
}
EXPORT = {
    "info": {"id": "ses_1", "title": "Ports", "time": {"created": 1, "updated": 5}},
    "messages": [
        opencode_message("msg_000000000001a", "user", opencode_text("Count"), agent="build", model=MODEL),
        opencode_message("msg_000000000002a", "assistant", opencode_text("Step 1"), **ANSWER),
        opencode_message("msg_000000000003a", "assistant", opencode_text("Step 2"), **ANSWER),
    ],
}


def folded(text: str, start: int, stop: int) -> Draft:
    """The turns between two places folded into a note."""
    held = new_draft(parse(text))
    return held.replace_pieces(start, stop, piece_of_lines([Line("So far.", tuple(range(start, stop)))], "summarize"))


def ids(export: dict[str, Any]) -> set[str]:
    return set(re.findall(r"(?:ses|msg|prt)_\w+", json.dumps(export)))


def test_a_changed_opencode_export_is_a_session_of_its_own_that_is_listed_first() -> None:
    """The import only adds, and knows a message by its id."""
    text = json.dumps(EXPORT)
    made = write(text, folded(text, 1, 2))
    export = json.loads(made)
    assert not ids(export) & ids(EXPORT)
    order = [message["info"]["id"] for message in export["messages"]]
    assert order == sorted(order)
    assert {
        part["messageID"] for message in export["messages"] for part in message["parts"] if "messageID" in part
    } <= {*order}
    assert export["messages"][2]["info"]["parentID"] == order[0]
    assert export["info"]["title"] == "Ports (compacted)"
    assert export["info"]["time"]["updated"] > EXPORT["info"]["time"]["updated"]
    assert write(text, folded(text, 1, 2)) == made
    again = json.loads(write(made, folded(made, 0, 1)))
    assert not ids(again) & ids(export)
    assert again["info"]["title"] == "Ports (compacted)"


@pytest.mark.parametrize("turn", [Turn(Role.USER, "So far."), Turn(Role.ASSISTANT, "So far.")])
@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_new_opencode_message_has_what_the_agent_demands_of_one(turn: Turn, at: int) -> None:
    held = new_draft(parse(json.dumps(EXPORT)))
    piece = piece_of_lines([Line(turn.text, (0,))], "summarize")
    held = held.replace_pieces(at, at, type(piece)(turn, (0,), "summarize"))
    info = json.loads(write(json.dumps(EXPORT), held))["messages"][at]["info"]
    if turn.role is Role.USER:
        assert (info["model"], info["agent"]) == (MODEL, "build")
        assert info.get("time", {}).keys() <= {"created"}
    else:
        assert {key: info[key] for key in MODEL} == MODEL
        assert info.keys() >= {"parentID", "mode", "path", "cost", "tokens"}


def test_kept_answers_no_longer_count_the_tokens_of_the_context_that_went() -> None:
    """The agents compact by what the last answer counted."""
    text = json.dumps(EXPORT)
    made = json.loads(write(text, folded(text, 0, 1)))
    assert [message["info"]["tokens"] for message in made["messages"] if "tokens" in message["info"]] == [NONE, NONE]
    usage = {"input": 9, "output": 1, "cacheRead": 70_000, "cacheWrite": 0, "totalTokens": 70_010, "cost": {"total": 1}}
    pi = jsonl(
        PI[0],
        pi_message("a", None, "user", "Count"),
        pi_message("b", "a", "assistant", [{"type": "text", "text": "One"}], usage=usage),
        pi_message("c", "b", "user", "And?"),
    )
    rows = [json.loads(line) for line in write(pi, new_draft(parse(pi)).replace_text(0, "C", "clamp")).splitlines()[4:]]
    zero = dict.fromkeys(("input", "output", "cacheRead", "cacheWrite", "totalTokens"), 0)
    assert rows[1]["message"]["usage"] == {**zero, "cost": {"total": 1}}


@pytest.mark.parametrize("version", [{}, {"version": 1}, {"version": 2}])
def test_a_pi_session_of_an_older_version_is_written_in_the_version_that_pi_writes(version: dict[str, int]) -> None:
    """Pi would link the lines of an older one to a chain, our branch behind all that it replaces."""
    head = {key: value for key, value in PI[0].items() if key != "version"} | version
    nodes = [
        pi_message("a", None, "user", "Count"),
        pi_message("b", "a", "hookMessage", "A hook"),
        pi_message("c", "b", "user", "And?"),
    ]
    if version.get("version") != 2:
        nodes = [{key: value for key, value in node.items() if key not in ("id", "parentId")} for node in nodes]
    text = jsonl(head, *nodes)
    made = write(text, new_draft(parse(text)).replace_text(1, "Masked", "clamp"))
    rows = [json.loads(line) for line in made.splitlines()]
    assert rows[0]["version"] == 3
    own = {row["id"] for row in rows[1:]}
    assert len(own) == len(rows) - 1
    assert [row["parentId"] for row in rows[1:4]] == [None, rows[1]["id"], rows[2]["id"]]
    assert rows[4]["parentId"] is None
    assert "hookMessage" not in made
    assert [turn.text for turn in parse(made).turns] == ["Count", "Masked", "And?"]


def test_a_compaction_of_the_first_pi_version_names_what_it_kept_by_id() -> None:
    said = [{"type": "message", "message": {"role": "user", "content": word}} for word in ("One", "Two", "Three")]
    text = jsonl(
        {"type": "session", "id": "s", "cwd": "/r"},
        *said,
        {"type": "compaction", "summary": "Sum", "firstKeptEntryIndex": 3, "tokensBefore": 9},
    )
    rows = [json.loads(line) for line in pi_write.migrate(decode(text)).text.splitlines()]
    assert rows[4]["firstKeptEntryId"] == rows[3]["id"]


CLAUDE = [
    {"uuid": f"u{at}", "parentUuid": f"u{at - 1}" if at else None, "type": "user", "sessionId": "s"}
    | {"message": {"role": "user", "content": word}}
    for at, word in enumerate(("One", "Two", "Three"))
]
LINKS = {"claude_code": ("uuid", "parentUuid"), "qwen_code": ("uuid", "parentUuid")}
LOGS = {"claude_code": jsonl(*CLAUDE)} | {name: AGENTS[name] for name in ("copilot_cli", "pi", "qwen_code")}


@pytest.mark.parametrize("name", LOGS)
def test_what_was_said_behind_a_record_that_was_taken_out_hangs_on_the_line_above(name: str) -> None:
    """The agents stop at a line whose parent is nowhere, and send only what stands behind it."""
    own, parent = LINKS.get(name, ("id", "parentId"))
    before = [json.loads(line) for line in LOGS[name].splitlines()]
    tail = {**before[-1], own: "new", parent: "gone"}
    mended = relink(jsonl(*before, tail), LOGS[name])
    rows = [json.loads(line) for line in mended.splitlines()]
    assert rows[:-1] == before
    assert rows[-1] == {**tail, parent: before[-1][own]}


def test_what_was_said_in_a_compacted_opencode_session_is_said_in_the_one_that_comes_back() -> None:
    tail = opencode_message("msg_000000000009a", "user", {**opencode_text("Go on"), "messageID": "msg_000000000009a"})
    whole = {**OPENCODE, "messages": [*OPENCODE["messages"], {**tail, "info": {**tail["info"], "sessionID": "ses_2"}}]}
    made = json.loads(relink(json.dumps(whole), json.dumps(OPENCODE)))
    assert made["messages"][:-1] == OPENCODE["messages"]
    (message,) = made["messages"][-1:]
    assert message["info"]["sessionID"] == OPENCODE["info"]["id"]
    assert message["info"]["id"] > "msg_000000000009"
    assert message["info"]["id"] != tail["info"]["id"] == "msg_000000000009a"
    assert message["parts"][0]["messageID"] == message["info"]["id"]


@pytest.mark.parametrize("name", [name for name in AGENTS if decode(AGENTS[name]).lines])
def test_a_changed_log_without_a_final_newline_ends_with_one(name: str) -> None:
    """The agent's next record would be glued to ours."""
    text = AGENTS[name].rstrip("\n")
    made = write(text, new_draft(parse(text)).replace_text(0, "Other words.", "clamp"))
    assert made.endswith("\n")
    assert made.count("\n") == len(made.splitlines())


def test_every_log_whose_lines_name_each_other_can_be_mended() -> None:
    assert {form.name for form in FORMATS if form.relink} == {*LOGS, "opencode", "gemini_cli"}


def gemini(number: int, text: str) -> dict[str, Any]:
    return {"id": f"g{number}", "type": "user" if number % 2 else "gemini", "content": [{"text": text}]}


GEMINI = [{"sessionId": "s", "projectHash": "h"}, *(gemini(n, f"long {n} " + "word " * 20) for n in range(1, 5))]
CONTEXT = {"id": "c", "type": "user", "content": [{"text": "<session_context>\nToday is Monday.\n</session_context>"}]}


def restate_as_gemini(text: str, *more: dict[str, Any]) -> str:
    """What Gemini CLI writes behind a session that it resumes, and a question."""
    live = [row for line in text.splitlines() if "type" in (row := json.loads(line))]
    return jsonl({"$set": {"sessionId": "s"}}, {"$set": {"messages": [CONTEXT, *live, *more], "lastUpdated": "t"}})


def test_gemini_that_restated_a_compacted_history_has_the_whole_one_again_after_undo():
    made = write(jsonl(*GEMINI), folded(jsonl(*GEMINI), 1, 3))
    tail = restate_as_gemini(made) + jsonl(gemini(5, "Question?"))
    assert "long 2" not in " ".join(turn.text for turn in parse(made + tail).turns)
    undone = relink(jsonl(*GEMINI) + tail, jsonl(*GEMINI))
    assert [turn.text[:6] for turn in parse(undone).turns] == ["long 1", "long 2", "long 3", "long 4", "Questi"]
    assert undone.startswith(jsonl(*GEMINI))


def test_gemini_that_compacted_a_session_itself_is_not_undone_over_it():
    tail = restate_as_gemini(jsonl(*GEMINI[:1]), {**gemini(7, "<state_snapshot>four</state_snapshot>"), "id": "new"})
    with pytest.raises(BadInput, match=r"Gemini CLI compacted the session itself .*-o OTHER"):
        relink(jsonl(*GEMINI) + tail, jsonl(*GEMINI), path="s.jsonl")
