"""Prints what `make test-agents` found, agent by agent: `python tests/agents/report.py RESULTS.xml… FOLDER`.

RESULTS are what pytest's `--junitxml` wrote. The table goes to FOLDER/agents.md, the same as JSON to
FOLDER/agents.json; a cell says pass, fail or why it was not run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from cells import COLUMNS
from install import PINS

NAMES = {
    "claude_code": "Claude Code",
    "codex": "Codex",
    "opencode": "opencode",
    "pi": "pi",
    "mini_swe_agent": "mini-swe-agent",
    "gemini_cli": "Gemini CLI",
    "qwen_code": "Qwen Code",
    "aider": "Aider",
    "cline": "Cline",
}
ABSENT = {
    **{("cline", column): "its program wants a terminal" for column in COLUMNS},
    ("aider", "memory tools of the proxy"): "it has no tools",
}


class Cell(NamedTuple):
    """One agent in one column."""

    agent: str
    column: str
    state: str
    """`pass`, `fail`, or `not run`."""
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.state}: {self.reason}" if self.reason else self.state


def read_cells(results: Path) -> Iterator[Cell]:
    """Yields the cells that the tests of a run wrote down."""
    for case in ElementTree.parse(results).iter("testcase"):
        told = [(one.get("name"), one.get("value", "")) for one in case.iter("property")]
        agent = next((value for name, value in told if name == "agent"), "")
        skipped, ends = case.find("skipped"), case.find("failure")
        ends = case.find("error") if ends is None else ends
        reasons = dict(value.split(": ", 1) for name, value in told if name == "skips")
        passed = {value for name, value in told if name == "passes"}
        failed = False
        for column in (value for name, value in told if name == "tries"):
            if column in passed:
                yield Cell(agent, column, "pass")
            elif skipped is not None:
                yield Cell(agent, column, "not run", reasons.get(column, skipped.get("message", "")))
            elif failed:
                yield Cell(agent, column, "not run", "what comes before it failed")
            else:
                failed = True
                yield Cell(agent, column, "fail", _first_line(ends))


def _first_line(ends: ElementTree.Element | None) -> str:
    text = ends.get("message", "") if ends is not None else "it wrote no result down"
    return text.strip().partition("\n")[0][:80].replace("|", "/")


def write_table(cells: list[Cell]) -> str:
    """Returns the table in Markdown, an agent a line."""
    by = {(cell.agent, cell.column): cell for cell in cells}
    lines = [f"| agent | {' | '.join(COLUMNS)} |", "|---|" + "---|" * len(COLUMNS)]
    for name, title in NAMES.items():
        version = f" {PINS[name]['version']}" if name in PINS else ""
        row = [
            str(by.get(cell := (name, column), f"not run: {ABSENT.get(cell, 'not asked for')}")) for column in COLUMNS
        ]
        lines.append(f"| {title}{version} | {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def main(results: list[Path], folder: Path) -> None:
    """Writes both files and prints the table."""
    cells = [cell for path in results for cell in read_cells(path)]
    folder.mkdir(parents=True, exist_ok=True)
    table = write_table(cells)
    (folder / "agents.md").write_text(table)
    rows = [{**cell._asdict(), "version": PINS[cell.agent]["version"]} for cell in cells]
    (folder / "agents.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(table)  # noqa: T201


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:-1]], Path(sys.argv[-1]))
