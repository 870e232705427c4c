"""Calls as XML: Qwen3-Coder.

<function=f><parameter=k>text</parameter></function>, with or without <tool_call> around it.
"""

from __future__ import annotations

import re
from typing import Any

from holdfast.transcript.tool_parser.base import (
    ParsedCall,
    TextParameters,
    ToolSyntax,
    UnfinishedError,
    canonical_call,
    parse_json,
    partial_pattern,
)

_END = "</function>"
_PARAMETER = re.compile(r"<parameter=([^<>\n]+)>(.*?)</parameter>\s*(?=<parameter=|</function>)", re.DOTALL)


def read(text: str, head: re.Match[str], texts: TextParameters) -> tuple[list[ParsedCall], int]:
    """Reads one function with its parameters."""
    name, at = head[1], head.end()
    values: dict[str, Any] = {}
    while not text.startswith(_END, at):
        parameter = _PARAMETER.match(text, at)
        if not parameter:
            raise UnfinishedError
        value = parameter[2].removeprefix("\n").removesuffix("\n")
        is_text = parameter[1] in texts.get(name, frozenset())
        values[parameter[1]] = value if is_text else _read_value(value)
        at = parameter.end()
    _, arguments = canonical_call(name, values)
    return [(name, arguments)], at + len(_END)


def _read_value(text: str) -> Any:
    """Reads a parameter of unknown type: JSON, unless that is a string, which is written without its quotes."""
    try:
        value = parse_json(text)
    except ValueError:
        return text
    return text if isinstance(value, str) else value


QWEN_CODER = ToolSyntax(
    markers=("<tool_call>", "<function="),
    head=re.compile(r"(?:<tool_call>\s*)?<function=([^<>\n]+)>\s*(?=<parameter=|</function>)"),
    partial_head=re.compile(
        rf"(?:<tool_call>\s*)?(?:{partial_pattern('<function=')}|<function=[^<>\n]+"
        rf"(?:>\s*(?:{partial_pattern('<parameter=')}|{partial_pattern('</function>')}))?)"
    ),
    close=_END,
    read=read,
    trailing="</tool_call>",
)
