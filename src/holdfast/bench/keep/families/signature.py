"""A function with an agreed name, parameter, limit and error."""

from __future__ import annotations

from random import Random

from holdfast.bench.keep.assignment import Assignment
from holdfast.bench.keep.invention import invent_number, invent_word, invent_words


def draw(random: Random) -> Assignment:
    """Draws the signature of a function that converts a reading."""
    first, second, parameter = invent_words(random, 3)
    values = {
        "name": f"{first}_{second}",
        "parameter": parameter,
        "limit": invent_number(random, 300, 2999),
        "error": f"{invent_word(random).capitalize()}Error",
    }
    head = f"def {values['name']}({values['parameter']}):"
    limit = f"if {values['parameter']} > {values['limit']}: raise {values['error']}"
    rules = (
        f"The function that converts a reading is `{head}`, with this one parameter.",
        f"Its limit: `{limit}`; else it returns the reading.",
    )
    request = (
        "Now write the function that converts a reading, as we agreed: its name, its one parameter, the limit, and the "
        "error that it raises above the limit (the error class exists already)."
    )
    solution = (
        f"def {values['name']}({values['parameter']}):\n"
        f"    if {values['parameter']} > {values['limit']}:\n"
        f"        raise {values['error']}\n"
        f"    return {values['parameter']}"
    )
    return Assignment(
        "signature",
        "the conversion of readings",
        rules,
        request,
        "python",
        values,
        tuple(values),
        opening="# The function that converts a reading, and its limit, as we agreed.\ndef",
        solution=solution,
    )
