"""Time that a request with its whole history takes to find its session, by the number of its turns.

Half the turns are calls with arguments, half are results; each time the client has read the request anew, so that no
text of it is known by its identity. Beside the index: hashing every turn again, as on the first request after a
restart; comparing the bytes of the whole request with those of each session held; and what comes before any of it,
reading the request's JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from typing import Any

from holdfast.adapters.messages import turns_of
from holdfast.server.sessions.prefix_index import PrefixIndex, links, seed

WORDS = [f"{word}{end}" for word in ("path", "error", "value", "test", "module", "return") for end in " .\n\"_(:'"]
CLOCKS = {"wall": time.perf_counter, "processor": time.thread_time}
SEED = seed("key", "model")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, nargs="+", default=[10, 100, 500, 2000])
    parser.add_argument("--size", type=int, default=4096, help="characters of a turn")
    parser.add_argument("--sessions", type=int, default=32, help="sessions held that begin alike")
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="processor: where other programs share the cores"
    )
    given = parser.parse_args()
    print(f"{given.clock} milliseconds, p50 / p95 of {given.times}")
    print(f"{given.size} characters a turn, {given.sessions} sessions held")
    print("turns  index            hash all again   bytes of all     add, when grown  read the request")
    for turns in given.turns:
        row = (f"{low:6.2f} / {high:6.2f}" for low, high in measure(turns, given))
        print(f"{turns:5}", *row, sep="  ", flush=True)


def measure(count: int, given: argparse.Namespace) -> list[tuple[float, float]]:
    """Returns p50 and p95 of each way, for a request of `count` turns, two of them new, to the session that was used
    last.
    """
    whole = messages(count, given.size)
    index, held = PrefixIndex(), []
    for number in range(given.sessions):  # every session shares half of the history, and goes on in its own way
        shared = whole[: count // 2] if number + 1 < given.sessions else whole[:-2]
        old = turns_of([*shared, {"role": "user", "content": f"go on {number}"}])
        known = old if number + 1 < given.sessions else old[:-1]
        index.add(str(number), SEED, links(known, SEED), known)
        held.append(wire([*shared]))
    request = wire(whole)

    def find(turns: Any) -> None:
        session, length = index.longest_prefix(index.links(turns, SEED)) or ("", 0)
        assert (session, length) == (str(given.sessions - 1), count - 2)

    def grow(turns: Any) -> None:
        index.add(str(given.sessions - 1), SEED, index.links(turns, SEED), turns)

    def compare(body: bytes) -> None:
        assert max(len(one) for one in held if body.startswith(one[:-2])) == len(held[-1])

    def read(_: None = None) -> Any:
        return turns_of(json.loads(request)["messages"])

    ways = (find, read), (lambda turns: links(turns, SEED), read), (compare, lambda: bytes(bytearray(request)))
    return [time_of(work, fresh, given) for work, fresh in (*ways, (grow, read), (read, lambda: None))]


def time_of(work: Callable[[Any], object], fresh: Callable[[], Any], given: argparse.Namespace) -> tuple[float, float]:
    """Returns p50 and p95 milliseconds of `work`, on an input made afresh each time."""
    clock, took = CLOCKS[given.clock], []
    for _ in range(given.times):
        made = fresh()
        began = clock()
        work(made)
        took.append(1e3 * (clock() - began))
    took.sort()
    return took[len(took) // 2], took[int(0.95 * (len(took) - 1))]


def messages(count: int, size: int) -> list[dict[str, Any]]:
    """Returns a system prompt, a task, and calls with their results."""
    rng = random.Random(0)
    made: list[dict[str, Any]] = [
        {"role": "system", "content": text(rng, size)},
        {"role": "user", "content": "Fix it."},
    ]
    for at in range(count // 2 - 1):
        function = {"name": "write", "arguments": json.dumps({"path": f"{at}.py", "content": text(rng, size)})}
        call = {"id": f"c{at}", "type": "function", "function": function}
        made.append({"role": "assistant", "content": None, "tool_calls": [call]})
        made.append({"role": "tool", "tool_call_id": f"c{at}", "content": text(rng, size)})
    return made


def text(rng: random.Random, size: int) -> str:
    return "".join(rng.choices(WORDS, k=size // 5))[:size]


def wire(messages: list[dict[str, Any]]) -> bytes:
    return json.dumps({"messages": messages}).encode()


if __name__ == "__main__":
    main()
