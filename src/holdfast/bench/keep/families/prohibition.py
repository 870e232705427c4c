"""A function is written again without calls that were forbidden, with the agreed ones in their place."""

from __future__ import annotations

from random import Random

from holdfast.bench.keep.assignment import Assignment
from holdfast.bench.keep.invention import invent_words

_FORBIDDEN = ("print", "sorted", "sum", "input", "round")


def draw(random: Random) -> Assignment:
    """Draws two forbidden functions and what stands in their place."""
    first, second = random.sample(_FORBIDDEN, 2)
    one, other = (f"{verb}_{word}" for verb, word in zip(("use", "do"), invent_words(random, 2), strict=True))
    values = {"name": "handle", "forbidden": [first, second], "instead": [one, other]}
    rules = (
        f"`{first}` is forbidden in this project. In place of `{first}(rows)` we call `{one}(rows)`.",
        f"`{second}` is forbidden too. In place of `{second}(rows)` we call `{other}(rows)`.",
    )
    request = (
        f"The function `handle` breaks our rules: it calls `{first}(rows)`, then `{second}(rows)`, and returns rows. "
        "Write it again with the functions that we agreed on in their place (they are imported already). Above each "
        "call a comment says the rule: in place of what we call what."
    )
    opening = f"def handle(rows):\n    # In place of `{first}(rows)` we call"
    solution = (
        f"{opening} `{one}(rows)`.\n    {one}(rows)\n    # In place of `{second}(rows)` we call `{other}(rows)`.\n"
        f"    {other}(rows)\n    return rows"
    )
    return Assignment(
        "prohibition",
        "the calls we use",
        rules,
        request,
        "python",
        values,
        ("first", "second", "prohibition"),
        opening=opening,
        solution=solution,
    )
