"""The event log under damage: other writers, deleted folders, full disks, finished records."""

import errno
import json
import shutil

import pytest
from queues import read, run, statuses, task, write

from holdfast.errors import BadInput, Conflict, Missing
from holdfast.queue.decide import decide, send
from holdfast.queue.events import Log
from holdfast.queue.plan_file import PlanFile
from holdfast.storage.files import Disk


def sync(log):
    """Merges the file, and returns what was told about it."""
    file = PlanFile(log)
    file.sync()
    return file.notes


def edit(folder, change):
    """A planner's edit of the file as it stands."""
    value = json.loads((folder / "tasks.json").read_text())
    change(value)
    (folder / "tasks.json").write_text(json.dumps(value))


def test_edits_of_two_planners_are_both_taken(tmp_path):
    log = write(tmp_path, task("a"), task("b"))
    sync(log)
    stale = json.loads((tmp_path / "tasks.json").read_text())
    edit(tmp_path, lambda plan: plan["tasks"][0].update(name="first"))
    edit(tmp_path, lambda plan: plan["tasks"].append(task("c")))
    sync(log)
    stale["tasks"][1]["name"] = "second"  # made from the file as it was before
    (tmp_path / "tasks.json").write_text(json.dumps(stale))
    sync(Log(tmp_path))
    assert {name: one["name"] for name, one in read(tmp_path).items()} == {"a": "first", "b": "second", "c": "C"}


def test_a_task_is_taken_out_by_a_file_that_knew_it_and_by_no_other(tmp_path):
    log = write(tmp_path, task("a"), task("b"))
    sync(log)
    (tmp_path / "tasks.json").write_text(json.dumps({"project": "p", "tasks": [task("a")]}))
    assert "stay (b)" in sync(log)[0]
    assert read(tmp_path).keys() == {"a", "b"}
    edit(tmp_path, lambda plan: plan["tasks"].pop())
    assert sync(log) == []
    assert read(tmp_path).keys() == {"a"}


def test_a_finished_record_is_changed_by_no_edit(tmp_path):
    log = write(tmp_path, task("a"))
    run(log)
    done = read(tmp_path)["a"]
    edit(tmp_path, lambda plan: plan["tasks"][0].update(prompt="other", result={"status": "queued"}))
    assert "a is completed" in sync(log)[0]
    assert read(tmp_path)["a"] == done
    edit(tmp_path, lambda plan: plan["tasks"].clear())
    assert "stays" in sync(log)[0]
    assert read(tmp_path)["a"] == done


@pytest.mark.parametrize(
    ("tasks", "why"),
    [
        ([task("a", "true", "b"), task("b", "true", "a")], "circle"),
        ([task("a", "true", "a")], "circle"),
        ([task("a", "true", "ghost")], "a -> ghost"),
        ([task("a"), task("a")], "twice: a"),
        ([{"id": "a", "name": "A"}], "prompt"),
        ([{**task("a"), "on_failure": "explode"}], "on_failure"),
        ("no list", "tasks"),
    ],
)
def test_a_plan_that_cannot_be_run_is_refused_and_nothing_is_written(tmp_path, tasks, why):
    log = write(tmp_path, task("a"))
    sync(log)
    (tmp_path / "tasks.json").write_text(json.dumps({"project": "p", "tasks": tasks}))
    before = (tmp_path / "tasks.json").read_bytes(), log.path.read_bytes()
    with pytest.raises(BadInput, match=why):
        sync(log)
    assert ((tmp_path / "tasks.json").read_bytes(), log.path.read_bytes()) == before


def test_an_edit_that_cannot_be_read_stops_no_run_and_is_not_overwritten(tmp_path):
    log = write(tmp_path, task("a", "cat > /dev/null; echo '{broken' > tasks.json"), task("b", "true", "a"))
    told = run(log)
    assert statuses(log) == {"a": "completed", "b": "completed"}
    assert (tmp_path / "tasks.json").read_text() == "{broken\n"
    assert sum("not taken" in line for line in told) == 1
    assert "cannot be used" in (tmp_path / "status.md").read_text()


def test_a_task_that_deletes_the_queues_folder_and_the_file_loses_nothing(tmp_path):
    log = write(
        tmp_path, task("a"), task("b", "cat >/dev/null; rm -rf .holdfast tasks.json 2>&1; echo gone", "a"), task("c")
    )
    run(log)
    assert statuses(log) == dict.fromkeys("abc", "completed")
    assert log.state.records["b"].result["summary"].strip().endswith("gone")
    assert Log(tmp_path).state == log.state
    assert read(tmp_path).keys() == {"a", "b", "c"}


def test_two_writers_that_both_restore_a_deleted_log_write_each_event_once(tmp_path):
    log = write(tmp_path, task("a"), task("b"))
    sync(log)
    other = Log(tmp_path)
    shutil.rmtree(log.folder)
    decide(log, "skip", "a")
    decide(other, "skip", "b")
    log.refresh()
    assert Log(tmp_path).state == other.state
    assert statuses(log) == {"a": "skipped", "b": "skipped"}
    assert len(set(log.path.read_bytes().splitlines())) == len(log.path.read_bytes().splitlines()) == 3


def test_a_full_disk_changes_nothing_and_is_told_with_the_file(tmp_path):
    class Full(Disk):
        def write(self, descriptor, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    log = write(tmp_path, task("a"))
    sync(log)
    before, full = log.path.read_bytes(), Log(tmp_path, Full())
    with pytest.raises(OSError, match=r"No space left.*events\.jsonl"):
        decide(full, "skip", "a")
    assert log.path.read_bytes() == before
    assert statuses(full) == {"a": "queued"}


def test_a_line_that_a_killed_writer_left_half_is_cut_off(tmp_path):
    log = write(tmp_path, task("a"))
    sync(log)
    with log.path.open("ab") as file:
        file.write(b'{"kind": "skip", "task": "a"')
    assert statuses(Log(tmp_path)) == {"a": "queued"}
    decide(log, "skip", "a")
    assert statuses(Log(tmp_path)) == {"a": "skipped"}


@pytest.mark.parametrize(("kind", "error"), [("approve", Conflict), ("skip", Conflict)])
def test_what_does_not_apply_to_a_task_is_refused_with_its_status(tmp_path, kind, error):
    log = write(tmp_path, task("a", result={"status": "completed"}))
    sync(log)
    with pytest.raises(error, match="a is completed"):
        decide(log, kind, "a")
    with pytest.raises(Missing, match="no task 'b'"):
        decide(log, kind, "b")
    with pytest.raises(Conflict, match="reads nothing"):
        send(log, "a", "hello")


def test_an_edit_that_a_killed_writer_had_in_hand_is_taken(tmp_path):
    """A write changes names with the file: killed just then, the planner's edit lies beside it under a random name."""
    log = write(tmp_path, task("a"))
    sync(log)
    ours = (tmp_path / "tasks.json").read_bytes()
    edit(tmp_path, lambda plan: plan["tasks"].append(task("b")))
    (tmp_path / "tasks.json").rename(tmp_path / ".holdfast-0123456789abcdef.tmp")
    (tmp_path / "tasks.json").write_bytes(ours)
    (tmp_path / ".holdfast-00.tmp").write_bytes(ours[:-9])
    sync(Log(tmp_path))
    assert read(tmp_path).keys() == {"a", "b"}
    assert [path.name for path in tmp_path.glob(".holdfast-*")] == [".holdfast-00.tmp"]
