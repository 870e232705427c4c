"""Mutated exports of a session, taken in by a server: each is refused in words, or is a session in which all works.

    PYTHONPATH=src:tests python benchmarks/fuzz_imports.py --count 10000

The session is one of the tiny random model, with compactions, an undo, pins and a rewind. A mutation changes bytes of
the archive, or events and objects within a sound archive; half of those have a right seal, as a forger would write it.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import struct
import sys
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from typing import Any

from conftest import build_pair, small_session
from holdfast.compaction.plan import Plan, Policy
from holdfast.errors import BadContext, HoldfastError, TooLarge
from holdfast.server.protocol import AnswerEnd, GenerateRequest
from holdfast.server.sessions.host import HostPolicy, SessionHost
from holdfast.session.trigger import Trigger
from holdfast.storage.store import Store
from holdfast.transcript.turn import Role, Turn

Events = list[dict[str, Any]]
PLAN = Plan(latent="kvzip", ratio=4, policy=Policy(keep_recent=1))
POLICY = HostPolicy(trigger=Trigger(tokens=10**9, window=None))
ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    2**31,
    10**30,
    0.5,
    -0.5,
    1e308,
    "",
    "nan",
    "7",
    "\ud800",
    [],
    {},
    [[]],
    "x" * 5000,
)
ODD_NUMBERS = ("NaN", "Infinity", "-Infinity", "1e999", "-1e999")


@dataclass
class Outcome:
    """The counts of a run."""

    tried: Counter[str] = field(default_factory=Counter)
    taken: Counter[str] = field(default_factory=Counter)
    """Mutations that were taken in, and in which all worked."""
    wrong: list[str] = field(default_factory=list)


@cache
def export_session() -> bytes:
    """Returns the export of a session with a past."""
    host, turns = open_host(), small_session().turns
    name = ""
    for step in ("compact", "undo", "compact", "discard", "compact"):
        name, turn = answer(host, turns)
        turns = (*turns, turn, Turn(Role.USER, f"Now the next file, {step}, which has words enough to go. " * 4))
        if step == "compact":
            host.compact(name, "k", {})
        elif step == "undo":
            host.undo(name, "k")
        else:
            host.pin(name, "k", 2, True)
            host.mark(name, "k", "discard", None)
            turns = turns[:-2]
    host.close()
    return host.export(name, "k")


def open_host() -> SessionHost:
    open_host.count += 1  # type: ignore[attr-defined]
    return SessionHost(build_pair("llama").engine, PLAN, Store(f"memory://imports-{open_host.count}"), POLICY)  # type: ignore[attr-defined]


open_host.count = 0  # type: ignore[attr-defined]


def answer(host: SessionHost, turns: tuple[Turn, ...]) -> tuple[str, Turn]:
    """Returns the session that answered, and its turn."""
    *_, end = host.complete(GenerateRequest(tuple(turns), max_tokens=4, key="k"))
    assert isinstance(end, AnswerEnd)
    return str(end.extension["session"]), end.turn


# mutations


def flip_bytes(data: bytes, draw: random.Random) -> bytes:
    """Changes one to four bytes of the archive."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def cut(data: bytes, draw: random.Random) -> bytes:
    """Leaves out the end, the start or a part between."""
    a, b = sorted(draw.randrange(len(data)) for _ in range(2))
    return draw.choice((data[:a], data[b:], data[:a] + data[b:], data + data[a:b]))


def flip_in_objects(_: Events, objects: dict[str, bytes], draw: random.Random) -> None:
    """Changes bytes of an object, under its old name or a right one."""
    name = draw.choice(sorted(objects))
    objects[name] = flip_bytes(objects[name], draw)


def forge_object(events: Events, objects: dict[str, bytes], draw: random.Random) -> None:
    """Changes floats of an object and everything that names it."""
    name = draw.choice(sorted(objects))
    data = bytearray(objects.pop(name))
    at = draw.randrange(8, len(data) - 4)
    data[at : at + 4] = draw.choice((struct.pack("<f", float("nan")), struct.pack("<f", float("inf")), b"\xff" * 4))
    digest, old = sha256(data).hexdigest(), name.rpartition("/")[2]
    objects[f"objects/{digest}"] = bytes(data)
    for event in events:
        event.update({key: digest for key in ("context", "hidden") if event.get(key) == old})


def swap_objects(events: Events, _: dict[str, bytes], draw: random.Random) -> None:
    """Gives a checkpoint the objects of another."""
    stored = [event for event in events if "context" in event]
    one, other = draw.choice(stored), draw.choice(stored)
    key = draw.choice(("context", "hidden"))
    one[key] = other[draw.choice(("context", "hidden"))]


def reorder(events: Events, _: dict[str, bytes], draw: random.Random) -> None:
    """Swaps two events."""
    a, b = draw.sample(range(len(events)), 2)
    events[a], events[b] = events[b], events[a]


def repeat(events: Events, _: dict[str, bytes], draw: random.Random) -> None:
    """Has an event twice."""
    events.insert(draw.randrange(len(events) + 1), deepcopy(draw.choice(events)))


def leave_out(events: Events, _: dict[str, bytes], draw: random.Random) -> None:
    """Leaves out one event, or all from one on."""
    at = draw.randrange(len(events))
    del events[at : draw.choice((at + 1, len(events)))]


def set_field(events: Events, _: dict[str, bytes], draw: random.Random) -> None:
    """Gives a field anywhere in the events an odd value."""
    at: Any = events
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        if not keys:
            return
        key = draw.choice(keys)
        if isinstance(at[key], dict | list) and at[key] and draw.random() < 0.8:
            at = at[key]
            continue
        at[key] = deepcopy(draw.choice(ODD_VALUES))
        return


def change_count(events: Events, _: dict[str, bytes], draw: random.Random) -> None:
    """Moves a count a little."""
    counts = [(e, k) for e in events for k, v in e.items() if type(v) is int]
    event, key = draw.choice(counts)
    event[key] += draw.choice((-2, -1, 1, 2, 100))


def drop_field(events: Events, _: dict[str, bytes], draw: random.Random) -> None:
    """Leaves out a field of an event."""
    event = draw.choice(events)
    event.pop(draw.choice(sorted(event)))


def add_field(events: Events, _: dict[str, bytes], draw: random.Random) -> None:
    """Adds a field, or an event of another kind."""
    draw.choice(events)[draw.choice(("key", "x", "told", "at", "turn", "turns"))] = deepcopy(draw.choice(ODD_VALUES))


def move_blocks(events: Events, _: dict[str, bytes], draw: random.Random) -> None:
    """Gives blocks to other turns, other kinds or other tokens."""
    rows = [row for event in events if event["kind"] == "turns" for row in event["blocks"]]
    row = draw.choice(rows)
    change = draw.randrange(3)
    row[change] = (row[0] + draw.choice((-1, 1, 50)), "nothing", [*row[2], 10**9])[change]


WITHIN = (
    *(flip_in_objects, forge_object, swap_objects, reorder, repeat, leave_out),
    *(set_field, change_count, drop_field, add_field, move_blocks),
)
WHOLE = (flip_bytes, cut)


def mutate(draw: random.Random) -> tuple[str, bytes]:
    """Returns the name of a mutation, and a mutated export."""
    change: Callable[..., Any] = draw.choice(WITHIN + WHOLE)
    if change in WHOLE:
        return change.__name__, change(export_session(), draw)
    with zipfile.ZipFile(io.BytesIO(export_session())) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    events: Events = json.loads(parts.pop("events.json"))
    seal = parts.pop("events.sha256")
    change(events, parts, draw)
    for _ in range(draw.choice((0, 0, 0, 1, 2))):
        with suppress(LookupError, TypeError, ValueError, AttributeError):  # what it finds is odd already
            change(events, parts, draw)
    written = json.dumps(events)
    if draw.random() < 0.05:
        written = written.replace('"at": 1', f'"at": {draw.choice(ODD_NUMBERS)}, "x": 1', 1)
    seal = draw.choice((seal, sha256(written.encode()).hexdigest().encode()))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("events.json", written)
        if draw.random() < 0.8:
            file.writestr("events.sha256", seal)
        for name, data in parts.items():
            file.writestr(name, data)
    return change.__name__, out.getvalue()


# what must hold


def try_import(host: SessionHost, data: bytes) -> bool:
    """Returns True if a file was taken in and all worked, False if it was refused and left nothing.

    Raises whatever else happens.
    """
    before = host.registry.store.logs()
    try:
        row = host.take(data, "k")
    except (BadContext, TooLarge):
        assert host.registry.store.logs() == before, "a refused file left a log"
        assert not host.sessions("k"), "a refused file is listed"
        return False
    name = row["id"]
    json.dumps([host.sessions("k"), host.session(name, "k"), dict(row)], allow_nan=False)
    turns = [host.expand(name, "k", turn) for turn in range(1, row["turns"] + 1)]
    json.dumps(turns, allow_nan=False)
    with host.registry.enter(name, "k") as entry:
        session = entry.session
        ids = [token for block in session.cache.blocks for token in block.ids]
        assert session.cache.tokens == len(ids), "memory and log hold other tokens"
        assert len(session.turns) == row["turns"]
        history = session.turns
    assert host.take(host.export(name, "k"), "k")["turns"] == row["turns"], "it cannot be export_session again"
    if history and history[-1].role is not Role.USER:
        go_on(host, (*history, Turn(Role.USER, "And then?")))
    for one in host.sessions("k"):
        host.drop(one["id"], "k")
    assert not host.registry.store.logs(), "a session was dropped and is still there"
    return True


def go_on(host: SessionHost, turns: tuple[Turn, ...]) -> None:
    """Answers; what cannot be answered is refused in words."""
    with suppress(HoldfastError):
        answer(host, turns)


def run(count: int, seed: int = 0) -> Outcome:
    """Tries so many mutations."""
    outcome, host = Outcome(), open_host()
    for number in range(count):
        name, data = mutate(random.Random(f"{seed}/{number}"))
        outcome.tried[name] += 1
        try:
            outcome.taken[name] += try_import(host, data)
        except Exception as error:
            outcome.wrong.append(f"{seed}/{number} {name}: {type(error).__name__}: {error}"[:300])
            host = open_host()
    return outcome


def main() -> None:
    """Prints a line for each kind of mutation, and what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    outcome = run(options.count, options.seed)
    for name, tried in sorted(outcome.tried.items()):
        print(f"{name:16} {tried:6} tried {outcome.taken[name]:6} taken {tried - outcome.taken[name]:6} refused")
    print(f"{outcome.tried.total()} mutated imports, {len(outcome.wrong)} wrong", *outcome.wrong[:50], sep="\n")
    sys.exit(bool(outcome.wrong))


if __name__ == "__main__":
    main()
