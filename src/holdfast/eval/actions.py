"""Actions as text: the tool that is called and its arguments, and how far two actions agree.

A greedy action is cut after so many tokens, so calls are read up to where they break off.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from holdfast.eval.metrics import token_f1

_NAME = re.compile(r"[\w.:/-]*")
_ENDS = ("</function>", "</tool_call>")
"""The texts that close a call in the syntaxes that models write."""


class Action(NamedTuple):
    """An agent's action; `tool` is None where it only speaks."""

    tool: str | None
    arguments: str


class Agreement(NamedTuple):
    """The agreement of an action with another one."""

    tool: bool | None
    """None where the session calls no tool there."""
    exact: bool
    f1: float
    """0 to 1, over words and signs."""


def read_action(text: str, calls: bool) -> Action:
    """Reads an action; that of a call begins with its tool's name. Only the first of several calls is compared."""
    if not calls:
        return Action(None, " ".join(text.split()))
    name = _NAME.match(text)
    tool = name[0] if name else ""
    rest = text[len(tool) :]
    ends = [at for at in map(rest.find, _ENDS) if at >= 0]
    return Action(tool, " ".join(rest[: min(ends, default=len(rest))].split()))


def compare_actions(ours: Action, theirs: Action) -> Agreement:
    """Compares two actions; without the same tool no argument agrees."""
    same = ours.tool == theirs.tool
    tool = None if theirs.tool is None else same
    if not same:
        return Agreement(tool, False, 0.0)
    return Agreement(tool, ours.arguments == theirs.arguments, token_f1(ours.arguments, theirs.arguments))
