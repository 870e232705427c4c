"""A table that was agreed as a whole and is half written: the file is open, and the rest of it is asked for."""

from __future__ import annotations

from random import Random

from holdfast.bench.keep.assignment import Assignment
from holdfast.bench.keep.invention import invent_number, invent_words

HALF = 3


def draw(random: Random) -> Assignment:
    """Draws a table of error codes; the agent has written the first half of it."""
    words = invent_words(random, 2 * HALF)
    lines = [f'"E{invent_number(random)}": "{word}"' for word in words]
    rules = (
        "The table of error codes has six entries: " + ", ".join(lines) + ".",
        "Write the first three now, and the rest when I ask for it.",
    )
    request = (
        "Now finish the table of error codes: its first three entries are written, the others that we agreed on are "
        "missing."
    )
    begun = "# The table of error codes, all six entries that we agreed on.\nCODES = {\n"
    begun += "".join(f"    {line},\n" for line in lines[:HALF])
    rest = "".join(f"    {line},\n" for line in lines[HALF:])
    values = {"rest": dict(_entry(line) for line in lines[HALF:]), "entries": 2 * HALF}
    facts = (*(f"entry {number}" for number in range(HALF + 1, 2 * HALF + 1)), "no other")
    return Assignment(
        "unfinished_list",
        "the error codes",
        rules,
        request,
        "python",
        values,
        facts,
        opening=begun.rstrip("\n"),
        solution=begun + rest + "}",
        begun=begun + "}\n",
    )


def _entry(line: str) -> tuple[str, str]:
    code, _, word = line.partition(": ")
    return code.strip('"'), word.strip('"')
