"""Work over a fleet gives the rows of a local run; dead nodes, dead workers and late tasks lose and double nothing."""

import json
import os
import pickle
import secrets
import signal
from collections import deque
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest

from counted_crates import crates, long_session
from holdfast import parallel
from holdfast.batch import LOG, BatchEntry
from holdfast.cli.main import main
from holdfast.compaction.compact import load
from holdfast.engine.routing import Route, open_route
from holdfast.errors import BadOption, Failed
from holdfast.eval import run as latent
from holdfast.eval.rows import read_lines, read_rows
from holdfast.eval.text import run as text
from holdfast.eval.text.rows import TextRow
from holdfast.parallel import RayCluster, TaskResult, run_tasks

EXAMPLE = Path("examples/taskdeck/session.json").absolute()
SOURCES = Path(parallel.__file__).parents[1]
SECONDS = 240  # of everything on the cluster, on a machine that is busy
TIMINGS = {"created", "seconds_prefill", "seconds_compact", "seconds_measure"}


def quiet(*_):
    """A report and a note that nobody reads."""


def test_a_local_run_is_lazy_and_in_order():
    begun = []

    def work(task):
        begun.append(task)
        yield task * 10
        yield task * 10 + 1

    first, *rest = run_tasks([1, 2], lambda: work)
    assert begun == []
    assert list(first.results) == [10, 11]
    assert begun == [1]
    assert [list(done.results) for done in rest] == [[20, 21]]


def test_nothing_is_opened_where_there_is_nothing_to_do():
    assert list(run_tasks([], lambda: pytest.fail("opened"), RayCluster())) == []


class FakeRay:
    """A cluster that answers as it is told to, in this process, on a clock of its own."""

    class RayError(Exception):
        pass

    class RayTaskError(RayError):
        def __init__(self, cause):
            self.cause = cause

    def __init__(self, clock):
        self.exceptions = SimpleNamespace(RayError=self.RayError, RayTaskError=self.RayTaskError)
        self.clock, self.futures, self.killed, self.refs = clock, {}, [], count()

    def remote(self, **options):
        assert options["num_cpus"] == 1
        assert options["runtime_env"]["env_vars"]["OMP_NUM_THREADS"] == "1"
        return lambda cls: SimpleNamespace(remote=lambda: self._actor(cls()))

    def _actor(self, worker):
        def called(method):
            def remote(argument):
                ref = next(self.refs)
                try:
                    self.futures[ref] = (True, method(argument))
                except self.RayError as error:
                    self.futures[ref] = (False, error)
                except TimeoutError:
                    self.futures[ref] = None
                except Exception as error:
                    self.futures[ref] = (False, self.RayTaskError(error))
                return ref

            return SimpleNamespace(remote=remote)

        return SimpleNamespace(open=called(worker.open), do=called(worker.do))

    def wait(self, refs, timeout):
        ready = [ref for ref in refs if self.futures[ref] is not None][:1]
        if not ready:
            self.clock.now += timeout
        return ready, []

    def get(self, ref):
        good, value = self.futures[ref]
        if good:
            return value
        raise value

    def kill(self, worker):
        self.killed.append(worker)


@pytest.fixture
def crew(monkeypatch):
    """`crew(tasks, opened, **options)`: a run over a cluster that is made up."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(parallel.time, "monotonic", lambda: clock.now)

    def run(tasks, opened, **options):
        ray = FakeRay(clock)
        made = parallel._WorkerPool(ray, RayCluster(**options), opened, deque((task, 1) for task in tasks))
        made.start_workers(2)
        return sorted(made.finish(), key=lambda done: done.task), ray

    return run


def test_a_task_whose_worker_dies_is_done_by_another(crew):
    deaths = iter([True, False])

    def work(task):
        if task == 3 and next(deaths):
            raise FakeRay.RayError("node died\nat length")
        return [task]

    done, ray = crew(range(6), lambda: work)
    assert done == [TaskResult(task, [task]) for task in range(6)]
    assert len(ray.killed) == 1


def test_a_task_that_kills_every_worker_is_given_up_and_the_others_are_done(crew):
    def work(task):
        if task == 0:
            raise FakeRay.RayError("out of memory")
        return [task]

    done, ray = crew(range(4), lambda: work, tries=3)
    assert done[1:] == [TaskResult(task, [task]) for task in (1, 2, 3)]
    assert done[0].failure == "given up after 3 tries: its worker died: out of memory"
    assert len(ray.killed) == 3


def test_a_task_that_takes_too_long_is_tried_again_and_then_given_up(crew):
    def work(task):
        if task == 1:
            raise TimeoutError
        return [task]

    done, ray = crew(range(3), lambda: work, seconds=5, tries=2)
    assert [task.failure for task in done] == ["", "given up after 2 tries: it took over 5 s", ""]
    assert len(ray.killed) == 2


def test_a_cluster_on_which_no_worker_gets_ready_is_told(crew):
    def opened():
        raise FakeRay.RayError("out of memory")

    with pytest.raises(Failed, match=r"no worker got ready.*out of memory"):
        crew(range(3), opened)


def test_what_the_work_raises_is_raised_as_it_is(crew):
    def opened():
        raise BadOption("no such method")

    with pytest.raises(BadOption, match="no such method"):
        crew(range(3), opened)


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_a_time_out_that_makes_no_sense_is_refused(seconds):
    with pytest.raises(BadOption, match="time-out"):
        RayCluster(seconds=seconds)


def test_without_ray_every_command_says_what_to_install(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(parallel, "find_spec", lambda name: None)
    probes = tmp_path / "probes.jsonl"
    probes.write_text(crates(3).model_dump_json())
    for arguments in (
        ["compact", str(EXAMPLE), "-o", str(tmp_path / "out"), "--text", "truncate", "--ratio", "2"],
        ["eval", "text", str(EXAMPLE), "-o", str(tmp_path / "rows.jsonl"), "--text", "truncate"],
        ["eval", "run", "--transcripts", str(EXAMPLE), "--probes", str(probes), "--out", "rows", "--latent", "kvzip"],
    ):
        with pytest.raises(SystemExit) as stop:
            main([*arguments, "--ray"])
        assert stop.value.code == 2
        assert "holdfast[ray]" in capsys.readouterr().err


def test_a_model_behind_an_api_travels_without_its_key(monkeypatch):
    route = Route(kind="openai", model="m", base_url="http://127.0.0.1:9/v1", key_env="A_KEY")
    sent = pickle.dumps(open_route(route, key="secret-1"))
    assert b"secret-1" not in sent
    with pytest.raises(BadOption, match="A_KEY"):
        pickle.loads(sent)
    monkeypatch.setenv("A_KEY", "secret-2")
    there = pickle.loads(sent)
    assert (there.route, there.chat.key) == (route, "secret-2")


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one logical CPU each, which find Holdfast where this process does."""
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(SOURCES), os.environ.get("PYTHONPATH", "")]))
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))  # else it is kept in the home folder
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        before = signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.alarm(SECONDS)
        import ray
        from ray.cluster_utils import Cluster

        args = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80 << 20}
        made = Cluster(initialize_head=True, connect=True, head_node_args=args)
        made.second = made.add_node(num_cpus=1, object_store_memory=80 << 20)
        made.wait_for_nodes()
        yield made
        ray.shutdown()
        made.shutdown()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def sessions(tmp_path_factory):
    """Twelve sessions of one story, cut at different places."""
    folder = tmp_path_factory.mktemp("sessions")
    story = json.loads(EXAMPLE.read_text())
    for at in range(12):
        (folder / f"{at:02}.json").write_text(json.dumps({**story, "messages": story["messages"][: 30 + 2 * at]}))
    return folder


def without_timings(rows):
    """The bytes of rows in the order of their keys, without what the clock says."""
    told = [json.dumps({k: v for k, v in row.model_dump(mode="json").items() if k not in TIMINGS}) for row in rows]
    assert len(set(told)) == len(told), "a row is there twice"
    return sorted(told)


def test_a_node_killed_in_the_middle_loses_and_doubles_no_row(cluster, sessions, tmp_path):
    job = text.TextRun(latent.transcripts_in(sessions), ("tiered", "truncate"), (2.0, 5.0), gate=False)
    text.measure(job, tmp_path / "local.jsonl", quiet, quiet)
    nodes, told = [cluster.second], []

    def kill(what, at, total, name):
        if what == "session" and at == 2 and nodes:
            cluster.remove_node(nodes.pop(), allow_graceful=False)

    text.measure(job, tmp_path / "fleet.jsonl", kill, told.append, RayCluster(seconds=120))
    assert nodes == []
    assert told == []
    ours, theirs = (read_lines(tmp_path / name, TextRow, "", quiet) for name in ("fleet.jsonl", "local.jsonl"))
    assert without_timings(ours) == without_timings(theirs)
    assert text.measure(job, tmp_path / "fleet.jsonl", quiet, quiet) == 0


def test_the_rows_of_a_model_are_the_same_on_a_fleet(cluster, model, tmp_path):
    folder = tmp_path / "sessions"
    folder.mkdir()
    messages = [{"role": turn.role.value, "content": turn.text} for turn in long_session().turns]
    (folder / "s.json").write_text(json.dumps(messages))
    probes = tuple(crates(n) for n in (3, 4))
    job = latent.Run(latent.transcripts_in(folder), probes, ("truncate", "kvzip"), (2.0, 8.0), window=400)
    engine = load(model)
    for name, where in (("local.jsonl", None), ("fleet.jsonl", RayCluster(seconds=120))):
        latent.measure(job, engine, tmp_path / name, note=quiet, cluster=where)
    ours, theirs = (without_timings(read_rows(tmp_path / name)) for name in ("fleet.jsonl", "local.jsonl"))
    assert ours == theirs
    assert len(ours) == 2 * 6


def test_many_sessions_are_compacted_on_a_fleet_as_they_are_here(cluster, sessions, tmp_path, capsys):
    some = str(sessions / "0[0-3].json")
    for folder, more in (("here", []), ("fleet", ["--ray"])):
        with pytest.raises(SystemExit) as stop:
            main(["compact", some, "-o", str(tmp_path / folder), "--text", "tiered", "--ratio=4", *more])
        assert stop.value.code == 0, capsys.readouterr().err
    lines = [read_lines(tmp_path / folder / LOG, BatchEntry, "", quiet) for folder in ("here", "fleet")]
    ours, theirs = ([(line.key, {**line.evidence, "seconds": 0}) for line in of] for of in lines)
    assert sorted(ours, key=str) == sorted(theirs, key=str)
    for number in range(4):
        here, there = (tmp_path / folder / f"0{number}.json" for folder in ("here", "fleet"))
        assert here.read_bytes() == there.read_bytes()
