"""Per agent: what is read as alive is what the program sends next; and a crash costs a line, never the session."""

import json
from pathlib import Path
from typing import Any

import pytest
from agent_samples import ATIF, COPILOT, QWEN, SPECSTORY, jsonl, record, said_event

from holdfast.errors import BadInput, BadOption, BadTranscript
from holdfast.transcript.draft import new_draft
from holdfast.transcript.read import decode_text, parse, read
from holdfast.transcript.turn import Transcript
from holdfast.transcript.write import write


def texts(transcript: Transcript) -> list[str]:
    return [turn.text for turn in transcript.turns]


def claude(uuid: str, parent: str | None, role: str, text: str, **more: Any) -> dict[str, Any]:
    message = {"role": role, "content": text, **({"id": f"m{uuid}"} if role == "assistant" else {})}
    return {"type": role, "uuid": uuid, "parentUuid": parent, "sessionId": "s", "message": message, **more}


def boundary(uuid: str, after: str, **metadata: Any) -> dict[str, Any]:
    fields = {"type": "system", "subtype": "compact_boundary", "uuid": uuid, "parentUuid": None}
    return {**fields, "logicalParentUuid": after, "sessionId": "s", "compactMetadata": {"trigger": "auto", **metadata}}


EXCHANGES = [
    claude("1", None, "user", "Count the gates"),
    claude("2", "1", "assistant", "Four gates"),
    claude("3", "2", "user", "And the locks?"),
    claude("4", "3", "assistant", "Nine locks"),
]
SEGMENT = {"headUuid": "3", "anchorUuid": "6", "tailUuid": "4"}
MESSAGES = {"anchorUuid": "6", "uuids": ["2", "4"], "allUuids": ["2", "4"]}


@pytest.mark.parametrize(
    ("metadata", "kept"),
    [
        ({}, []),
        ({"preservedSegment": SEGMENT}, ["And the locks?", "Nine locks"]),
        ({"preservedMessages": MESSAGES}, ["Four gates", "Nine locks"]),
        ({"preservedMessages": {**MESSAGES, "anchorUuid": "gone"}}, []),
    ],
    ids=["nothing", "segment", "messages", "broken"],
)
def test_claude_sends_the_summary_then_what_the_last_compaction_preserved(
    metadata: dict[str, Any], kept: list[str]
) -> None:
    first = [
        *EXCHANGES,
        boundary("5", "4", **metadata),
        claude("6", "5", "user", "Gates counted", isCompactSummary=True),
        claude("7", "6", "user", "Go on"),
    ]
    once = parse(jsonl(*first))
    assert texts(once) == ["Gates counted", *kept, "Go on"]
    assert len(once.meta["compactions"][0]["turns"]) == 4, "all that went, not what hangs behind the summary"
    second = [boundary("8", "7"), claude("9", "8", "user", "All counted", isCompactSummary=True)]
    twice = parse(jsonl(*first, *second))
    assert texts(twice) == ["All counted"], "the later boundary wins"
    assert [len(one["turns"]) for one in twice.meta["compactions"]] == [4, 2 + len(kept)]


def test_claude_files_that_were_mentioned_are_context_and_can_be_taken_out() -> None:
    file = {"type": "text", "file": {"filePath": "/r/depot.txt", "content": "code QUARTZ-4471\n"}}
    rows = [
        claude("1", None, "user", "Read @depot.txt"),
        {
            **{"type": "attachment", "uuid": "2", "parentUuid": "1", "sessionId": "s"},
            "attachment": {"type": "file", "filename": "/r/depot.txt", "content": file},
        },
        {
            **{"type": "attachment", "uuid": "3", "parentUuid": "2", "sessionId": "s"},
            "attachment": {"type": "hook_cancelled", "content": "nothing"},
        },
        {
            **{"type": "attachment", "uuid": "3b", "parentUuid": "3", "sessionId": "s"},
            "attachment": {"type": "prompt_snapshot", "systemPrompt": ["You are an agent."]},
        },
        claude("4", "3b", "assistant", "Read."),
    ]
    text = jsonl(*rows)
    session = parse(text)
    assert len(session.turns) == 3
    assert "QUARTZ-4471" in session.turns[1].text
    assert session.turns[1].extra["isMeta"] is True
    held = new_draft(session)
    short = parse(write(text, held.replace_text(1, "<system-reminder>\nshort\n</system-reminder>", "test")))
    assert "short" in short.turns[1].text
    assert "QUARTZ" not in short.turns[1].text
    assert texts(parse(write(text, held.keep([0, 2])))) == ["Read @depot.txt", "Read."]


HEAD: dict[str, Any] = {"sessionId": "s", "projectHash": "h", "startTime": "t"}
RESPONSE: dict[str, Any] = {"functionResponse": {"id": "c1", "name": "look", "response": {"output": "nine locks"}}}
GEMINI: list[dict[str, Any]] = [
    HEAD,
    {"id": "u1", "type": "user", "content": [{"text": "Count"}]},
    {
        **{"id": "g1", "type": "gemini", "content": "Looking."},
        "toolCalls": [{"id": "c1", "name": "look", "args": {}, "result": [RESPONSE], "status": "success"}],
    },
    {"id": "u2", "type": "user", "content": [RESPONSE]},
    {"id": "g2", "type": "gemini", "content": "Nine."},
]


def test_gemini_records_a_result_twice_and_it_is_one_that_is_changed_in_both_places() -> None:
    text = jsonl(*GEMINI)
    session = parse(text)
    assert texts(session) == ["Count", "Looking.", "nine locks", "Nine."]
    assert not session.skipped
    made = write(text, new_draft(session).replace_text(2, "masked", "test"))
    assert "nine locks" not in made
    assert texts(parse(made))[2] == "masked"


def test_gemini_that_restates_its_history_has_no_other() -> None:
    new = [
        {"id": "n1", "type": "user", "content": [{"text": "<state_snapshot>nine</state_snapshot>"}]},
        {"id": "n2", "type": "gemini", "content": "Noted."},
    ]
    text = jsonl(*GEMINI, {"$set": {"messages": new, "lastUpdated": "t"}}, {**GEMINI[1], "id": "u9"})
    session = parse(text)
    assert texts(session) == ["<state_snapshot>nine</state_snapshot>", "Noted.", "Count"]
    (compaction,) = session.meta["compactions"]
    assert len(compaction["turns"]) == 4
    assert [turn.text for turn in compaction["summaries"]] == texts(session)[:1]
    made = parse(write(text, new_draft(session).replace_text(1, "Seen.", "test")))
    assert texts(made) == [texts(session)[0], "Seen.", "Count"]


def test_gemini_that_says_calls_in_the_content_says_them_once() -> None:
    part = {"functionCall": {"id": "c1", "name": "look", "args": {}}, "thoughtSignature": "sig"}
    newer = {**GEMINI[2], "content": [{"text": "Hm", "thought": True}, {"text": "Looking."}, part]}
    session = parse(jsonl(HEAD, GEMINI[1], newer, *GEMINI[3:]))
    assert [len(turn.calls) for turn in session.turns] == [0, 1, 0, 0]
    assert session.turns[1].reasoning == "Hm"


@pytest.mark.parametrize("more", [[], [{"text": "And the gates?"}]], ids=["alone", "with_words"])
def test_gemini_results_of_a_restated_history_are_messages_of_their_own_and_change_there(more: list[Any]) -> None:
    """A resumed session restates its calls in the content, and each result as a message, twice."""
    said = {
        "id": "g1",
        "type": "gemini",
        "content": [{"text": "Looking."}, {"functionCall": {"id": "c1", "name": "look"}}],
    }
    results = [{"id": id_, "type": "user", "content": [RESPONSE, *rest]} for id_, rest in (("g1_r", more), ("u2", []))]
    text = jsonl(*GEMINI, {"$set": {"messages": [GEMINI[1], said, *results]}}, GEMINI[4])
    session = parse(text)
    assert texts(session) == ["Count", "Looking.", "nine locks", *(part["text"] for part in more), "Nine."]
    made = write(text, new_draft(session).replace_text(2, "masked", "test"))
    assert "nine locks" not in made
    assert texts(parse(made)) == ["masked" if line == "nine locks" else line for line in texts(session)]


def pi(number: int, parent: int | None, text: str, **more: Any) -> dict[str, Any]:
    message = {"role": "user" if number % 2 else "assistant", "content": [{"type": "text", "text": text}]}
    links = {"id": f"p{number}", "parentId": None if parent is None else f"p{parent}"}
    return {"type": "message", **links, "message": message, **more}


def pi_compaction(number: int, parent: int, first: str, summary: str) -> dict[str, Any]:
    fields = {"type": "compaction", "id": f"p{number}", "parentId": f"p{parent}", "tokensBefore": 9}
    return {**fields, "firstKeptEntryId": first, "summary": summary}


def test_pi_keeps_what_its_last_compaction_names_even_if_an_earlier_one_dropped_it() -> None:
    head = {"type": "session", "version": 3, "id": "s", "cwd": "/r"}
    tree = [pi(1, None, "one"), pi(2, 1, "two"), pi(3, 2, "three"), pi_compaction(4, 3, "p3", "first")]
    assert texts(parse(jsonl(head, *tree))) == ["first", "three"]
    later = [pi(5, 4, "five"), pi_compaction(6, 5, "p2", "second"), pi(7, 6, "seven")]
    assert texts(parse(jsonl(head, *tree, *later))) == ["second", "two", "three", "five", "seven"]


def test_pi_of_the_first_version_names_the_kept_line_by_its_place_and_is_no_other_format() -> None:
    said = [{"type": "message", "timestamp": "t", "message": pi(at, None, f"line {at}")["message"]} for at in (1, 2, 3)]
    compaction = {"type": "compaction", "timestamp": "t", "summary": "so far", "tokensBefore": 9}
    compaction |= {"firstKeptEntryIndex": 2}
    session = parse(jsonl({"type": "session", "id": "s", "cwd": "/r"}, *said[:2], compaction, said[2]))
    assert (session.format, texts(session)) == ("pi", ["so far", "line 2", "line 3"])
    bare = parse(jsonl(*said[:2], compaction, said[2]), lenient=True)
    assert bare.format == "pi"


def test_copilot_sends_the_summary_and_what_its_compaction_left_and_forgets_what_was_rewound() -> None:
    told = {"success": True, "summaryContent": "Fixed so far", "preCompactionMessagesLength": 5, "messagesRemoved": 4}
    done = {**said_event(10, "session.compaction_complete"), "data": told}
    more = [
        said_event(11, "user.message", content="Go on"),
        said_event(12, "assistant.message", messageId="m", content="Gone"),
    ]
    session = parse(jsonl(*COPILOT, done, *more))
    assert texts(session) == ["Be brief.", "Fixed so far", "Done.", "Go on", "Gone"]
    back = parse(
        jsonl(*COPILOT, done, *more, said_event(13, "session.snapshot_rewind", upToEventId="e12", eventsRemoved=1))
    )
    assert texts(back)[-1] == "Go on"
    failed = said_event(10, "session.compaction_complete", success=False, error="no")
    assert texts(parse(jsonl(*COPILOT, failed))) == texts(parse(jsonl(*COPILOT)))


def test_qwen_sends_its_compressed_history_and_only_the_branch_of_the_last_record() -> None:
    history = [{"role": "user", "parts": [{"text": "so far"}]}, {"role": "model", "parts": [{"text": "Noted."}]}]
    squeezed = record(5, "system", subtype="chat_compression", systemPayload={"info": {}, "compressedHistory": history})
    session = parse(jsonl(*QWEN, squeezed, record(6, "user", {"text": "Go on"})))
    assert texts(session) == ["so far", "Noted.", "Go on"]
    assert len(session.meta["compactions"][0]["turns"]) == 4
    fork = {**record(5, "user", {"text": "Again"}), "parentUuid": "q2"}
    assert texts(parse(jsonl(*QWEN, fork))) == ["Fix it", "Looking.", "a.py", "Again"]
    made = write(jsonl(*QWEN), new_draft(parse(jsonl(*QWEN))).replace_text(2, "masked", "test"))
    assert made.startswith(jsonl(*QWEN)), "no record changes"
    assert json.loads(made.splitlines()[-1])["subtype"] == "chat_compression"
    assert texts(parse(made)) == ["Fix it", "Looking.", "masked", "Done."]


def test_specstory_is_read_with_its_calls_and_without_what_sub_agents_said() -> None:
    session = parse(SPECSTORY)
    assert texts(session) == ["Fix it.\nNever touch till.py.", "Looking.", "a.py", "Go on."]
    assert session.turns[1].reasoning == "Look first."
    assert [(call.name, call.arguments) for call in session.turns[1].calls] == [("Bash", '{"command": "ls"}')]
    assert session.meta["sidechain_messages"] == 1
    with pytest.raises(BadInput, match="cannot write a session as specstory"):
        write(SPECSTORY, new_draft(session).replace_text(0, "x", "test"))


@pytest.mark.parametrize("minor", range(8))
def test_atif_of_every_version_is_read_and_its_steps_stay_numbered(minor: int) -> None:
    text = json.dumps({**ATIF, "schema_version": f"ATIF-v1.{minor}"})
    session = parse(text)
    made = json.loads(write(text, new_draft(session).keep([1, 2, 3, 4, 5])))
    assert [step["step_id"] for step in made["steps"]] == [1, 2, 3]
    assert made["final_metrics"]["total_steps"] == 3
    ids = {call["tool_call_id"] for call in made["steps"][1]["tool_calls"]}
    assert {result.get("source_call_id", "c1") for result in made["steps"][1]["observation"]["results"]} == ids


CALL = {"role": "assistant", "content": "", "tool_calls": [{"id": "a", "function": {"name": "ls", "arguments": "{}"}}]}


def test_an_interrupted_session_needs_no_lenience_and_says_what_it_left_out() -> None:
    stray = {"role": "tool", "tool_call_id": "b", "content": "stray"}
    session = parse(jsonl({"role": "user", "content": "Go"}, CALL, {"role": "user", "content": "Stop"}, stray, CALL))
    assert [len(turn.calls) for turn in session.turns] == [0, 0, 0, 1]
    assert [reason.split(":")[0] for reason in session.skipped] == ["line 2", "line 4"]


def test_records_that_were_glued_on_a_line_are_all_read() -> None:
    one, two = json.dumps({"role": "user", "content": "one"}), json.dumps({"role": "assistant", "content": '{"a": 1}{'})
    assert texts(parse(f"{one}{two}\n{one}\n")) == ["one", '{"a": 1}{', "one"]
    cut = parse(f"{one}\n{one[:20]}{two}\n", lenient=True)
    assert texts(cut) == ["one", '{"a": 1}{']
    assert len(cut.skipped) == 1


ROW = b'{"role": "user", "content": "caf\xc3\xa9"}\n'


@pytest.mark.parametrize("damage", [ROW[:32] + b"\n", b"\0" * 40 + b"\n"], ids=["half a character", "NULs"])
def test_torn_bytes_cost_their_line_and_are_named(damage: bytes) -> None:
    text = decode_text(ROW + damage + ROW + ROW, Path("log.jsonl"))
    with pytest.raises(BadTranscript, match=r"2: .*--lenient"):
        parse(text, path="log.jsonl")
    session = parse(text, lenient=True)
    assert texts(session) == ["café"] * 3
    assert [reason[:7] for reason in session.skipped] == ["line 2:"]


def test_a_last_line_that_was_never_finished_is_no_error_and_nuls_before_a_record_cost_nothing() -> None:
    session = parse(decode_text(ROW + b"\0\0" + ROW + ROW + ROW[:20], Path("log.jsonl")))
    assert texts(session) == ["café"] * 3
    assert len(session.skipped) == 1


def test_a_file_of_several_sessions_names_them_and_gives_the_one_that_is_chosen(tmp_path: Path) -> None:
    def run(name: str) -> dict[str, Any]:
        said = {"id": 0, "source": "user", "message": name, "action": "message", "args": {"content": f"Fix {name}"}}
        return {"instance_id": name, "history": [said]}

    file = tmp_path / "output.jsonl"
    file.write_text(jsonl(run("gate-1"), run("gate-2")))
    with pytest.raises(BadTranscript, match=r"2 sessions \(1 gate-1, 2 gate-2\); choose one with --session N"):
        read(file)
    assert texts(read(file, session=2)) == ["Fix gate-2"]
    with pytest.raises(BadOption, match="--session 3"):
        read(file, session=3)


def test_a_folder_of_events_is_a_session_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    events = tmp_path / "conversation" / "events"
    events.mkdir(parents=True)
    (events.parent / "base_state.json").write_text("{}")
    for number, name in ((10, "last"), (9, "middle"), (1, "first")):
        content = [{"type": "text", "text": name}]
        said = {
            "kind": "MessageEvent",
            "id": f"e{number}",
            "source": "user",
            "llm_message": {"role": "user", "content": content},
        }
        (events / f"event-{number}-e{number}.json").write_text(json.dumps(said, indent=2))
    assert texts(read(events.parent)) == ["first", "middle", "last"]
