"""Git work trees of tasks: added, verified, committed and merged back; a conflict is reported and nothing is lost."""

from __future__ import annotations

import subprocess
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from holdfast.errors import BadInput, Failed
from holdfast.queue.tasks import folder_name
from holdfast.storage.files import FileLock

_SECONDS = 120
_AUTHOR = ("-c", "user.name=holdfast queue", "-c", "user.email=queue@holdfast.invalid")


@dataclass(frozen=True)
class MergeResult:
    """The end of a branch: in the project, or beside it."""

    commit: str = ""
    """The project's commit that holds the work; empty if nothing was to be merged, or could be."""
    conflicts: tuple[str, ...] = ()
    error: str = ""


def check_repository(project: Path) -> None:
    """Raises BadInput if `project` is no git repository with a commit."""
    if _git(project, "rev-parse", "--verify", "HEAD").returncode:
        raise BadInput(
            f"a work tree needs a git repository with a commit, and {project} has none; run git init and commit, or "
            "leave worktree out"
        )


def branch_name(name: str) -> str:
    """Returns the branch of a work tree."""
    return f"holdfast/{folder_name(name)}"


def add(project: Path, folder: Path, name: str) -> Path:
    """Returns the work tree called `name` in `folder`; one that is there, from an attempt before, goes on.

    Raises BadInput without a repository, Failed if git makes none.
    """
    check_repository(project)
    path = folder / folder_name(name)
    if not _is_listed(project, path):
        _git(project, "worktree", "prune")
        exists = _git(project, "rev-parse", "--verify", f"refs/heads/{branch_name(name)}").returncode == 0
        how = [str(path), branch_name(name)] if exists else ["-b", branch_name(name), str(path), "HEAD"]
        done = _git(project, "worktree", "add", *how)
        if done.returncode or not _is_listed(project, path):
            raise Failed(f"git worktree add {path} made no work tree: {done.stderr.strip()}; remove what stands there")
    return path


def merge(project: Path, folder: Path, name: str, message: str) -> MergeResult:
    """Commits what a task left in its work tree and merges it into the project's branch, where one merge runs at a
    time. A work tree whose merge conflicts stays, with its branch, and the project stays as it was.
    """
    path, branch = folder / folder_name(name), branch_name(name)
    with closing(FileLock(folder / "merge.lock")) as lock:
        lock.take(wait=True)
        if not _is_listed(project, path):
            return MergeResult()  # merged already, by a process that was killed afterwards
        if _git(project, "rev-parse", "-q", "--verify", "MERGE_HEAD").stdout.strip() == _head(path):
            _git(project, "merge", "--abort")
        _git(path, "add", "-A")
        if _git(path, "diff", "--cached", "--quiet").returncode:
            done = _git(path, *_AUTHOR, "commit", "--no-verify", "-m", message)
            if done.returncode:
                return MergeResult(error=f"git commit in {path}: {done.stderr.strip()[-500:]}")
        done = _git(project, *_AUTHOR, "merge", "--no-ff", "--no-edit", "-m", f"Merge {message}", branch)
        if done.returncode:
            clashing = _git(project, "diff", "--name-only", "--diff-filter=U").stdout.split("\n")
            _git(project, "merge", "--abort")
            told = (done.stderr.strip() or done.stdout.strip())[-500:]
            return MergeResult(conflicts=tuple(filter(None, clashing)), error=f"branch {branch} was not merged: {told}")
        _git(project, "worktree", "remove", "--force", str(path))
        _git(project, "branch", "-d", branch)
        return MergeResult(_head(project))


def _head(path: Path) -> str:
    return _git(path, "rev-parse", "HEAD").stdout.strip()


def _is_listed(project: Path, path: Path) -> bool:
    listed = _git(project, "worktree", "list", "--porcelain").stdout.splitlines()
    return f"worktree {path.resolve()}" in listed and path.is_dir()


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except FileNotFoundError:
        raise BadInput("a work tree needs git, and there is none on PATH; install it, or leave worktree out") from None
    except subprocess.TimeoutExpired:
        raise Failed(f"git {arguments[0]} in {folder} took over {_SECONDS} s; look for a lock of git's there") from None
