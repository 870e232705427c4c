"""A server that is killed while it answers, compacts, saves and spills: nothing that was acknowledged may be lost.

A forkserver has the tiny model of the tests loaded, so that a server is up in a moment; `fault_table.py` counts.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import forkserver
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import torch

from conftest import build_pair
from holdfast.compaction.plan import Plan, Policy
from holdfast.model.load import full_bytes
from holdfast.server.sessions.host import HostPolicy, SessionHost
from holdfast.server.sessions.registry import replay_turns
from holdfast.session.trigger import CircuitBreaker, Trigger
from holdfast.storage.store import Store

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the tokenizer is used after a fork
PLAN = Plan(latent="kvzip", ratio=4, policy=Policy(keep_recent=1))
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["killing"])
LONGEST = 14  # messages of a conversation, after which its client begins another


def policy() -> HostPolicy:
    """Compacts nearly after every answer, and has memory for two or three sessions."""
    room = 2 * full_bytes(build_pair("llama").engine.model, 700)
    return HostPolicy(Trigger(tokens=200, window=None), CircuitBreaker(cool_down=0), memory=room, max_tokens=12)


def plain_host(store: Store) -> SessionHost:
    return SessionHost(build_pair("llama").engine, PLAN, store, policy())


def serve(store: str, told: Any, open_host: Callable[[Store], SessionHost]) -> None:
    """A server on a free port, which is told through a pipe; until it is killed, or stopped by SIGTERM."""
    from holdfast.cli import serve
    from holdfast.server.http.app import create_app
    from holdfast.server.http.settings import Settings

    torch.set_num_threads(1)  # makes torch's thread pool anew; two threads that did it at once after a fork would fail
    host, settings = open_host(Store(store)), Settings(drain_seconds=5)
    taken = serve.bind("127.0.0.1", 0)
    taken.listen(64)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    told.send((taken.getsockname()[1], dict(host.registry.unreadable)))
    serve.build_server(create_app(host, settings), settings).run(sockets=[taken])


@contextmanager
def server(store: Path, open_host: Callable[[Store], SessionHost] = plain_host) -> Iterator[tuple[str, Any]]:
    """The address of a server process over a store, and the process; killed at the end."""
    with patch.dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path))):  # else it loads nothing before
        forkserver.ensure_running()
    mine, theirs = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=serve, args=(str(store), theirs, open_host))
    process.start()
    theirs.close()  # so that a server that dies is noticed
    try:
        assert mine.poll(120), "the server does not start"
        port, unreadable = mine.recv()
        assert not unreadable, f"sessions cannot be read: {unreadable}"
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.kill()
        process.join(30)


@dataclass
class Conversation:
    """What one client said and was told."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    """Up to the newest answer that came whole."""
    session: str = ""
    tokens: int = 0
    """That the session held when it was acknowledged."""


class Client(threading.Thread):
    """Asks and asks, until its server is gone. What it checks of a restarted server stands in `wrong`."""

    def __init__(self, url: str, before: Conversation, seed: int) -> None:
        super().__init__(daemon=True)
        self.url, self.now, self.rng = url, before, random.Random(seed)
        self.done: list[Conversation] = [before] if before.session else []
        self.wrong: list[str] = []
        self.answers, self.restarted = 0, bool(before.session)

    def run(self) -> None:
        try:
            with httpx.Client(base_url=self.url, timeout=60) as http:
                while True:
                    if len(self.now.messages) > LONGEST:
                        self.now = Conversation()
                    self._ask(http)
        except httpx.TransportError:
            return  # it was killed

    def _ask(self, http: httpx.Client) -> None:
        question = f"Question {self.rng.random()}: " + "read the file " * self.rng.randrange(12)
        messages = [*self.now.messages, {"role": "user", "content": question}]
        answer = http.post("/v1/chat/completions", json={"messages": messages, "max_tokens": self.rng.randrange(1, 12)})
        if answer.status_code in (409, 503):
            time.sleep(0.01)
            return
        if "context_length_exceeded" in answer.text:  # said in words; a user begins anew
            self.now, self.restarted = Conversation(), False
            return
        if answer.status_code != 200:
            self.wrong.append(answer.text[:300])
            return
        body = answer.json()
        cached = body["usage"]["prompt_tokens_details"]["cached_tokens"]
        if self.restarted and cached != self.now.tokens:
            self.wrong.append(f"{cached} tokens were cached where {self.now.tokens} were acknowledged")
        said = {"role": "assistant", "content": body["choices"][0]["message"]["content"]}
        self.now = Conversation([*messages, said], body["holdfast"]["session"], body["holdfast"]["tokens"])
        self.done.append(self.now)
        self.answers, self.restarted = self.answers + 1, False


def lost(store: Store, acknowledged: list[Conversation]) -> list[str]:
    """What a store no longer holds of what was acknowledged, and every compaction of it that stands half."""
    wrong: list[str] = []
    for conversation in acknowledged:
        held = [turn.text for turn in replay_turns(store.events(conversation.session))]
        said = [message["content"] for message in conversation.messages]
        if held[: len(said)] != said:
            wrong.append(f"session {conversation.session} holds {len(held)} turns, not the {len(said)} acknowledged")
    for name in store.logs():
        for event in store.events(name):
            if event["kind"] in ("compacted", "saved"):
                store.get(event["context"]), store.get(event["hidden"])
    return wrong


@dataclass
class Killed:
    """What came of it."""

    kills: int = 0
    survived: int = 0
    answers: int = 0
    lost: int = 0
    compactions: int = 0
    saves: int = 0
    scratch: int = 0
    """Files that were being written when a server was killed, and are still there."""
    wrong: list[str] = field(default_factory=list)


def killed(folder: Path, times: int, clients: int = 3, seed: int = 0, how: int = signal.SIGKILL) -> Killed:
    """Kill a server at a random instant, start it again, check, and go on; so many times."""
    rng, found = random.Random(seed), Killed()
    talks = [Conversation() for _ in range(clients)]
    store = Store(folder)
    for kill in range(times + 1):
        with server(folder) as (url, process):
            running = [Client(url, talk, rng.randrange(2**32)) for talk in talks]
            for client in running:
                client.start()
            last, answers = kill == times, rng.randrange(6)
            end = time.monotonic() + 60
            while time.monotonic() < end:
                each = [client.answers or len(client.wrong) for client in running]
                if min(each) if last else sum(each) >= answers:  # the last server answers everybody first
                    break
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.4))
            os.kill(process.pid, how)
            process.join(60)
        for client in running:
            client.join(60)
            assert not client.is_alive(), "a client hangs"
        wrong = [line for client in running for line in client.wrong]
        gone = lost(store, [one for client in running for one in client.done[-3:]])
        found.wrong += wrong + gone
        found.lost += len(gone)
        found.answers += sum(client.answers for client in running)
        found.kills, found.survived = kill, found.survived + bool(kill and not wrong + gone)
        talks = [client.done[-1] if client.done else Conversation() for client in running]
    kinds = [event["kind"] for name in store.logs() for event in store.events(name)]
    found.compactions, found.saves = kinds.count("compacted"), kinds.count("saved")
    found.scratch = len(list((folder / "tmp").iterdir()))
    return found


if multiprocessing.current_process().name != "MainProcess" or __name__ == "killing":
    build_pair("llama")  # once, in the process from which servers are forked
