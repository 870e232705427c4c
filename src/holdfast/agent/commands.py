"""Runs a command in a sandbox: its output is clamped while it streams, and nothing of it is left when it has ended."""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from select import select
from threading import Thread

from holdfast.agent.sandbox.base import Rights, Running, Sandbox
from holdfast.agent.sandbox.process import end_group

HEAD, TAIL = 5000, 5000
"""Characters of a long output that are shown."""
FLOOD = 256 << 20
"""Bytes of output at which a command is ended."""
MARK = "HOLDFAST_COMMAND"
"""The variable by which processes are found that left their group."""
_CHUNK = 1 << 16
_LOOK = 0.1  # seconds between two looks at a command's processes and memory
_TIME = "time"
_GRACE = 0.2  # seconds for what is still in the pipe once the main process has ended


@dataclass(frozen=True)
class CommandResult:
    """The output of a command, and its end."""

    output: str
    returncode: int
    """Negative for a signal; -1 also where it was ended here."""
    seconds: float = 0.0
    ended: str = ""
    """The reason why it was ended here; empty if it ended by itself."""
    total: int = 0
    """Bytes that it printed."""
    tail: str = ""
    """The last characters where the output was clamped; `output` is then the first ones."""

    def describe(self) -> str:
        """Returns the result as the model reads it."""
        lines = [f"<returncode>{self.returncode}</returncode>"]
        if self.ended:
            lines.append(f"<exception>{self.ended}</exception>")
        if not self.tail:
            return "\n".join([*lines, f"<output>\n{self.output}</output>"])
        gone = max(0, self.total - len(self.output) - len(self.tail))
        return "\n".join(
            [
                *lines,
                "<warning>The output was too long and its middle is left out. Print less: use head, tail or grep, or "
                "write it to a file and search that.</warning>",
                f"<output_head>\n{self.output}\n</output_head>",
                f"<elided_chars>{gone}</elided_chars>",
                f"<output_tail>\n{self.tail}</output_tail>",
            ]
        )


@dataclass
class Clamp:
    """The head and the tail of a stream, in bounded memory."""

    head: bytearray = field(default_factory=bytearray)
    tail: deque[bytes] = field(default_factory=deque)
    total: int = 0
    _held: int = 0

    def feed(self, data: bytes) -> None:
        """Takes the next bytes."""
        self.total += len(data)
        room = max(0, 4 * HEAD - len(self.head))  # a character has at most four bytes
        self.head += data[:room]
        if rest := data[room:]:
            self.tail.append(rest)
            self._held += len(rest)
            while self._held - len(self.tail[0]) >= 4 * TAIL:
                self._held -= len(self.tail.popleft())

    def texts(self) -> tuple[str, str]:
        """Returns the head and the tail; the tail is empty if the head is all."""
        whole = _decode(bytes(self.head) + b"".join(self.tail))
        if self.total <= len(self.head) + self._held and len(whole) <= HEAD + TAIL:
            return whole, ""
        return _decode(bytes(self.head))[:HEAD], whole[-TAIL:]


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "replace").replace("\0", "\ufffd").replace("\r\n", "\n")


def run_command(
    command: str, sandbox: Sandbox, rights: Rights, environment: Mapping[str, str], seconds: float
) -> CommandResult:
    """Runs a command to its end, or to the limit of time or output; then its whole process group is ended."""
    mark, began = secrets.token_hex(8), time.monotonic()
    try:
        running = sandbox.start(command, rights, {**environment, MARK: mark})
    except (OSError, ValueError) as error:  # e.g. an argument that is longer than the system takes
        reason = getattr(error, "strerror", None) or error
        return CommandResult("", -1, 0.0, f"The command could not be started: {reason}")
    codes: list[int] = []
    waiter = Thread(target=lambda: codes.append(running.wait()), daemon=True)
    waiter.start()
    clamp = Clamp()
    try:
        ended = _read(running, clamp, waiter, began + seconds)
    finally:
        end_group(running.pid)
        _end_leftovers(mark)
        waiter.join(5)
        running.close()
    took = time.monotonic() - began
    ended = ended or running.excess() if not codes or codes[0] < 0 else ended
    reason = f"it ran for more than {seconds:g} s" if ended == _TIME else ended
    head, tail = clamp.texts()
    words = f"The command was ended: {reason}." if reason else ""
    return CommandResult(head, codes[0] if codes and not ended else -1, took, words, clamp.total, tail)


def _read(running: Running, clamp: Clamp, waiter: Thread, until: float) -> str:
    """Reads the output up to the end of the main process; returns the reason why it must be ended, empty if it did."""
    last, look = float("inf"), time.monotonic() + _LOOK
    while (now := time.monotonic()) < min(until, last):
        if last == float("inf") and not waiter.is_alive():
            last = now + _GRACE  # a child in the background may hold the pipe for ever
        if now >= look:
            if passed := running.excess():
                return passed
            look = time.monotonic() + _LOOK
        if not select([running.output], [], [], min(0.05, until - now))[0]:
            if last < float("inf"):
                return ""
            continue
        data = os.read(running.output, _CHUNK)
        if not data:
            waiter.join(max(0.0, until - time.monotonic()))
            return _TIME if waiter.is_alive() else ""
        clamp.feed(data)
        if clamp.total > FLOOD:
            return f"it printed more than {FLOOD >> 20} MiB"
    return _TIME if now >= until else ""


def _end_leftovers(mark: str) -> None:
    """Ends processes that left the group of their command: they still carry its mark."""
    wanted = f"{MARK}={mark}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                os.kill(int(folder.name), signal.SIGKILL)
