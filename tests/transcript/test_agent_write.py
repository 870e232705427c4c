"""The agents' own session files are written so that the agent resumes the draft, and nothing else of them changes."""

from __future__ import annotations

import copy
import json
from contextlib import suppress
from typing import Any

import pytest
from agent_samples import (
    AGENTS,
    CODEX,
    GEMINI_LINES,
    OPENCODE,
    OTHER_LAYOUTS,
    PI,
    event,
    jsonl,
    message,
    opencode_message,
    opencode_text,
    pi_message,
    pi_node,
    rollout,
)
from hypothesis import given
from hypothesis import strategies as st
from rewriting import changed, said

from holdfast.errors import HoldfastError
from holdfast.transcript.cuts import check_legal
from holdfast.transcript.document import decode
from holdfast.transcript.draft import Draft, Line, new_draft, piece_of_lines, units
from holdfast.transcript.formats import FORMATS
from holdfast.transcript.read import parse
from holdfast.transcript.write import write
from long_samples import codex

COMPACTED = {
    "codex again": jsonl(
        *CODEX,
        rollout(
            "compacted", {"message": "Sum", "replacement_history": [message("user", "Fix it"), message("user", "Sum")]}
        ),
        *CODEX[4:],
    ),
    "codex summary": jsonl(*CODEX, rollout("compacted", {"message": "Sum"}), event("x"), *CODEX[4:]),
    "pi again": jsonl(
        *PI,
        pi_node("c", "a8", "compaction", summary="Summary", firstKeptEntryId="a6", tokensBefore=9),
        pi_message("z", "c", "user", "Go on"),
    ),
    "opencode again": json.dumps(
        {
            **OPENCODE,
            "messages": [
                *OPENCODE["messages"],
                opencode_message(
                    "msg_000000000004a", "user", {"type": "compaction", "tail_start_id": "msg_000000000003a"}
                ),
                opencode_message(
                    "msg_000000000005a", "assistant", opencode_text("Sum"), summary=True, parentID="msg_000000000004a"
                ),
                opencode_message("msg_000000000006a", "user", opencode_text("Go on")),
            ],
        }
    ),
}
SAMPLES = {**AGENTS, **OTHER_LAYOUTS, **COMPACTED}
SHARED = {"cline", "openai_chat", "anthropic"}
"""Formats that a bare message list without any mark left may be taken for."""


def holds(text: str, held: Draft) -> str:
    """The law of a writer; gives the new file."""
    made = write(text, held)
    back = parse(made)
    assert back.format == held.raw.format or {back.format, held.raw.format} <= SHARED
    merged = held.raw.format == "cline"
    assert said(back.turns, merged) == said(held.turns, merged)
    check_legal(back.turns)
    return made


def folded(text: str, stop: int) -> Draft:
    """The first turns folded into a summary."""
    held = new_draft(parse(text))
    return held.replace_pieces(
        0, stop, piece_of_lines([Line("What was done so far.", tuple(range(stop)))], "summarize")
    )


@pytest.mark.parametrize("name", SAMPLES)
def test_draft_without_changes_gives_the_file_itself(name: str) -> None:
    text = SAMPLES[name]
    form = next(known for known in FORMATS if known.name == name.split(maxsplit=1)[0])
    assert form.write is not None
    assert form.write(decode(text), new_draft(parse(text))) == text


@given(st.sampled_from(sorted(SAMPLES)), st.data())
def test_any_change_of_a_sample_reads_back_as_the_draft(name: str, data: st.DataObject) -> None:
    text = SAMPLES[name]
    holds(text, data.draw(changed(parse(text))))


@given(st.sampled_from(sorted(SAMPLES)), st.data())
def test_a_second_change_reads_back_as_well(name: str, data: st.DataObject) -> None:
    once = holds(SAMPLES[name], data.draw(changed(parse(SAMPLES[name]))))
    again = parse(once)
    if again.format == name.split(maxsplit=1)[0]:
        holds(once, data.draw(changed(again)))


def rows(text: str) -> list[Any]:
    document = decode(text)
    return [entry.value for entry in document.lines or document.entries]


@pytest.mark.parametrize("name", ["codex", "pi", "codex again", "pi again"])
def test_logs_only_grow(name: str) -> None:
    text = SAMPLES[name]
    last = len(parse(text).turns) - 1
    made = holds(text, new_draft(parse(text)).replace_text(last, "Other words.", "clamp"))
    assert made.startswith(text)
    assert rows(made)[: len(rows(text))] == rows(text)


def test_codex_compaction_is_one_record_that_holds_the_untouched_items_as_they_were() -> None:
    made = holds(AGENTS["codex"], folded(AGENTS["codex"], 5))
    record = rows(made)[-1]
    assert len(rows(made)) == len(CODEX) + 1
    assert record["type"] == "compacted"
    assert record["payload"]["message"] == "What was done so far."
    assert record["payload"]["replacement_history"][1:] == [row["payload"] for row in CODEX[-3:-1]]
    (compaction,) = parse(made).meta["compactions"]
    assert len(compaction["turns"]) == 6


@pytest.mark.parametrize("at", range(3))
def test_codex_compaction_takes_the_next_ordinal_where_lines_have_one(at: int) -> None:
    """The program refuses a numbered rollout with a line that has no number."""
    numbered = [{**row, "ordinal": number} for number, row in enumerate(CODEX, at)]
    text = jsonl(*numbered)
    made = rows(holds(text, folded(text, 5)))
    assert made[-1]["ordinal"] == numbered[-1]["ordinal"] + 1
    assert "ordinal" not in rows(holds(AGENTS["codex"], folded(AGENTS["codex"], 5)))[-1]


def test_pi_head_folded_into_a_summary_is_a_compaction_that_names_the_first_kept_entry() -> None:
    made = holds(AGENTS["pi"], folded(AGENTS["pi"], 4))
    record = rows(made)[-1]
    assert (record["type"], record["firstKeptEntryId"], record["parentId"]) == ("compaction", "a6", "a8")
    assert len(rows(made)) == len(PI) + 1
    assert parse(made).meta["compactions"][0]["line"] == len(PI) + 1


def test_pi_other_changes_are_a_branch_that_keeps_the_model_and_the_messages() -> None:
    held = new_draft(parse(AGENTS["pi"])).replace_text(2, "masked", "mask_observations")
    made = rows(holds(AGENTS["pi"], held))[len(PI) :]
    assert [row["type"] for row in made[:2]] == ["model_change", "message"]
    assert made[0]["parentId"] is None
    assert [row["parentId"] for row in made[1:]] == [row["id"] for row in made[:-1]]
    assert made[2]["message"] == PI[3]["message"]
    assert made[3]["message"]["content"] == [{"type": "text", "text": "masked"}]


@pytest.mark.parametrize("name", ["gemini_cli", "swe_agent calls", "openai_responses list", "cline"])
def test_entries_that_nothing_touched_are_equal_in_the_file(name: str) -> None:
    text = SAMPLES[name]
    at = next(at for at, turn in enumerate(parse(text).turns) if turn.call_id)
    made = holds(text, new_draft(parse(text)).replace_text(at, "masked", "mask_observations"))
    before, after = json.loads(text), json.loads(made)
    key = "history" if name.startswith("swe") else "messages"
    olds, news = (value if isinstance(value, list) else value[key] for value in (before, after))
    assert len(olds) == len(news)
    assert sum(old != new for old, new in zip(olds, news, strict=True)) == 1


def test_opencode_masked_result_is_not_shown_as_pruned_and_keeps_its_times() -> None:
    made = json.loads(
        holds(AGENTS["opencode"], new_draft(parse(AGENTS["opencode"])).replace_text(5, "masked", "mask_observations"))
    )
    state = next(part for part in made["messages"][1]["parts"] if part.get("callID") == "t3")["state"]
    assert (state["status"], state["output"], state["time"]) == ("completed", "masked", {"start": 1, "end": 2})


def test_opencode_new_messages_get_ids_that_sort_where_they_stand() -> None:
    made = json.loads(holds(AGENTS["opencode"], folded(AGENTS["opencode"], 6)))
    ids = [message["info"]["id"] for message in made["messages"]]
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)
    assert all(part["messageID"] == made["messages"][0]["info"]["id"] for part in made["messages"][0]["parts"])


def test_gemini_log_does_not_bring_back_what_was_taken_back_or_replaced() -> None:
    text = jsonl(*GEMINI_LINES)
    made = holds(text, new_draft(parse(text)).replace_text(2, "masked", "mask_observations"))
    assert "Wrong." not in made
    assert "$rewindTo" not in made
    assert made.split("\n")[0] == text.split("\n")[0]


def test_responses_instructions_are_rewritten_where_they_stand() -> None:
    text = AGENTS["openai_responses"]
    made = json.loads(holds(text, new_draft(parse(text)).replace_text(0, "Be a good agent.", "clamp")))
    assert made["instructions"] == "Be a good agent."
    assert made["input"] == json.loads(text)["input"]


# --- files that are broken


def broken(text: str, data: st.DataObject) -> str:
    """The file with some values replaced, dropped or doubled."""
    document = decode(text)
    values: Any = [copy.deepcopy(e.value) for e in document.lines] if document.lines else copy.deepcopy(document.value)
    odd: list[Any] = [None, True, 7, "", "x", [], {}, [None], {"type": 1}, {"type": "message"}, -1]
    for _ in range(data.draw(st.integers(1, 4))):
        container, key = data.draw(st.sampled_from(places(values)))
        what = data.draw(st.sampled_from(["put", "put", "drop", "double"]))
        if what == "put":
            container[key] = copy.deepcopy(data.draw(st.sampled_from(odd)))
        elif what == "drop":
            del container[key]
        elif isinstance(container, list):
            container.insert(key, copy.deepcopy(container[key]))
        if not places(values):
            break
    return jsonl(*values) if document.lines else json.dumps(values)


def places(value: Any) -> list[tuple[Any, Any]]:
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    return [(value, key) for key in keys] + [pair for key in keys for pair in places(value[key])]


@given(st.sampled_from(sorted(SAMPLES)), st.data())
def test_broken_file_is_refused_in_words_or_read_and_then_written(name: str, data: st.DataObject) -> None:
    text = broken(SAMPLES[name], data)
    with suppress(HoldfastError):
        parse(text)
    with suppress(HoldfastError):
        transcript = parse(text, lenient=True)
        check_legal(transcript.turns)
        held = data.draw(changed(transcript))
        assert parse(write(text, held), lenient=True).turns


@pytest.mark.parametrize("name", ["codex", "pi", "opencode", "gemini_cli lines", "swe_agent", "openai_responses lines"])
def test_file_read_leniently_is_written_without_what_could_not_be_read(name: str) -> None:
    document = decode(SAMPLES[name])
    values: Any = [e.value for e in document.lines] if document.lines else copy.deepcopy(document.value)
    entries = values if isinstance(values, list) else next(v for k, v in values.items() if k in ("messages", "history"))
    entries.insert(len(entries) - 1, 7)
    text = jsonl(*values) if document.lines else json.dumps(values)
    read = parse(text, lenient=True)
    assert len(read.skipped) == 1
    assert parse(write(text, new_draft(read))).turns
    made = write(text, new_draft(read).replace_text(0, "Other words.", "clamp"))
    assert said(parse(made).turns) == said(new_draft(read).replace_text(0, "Other words.", "clamp").turns)


@given(st.sampled_from(sorted(SAMPLES)), st.data())
def test_file_cut_anywhere_never_gives_a_traceback(name: str, data: st.DataObject) -> None:
    text = SAMPLES[name]
    for lenient in (False, True):
        with suppress(HoldfastError):
            parse(text[: data.draw(st.integers(0, len(text)))], lenient=lenient)


@given(st.sampled_from(sorted(SAMPLES)), st.data())
def test_line_or_message_that_lenient_reading_leaves_out_is_named(name: str, data: st.DataObject) -> None:
    document = decode(SAMPLES[name])
    values: Any = [copy.deepcopy(e.value) for e in document.lines] if document.lines else copy.deepcopy(document.value)
    entries = (
        values
        if isinstance(values, list)
        else next(v for k, v in values.items() if k in ("messages", "history", "input", "steps"))
    )
    at = data.draw(st.integers(0, len(entries) - 1))
    entries[at] = data.draw(st.sampled_from([None, 7, "x", [], [1]]))
    text = jsonl(*values) if document.lines else json.dumps(values)
    with suppress(HoldfastError):
        skipped = parse(text, lenient=True).skipped
        assert any(reason.startswith((f"line {at + 1}:", f"message {at + 1}:")) for reason in skipped)


def test_a_long_codex_session_with_a_folded_head_is_resumed_after_it() -> None:
    text = codex()
    made = holds(text, folded(text, units(new_draft(parse(text)))[-3][0]))
    assert made.startswith(text)
