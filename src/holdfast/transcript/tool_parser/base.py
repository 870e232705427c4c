"""The contract of a tool-call syntax, and what all of them do with names and arguments."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

ParsedCall = tuple[str, str]
"""Name and arguments, which are canonical JSON."""
TextParameters = Mapping[str, frozenset[str]]
"""For each function, its parameters that are declared as strings."""


class NotACallError(Exception):
    """The text behind a marker is no call."""


class UnfinishedError(Exception):
    """More text decides whether it is a call."""


@dataclass(frozen=True)
class ToolSyntax:
    """One way in which models write tool calls."""

    markers: tuple[str, ...]
    """Texts with which a call may begin."""
    head: re.Pattern[str]
    """The beginning that only a call has, from its marker on."""
    partial_head: re.Pattern[str]
    """Every beginning of a head."""
    close: str
    """The text at the end of a call."""
    read: Callable[[str, re.Match[str], TextParameters], tuple[list[ParsedCall], int]]
    """Reads the calls at the start of a text, whose head matched; returns them and how many characters they take.

    Raises NotACallError and UnfinishedError.
    """
    trailing: str = ""
    """A marker that may follow the end and then belongs to it."""


def partial_pattern(literal: str) -> str:
    """Returns a pattern for every beginning of a literal, the empty one and the whole of it among them."""
    pattern = ""
    for character in reversed(literal):
        pattern = f"(?:{re.escape(character)}{pattern})?"
    return pattern


def parse_json(text: str) -> Any:
    """Parses JSON, with line breaks inside its strings as models write them. Raises ValueError."""
    try:
        value = json.loads(text, strict=False)
        json.dumps(value, allow_nan=False)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def canonical_call(name: str, arguments: Mapping[str, Any]) -> ParsedCall:
    """Returns a call as every wire gives it back, whether it carries arguments as text or as an object."""
    return whole_text(name), whole_text(json.dumps(arguments, ensure_ascii=False))


def whole_text(text: str) -> str:
    """Returns a text in which half of a UTF-16 pair, which no wire can carry, is U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def as_mapping(value: object) -> Mapping[str, Any]:
    """Returns a mapping as it is, and an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}
