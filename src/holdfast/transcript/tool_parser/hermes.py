"""Calls as JSON: Hermes, Qwen, SmolLM.

<tool_call>{"name": "f", "arguments": {...}}</tool_call>, or a list of such objects.
"""

from __future__ import annotations

import re
from typing import Any

from holdfast.transcript.tool_parser.base import (
    NotACallError,
    ParsedCall,
    TextParameters,
    ToolSyntax,
    UnfinishedError,
    as_mapping,
    canonical_call,
    parse_json,
)

# Possessive, so that an object that does not close costs one pass. A closing marker inside a string closes nothing.
_OBJECT = re.compile(r'((?:[^"<]++|"(?:[^"\\]|\\.)*+"|<(?!/tool_call>))*+)</tool_call>', re.DOTALL)


def read(text: str, head: re.Match[str], _: TextParameters) -> tuple[list[ParsedCall], int]:
    """Reads one object or a list of them."""
    body = _OBJECT.match(text, head.end())
    if not body:
        raise UnfinishedError
    try:
        value = parse_json(body[1])
        return [_read_call(call) for call in (value if isinstance(value, list) else [value])], body.end()
    except ValueError:
        raise NotACallError from None


def _read_call(call: Any) -> ParsedCall:
    """Reads one object. Raises ValueError for one that is no call."""
    name, arguments = as_mapping(call).get("name"), as_mapping(call).get("arguments", {})
    if isinstance(arguments, str):
        arguments = parse_json(arguments)
    if not (isinstance(name, str) and name and isinstance(arguments, dict)):
        raise ValueError("no call")
    return canonical_call(name, arguments)


HERMES = ToolSyntax(
    markers=("<tool_call>",),
    head=re.compile(r'<tool_call>\s*(?=(?:\[\s*)?\{\s*")'),
    partial_head=re.compile(r"<tool_call>\s*(?:\[\s*)?(?:\{\s*)?"),
    close="</tool_call>",
    read=read,
)
