"""Judges an answer: the checks run what it holds in a sandbox, with limits on time, memory and files."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.agent.sandbox.base import Sandbox
from holdfast.agent.workplace import Workplace, open_rights
from holdfast.bench.keep.assignment import Assignment
from holdfast.bench.keep.checks import ASKED
from holdfast.storage import files

SECONDS = 30
_CHECKS = Path(__file__).with_name("checks.py")
_PYTHON = (Path(sys.base_prefix), Path(sys.prefix), _CHECKS)
_COMMAND = f"{shlex.quote(sys.executable)} -I -B {shlex.quote(str(_CHECKS))}"


@dataclass(frozen=True)
class Judgement:
    """The facts of an assignment, each kept or not."""

    facts: Mapping[str, bool]
    error: str = ""
    """The reason why the answer did not run; then no fact was kept."""

    @property
    def complete(self) -> bool:
        """True if every fact is kept."""
        return bool(self.facts) and all(self.facts.values())


def judge(assignment: Assignment, answer: str, sandbox: Sandbox) -> Judgement:
    """Runs the checks on the code in `answer` in a sandbox. Code that hangs, floods or dies keeps no fact."""
    asked = {"family": assignment.family, "answer": extract_code(answer), "values": assignment.values}
    with tempfile.TemporaryDirectory() as empty:
        rights = open_rights(empty, read=_PYTHON)
        files.replace(rights.work / ASKED, json.dumps(asked).encode())
        try:
            ran = Workplace(sandbox, rights, SECONDS).run(_COMMAND)
        finally:
            shutil.rmtree(rights.scratch, ignore_errors=True)
    found: dict[str, Any]
    try:
        found = json.loads((ran.tail or ran.output).splitlines()[-1]) if not ran.ended else {"error": ran.ended}
    except IndexError:
        found = {"error": "it ended the process"}
    except ValueError:
        found = {"error": "it wrote over the verdict"}
    facts = found.get("facts") or {}
    return Judgement({name: facts.get(name) is True for name in assignment.facts}, str(found.get("error", "")))


def extract_code(answer: str) -> str:
    """Returns the first fenced block of an answer, or all of it where there is none; the end may lack its fence."""
    opened = answer.find("```")
    if opened < 0:
        return answer
    body = answer[opened:].partition("\n")[2]
    return body.partition("```")[0]
