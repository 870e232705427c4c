"""mini-swe-agent's own command, as it is installed, does a small task through each wire: its commands are scripted,
and really run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from steered_host import eager, read_by_answers, steered

from holdfast.server.http.auth import digest
from holdfast.server.protocol import GenerateRequest
from holdfast.transcript.turn import Role
from waiting import until

AGENT = shutil.which("mini-swe-agent")
pytestmark = pytest.mark.skipif(AGENT is None, reason="the command mini-swe-agent is not on the PATH")

TASK = "Write a poem of ten lines into poem.txt, and submit it."
COMMANDS = (
    "ls -la",
    "echo 'A poem' > poem.txt && cat poem.txt",
    *(f"echo 'line {n}: the sea is \"calm\"' >> poem.txt && tail -3 poem.txt" for n in range(1, 11)),
    "wc -l poem.txt && grep -c sea poem.txt",
    "cat nothing.txt",
    "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT && cat poem.txt",
)


class Way(NamedTuple):
    """How the agent reaches the model."""

    config: str
    model: str
    model_class: str
    base: str
    """Of the server's address."""


WAYS = {
    "chat completions": Way("mini.yaml", "openai/steered", "litellm", "/v1"),
    "fenced text": Way("mini_textbased.yaml", "openai/steered", "litellm_textbased", "/v1"),
    "responses": Way("mini.yaml", "openai/steered", "litellm_response", "/v1"),
    "messages": Way("mini.yaml", "anthropic/steered", "litellm", ""),
}


def script(ask: GenerateRequest) -> str:
    """The next command, as a call where the agent has tools, else in its fence."""
    command = COMMANDS[sum(turn.role is Role.ASSISTANT for turn in ask.turns)]
    if ask.tools:
        return f'I go on.\n<tool_call>{{"name": "bash", "arguments": {{"command": {json.dumps(command)}}}}}</tool_call>'
    return f"I go on.\n\n```mswea_bash_command\n{command}\n```"


DRIVER = """
import json, os, pathlib, runpy, sys
for line in os.fdopen(os.dup(0)):
    order = json.loads(line)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(order["work"])
    sys.argv, code = order["command"], 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        code = end.code or 0
    pathlib.Path(order["done"]).write_text(json.dumps(code))
"""
"""Runs the agent's script for each line that comes: the libraries that it takes seconds to load are loaded once."""


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Way, str, Path], dict[str, Any]]]:
    """`agent(way, url, folder)`: what the agent kept of its run."""
    home = tmp_path_factory.mktemp("agent")
    own = {"MSWEA_CONFIGURED": "true", "MSWEA_GLOBAL_CONFIG_DIR": str(home), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | own
    python = Path(str(AGENT)).with_name("python")
    with (home / "log").open("wb") as log:
        process = subprocess.Popen([python, "-c", DRIVER], stdin=subprocess.PIPE, stdout=log, stderr=log, env=env)

        def run(way: Way, url: str, folder: Path) -> dict[str, Any]:
            assert process.stdin is not None
            work, kept, done = folder / "work", folder / "run.json", folder / "done.json"
            work.mkdir()
            command = [*command_of(way, url), "-o", str(kept)]
            process.stdin.write(json.dumps({"work": str(work), "command": command, "done": str(done)}).encode() + b"\n")
            process.stdin.flush()
            until(lambda: process.poll() is not None or (done.exists() and done.read_text()), 300)
            assert done.exists(), (home / "log").read_text()[-4000:]
            assert done.read_text() == "0", (home / "log").read_text()[-4000:]
            return json.loads(kept.read_text())

        try:
            yield run
        finally:
            process.kill()
            process.communicate()  # closes its input too


def command_of(way: Way, url: str) -> list[str]:
    """The command line of a run that asks a server."""
    settings = {
        "agent.instance_template": "{{task}}",
        "model.cost_tracking": "ignore_errors",
        "model.model_kwargs.api_base": url + way.base,
        "model.model_kwargs.api_key": "mine",
    }
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    command = [str(AGENT), "-c", way.config, *options, "-m", way.model, "--model-class", way.model_class]
    return [*command, "-t", TASK, "-y", "--exit-immediately"]


@pytest.mark.parametrize("way", WAYS)
def test_the_agent_does_its_task_in_one_session_that_is_read_once_and_kept_small(
    way: str, agent: Callable[[Way, str, Path], dict[str, Any]], tmp_path: Path
) -> None:
    with steered(script, eager(700, 3)) as (host, url), read_by_answers() as read:
        run = agent(WAYS[way], url, tmp_path)
        rows = host.sessions(digest("mine"))
        rounds = [one for one in host.session(rows[0]["id"], digest("mine"))["rounds"] if not one["compacted"]]
    poem = (tmp_path / "work" / "poem.txt").read_text()
    assert poem.splitlines() == ["A poem", *(f'line {n}: the sea is "calm"' for n in range(1, 11))]
    assert (run["info"]["exit_status"], run["info"]["submission"].strip()) == ("Submitted", poem.strip())
    assert run["info"]["model_stats"]["api_calls"] == len(COMMANDS)
    (row,) = rows
    assert row["compactions"] >= 2
    assert row["slots"] < 0.7 * row["tokens"]
    told = sum(one["prefilled"] for one in rounds)
    assert told < sum(read) <= 1.2 * row["tokens"]
