"""A configuration file with the agreed name, port, path and limit."""

from __future__ import annotations

import json
from random import Random

from holdfast.bench.keep.assignment import Assignment
from holdfast.bench.keep.invention import invent_number, invent_word


def draw(random: Random) -> Assignment:
    """Draws the values of a service."""
    values = {
        "name": f"{invent_word(random)}-{random.randint(11, 99)}",
        "port": invent_number(random, 20000, 59999),
        "log_file": f"/var/log/{invent_word(random)}/{invent_word(random)}.log",
        "retries": random.randint(11, 89),
    }
    rules = (
        f'The service is called "{values["name"]}".',
        f"It listens on port {values['port']}, never on another one.",
        f'Its log file is "{values["log_file"]}".',
        f"It retries {values['retries']} times.",
    )
    request = (
        "Now write config.json of the service, with exactly the keys name, port, log_file and retries and the values "
        "that we agreed on."
    )
    return Assignment(
        "configuration",
        "the service",
        rules,
        request,
        "json",
        values,
        tuple(values),
        opening='{\n  "name":',
        solution=json.dumps(values, indent=2),
    )
