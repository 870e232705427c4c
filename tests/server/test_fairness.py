"""No session stands still for another one: measured in steps of the model, never in seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from conftest import build_pair, small_session
from holdfast.compaction.plan import Plan, Policy
from holdfast.engine.kv_context import CHUNK
from holdfast.engine.local import LocalEngine
from holdfast.engine.sampling import Sampling
from holdfast.errors import BadInput, Failed
from holdfast.model.step_scheduler import StepScheduler
from holdfast.server.protocol import AnswerStart, GenerateRequest
from holdfast.server.sessions.host import HostPolicy, SessionHost
from holdfast.session.trigger import Trigger
from holdfast.storage.store import Store
from holdfast.transcript.turn import Role, Turn

TURNS = small_session().turns
PLAN = Plan(latent="kvzip", ratio=4, policy=Policy(keep_recent=1))
NEVER = HostPolicy(trigger=Trigger(tokens=10**9, window=None))
LISTENER, WORKER = "listener", "worker"
PATIENCE = 60  # seconds after which a test that hangs fails


class WatchedScheduler(StepScheduler):
    """Counts passes of the model, and makes the worker line up only when the listener does too."""

    def __init__(self) -> None:
        super().__init__()
        self.passes: list[str] = []
        """The thread of each pass of the model, as it begins."""
        self.waits: list[int] = []
        """For each step of the listener, the passes that began between its lining up and its own."""
        self.contended = False
        self._lined_up, self._before = threading.Event(), 0

    def __enter__(self) -> None:
        mine = threading.current_thread().name
        if mine == WORKER and self.contended:
            assert self._lined_up.wait(PATIENCE), "the listener stands still, or its answer has ended"
        super().__enter__()
        if mine == LISTENER:
            self._lined_up.clear()
            self.waits.append(len(self.passes) - self._before)

    def _line_up(self) -> Any:
        turn = super()._line_up()
        if threading.current_thread().name == LISTENER:
            self._before = len(self.passes)
            self._lined_up.set()
        return turn


class Endless(Sampling):
    """Chooses a letter, whatever the model thinks."""

    def choose(self, _logits: Any, _generator: Any) -> int:
        return ord("a")


class EndlessHost(SessionHost):
    def sampling(self, request: GenerateRequest) -> Sampling:
        return Endless() if request.key == LISTENER else super().sampling(request)


def opened(store: Store | None = None) -> tuple[EndlessHost, WatchedScheduler]:
    steps = WatchedScheduler()
    model = replace(build_pair("llama").model, steps=steps)
    model.hf.get_decoder().register_forward_pre_hook(lambda *_: steps.passes.append(threading.current_thread().name))
    store = store or Store(f"memory://fairness{time.monotonic_ns()}")
    return EndlessHost(LocalEngine(model), PLAN, store, NEVER), steps


def run(host: SessionHost, turns: tuple[Turn, ...], key: str = WORKER) -> str:
    """Answers with few tokens; returns the name of the session."""
    events = list(host.complete(GenerateRequest(turns, key=key, max_tokens=2)))
    return next(event.session for event in events if isinstance(event, AnswerStart))


def in_thread(name: str, work: Callable[[], object]) -> None:
    """Runs work on a thread of that name, and raises what it raises."""
    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=guarded, name=name, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    for error in errors:
        raise error


@contextmanager
def listening(host: SessionHost, steps: WatchedScheduler) -> Iterator[None]:
    """Within, another session generates one token after another."""
    begun, stop = threading.Event(), threading.Event()

    def listen() -> None:
        request = GenerateRequest((Turn(Role.USER, "Go on and on."),), key=LISTENER, max_tokens=1500)
        events = host.complete(request)
        for _ in events:
            begun.set()
            if stop.is_set():
                break
        events.close()  # type: ignore[attr-defined]

    thread = threading.Thread(target=listen, name=LISTENER, daemon=True)
    thread.start()
    assert begun.wait(PATIENCE)
    steps.passes.clear()
    steps.waits.clear()
    steps.contended = True
    try:
        yield
    finally:
        steps.contended = False
        stop.set()
        thread.join(PATIENCE)


def compact(host: SessionHost, name: str) -> None:
    host.compact(name, WORKER, {})


def undo(host: SessionHost, name: str) -> None:
    host.undo(name, WORKER)


def prefill(host: SessionHost, _: str) -> None:
    run(host, (Turn(Role.USER, "word " * (5 * CHUNK // len("word "))),), key="reader")


@pytest.mark.parametrize("work", [compact, prefill, undo])
def test_another_session_waits_at_most_two_steps_of_the_model(work: Callable[[SessionHost, str], None]) -> None:
    host, steps = opened()
    name = run(host, (*TURNS, Turn(Role.USER, "Read on. " * (CHUNK // 4)), *TURNS[2:]))
    if work is undo:
        compact(host, name)
    with listening(host, steps):
        in_thread(WORKER, lambda: work(host, name))
        passes, waits = list(steps.passes), list(steps.waits)
    assert passes.count(WORKER) >= 3, "one step alone cannot show that others take turns"
    assert passes.count(LISTENER) >= passes.count(WORKER) - 1
    assert max(waits) <= 1, "besides the step that runs when a session lines up, one more begins before its own"


def test_steps_are_given_in_the_order_of_arrival() -> None:
    steps, order = StepScheduler(), []
    waiting: list[threading.Thread] = []

    def take(number: int) -> None:
        with steps:
            order.append(number)

    with steps:
        for number in range(5):
            waiting.append(threading.Thread(target=take, args=(number,)))
            waiting[-1].start()
            while len(steps._waiting) <= number:
                time.sleep(0)
    for thread in waiting:
        thread.join(PATIENCE)
    assert order == [0, 1, 2, 3, 4]


def test_a_compaction_that_was_asked_for_tells_the_breaker_and_the_counters() -> None:
    host, _ = opened()
    name = run(host, TURNS)
    compact(host, name)
    breaker = host.registry.get(name, WORKER).breaker
    assert (breaker.last, breaker.failures) == (len(TURNS) + 1, 0)
    assert host.stats().compactions == 1
    assert host.stats().compaction_seconds > 0


class FullStore(Store):
    """A store whose disk is full once it is told so."""

    full = False

    def put(self, data: bytes) -> str:
        if self.full:
            raise Failed("No space left on device")
        return super().put(data)


def test_a_compaction_that_was_asked_for_and_failed_is_counted_and_raised() -> None:
    store = FullStore(f"memory://full{time.monotonic_ns()}")
    host, _ = opened(store)
    name = run(host, TURNS)
    store.full = True
    with pytest.raises(Failed, match="No space left"):
        compact(host, name)
    assert host.registry.get(name, WORKER).breaker.failures == 1
    assert (host.stats().failures, host.stats().compactions) == (1, 0)


def test_nothing_to_compact_is_no_failure() -> None:
    host, _ = opened()
    name = run(host, TURNS[:2])
    with pytest.raises(BadInput):
        compact(host, name)
    assert host.registry.get(name, WORKER).breaker.failures == 0
    assert host.stats().failures == 0


def test_a_compaction_that_was_asked_for_stands_though_its_session_went_another_way_meanwhile() -> None:
    host, _ = opened()
    name = run(host, TURNS)
    discarded: list[dict[str, Any]] = []

    def discard(*_: Any) -> None:
        if not discarded and threading.current_thread().name == WORKER:
            in_thread("other", lambda: discarded.append(dict(host.mark(name, WORKER, "discard", None))))

    host.engine.model.hf.get_decoder().register_forward_pre_hook(discard)
    in_thread(WORKER, lambda: compact(host, name))
    row = host.sessions(WORKER)[0]
    assert discarded, "nothing happened meanwhile"
    assert (row["turns"], row["compactions"]) == (len(TURNS), 1)
    assert host.stats().failures == 0
