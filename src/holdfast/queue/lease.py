"""Leases of tasks: an attempt's lock is its lease, its exit file is its end.

The lock is taken before the claim is written and is handed on to the process that supervises the attempt, so that a
claim without a holder means a crash. A crash requeues the task and uses up no retry.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from holdfast.config import child_environment
from holdfast.queue.events import Event, Log, State
from holdfast.queue.executors import module_command
from holdfast.queue.supervise import BEAT, MARK, Exit, Order, end_group
from holdfast.queue.tasks import folder_name
from holdfast.storage.files import FileLock, replace

SILENCE = 12 * BEAT
"""Seconds without a sign of life after which a holder on another host, or one whose lock is gone, counts as dead."""
GIVEN = "given.json"
"""The file of an attempt with the person's messages that stand in its prompt."""
CRASHES = 20
"""Crashes in a row after which a person is asked, since something is wrong with more than the task."""


@dataclass(frozen=True)
class Claim:
    """A task that this process may run."""

    task: str
    attempt: int
    folder: Path
    lock: FileLock


def attempt_folder(log: Log, task: str, attempt: int) -> Path:
    """Returns the folder of an attempt."""
    return log.folder / "attempts" / folder_name(task) / str(attempt)


def claim(log: Log, choose: Callable[[State], str | None]) -> Claim | None:
    """Takes the task that `choose` names among those of the newest state; None if it names none.

    Raises OSError if the disk refuses: then the task is as it was.
    """
    taken: list[Claim] = []

    def decide(state: State) -> Event | None:
        if (task := choose(state)) is None:
            return None
        attempt = state.records[task].attempt + 1
        folder = attempt_folder(log, task, attempt)
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock")
        if not lock.take():  # its claim is being written off just now
            lock.close()
            return None
        taken.append(Claim(task, attempt, folder, lock))
        messages = [message.number for message in state.waiting_messages(task)]
        host, revision = socket.gethostname(), state.revision
        claimed = {"kind": "claim", "task": task, "attempt": attempt, "host": host, "revision": revision}
        return {**claimed, "messages": messages}

    try:
        event = log.change(decide)
    except BaseException:
        for one in taken:
            one.lock.close()
        raise
    return taken[0] if taken and event else None


def start(taken: Claim, order: Order) -> subprocess.Popen[bytes]:
    """Starts the process that supervises an attempt and hands it the lock. It outlives this one."""
    replace(taken.folder / "order.json", json.dumps(asdict(order)).encode())
    process = subprocess.Popen(
        [*module_command("holdfast.queue.supervise"), str(taken.folder), str(taken.lock.descriptor)],
        env=child_environment({MARK: str(taken.folder)}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        pass_fds=(taken.lock.descriptor,),
    )
    taken.lock.close()
    return process


def read_exit(folder: Path) -> Exit | None:
    """Returns how an attempt ended; None if it has not, or left nothing."""
    value = read_json(folder / "exit.json")
    return None if value is None else Exit(**value)


def is_alive(folder: Path, host: str, started: float) -> bool:
    """Returns True while somebody holds an attempt: by its lock, or by signs of life where the lock tells nothing."""
    here = host in ("", socket.gethostname())
    if here and (folder / "lock").exists():
        lock = FileLock(folder / "lock")
        try:
            return not lock.take()
        finally:
            lock.close()
    beat = read_json(folder / "beat.json") or {}
    return time.time() - max(float(beat.get("at", 0.0)), started) < SILENCE


def end_orphan(folder: Path) -> bool:
    """Ends a program whose supervisor was killed, so that nobody watches its limits; returns True if there was one."""
    beat = read_json(folder / "beat.json")
    if beat is None or time.time() - beat["at"] < 3 * BEAT or _runs_for(folder, beat["pid"]):
        return False
    if not _runs_for(folder, beat["group"]):
        return False
    end_group(beat["group"], None)
    return True


def stop(folder: Path) -> None:
    """Asks the supervisor of an attempt to end it."""
    beat = read_json(folder / "beat.json")
    if beat is not None and _runs_for(folder, beat["pid"]):
        with suppress(ProcessLookupError):
            os.kill(beat["pid"], signal.SIGTERM)


def read_json(path: Path) -> dict[str, Any] | None:
    """Returns the object in a file; None if there is no file, or none that is whole."""
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _runs_for(folder: Path, process: int) -> bool:
    """Returns True if the process runs and, as far as the system tells, belongs to this attempt."""
    try:
        os.kill(process, 0)
        proc = Path("/proc") / str(process)
        return not proc.parent.joinpath("self").exists() or f"{MARK}={folder}".encode() in (
            proc / "environ"
        ).read_bytes().split(b"\0")
    except PermissionError:
        return True
    except (ProcessLookupError, FileNotFoundError):
        return False
