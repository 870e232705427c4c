"""Tasks in git work trees: apart while they run, merged back, conflicts told and nothing lost."""

import subprocess

import pytest
from queues import run, statuses, task, write

from holdfast.errors import BadInput
from holdfast.queue import worktrees

FOLDER = ".holdfast/queue/worktrees"


@pytest.fixture
def repository(tmp_path):
    """A repository with one file that is committed."""
    (tmp_path / "README").write_text("line\n")
    for words in (["init", "-q", "-b", "main"], ["add", "README"], ["commit", "-qm", "first"]):
        git(tmp_path, *words)
    return tmp_path


def git(folder, *words):
    identity = ("-c", "user.name=t", "-c", "user.email=t@t.invalid")
    return subprocess.run(["git", "-C", folder, *identity, *words], check=True, capture_output=True, text=True).stdout


def test_tasks_side_by_side_see_only_their_own_files_and_both_are_merged(repository):
    meet = "cat >/dev/null; echo {0} > {0}.txt; touch {2}/{0}; until test -e {2}/{1}; do sleep 0.02; done; ls"
    apart = repository / ".git" / "meeting"
    apart.mkdir()
    one, other = task("a", meet.format("a", "b", apart)), task("b", meet.format("b", "a", apart))
    log = write(repository, one, other, task("c", "cat > /dev/null; ls", "a", "b"))
    run(log, jobs=2, worktrees=True)
    assert statuses(log) == dict.fromkeys("abc", "completed")
    told = {name: record.result["summary"].split() for name, record in log.state.records.items()}
    assert told == {"a": ["README", "a.txt"], "b": ["README", "b.txt"], "c": ["README", "a.txt", "b.txt"]}
    assert (repository / "a.txt").exists()
    assert git(repository, "worktree", "list").count("\n") == 1
    assert log.state.records["a"].result["files_changed"] == ["a.txt"]
    assert git(repository, "branch", "--list", "holdfast/*") == ""


def test_a_conflict_awaits_review_with_its_files_and_the_branch_stays(repository):
    edit = "cat > /dev/null; echo {0} > README"
    both = [task(name, edit.format(name), config={"worktree": name}) for name in ("a", "b")]
    (repository / ".holdfast/queue/worktrees").mkdir(parents=True)
    for name in ("a", "b"):  # both begin at the same commit
        worktrees.add(repository, repository / FOLDER, name)
    log = write(repository, *both)
    run(log)
    assert statuses(log) == {"a": "completed", "b": "awaiting_review"}
    result = log.state.records["b"].result
    assert result["conflicts"] == ["README"]
    assert "holdfast/b" in result["error"]
    assert (repository / "README").read_text() == "a\n"
    assert (repository / FOLDER / "b" / "README").read_text() == "b\n"
    assert git(repository, "status", "--porcelain", "README") == ""


def test_a_work_tree_of_an_interrupted_attempt_goes_on_with_what_stands_there(repository):
    folder = repository / FOLDER
    first = worktrees.add(repository, folder, "odd name/..")
    (first / "half").write_text("x")
    assert (worktrees.add(repository, folder, "odd name/..") / "half").exists()
    assert first.parent == folder
    merged = worktrees.merge(repository, folder, "odd name/..", "half: done")
    assert merged.commit == git(repository, "rev-parse", "HEAD").strip()
    assert (repository / "half").exists()
    assert worktrees.merge(repository, folder, "odd name/..", "again") == worktrees.MergeResult()


def test_without_a_repository_a_work_tree_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(BadInput, match="run git init and commit"):
        worktrees.check_repository(tmp_path)
    log = write(tmp_path, task("a", config={"worktree": "a"}))
    run(log)
    assert statuses(log) == {"a": "failed"}
    assert "git init" in log.state.records["a"].result["error"]
