"""Judges an answer: the checks run what it holds in a process of its own, with limits on time, memory and files."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.bench.keep.assignment import Assignment

SECONDS = 30
_CHECKS = Path(__file__).with_name("checks.py")


@dataclass(frozen=True)
class Judgement:
    """The facts of an assignment, each kept or not."""

    facts: Mapping[str, bool]
    error: str = ""
    """The reason why the answer did not run; then no fact was kept."""

    @property
    def passed(self) -> bool:
        return bool(self.facts) and all(self.facts.values())


def judge(assignment: Assignment, answer: str) -> Judgement:
    """Runs the checks on the code in `answer`. Code that hangs, floods or dies keeps no fact."""
    asked = {"family": assignment.family, "answer": extract_code(answer), "values": assignment.values}
    found: dict[str, Any]
    with tempfile.TemporaryDirectory() as empty:
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-B", str(_CHECKS)],
                input=json.dumps(asked),
                capture_output=True,
                text=True,
                timeout=SECONDS,
                cwd=empty,
                env={},
                check=False,
            )
            found = (
                json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else {"error": "it ended the process"}
            )
        except subprocess.TimeoutExpired:
            found = {"error": f"it ran longer than {SECONDS} s"}
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
