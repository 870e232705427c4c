"""The folder in which a program is built: reset to its start, and judged on a copy by checks that no agent saw."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from holdfast.agent.sandbox.base import Sandbox
from holdfast.agent.workplace import Workplace, open_rights
from holdfast.bench.tasks.catalog import FOLDER, Task
from holdfast.storage import files

SECONDS = 90.0
_CHECKS = "hidden.test.js"


@dataclass(frozen=True)
class Acceptance:
    """The checks of a task that what was built passes."""

    passed: int
    total: int
    output: str = ""

    @property
    def complete(self) -> bool:
        """True if every check passes."""
        return 0 < self.total == self.passed


def reset(folder: Path, given: Iterable[Task] = ()) -> None:
    """Makes a folder the program's start, with the solutions of `given` tasks; all else in it goes, ignored or not."""
    if folder.exists():
        shutil.rmtree(folder)
    _copy(start_files(given), folder)


def start_files(given: Iterable[Task] = ()) -> dict[str, Path]:
    """Returns the files of the program's start, with the solutions of `given` tasks, by their path in the folder."""
    start = FOLDER / "start"
    found = {re.sub(r"^packages/", "node_modules/", name): path for name, path in _list(start).items()}
    for task in given:
        found |= _list(task.folder / "solution")
    return found


def _list(root: Path) -> dict[str, Path]:
    """Returns the files below a folder by their path in it; links are none."""
    paths = (path for path in sorted(root.rglob("*")) if path.is_file() and not path.is_symlink())
    return {path.relative_to(root).as_posix(): path for path in paths}


def accept(task: Task, folder: Path, sandbox: Sandbox) -> Acceptance:
    """Runs the hidden checks of a task against a copy of what was built."""
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place).resolve() / "built"
        _copy(_list(folder), copy)
        files.replace(copy / _CHECKS, task.checks.read_bytes())
        rights = open_rights(copy, network=True)  # the program is asked over 127.0.0.1
        try:
            ran = Workplace(sandbox, rights, SECONDS).run(f"node --test --test-reporter=tap {_CHECKS}")
        finally:
            shutil.rmtree(rights.scratch, ignore_errors=True)
    text = ran.output + ran.tail
    passed, failed = (sum(map(int, re.findall(rf"^# {word} (\d+)$", text, re.MULTILINE))) for word in ("pass", "fail"))
    total = max(passed + failed, count_checks(task))
    return Acceptance(passed if not ran.ended else 0, total, text)


def count_checks(task: Task) -> int:
    """Returns the checks of a task, so that a program that cannot be loaded fails them all and not one."""
    source = task.checks.read_text("utf-8")
    looped = re.findall(r"for \(const \w+ of \[([^\]]*)\]\) \{\n  test\(", source)
    return len(re.findall(r"^test\(", source, re.MULTILINE)) + sum(len(part.split(",")) for part in looped)


def _copy(sources: Mapping[str, Path], target: Path) -> None:
    for name, source in sources.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        files.replace(target / name, source.read_bytes())
