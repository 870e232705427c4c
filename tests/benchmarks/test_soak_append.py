"""The soak in little: a writer in a process of its own, compact and undo in this one, no line lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_no_line_is_lost_while_an_agent_appends_and_compact_and_undo_run():
    paths = [str(ROOT / "tests" / "text"), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "soak_append.py"), "--minutes", "0.05", "--rate", "100"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["lines"] >= 6
    assert found["compact"] > 0
    assert (found["lost"], found["lost after undo"]) == (0, 0)
    assert found["rounds byte for byte"] == found["rounds"] == 6, found
    assert "undo nothing" not in found
