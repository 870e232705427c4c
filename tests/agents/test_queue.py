"""A queue's tasks done by the real programs: prompt, result, tokens, and words to one that works."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

import pytest
from answers import Answer
from claude_code import ClaudeCode
from codex import Codex
from opencode import Opencode

from holdfast.queue.decide import send
from holdfast.queue.events import Log
from waiting import until

pytest_plugins = ("agent_start",)

KINDS = {"claude": ClaudeCode, "codex": Codex, "opencode": Opencode}
MODELS = {"claude": "claude-sonnet-4-5", "codex": "gpt-5.2-codex", "opencode": "scripted/scripted"}
LONG = "Keep to the rules. " * 20_000
"""A prompt that no argument may hold."""


def run(agent, cli, *tasks):
    """Runs a queue in the agent's home and with its settings, in a process of its own; returns what was printed."""
    work = agent.place.work
    config = {"cli": cli, "model": MODELS[cli], "permission_mode": "dangerously_skip", "max_turns": 9}
    plan = {"project": "p", "tasks": [{"config": config, **task} for task in tasks]}
    (work / "tasks.json").write_text(json.dumps(plan))
    programs = Path(agent.program(cli)).parent
    path = os.pathsep.join(sys.path)
    line = f'PATH="$0:$PATH" PYTHONPATH="{path}" IS_SANDBOX=1 exec "$@"'  # Claude Code wants that of root
    return agent.run(["sh", "-c", line, str(programs), sys.executable, "-m", "holdfast", "queue", "run", str(work)])


@pytest.mark.parametrize("cli", KINDS)
def test_a_long_prompt_is_done_and_its_result_goes_to_the_next_task(start, cli):
    agent = start(KINDS[cli])
    provider = agent.place.provider
    provider.play([agent.call("I write it.", "echo 4701 > port.txt", 1), Answer("The port is 4701."), Answer("Seen.")])
    first = {"id": "one", "name": "One", "prompt": f"Write the port. {LONG}"}
    printed = run(agent, cli, first, {"id": "two", "name": "Two", "prompt": "Read it.", "depends_on": ["one"]})
    records = Log(agent.place.work).state.records
    assert {name: record.status for name, record in records.items()} == dict.fromkeys(("one", "two"), "completed"), (
        printed
    )
    assert records["one"].result["summary"] == "The port is 4701."
    assert records["one"].result["files_changed"] == ["port.txt"]
    assert records["one"].result["input_tokens"] > len(LONG) / 8
    assert (agent.place.work / "port.txt").read_text() == "4701\n"
    assert LONG in json.dumps(provider.requests[0].body)
    assert '\\"did\\":\\"The port is 4701.\\"' in json.dumps(provider.requests[-1].body)


def test_claude_code_is_told_something_while_it_works(start):
    agent = start(ClaudeCode)
    work, provider = agent.place.work, agent.place.provider
    wait = "until test -e told; do sleep 0.05; done"
    provider.play([agent.call("I wait.", f"touch here; {wait}", 1), Answer("Heard."), Answer("Heard again.")])

    def tell():
        until((work / "here").exists)
        send(Log(work), "one", "The port has changed to 4702.")
        (work / "told").touch()

    teller = threading.Thread(target=tell)
    teller.start()
    printed = run(agent, "claude", {"id": "one", "name": "One", "prompt": "Wait for word."})
    teller.join()
    assert Log(work).state.records["one"].status == "completed", printed
    sent = [json.dumps(request.body) for request in provider.requests]
    assert "4702" not in sent[0]
    assert any("The port has changed to 4702." in body for body in sent[1:]), printed
