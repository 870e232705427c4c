"""Damaged files of every format: read or refused, nothing lost in silence. The long run is the recipe's."""

from __future__ import annotations

import copy
import importlib.util
import json
import random
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from agent_samples import CODEX, GEMINI, OPENCODE, jsonl, message, rollout
from sample_sessions import (
    BY_FORMAT,
    claude_line,
    lines,
    openai_call,
    sdk_action,
    sdk_message,
    sdk_observation,
    tool_result,
    tool_use,
)

from holdfast.errors import BadTranscript
from holdfast.transcript import read
from holdfast.transcript.draft import new_draft
from holdfast.transcript.read import parse
from holdfast.transcript.turn import Transcript
from holdfast.transcript.write import write


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "fuzz_formats.py"
    spec = importlib.util.spec_from_file_location("fuzz_formats", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_damaged_files_are_read_or_refused_and_nothing_is_lost_in_silence(recipe: ModuleType) -> None:
    told, failures = recipe.fuzz(BY_FORMAT, 400, 7)
    assert failures == []
    assert sum(told.values()) == 400
    assert min(told["read"], told["read leniently"], told["refused"]) > 20


def test_reader_that_loses_a_turn_in_silence_is_caught(recipe: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read.parse

    def forgetful(text: str, *, path: str = "", lenient: bool = False) -> Transcript:
        found = whole(text, path=path, lenient=lenient)
        return replace(found, turns=found.turns[:-1])

    monkeypatch.setattr(recipe, "parse", forgetful)
    text = BY_FORMAT["openai_chat"]
    with pytest.raises(AssertionError, match=r"silently lost: 'Done\.'"):
        recipe.judge(text, whole(text), random.Random(1))


def long_claude(rounds: int) -> str:
    """A chain of so many calls with their results."""
    rows = [claude_line("user", "u", None, "Fix it")]
    for at in range(rounds):
        rows.append(claude_line("assistant", f"a{at}", rows[-1]["uuid"], tool_use(f"c{at}"), message_id=f"m{at}"))
        rows.append(claude_line("user", f"r{at}", f"a{at}", tool_result(f"c{at}")))
    return lines(*rows)


def long_openai(rounds: int) -> str:
    rows: list[dict[str, Any]] = [{"role": "user", "content": "Fix it"}]
    for at in range(rounds):
        rows.append({"role": "assistant", "tool_calls": [openai_call(f"c{at}")]})
        rows.append({"role": "tool", "tool_call_id": f"c{at}", "content": "ok"})
    return json.dumps(rows)


def long_sdk(rounds: int) -> str:
    rows = [sdk_message("u", "user", "user", "Fix it")]
    for at in range(rounds):
        rows += [sdk_action(f"a{at}", f"c{at}", f"r{at}", ""), sdk_observation(f"o{at}", f"c{at}", f"a{at}")]
    return json.dumps(rows)


def calls_during(what: Callable[[], object]) -> int:
    """Python functions that are called: a measure of work that no clock disturbs."""
    counted = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal counted
        counted += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        what()
    finally:
        sys.setprofile(before)
    return counted


@pytest.mark.parametrize("make", [long_claude, long_openai, long_sdk])
def test_reading_and_writing_take_work_in_proportion_to_the_file(make: Callable[[int], str]) -> None:
    def work(rounds: int) -> int:
        text = make(rounds)
        return calls_during(lambda: write(text, new_draft(parse(text)).replace_text(2, "rewritten", "clamp")))

    assert work(160) < 5 * work(40)


# --- damage that once lost something


def texts(text: str) -> list[str]:
    return [turn.text for turn in parse(text).turns]


def test_opencode_message_without_parts_is_refused_and_named() -> None:
    document = copy.deepcopy(OPENCODE)
    document["messages"][1]["p"] = document["messages"][1].pop("parts")
    text = json.dumps(document)
    with pytest.raises(BadTranscript, match='message 2: expected a message to have "parts"'):
        parse(text)
    assert parse(text, lenient=True).skipped == ('message 2: expected a message to have "parts"',)


def test_opencode_fields_of_a_part_that_no_reader_knows_are_kept() -> None:
    document = copy.deepcopy(OPENCODE)
    parts = document["messages"][1]["parts"]
    parts[1]["words"] = parts[1].pop("text")
    parts[3]["states"] = parts[3].pop("state")
    said, result = parse(json.dumps(document)).turns[1:3]
    assert said.extra["parts"]["1"] == {"type": "reasoning", "words": "Read first."}
    assert result.extra["states"]["output"] == "x = 1"


def test_gemini_fields_of_a_recorded_result_that_no_reader_knows_are_kept() -> None:
    document = copy.deepcopy(GEMINI)
    response = document["messages"][2]["toolCalls"][0]["result"][0]["functionResponse"]
    response["reply"] = response.pop("response")
    result = parse(json.dumps(document)).turns[2]
    assert (result.text, result.extra["responses"]) == ("", [{"reply": {"output": "a.py"}}])


def test_gemini_session_of_the_user_alone_is_recognised_without_its_head() -> None:
    assert texts(json.dumps({"sessionId": "s", "messages": GEMINI["messages"][:1]})) == ["Fix it"]


def test_codex_item_of_an_unknown_type_that_is_rewritten_becomes_a_message() -> None:
    row = rollout("response_item", {**message("developer", "Be brief."), "type": "memo"})
    text = jsonl(CODEX[0], row, *CODEX[3:])
    made = parse(write(text, new_draft(parse(text)).replace_text(0, "Other words.", "clamp")))
    assert made.turns[0].text == "Other words."


def test_aider_fence_that_was_left_open_ends_with_its_turn() -> None:
    text = "# aider chat started at now\n\n#### fix it  \n\n```py\nx = 1\n\n> Applied  \n\n#### go on  \n> Cut off}\n"
    assert texts(text) == ["fix it", "```py\nx = 1", "Applied", "go on", "Cut off}"]
    assert texts(write(text, new_draft(parse(text)).replace_text(1, "Done.", "clamp")))[2:] == [
        "Applied",
        "go on",
        "Cut off}",
    ]


def test_stray_separator_at_the_end_of_a_log_does_not_spoil_the_line_before_it() -> None:
    text = BY_FORMAT["claude_code"].rstrip("\n") + "\u2028"
    read = parse(text, lenient=True)
    made = write(text, new_draft(read).replace_text(0, "Other words.", "clamp"))
    assert [turn.text for turn in read.turns[1:]] == texts(made)[1:]
