"""mini-swe-agent's own command, as it is installed, does a small task through each wire: its commands are scripted,
and really run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from steered_host import eager, read_by_answers, steered

from holdfast.server.http.auth import digest
from holdfast.server.protocol import GenerateRequest
from holdfast.transcript.turn import Role

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


def run_agent(way: Way, url: str, folder: Path) -> dict[str, Any]:
    """What it kept of its run."""
    work, kept = folder / "work", folder / "run.json"
    work.mkdir()
    settings = {
        "agent.instance_template": "{{task}}",
        "model.cost_tracking": "ignore_errors",
        "model.model_kwargs.api_base": url + way.base,
        "model.model_kwargs.api_key": "mine",
    }
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    command = [str(AGENT), "-c", way.config, *options, "-m", way.model, "--model-class", way.model_class]
    own = {"MSWEA_CONFIGURED": "true", "MSWEA_GLOBAL_CONFIG_DIR": str(folder), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | own
    done = subprocess.run(
        [*command, "-t", TASK, "-y", "--exit-immediately", "-o", str(kept)],
        cwd=work,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads(kept.read_text())


@pytest.mark.parametrize("way", WAYS)
def test_the_agent_does_its_task_in_one_session_that_is_read_once_and_kept_small(way: str, tmp_path: Path) -> None:
    with steered(script, eager(700, 3)) as (host, url), read_by_answers() as read:
        run = run_agent(WAYS[way], url, tmp_path)
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
