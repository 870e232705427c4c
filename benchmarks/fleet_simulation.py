"""Replicas that serve the turns of recorded sessions: routing by affinity or at random, memory full or compacted.

fleet_simulation.py SESSION … [--replicas N] [--count N] [--tokens N] [--model LINE] [--kill SECONDS] [--seed N]

A simulation of discrete events; what it assumes it prints, or stands beside the constants here and in fleet_sizes.py.
Nothing of it was measured on a fleet.
"""

from __future__ import annotations

import argparse
import hashlib
import heapq
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from statistics import median, quantiles
from typing import Any

from fleet_sizes import DECODE, MODELS, RATIO, Model

import holdfast
from holdfast.cost.calls import read_session as calls_of
from holdfast.transcript.draft import turn_size
from holdfast.transcript.token_estimate import estimate_tokens as tokens_of

COMPACTION = 1.0  # of the prefill of the same tokens: `informed` at 7,900 tokens (docs/log.md, speed and bytes)
TAIL = 8192  # tokens that are verbatim when a session is compacted
KEPT = 1024  # of the newest, which stay so
LONGEST_PAUSE = 600.0  # seconds between two turns: longer ones in the recordings are cut to this


@dataclass(frozen=True)
class Turn:
    """One call of the model: tokens that are new in its prompt, tokens of its answer, seconds until the next."""

    prompt: int
    answer: int
    pause: float


def read_turns(path: str) -> list[Turn]:
    """Returns the turns of a transcript, with pauses from its times (15 s if it has none)."""
    found = calls_of(holdfast.read(path))
    turns, before, made = found.transcript.turns, 0, []
    for at, call in enumerate(found.calls):
        new = sum(turn_size(turn, tokens_of) for turn in turns[before : call.turn])
        before = call.turn + 1
        after = found.calls[at + 1].at if at + 1 < len(found.calls) else call.at
        pause = min(LONGEST_PAUSE, max(0.0, after - call.at - call.output / DECODE))
        made.append(Turn(max(1, round(new * found.scale)) + (0 if at else found.overhead), max(1, call.output), pause))
    return made


def draw_session(sessions: Sequence[Sequence[Turn]], tokens: int, rng: random.Random) -> list[Turn]:
    """Returns recorded sessions one after another, as a user with many tasks has them, up to `tokens` tokens."""
    made: list[Turn] = []
    while sum(turn.prompt + turn.answer for turn in made) < tokens:
        made += rng.choice(sessions)
    while len(made) > 1 and sum(turn.prompt + turn.answer for turn in made) > tokens:
        made.pop()
    return made


@dataclass(frozen=True)
class Setup:
    """The fleet that is simulated."""

    model: Model
    replicas: int
    form: str = "full"
    affinity: bool = True
    store: float = 0.0
    """Bytes a second from the shared store, which then has every session after every turn; 0: there is none."""
    kill: float | None = None
    """Seconds after which replica 0 dies."""


@dataclass
class Session:
    """Its turns, and what is held of it."""

    id: int
    turns: list[Turn]
    at: int | None = None
    """The replica that holds it."""
    next: int = 0
    tokens: int = 0
    compacted: int = 0
    stored: bool = False
    state: str = ""
    """`serving`, `compacting`, or empty: it may leave the memory."""
    attempt: int = 0
    asked: float = 0.0


@dataclass
class Replica:
    """One model with its memory: prefills one after another; decodes beside them."""

    held: dict[int, float] = field(default_factory=dict)
    """Bytes by session, the least recently used first."""
    queue: deque[tuple[str, Session]] = field(default_factory=deque)
    busy: bool = False
    alive: bool = True
    peak: float = 0.0


@dataclass
class Outcome:
    """Results of a simulation."""

    served: dict[tuple[int, int], int] = field(default_factory=dict)
    """Number of answers by session and turn."""
    waits: list[float] = field(default_factory=list)
    prefilled: int = 0
    compacted: int = 0
    spilled: int = 0
    moved: float = 0.0
    redone: int = 0
    peak: float = 0.0
    end: float = 0.0


class Simulation:
    """Events in the order of their times; equal times in the order in which they were made."""

    def __init__(self, setup: Setup, sessions: list[list[Turn]], seed: int, spread: float) -> None:
        self.setup, self.rng, self.outcome = setup, random.Random(seed), Outcome()
        self.replicas = [Replica() for _ in range(setup.replicas)]
        self.sessions = [Session(number, turns) for number, turns in enumerate(sessions)]
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.order, self.now = count(), 0.0
        for session in self.sessions:
            self.after(self.rng.uniform(0, spread), self.ask, session)
        if setup.kill is not None:
            self.after(setup.kill, self.die, self.replicas[0])

    def after(self, seconds: float, what: Callable[..., None], *given: Any) -> None:
        heapq.heappush(self.events, (self.now + seconds, next(self.order), lambda: what(*given)))

    def run(self) -> Outcome:
        while self.events:
            self.now, _, what = heapq.heappop(self.events)
            what()
        self.outcome.peak, self.outcome.end = max(replica.peak for replica in self.replicas), self.now
        return self.outcome

    def ask(self, session: Session) -> None:
        session.asked = self.now
        self.route(session)

    def route(self, session: Session) -> None:
        session.attempt += 1
        alive = [number for number, replica in enumerate(self.replicas) if replica.alive]
        if self.setup.affinity:  # rendezvous hashing: when one replica dies, only its own sessions move
            number = max(alive, key=lambda n: hashlib.sha256(f"{session.id}/{n}".encode()).digest())
        else:
            number = self.rng.choice(alive)
        self.replicas[number].queue.append(("turn", session))
        self.go_on(number)

    def go_on(self, number: int) -> None:
        """Starts the first entries of the queue while there is room for them."""
        replica = self.replicas[number]
        while replica.alive and not replica.busy and replica.queue:
            what, session = replica.queue[0]
            if what == "compact":
                replica.queue.popleft()
                if session.at == number and not session.state:
                    self.compact(number, session)
            elif session.state or not self.start(number, session):
                return  # go_on is called again when what is in the way has ended
            else:
                replica.queue.popleft()

    def start(self, number: int, session: Session) -> bool:
        """Gives a turn its memory and prefills it. Returns False if sessions that are being served hold too much."""
        replica, turn = self.replicas[number], session.turns[session.next]
        here, fetched = session.at == number, session.at != number and session.stored
        compacted = session.compacted if here or fetched else 0
        need = self.bytes(session.tokens + turn.prompt + turn.answer, compacted)
        if need > self.setup.model.room:
            raise ValueError(f"session {session.id} needs {need / 1e9:.1f} GB and a replica has less; lower --tokens")
        if not self.make_room(number, session, need):
            return False
        missing = turn.prompt + (0 if here or fetched else session.tokens)
        behind = session.tokens + turn.prompt - missing
        seconds = self.setup.model.prefill(missing, behind - compacted * (1 - 1 / RATIO))
        if fetched:
            bytes_moved = self.bytes(session.tokens, compacted)
            self.outcome.moved += bytes_moved
            seconds += bytes_moved / self.setup.store
        if session.at is not None and not here:
            self.replicas[session.at].held.pop(session.id, None)
        session.at, session.compacted, session.state, replica.busy = number, compacted, "serving", True
        self.outcome.prefilled += missing
        self.after(seconds, self.finish_prefill, number, session, session.attempt)
        return True

    def make_room(self, number: int, session: Session, need: float) -> bool:
        replica, own = self.replicas[number], self.replicas[number].held.get(session.id, 0.0)
        idle = [n for n in replica.held if n != session.id and not self.sessions[n].state]
        free = self.setup.model.room - sum(replica.held.values()) + own
        if free + sum(replica.held[n] for n in idle) < need:
            return False
        for n in idle:
            if free >= need:
                break
            free += replica.held.pop(n)
            self.sessions[n].at = None
            self.outcome.spilled += 1
        replica.held.pop(session.id, None)
        replica.held[session.id] = need  # the last of the dict is the most recently used
        replica.peak = max(replica.peak, sum(replica.held.values()))
        return True

    def finish_prefill(self, number: int, session: Session, attempt: int) -> None:
        if session.attempt != attempt:  # the replica died meanwhile
            return
        self.replicas[number].busy = False
        self.outcome.waits.append(self.now - session.asked)
        self.after(session.turns[session.next].answer / DECODE, self.finish_answer, number, session, attempt)
        self.go_on(number)

    def finish_answer(self, number: int, session: Session, attempt: int) -> None:
        if session.attempt != attempt:
            return
        turn = session.turns[session.next]
        key = (session.id, session.next)
        self.outcome.served[key] = self.outcome.served.get(key, 0) + 1
        session.tokens += turn.prompt + turn.answer
        session.next, session.state, session.stored = session.next + 1, "", self.setup.store > 0
        if session.next < len(session.turns):
            self.after(turn.pause, self.ask, session)
        else:
            self.replicas[number].held.pop(session.id)
            session.at = None
        if self.setup.form != "full" and session.at is not None and session.tokens - session.compacted > TAIL:
            self.replicas[number].queue.append(("compact", session))
        self.wake()

    def compact(self, number: int, session: Session) -> None:
        """Compacts the verbatim tokens except the newest; the replica does nothing else meanwhile."""
        span = session.tokens - session.compacted - KEPT
        seconds = COMPACTION * self.setup.model.prefill(span, session.compacted / RATIO)
        session.state, self.replicas[number].busy = "compacting", True
        self.outcome.compacted += span
        self.after(seconds, self.finish_compaction, number, session, span)

    def finish_compaction(self, number: int, session: Session, span: int) -> None:
        replica = self.replicas[number]
        if not replica.alive or session.at != number:
            return
        session.compacted += span
        session.state, replica.busy = "", False
        replica.held[session.id] = self.bytes(session.tokens, session.compacted)
        self.wake()

    def die(self, replica: Replica) -> None:
        """Drops the memory of a replica and asks its turns again elsewhere, from the store or from their text."""
        replica.alive, lost = False, [session for what, session in replica.queue if what == "turn"]
        for session in self.sessions:
            if session.at is not None and self.replicas[session.at] is replica:
                lost += [session] if session.state == "serving" else []
                session.at, session.state = None, ""
        replica.queue.clear()
        replica.held.clear()
        self.outcome.redone += len(lost)
        for session in lost:
            self.route(session)
        self.wake()

    def wake(self) -> None:
        for number in range(len(self.replicas)):
            self.go_on(number)

    def bytes(self, tokens: int, compacted: int) -> float:
        model = self.setup.model
        return (tokens - compacted) * model.slot("full") + model.memory_bytes(compacted, self.setup.form)


SETUPS: dict[str, dict[str, Any]] = {
    "random, full": {"affinity": False},
    "affinity, full": {},
    "affinity, full, store": {"store": True},
    "affinity, 8x": {"form": "8x"},
    "affinity, 8x, store": {"form": "8x", "store": True},
    "affinity, 8x + int8, store": {"form": "8x + int8", "store": True},
    "random, 8x + int8, store": {"form": "8x + int8", "store": True, "affinity": False},
}


def table(setup: Setup, sessions: list[list[Turn]], seed: int, spread: float, link: float) -> None:
    """Prints a line for each way to run the same sessions."""
    heads = ("turns", "prefilled", "compacted", "first token p50 / p95", "most held", "spilled", "from store", "redone")
    print(f"| routing, memory | {' | '.join(heads)} |\n|---|" + "--:|" * len(heads))
    for name, changes in SETUPS.items():
        one = replace(setup, **{**changes, "store": link if changes.get("store") else 0.0})
        told = Simulation(one, sessions, seed, spread).run()
        late = quantiles(told.waits, n=20)[-1]
        print(
            f"| {name} | {sum(told.served.values())} | {told.prefilled / 1e6:.1f} M | {told.compacted / 1e6:.1f} M | "
            f"{median(told.waits):.2f} / {late:.2f} s | {told.peak / 1e9:.1f} GB | {told.spilled} | "
            f"{told.moved / 1e9:.0f} GB | {told.redone} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sessions", nargs="+", help="transcripts that turns and pauses are drawn from")
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--count", type=int, default=100, help="sessions that are simulated")
    parser.add_argument("--tokens", type=int, default=96_000, help="most tokens of each")
    parser.add_argument("--spread", type=float, default=900.0, help="seconds in which they begin")
    parser.add_argument(
        "--model", choices=[str(at) for at in range(len(MODELS))], default="0", help="line of fleet_sizes.py"
    )
    parser.add_argument("--link", type=float, default=10e9 / 8, help="bytes a second from the store")
    parser.add_argument("--kill", type=float, help="replica 0 dies after so many seconds")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    real = [turns for path in given.sessions if (turns := read_turns(path))]
    rng = random.Random(given.seed)
    sessions = [draw_session(real, given.tokens, rng) for _ in range(given.count)]
    model = MODELS[int(given.model)]
    everything = [turn for turns in sessions for turn in turns]
    total = sum(turn.prompt + turn.answer for turn in everything)
    print(
        f"{given.replicas} replicas of {model.name}, {model.gpus} GPU(s), {model.room / 1e9:.1f} GB for sessions each; "
        f"{given.count} sessions of up to {given.tokens:,} tokens drawn from {len(real)} recorded ones, begun within "
        f"{given.spread:g} s; {len(everything)} turns, {total / 1e6:.1f} M tokens; per turn, median: "
        f"{median(turn.prompt for turn in everything):g} new, {median(turn.answer for turn in everything):g} answered, "
        f"pause {median(turn.pause for turn in everything):.1f} s\n"
        f"answers at {DECODE:g} tokens/s; compacted when {TAIL:,} tokens are verbatim, at {COMPACTION:g} of their "
        f"prefill; store at {given.link / 1e9:g} GB/s; seed {given.seed}\n"
    )
    table(Setup(model, given.replicas, kill=given.kill), sessions, given.seed, given.spread, given.link)


if __name__ == "__main__":
    main()
