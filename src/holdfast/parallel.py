"""Independent tasks, run one after another in this process or on the actors of a Ray cluster.

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
    """Limit for a task on a worker, and for a worker to get ready; then it is killed and the task is tried again."""
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
    failure: str = ""
    """Reason for which the task was given up; it has no results then."""


def run_tasks(
    tasks: Sequence[Task], make_work: WorkFactory[Task, Result], cluster: RayCluster | None = None
) -> Generator[TaskResult[Task, Result]]:
    """Runs every task once: in order here, or in the order in which a cluster finishes them.

    What the work raises is raised here. Raises BadOption where Ray is not installed, and Failed where no cluster or
    worker can be had.
    """
    if not tasks:
        return
    if cluster is None:
        work = make_work()
        yield from (TaskResult(task, work(task)) for task in tasks)
        return
    with _connect(cluster) as ray:
        pool = _WorkerPool[Task, Result](ray, cluster, ray.put(make_work), deque((task, 1) for task in tasks))
        try:
            pool.start_workers(min(len(tasks), _worker_capacity(ray, cluster)))
            yield from pool.finish()
        finally:
            pool.stop_workers()


class _Worker:
    """In a process of its own: gets ready once, then does task after task."""

    def open(self, make_work: WorkFactory[Any, Any]) -> None:
        self._work = make_work()

    def do(self, task: Any) -> list[Any]:
        return list(self._work(task))


@dataclass(frozen=True)
class _Assignment:
    """The work of a worker: a task and the number of the try, or getting ready."""

    worker: Any
    deadline: float
    job: tuple[Any, int] | None = None


@dataclass
class _WorkerPool(Generic[Task, Result]):
    """The workers of one run. A task is sent only to a worker that is ready, so that none waits for a dead node."""

    ray: Any
    cluster: RayCluster
    make_work: Any
    waiting: deque[tuple[Task, int]]
    idle: list[Any] = field(default_factory=list)
    assignments: dict[Any, _Assignment] = field(default_factory=dict)
    failed_starts: int = 0
    """Workers in a row that died before they were ready."""

    def start_workers(self, count: int) -> None:
        remote = self.ray.remote(num_cpus=1, num_gpus=self.cluster.gpus, runtime_env={"env_vars": ENVIRONMENT})(_Worker)
        for _ in range(count):
            worker = remote.remote()
            self.assignments[worker.open.remote(self.make_work)] = _Assignment(worker, self._deadline())

    def finish(self) -> Iterator[TaskResult[Task, Result]]:
        while self.waiting or any(assignment.job for assignment in self.assignments.values()):
            while self.idle and self.waiting:
                worker, job = self.idle.pop(), self.waiting.popleft()
                self.assignments[worker.do.remote(job[0])] = _Assignment(worker, self._deadline(), job)
            patience = min(assignment.deadline for assignment in self.assignments.values()) - time.monotonic()
            landed, _ = self.ray.wait(list(self.assignments), timeout=max(0.0, patience))
            for ref in landed:
                yield from self._collect(ref, self.assignments.pop(ref))
            for ref in [ref for ref, assignment in self.assignments.items() if assignment.deadline <= time.monotonic()]:
                yield from self._retry_or_give_up(self.assignments.pop(ref), f"it took over {self.cluster.seconds:g} s")

    def stop_workers(self) -> None:
        for worker in (*self.idle, *(assignment.worker for assignment in self.assignments.values())):
            self._kill(worker)

    def _collect(self, ref: Any, assignment: _Assignment) -> Iterator[TaskResult[Task, Result]]:
        try:
            results = self.ray.get(ref)
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause from None  # what the work itself raised
        except self.ray.exceptions.RayError as error:
            yield from self._retry_or_give_up(assignment, f"its worker died: {_first_line(error)}")
            return
        self.idle.append(assignment.worker)
        self.failed_starts = 0
        if assignment.job:
            yield TaskResult(assignment.job[0], results)

    def _retry_or_give_up(self, assignment: _Assignment, why: str) -> Iterator[TaskResult[Task, Result]]:
        """Queues the job of a lost worker again, or gives it up; starts another worker in its place."""
        self._kill(assignment.worker)
        if assignment.job is None:
            self.failed_starts += 1
        elif assignment.job[1] < self.cluster.tries:
            self.waiting.append((assignment.job[0], assignment.job[1] + 1))
        else:
            yield TaskResult(assignment.job[0], failure=f"given up after {assignment.job[1]} tries: {why}")
        if self.failed_starts < self.cluster.tries:
            self.start_workers(1)
        elif not self.idle and not self.assignments:
            raise Failed(f"no worker got ready on the Ray cluster, the last because {why}; see its logs and its memory")

    def _kill(self, worker: Any) -> None:
        with suppress(self.ray.exceptions.RayError, ValueError):  # a dead one is what is wanted
            self.ray.kill(worker)

    def _deadline(self) -> float:
        return time.monotonic() + self.cluster.seconds


def check_installed() -> None:
    """Raises BadOption if Ray is not installed."""
    if find_spec("ray") is None:
        raise BadOption("--ray needs Ray, which is not installed; pip install 'holdfast[ray]'")


@contextmanager
def _connect(cluster: RayCluster) -> Iterator[Any]:
    """Connects Ray for the time of the run; a connection that this process has already stays as it is."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when Ray starts; nothing is reported to anybody
    check_installed()
    import ray

    if ray.is_initialized():
        yield ray
        return
    try:
        ray.init(cluster.address or "local", include_dashboard=False, configure_logging=False, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = cluster.address or "this machine"
        raise Failed(f"no Ray cluster at {where}: {_first_line(error)}; start one with `ray start --head`") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _worker_capacity(ray: Any, cluster: RayCluster) -> int:
    """Returns the number of workers that the cluster has room for. Raises Failed if it has none."""
    resources = ray.cluster_resources()
    capacity = min([resources.get("CPU", 0), *([resources.get("GPU", 0) / cluster.gpus] if cluster.gpus else [])])
    if capacity < 1:
        raise Failed(f"the Ray cluster has no room for a worker of 1 CPU and {cluster.gpus:g} GPUs; it has {resources}")
    return int(capacity)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
