"""Behind `holdfast proxy`, real agents end a task of two steps though the first was compacted before the second."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import two_steps
from agent_kinds import AGENTS, require
from answers import Answer
from cells import Cells
from gemini_cli import GeminiCli

from waiting import until

pytest_plugins = ("agent_start",)

TRIGGER = 8000
SEARCH = Answer("I look it up.", "history_search", {"query": two_steps.QUESTION}, "hf0099")


@contextmanager
def running_proxy(upstream: str, folder: Path, *options: str) -> Iterator[str]:
    """The address of `holdfast proxy`, started as a user starts it."""
    command = [sys.executable, "-m", "holdfast", "proxy", "--upstream", upstream, "--listen", "127.0.0.1:0"]
    said = folder / "proxy.txt"
    with said.open("wb") as out:
        process = subprocess.Popen([*command, *options], stdout=out, stderr=subprocess.STDOUT)
        try:
            until(lambda: process.poll() is not None or "page http" in said.read_text())
            yield re.findall(r" on (http\S+?);", said.read_text())[0]
        finally:
            process.terminate()
            process.wait()


@pytest.mark.parametrize("kind", AGENTS, ids=lambda kind: kind.name)
def test_the_second_step_has_the_fact_of_the_first(kind, start, provider, tmp_path, record_property):
    cells = Cells(record_property, kind, "proxy")
    require(kind)
    log = tmp_path / "log.jsonl"
    plan = ("--trigger", str(TRIGGER), "--no-plan", "--log", str(log), "--log-text")
    with running_proxy(provider.url, tmp_path, *plan) as url:
        agent = start(kind, url)
        two_steps.lay_out(agent.place.work)
        provider.play(two_steps.script(agent))
        printed = two_steps.work(agent)
    rows = [json.loads(row) for row in log.read_text().splitlines()]
    assert {(row["status"], row["failure"]) for row in rows} == {(200, None)}, printed[-2000:]
    assert any(row["compacted"] for row in rows)
    second = json.dumps(provider.requests[two_steps.LOGS + 1].body)
    assert second.count(two_steps.MARK) < two_steps.LINES / 2, "the first step went up whole"
    assert two_steps.TASK[:40] in second
    assert "Never delete the folder data/" in second
    two_steps.check_end_state(agent.place.work, printed)
    cells.passes("proxy")


@pytest.mark.parametrize("kind", [kind for kind in AGENTS if kind.tool], ids=lambda kind: kind.name)
def test_a_memory_tool_finds_the_fact_of_the_first_step(kind, start, provider, tmp_path, record_property):
    cells = Cells(record_property, kind, "memory tools of the proxy")
    require(kind)
    if kind is GeminiCli:
        cells.skips("memory tools of the proxy", "the proxy adds none on Gemini's wire; serve does")
    plan = ("--trigger", str(TRIGGER), "--no-plan", "--memory-tools", "--text", "truncate")
    with running_proxy(provider.url, tmp_path, *plan) as url:
        agent = start(kind, url)
        two_steps.lay_out(agent.place.work)
        script = two_steps.script(agent, SEARCH)
        provider.play(script)
        printed = two_steps.work(agent)
    asked = [json.dumps(one.body).partition(SEARCH.call_id)[2] for one in provider.requests]
    assert any(two_steps.FACT in behind for behind in asked), "the lookup brought no fact"
    assert "history_search" not in printed
    two_steps.check_end_state(agent.place.work, printed)
    cells.passes("memory tools of the proxy")
