"""The live server with its real host while everything around it fails: nothing acknowledged is lost, nobody waits for
ever, and what is refused is refused in words. `fault_table.py` does the same thousands of times."""

from __future__ import annotations

import io
import json
import signal
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fault_table as faults
import killing
import pytest
import torch

from conftest import build_pair, small_session
from holdfast.errors import BadContext, Failed, HoldfastError, Missing, TooLarge
from holdfast.model.load import full_bytes
from holdfast.server.protocol import AnswerEnd, GenerateRequest
from holdfast.server.sessions.host import HostPolicy
from holdfast.session.checkpoints import encode_hidden
from holdfast.session.session import Session
from holdfast.session.trigger import Trigger
from holdfast.storage.store import Store
from holdfast.transcript.turn import Role, ToolCall, Turn
from waiting import PATIENCE, until

TURNS = small_session().turns
user, run, opened, store = faults.user, faults.run, faults.opened, faults.memory_store


def survived(row: Any) -> None:
    assert row.tried
    assert (row.survived, row.lost) == (row.tried, 0), row.wrong


# the table, a few of each


def test_a_server_that_is_killed_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    found = killing.killed(tmp_path, 4)
    assert found.answers
    assert (found.survived, found.lost) == (4, 0), found.wrong


def test_a_server_that_is_told_to_stop_loses_nothing_either(tmp_path: Path) -> None:
    found = killing.killed(tmp_path, 2, how=signal.SIGTERM)
    assert (found.survived, found.lost) == (2, 0), found.wrong


FEW: dict[str, Callable[[], Any]] = {
    "a write fails": lambda: faults.at_every_write(12),
    "the model raises": lambda: faults.at_every_pass(15),
    "the disk is full": lambda: faults.on_a_full_disk((1000,), every=4),
    "the client hangs up": lambda: faults.hanging_up(6),
    "requests come at once": faults.at_once,
    "many sessions come at once": faults.crowded,
    "two servers have one store": faults.two_servers,
    "a file is damaged": lambda: faults.damaged(3),
    "everything comes at once": lambda: faults.stress(5),
}


@pytest.mark.parametrize("fault", FEW)
def test_nothing_is_lost_and_all_goes_on_when(fault: str) -> None:
    survived(FEW[fault]())


# what went wrong once


def test_who_takes_a_compaction_back_waits_for_nobody_who_waits_for_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To make room it spills a session that another request has just come for, which needs the model to read it."""
    host = opened(tmp_path)
    first, second = ([*TURNS[:7], user(text)] for text in ("One?", "Two?"))
    one, two = (run(host, turns)[0].session for turns in (first, second))
    host.compact(one, "k", {})
    at_model, real = threading.Event(), type(host.registry).reserve

    def room(registry: Any, place: Any, tokens: int) -> None:
        with registry._lock:  # the other session is off the books, and somebody is at work on it
            other = registry._entries[two]
        thread = threading.Thread(target=working, args=(registry, other), daemon=True)
        thread.start()
        assert at_model.wait(PATIENCE)
        registry.memory.drop(two)
        registry._spill([two])
        real(registry, place, tokens)

    def working(registry: Any, other: Any) -> None:
        with other.lock:
            at_model.set()
            with registry.engine.model.steps:
                pass

    monkeypatch.setattr(type(host.registry), "reserve", room)
    faults.together([lambda: host.undo(one, "k")])


def test_a_fork_that_another_request_took_first_is_forked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    host = opened(store())
    done = run(host, TURNS[:2])[2]
    run(host, (*TURNS[:2], done.turn, user("First?")))
    real = type(host.registry)._fork

    def forked(places: Any, *args: Any) -> Any:
        twin = real(places, *args)
        monkeypatch.setattr(type(places), "_fork", real)
        faults.together([lambda: run(host, (*TURNS[:2], done.turn, user("Second?")))])  # it finds the fork at once
        return twin

    monkeypatch.setattr(type(host.registry), "_fork", forked)
    turns = (*TURNS[:2], done.turn, user("Third?"))
    started, text, _ = run(host, turns)
    assert text == run(opened(store()), turns)[1]
    assert host.expand(started.session, "k", 4)["text"] == "Third?"


def test_a_session_that_cannot_be_saved_goes_all_the_same_and_is_read_again(tmp_path: Path) -> None:
    room = int(1.25 * full_bytes(build_pair("llama").model, 700))
    host = opened(tmp_path, replace(faults.NEVER, memory=room))
    first, _, done = run(host, TURNS[:7])
    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(
            host.registry.store, "put", lambda data: (_ for _ in ()).throw(Failed("No space left on device"))
        )
        run(host, [user("words " * 60)], key="other")
    assert not host.sessions("k")[0]["resident"]
    faults.within(host)
    again, _, _ = run(host, (*TURNS[:7], done.turn, user("More?")))
    assert (again.session, again.cached_tokens) == (first.session, first.prompt_tokens + done.completion_tokens + 2)


def test_what_could_not_be_read_leaves_no_session_behind(tmp_path: Path) -> None:
    host = opened(tmp_path)
    for text in ("word " * 9000, "x" * 10_000_000):
        with pytest.raises(TooLarge):
            run(host, [user(text)])
    assert not host.sessions("k")
    assert not host.registry.store.logs()
    faults.within(host)


def test_ten_megabytes_in_one_turn_are_refused_before_they_are_tokenised(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(build_pair("llama").engine, faults.PLAN)
    monkeypatch.setattr("holdfast.session.session.render_new_turns", lambda *args: pytest.fail("it was tokenised"))
    with pytest.raises(TooLarge, match="one turn has 5,000,000 characters"):
        session.append([user("a " * 5_000_000)])


class Queue:
    """A lock that counts who has come for it."""

    def __init__(self, lock: Any) -> None:
        self.lock, self.waiting = lock, 0

    def __enter__(self) -> None:
        self.waiting += 1
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.lock, name)


def test_of_two_who_drop_a_session_one_is_told_that_it_is_gone() -> None:
    host = opened(store())
    name = run(host, TURNS[:2])[0].session
    place = host.registry.get(name, "k")
    told: list[Any] = []

    def drop() -> None:
        try:
            told.append(host.drop(name, "k"))
        except Missing as error:
            told.append(error)

    threads = [threading.Thread(target=drop) for _ in range(2)]
    place.lock = queue = Queue(place.lock)
    with queue.lock:
        for thread in threads:
            thread.start()
        until(lambda: queue.waiting == len(threads))  # both have found it
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(type(one).__name__ for one in told) == ["Missing", "NoneType"]


@pytest.mark.parametrize("act", ["drop", "export"])
def test_a_session_is_dropped_or_exported_after_the_answer_that_is_under_way(act: str) -> None:
    host = opened(store())
    events = host.complete(GenerateRequest(TURNS[:2], max_tokens=20, key="k"))
    name = next(events).session  # type: ignore[union-attr]
    done: list[Any] = []
    thread = threading.Thread(target=lambda: done.append(getattr(host, act)(name, "k")))
    thread.start()
    assert isinstance(list(events)[-1], AnswerEnd)
    thread.join(PATIENCE)
    assert len(done) == 1
    if act == "drop":
        assert not host.sessions("k")
    else:
        assert host.take(done[0], "z")["turns"] == 3


def test_an_idle_watch_outlives_a_compaction_that_runs_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = replace(faults.EAGER, trigger=Trigger(tokens=600, window=None, idle=0.0, early=0.6))
    monkeypatch.setattr("holdfast.server.sessions.compaction_queue.LOOK", 0.02)
    monkeypatch.setattr(
        "holdfast.session.cache.compact_in_memory", lambda *a, **k: (_ for _ in ()).throw(MemoryError("no room"))
    )
    host = opened(store(), policy)
    try:
        run(host, TURNS)
        until(lambda: host.stats().failures >= 2)
    finally:
        host.close()


def test_a_clock_that_goes_backwards_harms_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    host, hour = opened(store()), 3600.0
    done = run(host, TURNS[:7])[2]
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 1000 * hour)
    started, _, _ = run(host, (*TURNS[:7], done.turn, user("More?")))
    assert started.cached_tokens > 0
    host.close()
    faults.agrees(host)


def test_a_start_clears_away_what_crashes_and_dropped_sessions_left(tmp_path: Path) -> None:
    host = opened(tmp_path)
    kept, gone = (run(host, (*TURNS[:5], user(text)))[0].session for text in ("Kept?", "Gone?"))
    host.close()
    host.drop(gone, "k")
    (tmp_path / "tmp" / "half-written").write_bytes(b"x")
    objects = set((tmp_path / "objects").glob("*/*"))
    again = opened(Store(tmp_path, grace=-5))
    again.compactions._background.shutdown(wait=True)
    assert not list((tmp_path / "tmp").iterdir())
    assert len(set((tmp_path / "objects").glob("*/*"))) == len(objects) / 2
    assert again.session(kept, "k")["turns"] == 7
    faults.agrees(again)


# what clients send


def test_a_very_long_history_is_read_in_a_few_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    host = opened(store(), HostPolicy(trigger=Trigger(), max_tokens=8))
    monkeypatch.setattr(host.engine.model.hf.config, "max_position_embeddings", 1000)
    monkeypatch.setattr("holdfast.session.session.Session.prepare", counting := Counting(Session.prepare))
    monkeypatch.setattr("holdfast.session.session.Session.append", appends := Counting(Session.append))
    turns = [user("Go through all files.")]
    for n in range(60):
        call = ToolCall(f"c{n}", "read", f'{{"path": "{n}.py"}}')
        turns += [Turn(Role.ASSISTANT, "", calls=(call,)), Turn(Role.TOOL, f"file {n}", call_id=f"c{n}")]
    started, _, _ = run(host, turns)
    assert started.prompt_tokens > 1000
    assert 0 < counting.calls < 20
    assert appends.calls < 61


class Counting:
    """A method that counts its calls."""

    def __init__(self, real: Callable[..., Any]) -> None:
        self.real, self.calls = real, 0

    def __get__(self, held: Any, _: type | None = None) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            self.calls += 1
            return self.real(held, *args, **options)

        return call


CALLS = (ToolCall("a", "f", "{}"), ToolCall("b", "f", "{}"))
ODD_HISTORIES = {
    "lone surrogates": (user("a\ud83d b\ude00"), Turn(Role.ASSISTANT, "\udfff"), user("again \ud800")),
    "results in another order": (
        user("Both."),
        Turn(Role.ASSISTANT, "", calls=CALLS),
        Turn(Role.TOOL, "of b", call_id="b"),
        Turn(Role.TOOL, "of a", call_id="a"),
    ),
    "an empty answer": (user("Well?"), Turn(Role.ASSISTANT, ""), user("Still there?")),
    "white space alone": (user(" \n\t "),),
    "an answer last": (user("Begin."), Turn(Role.ASSISTANT, "I have begun")),
    "nothing but a system prompt": (Turn(Role.SYSTEM, "You edit code."),),
}


@pytest.mark.parametrize("turns", ODD_HISTORIES.values(), ids=ODD_HISTORIES)
def test_odd_histories_are_answered_saved_and_continued(turns: tuple[Turn, ...], tmp_path: Path) -> None:
    host = opened(tmp_path)
    started, _, done = run(host, turns)
    host.close()
    again, _, _ = run(opened(tmp_path), (*turns, done.turn, user("Go on.")))
    assert again.session == started.session
    assert again.cached_tokens == done.extension["tokens"]


# what is taken in


def exported(change: Callable[[list[dict[str, Any]], dict[str, bytes]], None] | None = None) -> bytes:
    """A session as a file, changed by who knows its format."""
    host = opened(store())
    name = run(host, TURNS)[0].session
    host.compact(name, "k", {})
    with zipfile.ZipFile(io.BytesIO(host.export(name, "k"))) as file:
        events = json.loads(file.read("events.json"))
        objects = {at: file.read(at) for at in file.namelist() if at != "events.json"}
    if change:
        change(events, objects)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("events.json", json.dumps(events))
        for at, data in objects.items():
            file.writestr(at, data)
    return out.getvalue()


def set_in(number: int, /, **fields: Any) -> Callable[[list[dict[str, Any]], dict[str, bytes]], None]:
    return lambda events, _: events[number].update(fields)


def add(**event: Any) -> Callable[[list[dict[str, Any]], dict[str, bytes]], None]:
    return lambda events, _: events.append(event)


def hidden(states: torch.Tensor) -> Callable[[list[dict[str, Any]], dict[str, bytes]], None]:
    def change(events: list[dict[str, Any]], objects: dict[str, bytes]) -> None:
        data = encode_hidden(states)
        digest = Store("memory://digests").put(data)
        events[-1]["hidden"] = digest
        objects[f"objects/{digest}"] = data

    return change


HOSTILE = {
    "another model": set_in(0, model="0" * 64),
    "another version": set_in(0, format=99),
    "a path for a digest": set_in(-1, context="../../etc/passwd"),
    "a time that is none": set_in(-1, at="yesterday"),
    "sizes that are none": set_in(-1, told=7),
    "sizes within that are none": set_in(-1, told={"bytes": "many", "slots": [], "tokens": {}}),
    "tools that are none": set_in(0, tools=7),
    "more blocks than there are": set_in(-1, blocks=10**9, tail=10**9),
    "blocks that are fewer than none": set_in(-1, blocks=-1),
    "a pin of nothing": add(kind="pinned"),
    "a pin of text": add(kind="pinned", turn="x", pinned=True),
    "back to before the start": add(kind="rewound", turns=-3),
    "back to a text": add(kind="rewound", turns="3"),
    "an undo of nothing": add(kind="undone"),
    "tokens that there are not": add(kind="turns", turns=[], blocks=[[0, "user", [10**9]]]),
    "states that are no numbers": hidden(torch.full((3, 64), torch.nan)),
    "states of another model": hidden(torch.zeros(3, 7)),
    "no states": hidden(torch.zeros(0, 64)),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_refused_and_leaves_nothing(change: Any, tmp_path: Path) -> None:
    data, host = exported(change), opened(tmp_path)
    with pytest.raises(BadContext):
        host.take(data, "k")
    assert not host.sessions("k")
    assert not host.registry.store.logs()
    assert not opened(tmp_path).registry.unreadable
    faults.within(host)


def test_a_file_that_unfolds_is_refused() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("events.json", b"[" + b" " * 10_000_000 + b"]")
    with pytest.raises(BadContext, match="without compression"):
        opened(store()).take(out.getvalue(), "k")


def test_the_same_file_untouched_is_taken() -> None:
    assert opened(store()).take(exported(), "k")["turns"] == len(TURNS) + 1


def test_a_log_that_is_sound_and_makes_no_sense_does_not_keep_the_server_from_starting(tmp_path: Path) -> None:
    place = Store(tmp_path)
    place.append("odd", 0, {"kind": "opened", "at": "yesterday", "tools": 7})
    place.append("odder", 0, {"what": 1})
    host = opened(tmp_path)
    run(host, TURNS[:2])
    assert set(host.registry.unreadable) <= {"odd", "odder"}
    with pytest.raises(HoldfastError):
        host.session("odder", "")
