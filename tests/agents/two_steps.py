"""A task of two steps with much work between them: the second needs a fact that only the first one showed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from answers import Answer
from driving import Agent
from upstream import Step

PORT = "48213"
FACT = f"The billing service listens on port {PORT}."
TASK = (
    "Two steps. First read notes.txt. Then read log-1.txt to log-6.txt, one by one. When all are read, write the port "
    "of the billing service into answer.txt as `port=NUMBER`, and say done. Never delete the folder data/."
)
QUESTION = "Which port does the billing service listen on?"
LOGS = 6
WORDS = ("request", "took", "long", "again", "because", "queue", "was", "full", "until", "worker", "came", "back")
MARK = "filler of the notes"
"""What stands in the notes alone, on every line but that of the fact."""
LINES = 60


def lay_out(work: Path) -> None:
    """Writes the files of the task into the folder that the agent works in."""
    (work / "data").mkdir()
    lines = [f"{MARK}: {' '.join(WORDS[(at + n) % len(WORDS)] for n in range(9))}" for at in range(LINES)]
    (work / "notes.txt").write_text("\n".join([*lines[: LINES // 2], FACT, *lines[LINES // 2 :]]) + "\n")
    for log in range(1, LOGS + 1):
        text = "\n".join(f"log {log}: {' '.join(WORDS[(at * log + n) % 12] for n in range(12))}" for at in range(90))
        (work / f"log-{log}.txt").write_text(text + "\n")


def shell_of(number: int) -> str:
    """Returns the command of a call before the last."""
    return f"cat log-{number}.txt" if number else "cat notes.txt"


def port_in(text: str) -> str:
    """Returns the port by what the model has before it."""
    found = re.search(r"billing service listens on port (\d+)", text)
    return found[1] if found else "unknown"


def script(agent: Agent, look_up: Answer | None = None) -> list[Step]:
    """Returns the answers of a provider; `look_up` is a call of a memory tool before the writing."""
    calls: list[Step] = [agent.call(f"I read part {n}.", shell_of(n), n) for n in range(LOGS + 1)]

    def write(body: dict[str, Any]) -> Answer:
        return agent.write_file("I write the answer.", "answer.txt", f"port={port_in(json.dumps(body))}", LOGS + 1)

    last = agent.last_shell()
    done = agent.call("Done.", last, LOGS + 2) if last else Answer("Done.")
    return [*calls, *([look_up] if look_up else []), write, done]


def work(agent: Agent) -> str:
    """Has the agent do the task; returns what it printed."""
    return agent.work_through(TASK, [shell_of(n) for n in range(LOGS + 1)])


def check_end_state(work: Path, printed: str) -> None:
    """Fails unless the answer on disk is right and nothing else was changed."""
    answer = work / "answer.txt"
    assert answer.exists(), printed[-2000:]
    assert answer.read_text() == f"port={PORT}\n"
    assert (work / "data").is_dir()
