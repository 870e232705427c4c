"""Longest wait for a token of one session while the server compacts, prefills or undoes another one.

    holdfast fetch && OMP_NUM_THREADS=1 python benchmarks/fairness.py > fairness.json

A listener asks for one long answer, and the times between its tokens are taken: alone, during an explicit compaction of
another session, during a prefill of a new one, and during an undo. Prints one JSON object; seconds are of the wall
clock, so that runs compare only on one machine under one load: `longest_wait / alone.longest_wait` is what to compare.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import Generator, Tensor

from holdfast.compaction.plan import Plan
from holdfast.engine.local import LocalEngine
from holdfast.engine.sampling import Sampling
from holdfast.model.load import load
from holdfast.server.protocol import AnswerStart, GenerateRequest, TextDelta
from holdfast.server.sessions.host import HostPolicy, SessionHost
from holdfast.session.trigger import Trigger
from holdfast.storage.store import Store
from holdfast.transcript.read import read
from holdfast.transcript.turn import Role, Turn

SESSION = Path(__file__).parents[1] / "examples" / "taskdeck" / "session.json"
NEVER = HostPolicy(Trigger(tokens=10**9, window=None, force=1.0))
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]


@dataclass(frozen=True)
class Endless(Sampling):
    """A sampling that never ends an answer."""

    ends: frozenset[int] = frozenset()

    def choose(self, logits: Tensor, generator: Generator) -> int:
        logits = logits.clone()
        logits[list(self.ends)] = -float("inf")
        return super().choose(logits, generator)


class EndlessHost(SessionHost):
    """A host whose answers end at their limit alone."""

    def sampling(self, request: GenerateRequest) -> Sampling:
        return Endless(ends=frozenset(self.engine.stop_ids))


@dataclass
class Listener:
    """A client that reads one long answer, and the times at which its tokens came."""

    host: SessionHost
    times: list[float] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    ready: threading.Event = field(default_factory=threading.Event)

    def listen(self) -> None:
        turns = (Turn(Role.USER, "Tell me a very long story about a lighthouse."),)
        while not self.stop.is_set():
            events = self.host.complete(GenerateRequest(turns, key=f"listener{time.monotonic()}", max_tokens=4000))
            for event in events:
                if isinstance(event, TextDelta):
                    self.times.append(time.perf_counter())
                    if len(self.times) > 5:
                        self.ready.set()
                if self.stop.is_set():
                    events.close()  # type: ignore[attr-defined]
                    break


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=3000, help="of the session that is compacted, and of the prefill")
    parser.add_argument("--latent", default=Plan().latent)
    parser.add_argument("--alone", type=float, default=10.0, help="seconds for which the listener is heard alone")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        engine = LocalEngine(load())
        host = EndlessHost(engine, Plan(latent=given.latent), Store(folder), NEVER)
        print(json.dumps({"latent": given.latent, "tokens": given.tokens, **measure(host, given.tokens, given.alone)}))
        host.close()


def measure(host: SessionHost, tokens: int, alone: float) -> dict[str, Any]:
    """Returns the waits of the listener in each phase."""
    name = ask_once(host, first_turns(host.engine, tokens), "worker")
    listener = Listener(host)
    thread = threading.Thread(target=listener.listen, daemon=True)
    thread.start()
    listener.ready.wait()
    phases: dict[str, Callable[[], object]] = {
        "alone": lambda: time.sleep(alone),
        "compact": lambda: host.compact(name, "worker", {}),
        "prefill": lambda: ask_once(host, (long_turn(host.engine, tokens),), "reader"),
        "undo": lambda: host.undo(name, "worker"),
    }
    rows = {}
    for phase, work in phases.items():
        print(phase, file=sys.stderr, flush=True)
        rows[phase] = waits_during(listener, work)
    listener.stop.set()
    thread.join()
    return rows


def waits_during(listener: Listener, work: Callable[[], object]) -> dict[str, float]:
    """Returns the seconds that the work took, and the waits between two tokens that overlap with it."""
    began = time.perf_counter()
    work()
    ended = time.perf_counter()
    while not listener.times[-1] > ended:
        time.sleep(0.01)
    gaps = [(a, b) for a, b in pairwise(list(listener.times)) if b > began and a < ended]
    return {
        "seconds": round(ended - began, 2),
        "tokens_of_listener": len(gaps),
        "longest_wait": round(max(b - a for a, b in gaps), 3),
        "mean_wait": round(sum(b - a for a, b in gaps) / len(gaps), 3),
    }


def ask_once(host: SessionHost, turns: tuple[Turn, ...], key: str) -> str:
    """Asks for an answer of one token; returns the name of the session."""
    events = list(host.complete(GenerateRequest(turns, key=key, max_tokens=1)))
    return next(event.session for event in events if isinstance(event, AnswerStart))


def first_turns(engine: LocalEngine, tokens: int) -> tuple[Turn, ...]:
    """Returns the first turns of the recorded session, up to about `tokens` tokens."""
    chosen: list[Turn] = []
    size = 0
    for turn in read(SESSION).turns:
        if size > tokens and turn.role is not Role.TOOL:
            break
        chosen.append(turn)
        size += len(engine.model.tokenizer(turn.text)["input_ids"])
    return tuple(chosen)


def long_turn(engine: LocalEngine, tokens: int) -> Turn:
    """Returns a turn of the user with about `tokens` tokens."""
    each = len(engine.model.tokenizer(" ".join(WORDS))["input_ids"])
    return Turn(Role.USER, " ".join(WORDS * (tokens // each)))


if __name__ == "__main__":
    main()
