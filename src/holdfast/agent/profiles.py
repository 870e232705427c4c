"""The profiles of the agent by name: its tools, what it is told first, and how a run ends."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.agent.editor import EDITOR
from holdfast.agent.tools import BASH, READ_FILE, RUN_COMMAND, SENTINEL, SUBMIT, WRITE_FILE, Tool
from holdfast.errors import BadOption


@dataclass(frozen=True)
class Profile:
    """One row."""

    name: str
    tools: tuple[Tool, ...]
    system: str
    first: str
    """The first user message; `{task}` and `{directory}` are filled in."""
    calls: str = "api"
    """The way of calling tools (a row of `call_syntax.SYNTAXES`) unless the run names another."""
    answer_ends: bool = False
    """True if an answer without a call is the end of the work; else it is a format error."""

    def tool(self, name: str) -> Tool | None:
        """Returns a tool by name, None if there is none."""
        return next((tool for tool in self.tools if tool.name == name), None)


_RULES = (
    "Each command runs in a new shell in {directory}; `cd` and variables do not last. Commands end after a time limit: "
    "start no server in the foreground, and open no editor or pager."
)

BASH_ONLY = Profile(
    "bash",
    (BASH,),
    "You are a software engineer who works through a shell. Say in a sentence or two what you do next, then call the "
    "bash tool. Each answer holds at least one call.",
    f"{{task}}\n\nYou work in {{directory}}. {_RULES}\n\nLook at the files first, make the change, then check it by "
    "running it. When all is done and checked, hand it in with a command of its own, and nothing behind it:\n"
    f"echo {SENTINEL}",
)
FILES = Profile(
    "files",
    (READ_FILE, WRITE_FILE, RUN_COMMAND),
    "You are a software engineer. Use the tools to do the task in {directory}, and check your work by running it. When "
    "all is done, answer with a short summary and no call of a tool.",
    f"{{task}}\n\n{_RULES}",
    answer_ends=True,
)
EDITOR_AND_BASH = Profile(
    "editor",
    (BASH, EDITOR, SUBMIT),
    "You are a software engineer who works on a repository with tools. Each answer holds your reasoning, and then "
    "exactly one call.",
    "<uploaded_files>\n{directory}\n</uploaded_files>\nI have uploaded a repository. Consider the following "
    "description:\n\n<pr_description>\n{task}\n</pr_description>\n\nMake the changes that it asks for. Do not change "
    "the tests unless it asks for that. Follow these steps:\n1. Look at the files that matter.\n2. Write a script that "
    "shows the present behaviour, and run it.\n3. Change the source.\n4. Run the script again.\n5. Think of edge cases "
    f"and handle them.\n\n{_RULES} Call submit once all is done.",
    calls="xml",
)
PROFILES: dict[str, Profile] = {profile.name: profile for profile in (BASH_ONLY, FILES, EDITOR_AND_BASH)}


def open_profile(name: str) -> Profile:
    """Returns a profile. Raises BadOption for an unknown name."""
    if name not in PROFILES:
        raise BadOption(f"no profile is called {name!r}; there are: {', '.join(PROFILES)}")
    return PROFILES[name]
