"""The fault table: what was done to the live server, how often it survived, and what of the acknowledged was lost.

The host, its sessions, compactions and store are the real ones; the model is the tiny random one of the tests, so that
thousands of faults take minutes: run it with PYTHONPATH=tests. `test_faults.py` runs a few of each.
"""

from __future__ import annotations

import argparse
import random
import resource
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import killing

from conftest import build_pair, small_session
from holdfast.compaction.plan import Plan, Policy
from holdfast.engine import kv_context
from holdfast.errors import BadInput, Busy, Conflict, Failed, HoldfastError
from holdfast.model import forward
from holdfast.model.load import full_bytes
from holdfast.server.protocol import AnswerEnd, AnswerStart, GenerateRequest, TextDelta
from holdfast.server.sessions.host import HostPolicy, SessionHost
from holdfast.server.sessions.registry import replay_turns
from holdfast.session.session import Session
from holdfast.session.trigger import CircuitBreaker, Trigger
from holdfast.storage.store import Store
from holdfast.transcript.turn import Role, Turn
from holdfast.transcript.turn_rows import encode_turn

TURNS = small_session().turns
PLAN = Plan(latent="kvzip", ratio=4, policy=Policy(keep_recent=1))
NEVER = HostPolicy(trigger=Trigger(tokens=10**9, window=None))
EAGER = HostPolicy(trigger=Trigger(tokens=300, window=None), breaker=CircuitBreaker(cool_down=0))
PATIENCE = 60  # seconds after which threads that wait for each other are taken to be dead


@dataclass
class Row:
    """One line of the table."""

    fault: str
    invariant: str
    tried: int = 0
    survived: int = 0
    lost: int = 0
    wrong: list[str] = field(default_factory=list)

    def count(self, trial: Callable[[], int | None]) -> None:
        """One more try; the trial raises where an invariant is broken, and returns how many acknowledged are lost."""
        self.tried += 1
        try:
            gone = trial() or 0
        except Exception as error:
            self.wrong.append(f"{type(error).__name__}: {error}"[:300])
            return
        self.lost += gone
        self.survived += not gone


def user(text: str) -> Turn:
    return Turn(Role.USER, text)


def opened(store: Store | Path, policy: HostPolicy = NEVER) -> SessionHost:
    store = store if isinstance(store, Store) else Store(store)
    return SessionHost(build_pair("llama").engine, PLAN, store, policy)


def run(host: SessionHost, turns: Sequence[Turn], key: str = "k", limit: int = 4) -> tuple[AnswerStart, str, AnswerEnd]:
    """One answer, to its end."""
    events = list(host.complete(GenerateRequest(tuple(turns), max_tokens=limit, key=key)))
    started, finished = events[0], events[-1]
    assert isinstance(started, AnswerStart)
    assert isinstance(finished, AnswerEnd)
    return started, "".join(event.text for event in events if isinstance(event, TextDelta)), finished


# what must hold


def agrees(host: SessionHost) -> None:
    """Every session of a host is what its log says, in memory or not, and can be read."""
    store, engine = host.registry.store, host.engine
    for place in host.registry.list_entries():
        logged = Session.resume(place.name, engine, store, PLAN)
        assert place.links == host.registry.index.links(logged.turns, place.seed), "the index and the log differ"
        if (held := place.resident) is not None:
            assert [*map(encode_turn, held.turns)] == [*map(encode_turn, logged.turns)], (
                "memory and log have other turns"
            )
            assert [b.ids for b in held.cache.blocks] == [b.ids for b in logged.cache.blocks], "other tokens"
            for what in ("tail", "slots", "tokens"):
                assert getattr(held.cache, what) == getattr(logged.cache, what), f"memory and log differ in {what}"
            assert (held.pinned, held.compactions) == (logged.pinned, logged.compactions)
        assert place.busy == 0


def within(host: SessionHost) -> None:
    """The books of the memory are true, and within the budget."""
    memory = host.registry.memory
    held = {place.name: place.resident.cache.footprint for place in host.registry.list_entries() if place.resident}
    assert sum(held.values()) <= memory.nbytes <= memory.budget, "the budget is not held"
    assert {name for name, size in held.items() if size} <= set(memory.resident), "memory that nobody accounts for"
    assert not any(one.uses for one in memory._sessions.values()), "a session is in use for ever"


class Told:
    """What clients were told, and what is lost of it."""

    def __init__(self) -> None:
        self.answers: dict[str, list[tuple[Turn, ...]]] = {}

    def note(self, session: str, turns: Sequence[Turn]) -> None:
        self.answers.setdefault(session, []).append(tuple(turns))

    def lost(self, store: Store) -> int:
        """Acknowledged histories that no log of the store holds, under whatever name."""
        held = [[(turn.role, turn.text) for turn in replay_turns(store.events(name))] for name in store.logs()]
        said = [[(turn.role, turn.text) for turn in turns] for of in self.answers.values() for turns in of]
        return sum(not any(one[: len(turns)] == turns for one in held) for turns in said)


# faults that are raised at one place in turn


class Injector:
    """Raises once, at the `at`-th call of what it guards."""

    def __init__(self, at: int | None, make: Callable[[], Exception], after: bool = False) -> None:
        self.at, self.make, self.after, self.calls, self.fired = at, make, after, 0, False

    def guard(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any, **options: Any) -> Any:
            self.calls += 1
            due = self.calls - 1 == self.at
            if due and not self.after:
                self.fired = True
                raise self.make()
            done = real(*args, **options)
            if due:
                self.fired = True
                raise self.make()
            return done

        return guarded


@contextmanager
def failing_writes(store: Store, fault: Injector) -> Iterator[None]:
    """Of every kind that a store does: events, objects and folders."""
    place = store._place
    with (
        patch.object(place, "create", fault.guard(place.create)),
        patch.object(place, "keep", fault.guard(place.keep)),
    ):
        yield


@contextmanager
def failing_model(_: Store, fault: Injector) -> Iterator[None]:
    """Every pass of the model: reading, answering, compacting, reading again."""
    with patch.object(kv_context, "hidden_states", fault.guard(forward.hidden_states)):
        yield


class Life:
    """What happens to a host in an ordinary life, step by step; each may be tried again."""

    def __init__(self, store: Store) -> None:
        pair = build_pair("llama")
        room = 3 * full_bytes(pair.model, 800)
        self.store, self.told = store, Told()
        self.host = opened(store, replace(NEVER, memory=room))
        self.history: tuple[Turn, ...] = TURNS[:5]
        self.name = ""

    @property
    def steps(self) -> list[Callable[[], Any]]:
        return [
            self._answer,
            self._more,
            lambda: self.host.pin(self.name, "k", 2, True),
            lambda: self.host.compact(self.name, "k", {}),
            self._more,
            lambda: self.host.compact(self.name, "k", {"restart": True}),
            lambda: self.host.undo(self.name, "k"),
            self._fork,
            lambda: run(self.host, [user("Another session: " + "file " * 300)], key="other"),  # others are spilled
            self._more,
            self._carried,
            lambda: self.host.mark(self.name, "k", "fork", 3),
        ]

    def _answer(self) -> None:
        started, _, done = run(self.host, self.history)
        self.name, self.history = started.session, (*self.history, done.turn)
        self.told.note(self.name, self.history)

    def _more(self) -> None:
        history, self.history = self.history, (*self.history, user(f"And line {len(self.history)}?"))
        try:
            self._answer()
        except BaseException:
            self.history = history
            raise

    def _fork(self) -> None:
        turns = (*self.history[:-2], user("Something else?"))
        started, _, done = run(self.host, turns)
        self.told.note(started.session, (*turns, done.turn))

    def _carried(self) -> None:
        row = self.host.take(self.host.export(self.name, "k"), "third")
        self.host.drop(row["id"], "third")


def lived(store: Store, faulty: Callable[[Store, Injector], AbstractContextManager[None]], fault: Injector) -> int:
    """A whole life with one fault in it. Returns what was lost."""
    life = Life(store)
    with faulty(store, fault):
        for step in life.steps:
            fired = fault.fired
            try:
                step()
            except (HoldfastError, MemoryError, RuntimeError) as error:
                if fired or not fault.fired or not str(error):
                    raise  # it fails without a fault, or without a word
                agrees(life.host)
                step_again(step, fault.after)
            if fault.fired and not fired:
                agrees(life.host)
                within(life.host)
        life.host.close()
    agrees(life.host)
    again = opened(store)
    assert not again.registry.unreadable
    agrees(again)
    return life.told.lost(store)


def step_again(step: Callable[[], Any], done: bool) -> None:
    """The same request works; it may be refused only where it was `done` all the same."""
    try:
        step()
    except BadInput:
        if not done:
            raise


def no_space() -> Exception:
    return Failed("cannot write: No space left on device")


def counted(faulty: Callable[[Store, Injector], AbstractContextManager[None]]) -> int:
    """How many places a life has for a fault."""
    fault = Injector(None, no_space)
    lived(memory_store(), faulty, fault)
    return fault.calls


def memory_store() -> Store:
    return Store(f"memory://{uuid4().hex}")


def at_every_write(every: int = 1) -> Row:
    """Each write of a life fails, before or after its bytes are there."""
    row = Row("a write of the store fails, at each in turn", "memory is what the log says; the next request works")
    for at in range(0, counted(failing_writes), every):
        for after in (False, True):
            row.count(partial(lived, memory_store(), failing_writes, Injector(at, no_space, after)))
    return row


def at_every_pass(every: int = 1) -> Row:
    """Each pass of the model fails."""
    row = Row("the model raises, at each pass in turn", "memory is what the log says; the next request works")
    passes = counted(failing_model)
    for number, at in enumerate(range(0, passes, every)):
        make = (MemoryError, RuntimeError)[number % 2]
        row.count(partial(lived, memory_store(), failing_model, Injector(at, partial(make, "no room"))))
    return row


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file grows beyond so many bytes, for this process and for real."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def on_a_full_disk(sizes: Sequence[int] = (0, 100, 1000, 10_000, 100_000), every: int = 1) -> Row:
    """The disk takes small files only, or none, in the middle of a life; then there is room again."""
    row = Row("the disk is full while logging, saving, spilling", "requests fail in words; afterwards all goes on")

    def trial(size: int, at: int) -> int:
        with tempfile.TemporaryDirectory() as folder:
            life = Life(Store(folder))
            for number, step in enumerate(life.steps):
                if number == at:
                    with full_disk(size), suppress(HoldfastError):
                        step()
                    agrees(life.host)
                    within(life.host)
                if number != at or number not in (3, 5, 6):  # what has been done already may not be done twice
                    step()
            agrees(life.host)
            return life.told.lost(life.store)

    for size in sizes:
        for at in range(0, 12, every):
            row.count(partial(trial, size, at))
    return row


# clients


def hanging_up(every: int = 1) -> Row:
    """A client goes away at each event of its answer."""
    row = Row("a client hangs up, at each event of a stream", "asked again, it gets the same answer")
    whole = run(opened(memory_store()), TURNS[:2], limit=24)[1]
    count = len(list(opened(memory_store()).complete(GenerateRequest(TURNS[:2], max_tokens=24, key="k"))))

    def trial(at: int) -> None:
        host = opened(memory_store(), EAGER)
        events = host.complete(GenerateRequest(TURNS[:2], max_tokens=24, key="k"))
        for _ in range(at):
            next(events)
        events.close()  # type: ignore[attr-defined]
        agrees(host)
        within(host)
        assert run(host, TURNS[:2], limit=24)[1] == whole
        assert len(host.sessions("k")) <= 2

    for at in range(0, count + 1, every):
        row.count(partial(trial, at))
    return row


def together(work: Sequence[Callable[[], Any]], seconds: float = 0) -> list[Any]:
    """All at once, each on a thread of its own, for about so many seconds. Raises what one of them raises, and
    AssertionError where they wait for each other."""
    done: list[Any] = [None] * len(work)

    def go(at: int) -> None:
        try:
            done[at] = work[at]()
        except BaseException as error:
            done[at] = error

    threads = [threading.Thread(target=go, args=(at,), daemon=True) for at in range(len(work))]
    for thread in threads:
        thread.start()
    end = time.monotonic() + seconds + PATIENCE
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    assert not any(thread.is_alive() for thread in threads), "they wait for each other"
    for one in done:
        if isinstance(one, BaseException):
            raise one
    return done


def at_once(counts: Sequence[int] = (2, 8), times: int = 1) -> Row:
    """Requests on one session, all alike or each with a question of its own."""
    row = Row("2 and 8 requests at once on one session", "answers are those of a server without others")
    alone: dict[str, str] = {}

    def trial(count: int, same: bool) -> None:
        host = opened(memory_store())
        history = (*TURNS[:2], run(host, TURNS[:2])[2].turn)
        asked = [(*history, user("Why?" if same else f"Why {n}?")) for n in range(count)]
        told = together([partial(run, host, turns, limit=8) for turns in asked])
        for turns, (started, text, _) in zip(asked, told, strict=True):
            if (asked_for := turns[-1].text) not in alone:
                alone[asked_for] = run(opened(memory_store()), turns, limit=8)[1]
            assert text == alone[asked_for]
            held = host.expand(started.session, "k", len(turns) + 1)
            assert held["text"] == text
        agrees(host)
        within(host)

    for _ in range(times):
        for count in counts:
            for same in (True, False):
                row.count(partial(trial, count, same))
    return row


def crowded(times: int = 1, sessions: int = 8) -> Row:
    """More sessions than memory, all asked at once."""
    row = Row("8 sessions at once in memory for 2", "the budget holds, nobody waits for ever, nothing is lost")

    def trial(number: int) -> int:
        with tempfile.TemporaryDirectory() as folder:
            room = 2 * full_bytes(build_pair("llama").model, 420)
            host, told = opened(Path(folder), replace(NEVER, memory=room)), Told()
            over, ended = [], threading.Event()

            def watch() -> None:
                while not ended.wait(0.002):
                    if (held := host.stats().bytes_held) > room:
                        over.append(held)

            def talk(who: int) -> None:
                history: tuple[Turn, ...] = ()
                for turn in range(3):
                    asked = (*history, user(f"{number} {who} {turn}: " + "file " * 10))
                    started, _, done = patient(partial(run, host, asked))
                    history = (*asked, done.turn)
                    told.note(started.session, history)

            watcher = threading.Thread(target=watch, daemon=True)
            watcher.start()
            try:
                together([partial(talk, who) for who in range(sessions)])
            finally:
                ended.set()
                watcher.join()
            assert not over, f"{max(over)} bytes were held, {room} are allowed"
            assert len(host.sessions("k")) == sessions
            agrees(host)
            within(host)
            return told.lost(host.registry.store)

    for number in range(times):
        row.count(partial(trial, number))
    return row


def patient(work: Callable[[], Any]) -> Any:
    """As a client does that is told to come again."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return work()
        except Busy:
            assert time.monotonic() < end, "it is busy for ever"
            time.sleep(0.005)


def two_servers(times: int = 1) -> Row:
    """Two servers over one store answer the same client in turn."""
    row = Row("a second server on the same store", "a Conflict at most, then it goes on from what the log says")

    def trial(number: int) -> int:
        with tempfile.TemporaryDirectory() as folder:
            one, two = opened(Path(folder)), None
            told, history = Told(), (*TURNS[:1], user(f"Begin {number}."))
            for turn in range(6):
                host = one if turn % 2 == 0 else (two := two or opened(Path(folder)))
                try:
                    started, _, done = run(host, history)
                except Conflict:
                    started, _, done = run(host, history)
                history = (*history, done.turn, user(f"Go on {turn}."))
                told.note(started.session, history[:-1])
                agrees(host)
            assert not opened(Path(folder)).registry.unreadable
            return told.lost(Store(folder))

    for number in range(times):
        row.count(partial(trial, number))
    return row


def damaged(every: int = 1) -> Row:
    """Each file of a session is damaged, or gone, while others are served."""
    row = Row("a file of one session is damaged or gone", "others go on; it is named, and its history starts anew")

    counts: list[int] = []

    def trial(at: int, gone: bool) -> int:
        with tempfile.TemporaryDirectory() as folder:
            host = opened(Path(folder))
            good, bad = ((*TURNS[:5], user(text)) for text in ("Good?", "Bad?"))
            told = {text: run(host, turns, key=text) for text, turns in (("good", good), ("bad", bad))}
            name = told["bad"][0].session
            host.compact(name, "bad", {})
            host.close()
            store = Store(folder)
            made = next(event for event in store.events(name) if event["kind"] == "compacted")
            objects = [made["context"], made["hidden"]]
            files = sorted((Path(folder) / "logs" / name).iterdir())
            files += [Path(folder) / "objects" / digest[:2] / digest for digest in objects]
            counts.append(len(files))
            if at >= len(files):
                raise AssertionError("there is no such file")
            files[at].unlink() if gone else files[at].write_bytes(files[at].read_bytes()[:-3])
            host = opened(Path(folder))
            again = run(host, (*good, told["good"][2].turn, user("More?")), key="good")
            assert again[0].session == told["good"][0].session
            with suppress(HoldfastError):
                host.session(name, "bad")
            started, _, _ = run(host, (*bad, told["bad"][2].turn, user("More?")), key="bad")
            assert started.prompt_tokens
            return 0

    at = 0
    while not counts or at < counts[0]:
        for gone in (False, True):
            row.count(partial(trial, at, gone))
        at += every
    return row


def stress(seconds: float = 8.0, seed: int = 0, threads: int = 6) -> Row:
    """Everything that a server can be asked, at random, on a few sessions in little memory."""
    row = Row("everything at once at random, in little memory", "no deadlock, no failure without a reason")

    def trial() -> None:
        with tempfile.TemporaryDirectory() as folder:
            room = int(2.5 * full_bytes(build_pair("llama").model, 500))
            host = opened(Path(folder), replace(EAGER, memory=room))
            counts: dict[str, int] = {}
            end = time.monotonic() + seconds
            together(
                [partial(busily, host, random.Random(seed * 97 + who), end, counts) for who in range(threads)],
                seconds,
            )
            host.compactions._background.shutdown(wait=True)
            agrees(host)
            within(host)
            row.wrong.append(f"(done: {dict(sorted(counts.items()))})")

    row.count(trial)
    return row


def export_and_take(host: SessionHost, name: str) -> object:
    """Exports a session and takes it in again."""
    return host.take(host.export(name, "k"), "k")


def busily(host: SessionHost, rng: Any, end: float, counts: dict[str, int]) -> None:
    """One client of `stress`."""
    histories: list[tuple[Turn, ...]] = [(user(f"Session {n}: " + "the file " * 20),) for n in range(4)]
    while time.monotonic() < end:
        at = rng.randrange(len(histories))
        rows = host.sessions("k")
        name = rng.choice(rows)["id"] if rows else "none"
        acts: Mapping[str, Callable[[], Any]] = {
            "complete": partial(run, host, histories[at], limit=rng.randrange(1, 6)),
            "compact": partial(host.compact, name, "k", {"restart": rng.random() < 0.3}),
            "undo": partial(host.undo, name, "k"),
            "fork": partial(host.mark, name, "k", "fork", None),
            "discard": partial(host.mark, name, "k", "discard", None),
            "boundary": partial(host.mark, name, "k", "boundary", None),
            "pin": partial(host.pin, name, "k", 1, rng.random() < 0.5),
            "export": partial(export_and_take, host, name),
            "detail": partial(host.session, name, "k"),
            "stats": host.stats,
            "drop": partial(host.drop, name, "k"),
        }
        act = rng.choices(list(acts), weights=[8, 3, 2, 1, 2, 1, 1, 1, 1, 1, 3 if len(rows) > 5 else 0])[0]
        try:
            told = acts[act]()
        except HoldfastError as error:
            counts[type(error).__name__] = counts.get(type(error).__name__, 0) + 1
            continue
        counts[act] = counts.get(act, 0) + 1
        if act == "complete":
            grown = (*histories[at], told[2].turn, user(f"And {rng.randrange(4)}?"))
            histories[at] = grown if len(grown) < 9 else histories[at][: rng.randrange(1, 6)]


def stopped(how: int, fault: str, times: int, seed: int = 0) -> Row:
    """A server process is killed, or told to stop, and started again."""
    row = Row(fault, "every acknowledged turn is there and cached; compactions stand or do not")
    with tempfile.TemporaryDirectory() as folder:
        found = killing.killed(Path(folder), times, seed=seed, how=how)
    row.tried, row.survived, row.lost, row.wrong = found.kills, found.survived, found.lost, found.wrong[:5]
    told = f"({found.answers} answers, {found.compactions} compactions, {found.saves} saves, {found.scratch} scratch)"
    row.wrong.append(told)
    return row


def table(rows: Sequence[Row]) -> str:
    """As Markdown."""
    lines = ["| fault | tried | survived | lost | what was checked |", "|---|--:|--:|--:|---|"]
    lines += [f"| {r.fault} | {r.tried} | {r.survived} | {r.lost} | {r.invariant} |" for r in rows]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="a word of the faults to try")
    given = parser.parse_args()
    faults: list[tuple[str, Callable[[], Row]]] = [
        ("kill", lambda: stopped(signal.SIGKILL, "kill -9 at a random instant", given.kills, given.seed)),
        ("stop", lambda: stopped(signal.SIGTERM, "SIGTERM at a random instant", given.kills // 10, given.seed)),
        ("write", at_every_write),
        ("model", at_every_pass),
        ("disk", on_a_full_disk),
        ("hang", hanging_up),
        ("once", lambda: at_once(times=10)),
        ("crowd", lambda: crowded(10)),
        ("two", lambda: two_servers(10)),
        ("damage", damaged),
        ("stress", lambda: stress(60.0, given.seed)),
    ]
    rows = []
    for name, fault in faults:
        if given.only in name:
            began = time.monotonic()
            rows.append(fault())
            print(f"{name}: {time.monotonic() - began:.0f} s", *rows[-1].wrong, sep="\n  ", file=sys.stderr, flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
