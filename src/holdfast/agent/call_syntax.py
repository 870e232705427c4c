"""The ways in which a model calls tools: by the provider's API, or as marked text for models that have none."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from holdfast.agent.control import FormatError
from holdfast.agent.tools import Tool
from holdfast.errors import BadOption
from holdfast.transcript.tool_parser import ToolParser, join_deltas
from holdfast.transcript.turn import Role, ToolCall, Turn


@dataclass(frozen=True)
class CallSyntax:
    """One row."""

    name: str
    parse: Callable[[Turn, Sequence[Tool], str], Turn]
    """Returns an answer with its calls, whose ids begin with the given text. Raises FormatError."""
    describe: Callable[[Sequence[Tool]], str] | None = None
    """Returns the words that explain the syntax to the model; None where the API carries the tools."""

    @property
    def in_text(self) -> bool:
        """True if calls and results travel as plain messages."""
        return self.describe is not None

    def send(self, turns: Sequence[Turn]) -> list[Turn]:
        """Returns turns as they go to the model."""
        return [_as_text(turn) for turn in turns] if self.in_text else list(turns)


def _as_text(turn: Turn) -> Turn:
    """Returns a turn without calls; a result is marked, so that nothing takes it for the user's words."""
    if turn.role is not Role.TOOL:
        return replace(turn, calls=())
    text = turn.text if turn.text.startswith("<returncode>") else f"OBSERVATION:\n{turn.text}"
    return replace(turn, role=Role.USER, call_id="", text=text)


def read_arguments(call: ToolCall, tool: Tool | None, tools: Sequence[Tool]) -> dict[str, Any]:
    """Returns the arguments of a call. Raises FormatError that says what is wrong with it."""
    if tool is None:
        raise FormatError(f"There is no tool {call.name!r}; there are: {', '.join(t.name for t in tools)}.")
    try:
        given = json.loads(call.arguments or "{}", strict=False)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"The arguments of {call.name} are not JSON: {error}. Nothing was run.") from None
    if not isinstance(given, dict):
        raise FormatError(f"The arguments of {call.name} must be a JSON object. Nothing was run.")
    missing = [name for name in tool.parameters if name not in given and name not in tool.optional]
    unknown = [name for name in given if name not in tool.parameters]
    wrong = [
        name
        for name, value in given.items()
        if name in tool.parameters and name not in tool.typed and not isinstance(value, str)
    ]
    for names, what in ((missing, "lacks"), (unknown, "does not take"), (wrong, "must have text for")):
        if names:
            raise FormatError(
                f"The call of {call.name} {what} {', '.join(names)}; it takes {', '.join(tool.parameters)}. "
                "Nothing was run."
            )
    return given


def _parse_api(answer: Turn, tools: Sequence[Tool], prefix: str) -> Turn:
    """Gives calls an id of their own where the server did not. A call that was written as text is no answer."""
    if not answer.calls and '"arguments"' in answer.text and any(f'"{tool.name}"' in answer.text for tool in tools):
        raise FormatError("Your answer writes a call as text; call the tool itself. Nothing was run.")
    ids = [call.id for call in answer.calls]
    if all(ids) and len(set(ids)) == len(ids):
        return answer
    return replace(answer, calls=tuple(replace(call, id=f"{prefix}{at}") for at, call in enumerate(answer.calls)))


_FENCE = re.compile(r"```(?:bash|sh|shell|mswea_bash_command)[ \t]*\n(.*?)\n?```", re.DOTALL)


def _parse_fence(answer: Turn, tools: Sequence[Tool], prefix: str) -> Turn:
    """Takes the one fenced block as the command of the first tool."""
    found = _FENCE.findall(answer.text)
    if len(found) > 1 or (not found and "```bash" in answer.text):
        what = f"holds {len(found)} fenced commands" if found else "opens a fence that it does not close"
        raise FormatError(f"Your answer {what}; write exactly one ```bash block. Nothing was run.")
    arguments = json.dumps({next(iter(tools[0].parameters)): command for command in found}, ensure_ascii=False)
    return replace(answer, calls=tuple(ToolCall(f"{prefix}0", tools[0].name, arguments) for _ in found))


def _describe_fence(tools: Sequence[Tool]) -> str:
    return (
        "Write exactly one command in each answer, in a fence, behind a sentence on why you run it:\n\n"
        "```bash\nls -la\n```\n\nIts output is the next message."
    )


def _parse_xml(answer: Turn, tools: Sequence[Tool], prefix: str) -> Turn:
    """Takes the one call of the text, `<function=NAME><parameter=KEY>`; reasoning stands before it."""
    parser = ToolParser(True, definitions=[tool.definition() for tool in tools], call_prefix=prefix)
    calls = join_deltas([*parser.feed(answer.text), *parser.end()]).calls
    if len(calls) > 1:
        raise FormatError(f"Your answer holds {len(calls)} calls; make exactly one. Nothing was run.")
    if not calls and _OPENED.search(answer.text):
        raise FormatError(
            "Your answer holds a call that is not whole; write <function=NAME>, each <parameter=KEY>value</parameter>, "
            "and </function>. Nothing was run."
        )
    return replace(answer, calls=calls)


_OPENED = re.compile(r"<(function|parameter)=|<tool_call>")


def _describe_xml(tools: Sequence[Tool]) -> str:
    lines = []
    for tool in tools:
        lines.append(f"- {tool.name}: {tool.description}")
        lines += [
            f"    {name}{' (optional)' if name in tool.optional else ''}: {words}"
            for name, words in tool.parameters.items()
        ]
    return (
        "You have these tools:\n"
        + "\n".join(lines)
        + (
            "\n\nSay first what you do and why, then call exactly one tool, in this form, with nothing behind it:\n\n"
            "<function=NAME>\n<parameter=KEY>value</parameter>\n</function>\n\nIts result is the next message."
        )
    )


SYNTAXES: dict[str, CallSyntax] = {
    syntax.name: syntax
    for syntax in (
        CallSyntax("api", _parse_api),
        CallSyntax("fence", _parse_fence, _describe_fence),
        CallSyntax("xml", _parse_xml, _describe_xml),
    )
}


def open_syntax(name: str, tools: Sequence[Tool]) -> CallSyntax:
    """Returns a syntax. Raises BadOption for an unknown name, or one that cannot name these tools."""
    if name not in SYNTAXES:
        raise BadOption(f"no way of calling tools is called {name!r}; there are: {', '.join(SYNTAXES)}")
    if name == "fence" and (len(tools) > 1 or len(tools[0].parameters) > 1):
        raise BadOption("a fence can call one tool with one argument alone; take --profile bash, or --calls xml")
    return SYNTAXES[name]
