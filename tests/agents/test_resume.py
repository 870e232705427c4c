"""What Holdfast writes, the real agent resumes: the request that it then sends is what Holdfast says the context is.

`make test-agents` installs the programs and runs this; elsewhere it skips.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import zip_longest

import pytest
from agent_kinds import AGENTS
from answers import Answer
from cells import Cells
from driving import Agent

from holdfast.transcript.read import parse, read
from holdfast.transcript.turn import Role, Turn

pytest_plugins = ("agent_start",)

TASK = "Find out which ports the services use. Never delete the folder data/."
STEPS = 12
SHELL = "seq 60 | sed 's/.*/worker {n} line & of service_{n}.py took {n}& ms/'; echo port {port}"  # nothing that asks


def holdfast(*arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "holdfast", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def said(turns: tuple[Turn, ...], agent: Agent) -> list[str]:
    """What the user, the model and the tools said: without instructions and what the agent adds by itself, and with
    neighbours of one speaker as one, since some wires join them.
    """
    found: list[str] = []
    before = None
    for turn in turns:
        text = " ".join(re.sub(agent.added, "", turn.text, flags=re.DOTALL).split())
        calls = "".join(f" {call.name}{json.loads(call.arguments)}" for call in turn.calls)
        unsent = turn.role is Role.TOOL and not turn.call_id and not agent.tool
        if turn.role is Role.SYSTEM or unsent or not (text or calls or turn.call_id):
            continue
        if turn.role is before and not turn.call_id:
            found[-1] += f" {text}{calls}"
        else:
            found.append(f"{turn.role}: {text}{calls}")
        before = turn.role
    return found


def resume(agent: Agent, prompt: str) -> tuple[Turn, ...]:
    """Resumes the session and returns the turns of the request that the agent sent."""
    agent.place.provider.play([Answer(f"Answer to: {prompt}")])
    printed = agent.say(prompt, resume=True)
    assert agent.place.provider.requests, f"{agent.name} sent no request:\n{printed}"
    body = agent.place.provider.requests[0].body
    return parse(json.dumps(body.get("contents", body))).turns  # Gemini's wire is read as its checkpoints are


def check_same(agent: Agent, sent: tuple[Turn, ...], context: tuple[Turn, ...], prompt: str) -> None:
    """Fails unless the request is the context, and the prompt behind it."""
    wanted = said((*context, Turn(Role.USER, prompt)), agent)
    apart = [pair for pair in zip_longest(said(sent, agent), wanted) if pair[0] != pair[1]]
    assert not apart, f"{len(apart)} turns, first sent {str(apart[0][0])[:400]!r}, read {str(apart[0][1])[:400]!r}"


@pytest.mark.parametrize("kind", AGENTS, ids=lambda kind: kind.name)
def test_the_agent_resumes_what_was_compacted_and_undone(kind, start, record_property):
    cells = Cells(record_property, kind, "resume", "undo")
    agent = start(kind)
    answers = [agent.call(f"Step {n}.", SHELL.format(n=n, port=4700 + n), n) for n in range(STEPS)]
    last = agent.last_shell()
    agent.place.provider.play([*answers, agent.call("Done.", last, STEPS) if last else Answer("All ports are found.")])
    printed = agent.record([TASK, *(f"Go on with service {n}." for n in range(STEPS))])
    assert len(agent.place.provider.requests) == STEPS + 1, printed
    session = agent.session()
    raw = session.read_bytes()
    whole = read(session).turns
    check_same(agent, resume(agent, "Question 1?"), whole, "Question 1?")
    for number, budget in ((2, 4000), (3, 2000)):
        path = agent.session()
        holdfast("compact", path, "--text", "tiered", "--budget", budget, "-o", path)
        agent.give_back(path)
        compacted = read(path)
        assert sum(len(turn.text) for turn in compacted.turns) < sum(len(turn.text) for turn in whole) / 2
        check_same(agent, resume(agent, f"Question {number}?"), compacted.turns, f"Question {number}?")
    cells.passes("resume")
    path = agent.session()
    holdfast("undo", path)
    holdfast("undo", path)
    agent.give_back(path)
    undone = read(path).turns
    assert said(undone[: len(whole)], agent) == said(whole, agent)  # by turns: what follows may be of the same speaker
    if path.suffix in (".jsonl", ".md"):
        assert path.read_bytes().startswith(raw)  # a log is what it was, byte for byte
    check_same(agent, resume(agent, "Question 4?"), undone, "Question 4?")
    cells.passes("undo")
