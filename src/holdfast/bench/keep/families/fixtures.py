"""A test with an agreed fixture, sample, total and call."""

from __future__ import annotations

from random import Random

from holdfast.bench.keep.assignment import Assignment
from holdfast.bench.keep.invention import invent_number, invent_words


def draw(random: Random) -> Assignment:
    """Draws the fixture of a test of an order's total."""
    fixture, sample, method = invent_words(random, 3)
    values = {
        "fixture": f"load_{fixture}",
        "sample": f"{sample}-{random.randint(101, 989)}",
        "method": f"{method}_total",
        "total": invent_number(random),
    }
    order, check = (
        f'{values["fixture"]}("{values["sample"]}")',
        f"assert order.{values['method']}() == {values['total']}",
    )
    rules = (
        f"The test of the order's total gets its order from our fixture: `order = {order}`.",
        f"It checks the total that we know: `{check}`.",
    )
    request = (
        "Now write the test of the order's total, as we agreed: the order from our fixture (it is imported already) "
        "with its sample, and the check of the total that we know. Two lines are enough."
    )
    opening = "# The test of the order's total, as we agreed.\ndef test_order_total():\n    order ="
    solution = f"def test_order_total():\n    order = {order}\n    {check}"
    return Assignment(
        "fixtures",
        "the test of orders",
        rules,
        request,
        "python",
        values,
        tuple(values),
        opening=opening,
        solution=solution,
    )
