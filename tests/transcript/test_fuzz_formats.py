"""Damaged files of every format: read or refused, nothing lost in silence. The long run is the recipe's."""

from __future__ import annotations

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

from holdfast.transcript import read
from holdfast.transcript.draft import draft
from holdfast.transcript.read import parse
from holdfast.transcript.turn import Transcript
from holdfast.transcript.write import write


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    path = Path(__file__).parents[2] / "recipes" / "fuzz_formats.py"
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
        recipe.judged(text, whole(text), random.Random(1))


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
        return calls_during(lambda: write(text, draft(parse(text)).put(2, "rewritten", "clamp")))

    assert work(160) < 5 * work(40)
