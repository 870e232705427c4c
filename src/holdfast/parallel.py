"""Where independent pieces of work run: one after another here, or on the actors of a Ray cluster.

A piece of work is a task (a value that pickles) and gives results; which results are still missing, and where they are
written, is the caller's, who alone writes. Nothing here loads a model library, nor Ray before it is asked for.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Generic, TypeVar

from holdfast.errors import BadOption, Failed

Task = TypeVar("Task")
Result = TypeVar("Result")
Work = Callable[[Task], Iterable[Result]]
WorkFactory = Callable[[], Work[Task, Result]]
"""Makes the work ready (loads a model); called once here, or once in every worker, where it must pickle."""

# one core a worker: OpenMP threads of several workers on one machine only get in each other's way
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True)
class RayCluster:
    """A Ray cluster and what may be asked of it."""

    address: str = ""
    """`HOST:PORT`, `ray://HOST:PORT`, or `auto` for a running one; empty starts one on this machine for the run."""
    seconds: float = 3600.0
    """That a task may take on a worker, and a worker to get ready; then it is killed and the task tried again."""
    tries: int = 3
    """Of a task, before it is given up."""
    gpus: float = 0.0
    """Of a worker, which has one logical CPU."""

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise BadOption(f"a task needs a time-out above 0 seconds, got {self.seconds:g}")


@dataclass(frozen=True)
class TaskResult(Generic[Task, Result]):
    """A task and its results. Those of a local run are computed while they are taken."""

    task: Task
    results: Iterable[Result] = ()
    trouble: str = ""
    """Why it was given up; it has no results then."""


def run_tasks(
    tasks: Sequence[Task], opened: WorkFactory[Task, Result], fleet: RayCluster | None = None
) -> Generator[TaskResult[Task, Result]]:
    """Every task once: in order here, or in the order in which a fleet finishes them.

    What the work raises is raised here. Raises BadOption where Ray is not installed, and Failed where no cluster or
    worker can be had.
    """
    if not tasks:
        return
    if fleet is None:
        work = opened()
        yield from (TaskResult(task, work(task)) for task in tasks)
        return
    with _connect(fleet) as ray:
        crew = _WorkerPool[Task, Result](ray, fleet, ray.put(opened), deque((task, 1) for task in tasks))
        try:
            crew.hire(min(len(tasks), _worker_capacity(ray, fleet)))
            yield from crew.finish()
        finally:
            crew.dismiss()


class _Worker:
    """In a process of its own: gets ready once, then does task after task."""

    def open(self, opened: WorkFactory[Any, Any]) -> None:
        self._work = opened()

    def do(self, task: Any) -> list[Any]:
        return list(self._work(task))


@dataclass(frozen=True)
class _Assignment:
    """What a worker is doing: a task and which try of it, or getting ready."""

    worker: Any
    deadline: float
    job: tuple[Any, int] | None = None


@dataclass
class _WorkerPool(Generic[Task, Result]):
    """The workers of one run. A task is sent only to a worker that is ready, so that none waits for a dead node."""

    ray: Any
    fleet: RayCluster
    opened: Any
    waiting: deque[tuple[Task, int]]
    idle: list[Any] = field(default_factory=list)
    flights: dict[Any, _Assignment] = field(default_factory=dict)
    stillborn: int = 0
    """Workers in a row that died before they were ready."""

    def hire(self, count: int) -> None:
        remote = self.ray.remote(num_cpus=1, num_gpus=self.fleet.gpus, runtime_env={"env_vars": ENVIRONMENT})(_Worker)
        for _ in range(count):
            worker = remote.remote()
            self.flights[worker.open.remote(self.opened)] = _Assignment(worker, self._deadline())

    def finish(self) -> Iterator[TaskResult[Task, Result]]:
        while self.waiting or any(flight.job for flight in self.flights.values()):
            while self.idle and self.waiting:
                worker, job = self.idle.pop(), self.waiting.popleft()
                self.flights[worker.do.remote(job[0])] = _Assignment(worker, self._deadline(), job)
            patience = min(flight.deadline for flight in self.flights.values()) - time.monotonic()
            landed, _ = self.ray.wait(list(self.flights), timeout=max(0.0, patience))
            for ref in landed:
                yield from self._landed(ref, self.flights.pop(ref))
            for ref in [ref for ref, flight in self.flights.items() if flight.deadline <= time.monotonic()]:
                yield from self._lost(self.flights.pop(ref), f"it took over {self.fleet.seconds:g} s")

    def dismiss(self) -> None:
        for worker in (*self.idle, *(flight.worker for flight in self.flights.values())):
            self._kill(worker)

    def _landed(self, ref: Any, flight: _Assignment) -> Iterator[TaskResult[Task, Result]]:
        try:
            results = self.ray.get(ref)
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause from None  # what the work itself raised
        except self.ray.exceptions.RayError as error:
            yield from self._lost(flight, f"its worker died: {_first_line(error)}")
            return
        self.idle.append(flight.worker)
        self.stillborn = 0
        if flight.job:
            yield TaskResult(flight.job[0], results)

    def _lost(self, flight: _Assignment, why: str) -> Iterator[TaskResult[Task, Result]]:
        """Put the job back, or give it up; and take another worker in place of the lost one."""
        self._kill(flight.worker)
        if flight.job is None:
            self.stillborn += 1
        elif flight.job[1] < self.fleet.tries:
            self.waiting.append((flight.job[0], flight.job[1] + 1))
        else:
            yield TaskResult(flight.job[0], trouble=f"given up after {flight.job[1]} tries: {why}")
        if self.stillborn < self.fleet.tries:
            self.hire(1)
        elif not self.idle and not self.flights:
            raise Failed(f"no worker got ready on the Ray cluster, the last because {why}; see its logs and its memory")

    def _kill(self, worker: Any) -> None:
        with suppress(self.ray.exceptions.RayError, ValueError):  # a dead one is what is wanted
            self.ray.kill(worker)

    def _deadline(self) -> float:
        return time.monotonic() + self.fleet.seconds


def check_installed() -> None:
    """Raise BadOption where Ray is not."""
    if find_spec("ray") is None:
        raise BadOption("--ray needs Ray, which is not installed; pip install 'holdfast[ray]'")


@contextmanager
def _connect(fleet: RayCluster) -> Iterator[Any]:
    """Ray, connected: as it is where this process is connected already, else for the time of the run."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when Ray starts; nothing is reported to anybody
    check_installed()
    import ray

    if ray.is_initialized():
        yield ray
        return
    try:
        ray.init(fleet.address or "local", include_dashboard=False, configure_logging=False, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = fleet.address or "this machine"
        raise Failed(f"no Ray cluster at {where}: {_first_line(error)}; start one with `ray start --head`") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _worker_capacity(ray: Any, fleet: RayCluster) -> int:
    """How many workers the cluster has room for."""
    has = ray.cluster_resources()
    places = min([has.get("CPU", 0), *([has.get("GPU", 0) / fleet.gpus] if fleet.gpus else [])])
    if places < 1:
        raise Failed(f"the Ray cluster has no room for a worker of 1 CPU and {fleet.gpus:g} GPUs; it has {has}")
    return int(places)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
