"""Takes up a trajectory of mini-swe-agent with its own library: `take_up_trajectory.py TRAJECTORY WORDS`.

Runs in the environment of mini-swe-agent.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from minisweagent.agents.default import DefaultAgent
from minisweagent.environments.local import LocalEnvironment
from minisweagent.exceptions import FormatError
from minisweagent.models import get_model


def main(path: Path, words: str) -> None:
    """Asks the model once over the messages of the trajectory and the new words, and saves it with the answer."""
    trajectory = json.loads(path.read_text())
    agent = DefaultAgent(get_model("openai/scripted"), LocalEnvironment(), system_template="", instance_template="")
    agent.messages = [message for message in trajectory["messages"] if message["role"] != "exit"]
    agent.add_messages({"role": "user", "content": words})
    try:
        agent.query()
    except FormatError as error:  # words without a call: the program asks for a call again
        agent.add_messages(*error.messages)
    path.write_text(json.dumps({**trajectory, "messages": agent.messages}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
