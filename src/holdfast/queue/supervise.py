"""One attempt in a process of its own, which outlives the runner: limits, clamped output, and how it ended.

    order.json  what to run           beat.json  how far it is, every few seconds
    out, err    what it printed       exit.json  how it ended, once it has

The process holds the attempt's lock, and so does the program that it runs: while one of them lives, nobody starts the
task again; once exit.json stands there, the work was done and is not repeated, whoever was killed meanwhile.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from holdfast.config import child_environment
from holdfast.queue.usage import COUNTERS, count_nothing
from holdfast.storage.files import fresh, replace

BEAT = 5.0
"""Seconds between two signs of life."""
HEAD, TAIL = 8_000_000, 1_000_000
"""Bytes of each stream that are kept: its beginning and its end."""
MARK = "HOLDFAST_QUEUE_ATTEMPT"
"""Variable of the program that names its attempt."""
_GRACE = 3.0  # seconds between asking a program to end and ending it
_LINE = 4_000_000  # bytes of a line that may tell usage
_TICK = 0.05
_ROOM = 600  # seconds for which a full disk is waited for, with the result in hand


@dataclass(frozen=True)
class Order:
    """A program to run, and its limits."""

    command: list[str]
    folder: str
    prompt: str
    """File that is its standard input."""
    executor: str
    seconds: float
    stall: float
    tokens: int
    worktree: str = ""
    """Name of the work tree that `folder` is; empty for the project itself."""
    inbox: str = ""
    """File of messages that are passed on as lines of standard input; empty for a program that reads none."""
    variables: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Exit:
    """The end of an attempt."""

    code: int
    reason: str
    """`exit`, or the limit that ended it: `seconds`, `stall`, `tokens`; `stopped`; `missing` if it never began."""
    seconds: float
    tokens: int = 0
    output: int = 0
    """Bytes that it printed, also those that were dropped."""
    tail: str = ""
    """End of what it printed, for the case that its files are gone."""


class Stream:
    """One output of a program, read to its end: the head goes to a file, the tail is held, the middle is dropped."""

    def __init__(self, pipe: IO[bytes], path: Path, executor: str) -> None:
        self._pipe, self._file = pipe, fresh(path)
        self._count = COUNTERS.get(executor, count_nothing)
        self._tail: deque[bytes] = deque()
        self._rest, self._tailed = b"", 0
        self.size, self.last, self.usage = 0, time.monotonic(), dict[str, int]()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    @property
    def tokens(self) -> int:
        return sum(self.usage.values())

    def finish(self) -> bytes:
        """Writes the tail behind the head and returns the end of what was printed."""
        self.thread.join(1.0)  # a service that was left running may keep the pipe open
        end = b"".join(self._tail)
        behind = min(len(end), max(self.size - HEAD, 0))
        dropped = max(self.size - HEAD, 0) - behind
        with suppress(OSError):  # a full disk: the end is returned, and goes into exit.json
            if dropped:
                self._file.write(b"\n[%d bytes left out]\n" % dropped)
            self._file.write(end[len(end) - behind :])
            self._file.close()
        return end[-4000:]

    def _run(self) -> None:
        while data := os.read(self._pipe.fileno(), 65536):
            self.last = time.monotonic()
            room = max(HEAD - self.size, 0)
            self.size += len(data)
            if room:
                with suppress(OSError):  # a full disk costs output, not the work
                    self._file.write(data[:room])
                    self._file.flush()
            self._hold(data)
            self._read_usage(data)

    def _hold(self, data: bytes) -> None:
        self._tail.append(data)
        self._tailed += len(data)
        while self._tailed - len(self._tail[0]) > TAIL:
            self._tailed -= len(self._tail.popleft())

    def _read_usage(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[:_LINE]
        for line in lines:
            with suppress(ValueError, TypeError, AttributeError, KeyError):  # not every line tells usage
                self.usage |= self._count(json.loads(line))


class Attempt:
    """A program that runs."""

    def __init__(self, folder: Path, order: Order, lock: int) -> None:
        self.folder, self.order, self.began = folder, order, time.monotonic()
        self.stopped = False
        self._beaten = 0.0
        with Path(order.prompt).open("rb") as prompt:
            self.process = subprocess.Popen(
                order.command,
                cwd=order.folder,
                env=child_environment({**order.variables, MARK: str(folder)}),
                stdin=subprocess.PIPE if order.inbox else prompt,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                pass_fds=(lock,),
            )
        assert self.process.stdout
        assert self.process.stderr
        self.out = Stream(self.process.stdout, folder / "out", order.executor)
        self.err = Stream(self.process.stderr, folder / "err", "")
        if order.inbox:
            threading.Thread(target=self._pass_messages, daemon=True).start()

    def run(self) -> Exit:
        """Waits for the end, or brings it about; then ends what the program left in its group."""
        while self.process.poll() is None:
            if reason := self._limit():
                end_group(self.process.pid, self.process)
                return self._exit(reason)
            self._beat()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(_TICK)
        end_group(self.process.pid, None)
        return self._exit("exit")

    def _limit(self) -> str:
        now = time.monotonic()
        if self.stopped:
            return "stopped"
        if now - self.began > self.order.seconds:
            return "seconds"
        if now - max(self.out.last, self.err.last) > self.order.stall:
            return "stall"
        return "tokens" if self.out.tokens > self.order.tokens else ""

    def _beat(self) -> None:
        now = time.monotonic()
        if now - self._beaten < BEAT:
            return
        self._beaten = now
        told = {"at": time.time(), "pid": os.getpid(), "group": self.process.pid, "tokens": self.out.tokens}
        told |= {"output": self.out.size + self.err.size, "silent": round(now - max(self.out.last, self.err.last), 1)}
        with suppress(OSError):  # the lock says that it lives, too
            _write(self.folder / "beat.json", told)

    def _exit(self, reason: str) -> Exit:
        code = self.process.wait()
        tail = self.out.finish() + self.err.finish()
        size = self.out.size + self.err.size
        spent = time.monotonic() - self.began
        return Exit(code, reason, round(spent, 3), self.out.tokens, size, tail.decode("utf-8", "replace"))

    def _pass_messages(self) -> None:
        """Writes the prompt, then each new line of the inbox, until the program has said its result."""
        assert self.process.stdin
        with suppress(OSError), self.process.stdin as pipe:  # a program that has ended reads nothing
            pipe.write(Path(self.order.prompt).read_bytes())
            pipe.flush()
            passed = 0
            while self.process.poll() is None:
                lines = _read_lines(Path(self.order.inbox))
                for line in lines[passed:]:
                    pipe.write(line + b"\n")
                    pipe.flush()
                if "result" in self.out.usage and len(lines) == passed:
                    return
                if len(lines) > passed:
                    self.out.usage.pop("result", None)
                passed = len(lines)
                time.sleep(_TICK)


def end_group(group: int, process: subprocess.Popen[bytes] | None) -> None:
    """Ends a group of processes: asks its leader first, if that still runs."""
    if process is not None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def supervise(folder: Path, lock: int) -> None:
    """Runs the attempt whose order is in `folder` and writes how it ended."""
    order = Order(**json.loads((folder / "order.json").read_bytes()))
    try:
        attempt = Attempt(folder, order, lock)
    except OSError as error:
        end = Exit(127, "missing", 0.0, tail=f"{order.command[0]}: {error.strerror}")
    else:

        def stop(*_: object) -> None:
            attempt.stopped = True

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        end = attempt.run()
    for _ in range(_ROOM):
        try:
            _write(folder / "exit.json", asdict(end))
        except OSError:  # the disk is full: the result waits for room
            time.sleep(1.0)
        else:
            return


def _write(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)  # a task may have deleted the folder
    replace(path, json.dumps(value).encode())


def _read_lines(path: Path) -> list[bytes]:
    """Returns the whole lines of a file that grows."""
    try:
        return path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []


if __name__ == "__main__":
    supervise(Path(sys.argv[1]), int(sys.argv[2]))
