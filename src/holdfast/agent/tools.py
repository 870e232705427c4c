"""The tools of the profiles: a definition for the model, and what a call does in the workplace."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.agent.commands import HEAD, TAIL, CommandResult
from holdfast.agent.workplace import Workplace
from holdfast.errors import BadInput

SENTINEL = "COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"
"""The first line of the output by which a bash-only agent hands its work in."""


@dataclass(frozen=True)
class Observation:
    """The result of a call, as the model reads it."""

    text: str
    is_error: bool = False
    submission: str | None = None
    """The words with which the work is handed in; None if it goes on."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Further facts for the trajectory, as the exit code."""


@dataclass(frozen=True)
class Tool:
    """One row: the definition, and the function that a call runs."""

    name: str
    description: str
    parameters: Mapping[str, str]
    """Name and description of each parameter; those of `optional` may be left out. All are text but the typed ones."""
    run: Callable[[Mapping[str, Any], Workplace], Observation]
    optional: frozenset[str] = frozenset()
    typed: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """JSON schemas of the parameters that are no text."""

    def schema(self) -> dict[str, Any]:
        """Returns the parameters as a JSON schema."""
        properties = {
            name: {**self.typed.get(name, {"type": "string"}), "description": words}
            for name, words in self.parameters.items()
        }
        required = [name for name in self.parameters if name not in self.optional]
        return {"type": "object", "properties": properties, "required": required}

    def definition(self) -> dict[str, Any]:
        """Returns the tool as an OpenAI function."""
        function = {"name": self.name, "description": self.description, "parameters": self.schema()}
        return {"type": "function", "function": function}


def clamp_text(text: str, most: int = 4 * (HEAD + TAIL)) -> str:
    """Returns a text whose middle is left out where it is longer than `most` characters, and says so."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n[{len(text) - 2 * half} characters left out; look at parts of it]\n{text[-half:]}"


def observe_command(result: CommandResult) -> Observation:
    """Returns the observation of a command; one that prints the sentinel first hands the work in."""
    first, _, rest = result.output.lstrip().partition("\n")
    done = result.returncode == 0 and first.strip() == SENTINEL
    fields = {"returncode": result.returncode, "seconds": round(result.seconds, 3)}
    return Observation(result.describe(), result.returncode != 0, (rest + result.tail) if done else None, fields)


def run_bash(arguments: Mapping[str, Any], place: Workplace) -> Observation:
    """Runs a shell command."""
    return observe_command(place.run(str(arguments["command"])))


def read_file(arguments: Mapping[str, Any], place: Workplace) -> Observation:
    """Reads a file."""
    return Observation(clamp_text(place.read(str(arguments["path"]))))


def write_file(arguments: Mapping[str, Any], place: Workplace) -> Observation:
    """Writes a file whole."""
    name, text = str(arguments["path"]), str(arguments["content"])
    place.write(name, text)
    return Observation(f"Wrote {len(text)} characters to {name}.")


def submit(arguments: Mapping[str, Any], place: Workplace) -> Observation:
    """Hands the work in."""
    words = str(arguments.get("summary", ""))
    return Observation("The work is handed in.", submission=words)


def run_tool(tool: Tool, arguments: Mapping[str, Any], place: Workplace) -> Observation:
    """Runs a call; what it cannot do is an observation that says so."""
    try:
        return tool.run(arguments, place)
    except BadInput as error:
        return Observation(str(error), True)
    except OSError as error:
        return Observation(f"{error.filename or tool.name}: {error.strerror or error}", True)


BASH = Tool(
    "bash",
    "Runs a command in bash, in the work tree. Each call is a new shell: `cd` and variables do not last.",
    {"command": "The command."},
    run_bash,
)
RUN_COMMAND = Tool("run_command", BASH.description, BASH.parameters, run_bash)
READ_FILE = Tool("read_file", "Reads a file.", {"path": "The path, below the work tree."}, read_file)
WRITE_FILE = Tool(
    "write_file",
    "Writes a file whole, over what stands there.",
    {"path": "The path, below the work tree.", "content": "The whole text of the file."},
    write_file,
)
ASKS_COMPACTION = "compact"
"""The field of an observation after which the history is compacted before the model is asked again."""


def ask_compaction(arguments: Mapping[str, Any], place: Workplace) -> Observation:
    """Has the history compacted."""
    return Observation("The conversation is compacted before your next answer.", fields={ASKS_COMPACTION: True})


COMPACT = Tool(
    "compact",
    "Compacts the conversation so far before your next answer: older turns become short; the task, the user's words "
    "and the newest exchange stay. Call it right after a part of the work is finished and checked, if the next part "
    "does not need its details: tests pass, a file is done, a search has its answer. Do not call it in the middle of a "
    "derivation or of finding a fault, while an error is unexplained, before you have used exact text that you have "
    "just read, or again within a few steps.",
    {},
    ask_compaction,
)
SUBMIT = Tool(
    "submit",
    "Hands the work in. Call it once everything is done and checked.",
    {"summary": "What was done, in a few sentences."},
    submit,
    optional=frozenset({"summary"}),
)
