"""The tools of OpenAI's Responses as functions that a model can call, and its calls as items of the tools' own kinds.

    function     as it is
    namespace    its functions, by their own names where those are unique; a call names its namespace
    custom       a function of one text, `input`; a call is a `custom_tool_call`

Tools that the provider would run itself (web search and others) are left out by name.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from holdfast.server.wires.request_warnings import tool_name
from holdfast.transcript.turn import ToolCall
from holdfast.web.request_error import RequestError

_INPUT = "input"
_FREE_TEXT = {"type": "object", "properties": {_INPUT: {"type": "string"}}, "required": [_INPUT]}


@dataclass(frozen=True)
class WireTool:
    """The kind and name of a tool on the wire."""

    kind: Literal["function", "custom"]
    name: str
    namespace: str = ""


@dataclass(frozen=True)
class ToolOffer:
    """The tools of a request as the model is offered them."""

    functions: tuple[Mapping[str, Any], ...] = ()
    """OpenAI function definitions, as chat templates take them."""
    wire: Mapping[str, WireTool] = field(default_factory=dict)
    """Of each offered name, the tool on the wire."""
    left_out: tuple[str, ...] = ()
    """Names of the tools that the model cannot use."""

    def to_item(self, call: ToolCall) -> dict[str, Any]:
        """Returns the item of a call that the model made, without id and status."""
        tool = self.wire.get(call.name, WireTool("function", call.name))
        if tool.kind == "custom":
            return {"type": "custom_tool_call", "call_id": call.id, "name": tool.name, _INPUT: _free_text(call)}
        beside = {"namespace": tool.namespace} if tool.namespace else {}
        head = {"type": "function_call", "call_id": call.id, "name": tool.name, **beside}
        return {**head, "arguments": call.arguments}

    def read_call(self, item: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns the item of a call in a history as the model made it: a call of an offered function."""
        kind = {"function_call": "function", "custom_tool_call": "custom"}.get(str(item.get("type")))
        own = {tool: name for name, tool in self.wire.items()}
        if kind is None:
            return item
        tool = WireTool(kind, str(item.get("name")), str(item.get("namespace") or ""))  # type: ignore[arg-type]
        called = {**item, "name": own.get(tool, item.get("name"))}
        if kind == "custom":
            called |= {"type": "function_call", "arguments": json.dumps({_INPUT: item.get(_INPUT)})}
            del called[_INPUT]
        return called


def _free_text(call: ToolCall) -> str:
    """Returns the text of a call of a custom tool; what is no such call stands as it was made."""
    try:
        given = json.loads(call.arguments)
    except (ValueError, RecursionError):
        return call.arguments
    text = given.get(_INPUT) if isinstance(given, dict) else None
    return text if isinstance(text, str) else call.arguments


def read_tools(tools: Sequence[Mapping[str, Any]]) -> ToolOffer:
    """Returns the offer of a request's tools. Raises RequestError for one that is malformed."""
    read = [found for number, tool in enumerate(tools) for found in _read(tool, f"tools[{number}]")]
    names = Counter(tool.name for tool, definition in read if definition is not None)
    functions, wire = [], {}
    for tool, definition in read:
        if definition is None:
            continue
        name = f"{tool.namespace}__{tool.name}" if names[tool.name] > 1 and tool.namespace else tool.name
        functions.append({"type": "function", "function": {**definition, "name": name}})
        wire[name] = tool
    return ToolOffer(tuple(functions), wire, tuple(tool.name for tool, definition in read if definition is None))


def _read(tool: Mapping[str, Any], where: str) -> Iterator[tuple[WireTool, dict[str, Any] | None]]:
    """Yields the functions of one tool of the wire, without a definition for what the model cannot use."""
    kind = tool.get("type")
    if kind == "function":
        yield WireTool("function", str(tool.get("name"))), _function(tool, where)
    elif kind == "custom":
        yield WireTool("custom", str(tool.get("name"))), _custom(tool, where)
    elif kind == "namespace":
        inside, name = tool.get("tools"), str(tool.get("name"))
        for number, one in enumerate(inside if isinstance(inside, list) else ()):
            for found, definition in _read(one if isinstance(one, dict) else {}, f"{where}.tools[{number}]"):
                yield WireTool(found.kind, found.name, name), definition
    elif isinstance(kind, str) and kind:
        yield WireTool("function", tool_name(tool)), None
    else:
        raise RequestError(f"{where}: expected a tool with a type, as function", where)


def _function(tool: Mapping[str, Any], where: str) -> dict[str, Any]:
    name, parameters, description = tool.get("name"), tool.get("parameters"), tool.get("description")
    right = isinstance(name, str) and name and isinstance(parameters, dict | None)
    if not right or not isinstance(description, str | None):
        raise RequestError(f"{where}: expected a name and a description (texts), and parameters (an object)", where)
    try:
        json.dumps(tool, allow_nan=False)
    except ValueError:
        raise RequestError(f"{where} holds a number that is beyond what JSON readers take", where) from None
    given = {"name": name, "description": description, "parameters": parameters}
    return {k: v for k, v in given.items() if v is not None}


def _custom(tool: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Returns a function of one text for a tool of free text, whose grammar stands in its description."""
    form = tool.get("format")
    grammar = form.get("definition") if isinstance(form, dict) else None
    words = [text for text in (tool.get("description"), grammar) if isinstance(text, str) and text]
    return _function({"name": tool.get("name"), "description": "\n\n".join(words), "parameters": _FREE_TEXT}, where)
