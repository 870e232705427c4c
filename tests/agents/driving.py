"""Runs a real agent in a home of its own against a scripted provider."""

from __future__ import annotations

import os
import signal
import subprocess
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from answers import Answer
from install import PINS, folder_of
from upstream import Upstream

SECONDS = 300
"""After which a run of an agent is ended; it takes 2 to 15 on an idle machine."""


@dataclass(frozen=True)
class Place:
    """Where an agent runs, and where its provider is."""

    programs: Path
    home: Path
    work: Path
    provider: Upstream
    address: str = ""
    """The address that the agent asks; empty for the provider itself."""

    @property
    def url(self) -> str:
        """The address that the agent asks."""
        return self.address or self.provider.url


class Agent(ABC):
    """What one agent needs: its settings, its command line, its session file, its shell tool."""

    name: ClassVar[str]
    tool: ClassVar[str]
    argument: ClassVar[str] = "command"
    key: ClassVar[str] = "sk-none"
    """What it sends as its key."""
    appends: ClassVar[bool] = True
    """False for an agent that changes what it sent before, so that a server forks its session with each request."""
    added: ClassVar[str] = r"(?!)"
    """A pattern of the text that the agent puts into a request by itself."""

    def __init__(self, place: Place) -> None:
        self.place = place

    @property
    def version(self) -> str:
        """The pinned version."""
        return PINS[self.name]["version"]

    def program(self, name: str) -> str:
        """Returns the path of a program of the agent."""
        pin = PINS[self.name]
        return str(folder_of(self.name, self.place.programs) / ("node_modules/.bin" if "npm" in pin else "bin") / name)

    @abstractmethod
    def configure(self) -> None:
        """Writes the agent's settings: the provider, no telemetry, no updates."""

    @abstractmethod
    def variables(self) -> dict[str, str]:
        """Returns its environment variables."""

    @abstractmethod
    def command(self, prompt: str, *, resume: bool) -> list[str]:
        """Returns the command line that says the prompt in a new session, or in the one that is there."""

    @abstractmethod
    def session(self) -> Path:
        """Returns the session file; an agent with a database exports it."""

    def only(self, pattern: str) -> Path:
        """Returns the one session file in the home that matches."""
        (path,) = (one for one in self.place.home.glob(pattern) if not one.name.endswith(".holdfast.jsonl"))
        return path

    def give_back(self, path: Path) -> None:
        """Gives a changed session back to the agent."""
        assert path == self.session()  # its own file, which is changed already

    def call(self, text: str, shell: str, number: int) -> Answer:
        """Returns the answer that says `text` and runs a command."""
        return Answer(text, self.tool, self.arguments(shell), f"hf{number:04}")

    def arguments(self, shell: str) -> dict[str, Any]:
        """Returns the arguments of the shell tool."""
        return {self.argument: shell}

    def write_file(self, text: str, path: str, content: str, number: int) -> Answer:
        """Returns the answer that says `text` and writes a file of one line."""
        return self.call(text, f"echo {content} > {path}", number)

    def work_through(self, task: str, _shells: list[str]) -> str:
        """Says the task in a new session; an agent without tools has its user run the commands and write on."""
        return self.say(task, resume=False)

    def last_shell(self) -> str:
        """Returns the command with which the model ends a task; empty where words end it."""
        return ""

    def record(self, prompts: list[str]) -> str:
        """Says the first prompt in a new session, whose steps are the model's; an agent without tools says them all."""
        return self.say(prompts[0], resume=False)

    def say(self, prompt: str, *, resume: bool) -> str:
        """Says a prompt and returns what the agent printed once it has ended."""
        return self.run(self.command(prompt, resume=resume))

    def run(self, command: list[str], typed: str = "") -> str:
        """Runs a program of the agent to its end, and ends what it left behind. Fails where it takes too long."""
        path = os.pathsep.join((str(_node_folder(self.place.programs)), os.environ["PATH"]))
        own = {"PATH": path, "HOME": str(self.place.home), "TERM": "dumb", "NO_COLOR": "1", "DO_NOT_TRACK": "1"}
        own |= {"HTTPS_PROXY": self.place.provider.url, "NO_PROXY": "127.0.0.1"}  # the provider lets nothing out
        printed = self.place.home / "printed.txt"
        keys = self.place.home / "typed.txt" if typed else Path(os.devnull)  # opencode waits for more of an empty file
        if typed:
            keys.write_text(typed)
        with printed.open("wb") as out, keys.open("rb") as stdin:
            process = subprocess.Popen(
                command,
                cwd=self.place.work,
                env=own | self.variables(),
                stdin=stdin,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                process.wait(SECONDS)
            finally:
                process.kill()
                end_leftovers(self.place.home)
        return printed.read_text(errors="replace")


def end_leftovers(home: Path) -> None:
    """Ends the processes that run in this home: background services that an agent started."""
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"HOME={home}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGTERM)
        except (PermissionError, FileNotFoundError, ProcessLookupError):
            continue


def _node_folder(programs: Path) -> Path:
    return folder_of("node", programs) / "node_modules" / "node" / "bin"
