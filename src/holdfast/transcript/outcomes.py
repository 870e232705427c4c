"""The outcome of a command, read from the text of its result: exit code, first error line, test counts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from holdfast.transcript.turn import Turn

LONGEST_ERROR_LINE = 160
"""Characters of an error line that are shown."""

_END_LINES = 8  # harnesses tell the exit code within so many lines of either end
_EXIT = re.compile(
    r"^\W*(?:(?:the )?(?:command|process)\b[\w ]{0,30}|command )?"
    r"(?:exit(?:ed)?(?: with)?[ _]?(?:code|status)?|returncode)\W{1,4}(-?\d{1,10})\W*(?:returncode\W*)?$",
    re.IGNORECASE | re.MULTILINE,
)
_COLOUR = re.compile(r"\x1b\[[\d;?]*[A-Za-z]")
_EXIT_FIELD = re.compile(r'"exit_?[cC]ode"\s*:\s*(-?\d{1,10})')
ERROR_LINE = re.compile(
    r"^.*(?:\b\w*(?:Error|Exception)\b(?::|\s*\[|$)|\b[Ee]rror(?:\[\w+\])?:|\bERROR\b|\b[Ff]atal:|\bFAILED\b|\bpanic:|"
    r"\b[Nn]o such file|\bcommand not found|\b[Pp]ermission denied|\bSegmentation fault|^\s*not ok\b|"
    r"^\s*[\u2716\u2717\u00d7] |\bnpm ERR!|\*\*\* \[|^E: |^\w+ Error at ).*$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class RunCounts:
    """The tests that one run reported."""

    passed: int = 0
    failed: int = 0
    """Failures and errors."""
    skipped: int = 0


def read_exit_code(result: Turn) -> int | None:
    """Returns the exit code that the harness recorded beside the result, or wrote at either end of it; None if
    neither.
    """
    recorded = _read_recorded_code(result)
    if recorded is not None:
        return recorded
    lines = result.text.strip().split("\n")
    ends = lines if len(lines) <= 2 * _END_LINES else [*lines[:_END_LINES], *lines[-_END_LINES:]]
    found = _EXIT.findall("\n".join(line[:LONGEST_ERROR_LINE] for line in ends)) or _EXIT_FIELD.findall(
        result.text[-LONGEST_ERROR_LINE:]
    )
    return int(found[-1]) if found else None


def _read_recorded_code(result: Turn) -> int | None:
    """Returns the code of mini-swe-agent (under `extra`) or of OpenHands (under `extras.metadata`); None if there is
    none.
    """
    inner, extras = result.extra.get("extra"), result.extra.get("extras")
    metadata = extras.get("metadata") if isinstance(extras, dict) else None
    places = ((inner, "returncode"), (metadata, "exit_code"))
    codes = [place.get(key) for place, key in places if isinstance(place, dict)]
    return next((code for code in codes if isinstance(code, int) and not isinstance(code, bool)), None)


def find_error_line(text: str) -> str:
    """Returns the first line that tells an error, cut to `LONGEST_ERROR_LINE` characters; empty if there is none."""
    found = ERROR_LINE.search(_without_colours(text))
    line = found.group().strip() if found else ""
    return line if len(line) <= LONGEST_ERROR_LINE else line[: LONGEST_ERROR_LINE - 1] + "…"


def count_tests(text: str) -> RunCounts | None:
    """Returns the counts of the test run in `text` (pytest, unittest, jest, vitest, mocha, node, go, cargo), or
    None.
    """
    shown = _without_colours(text)
    return next((found for reader in _RUNNERS if (found := reader(shown))), None)


def _without_colours(text: str) -> str:
    """Returns the text without the terminal's colours."""
    return _COLOUR.sub("", text) if "\x1b" in text else text


_PYTEST = re.compile(r"^(?:=+ )?((?:\d+ [a-z]+(?:, )?)+) in \d[\d.:]*m?s?\b", re.MULTILINE)
_UNITTEST = re.compile(r"^Ran (\d+) tests? in .*?\n\s*(OK|FAILED)(?: \((.*?)\))?\s*$", re.MULTILINE)
_JEST = re.compile(r"^\s*Tests:?\s+(\d+ [a-z]+(?:(?:, | \| )\d+ [a-z]+)*)", re.MULTILINE)
_MOCHA = re.compile(r"^\s+(\d+) (passing|failing|pending)\b", re.MULTILINE)
_NODE = re.compile(r"^(?:\u2139|#) (pass|fail|cancelled|skipped|todo) (\d+)\s*$", re.MULTILINE)
_GO_TEST = re.compile(r"^\s*--- (PASS|FAIL|SKIP): ", re.MULTILINE)
_GO_PACKAGE = re.compile(r"^(ok|FAIL)\s+\S+\s+(?:\d[\d.]*s|\(cached\)|\[build failed\])", re.MULTILINE)
_CARGO = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored", re.MULTILINE)
_NUMBERED = re.compile(r"(\d+) ([a-z]+)")
_NAMED = re.compile(r"([a-z ]+)=(\d+)")

_KIND = {
    **dict.fromkeys(("passed", "passing", "pass", "PASS", "ok", "xfailed"), "passed"),
    **dict.fromkeys(("failed", "failing", "fail", "FAIL", "error", "errors", "failures", "cancelled"), "failed"),
    **dict.fromkeys(("skipped", "pending", "todo", "SKIP", "ignored"), "skipped"),
    "unexpected successes": "failed",
}


def _sum(pairs: list[tuple[int, str]]) -> RunCounts | None:
    """Adds up counts by their runner's words; None if none of the words is a result."""
    counts = [(number, _KIND[word]) for number, word in pairs if word in _KIND]
    if not counts:
        return None
    return RunCounts(*(sum(n for n, kind in counts if kind == of) for of in ("passed", "failed", "skipped")))


def _summary_reader(pattern: re.Pattern[str]) -> Callable[[str], RunCounts | None]:
    """Returns a reader of summary lines such as `1 failed, 2 passed`; the last one counts."""

    def read(text: str) -> RunCounts | None:
        for found in reversed(pattern.findall(text)):
            if counts := _sum([(int(number), word) for number, word in _NUMBERED.findall(found)]):
                return counts
        return None

    return read


def _unittest(text: str) -> RunCounts | None:
    found = _UNITTEST.findall(text)
    if not found:
        return None
    ran, _, details = found[-1]
    counts = _sum([(int(number), word.strip()) for word, number in _NAMED.findall(details)]) or RunCounts()
    return RunCounts(max(0, int(ran) - counts.failed - counts.skipped), counts.failed, counts.skipped)


def _go(text: str) -> RunCounts | None:
    """Counts the tests if they are listed (-v), else the packages."""
    return _sum([(1, word) for word in _GO_TEST.findall(text) or _GO_PACKAGE.findall(text)])


def _cargo(text: str) -> RunCounts | None:
    """Adds up the lines that cargo writes for every crate and for the doc tests."""
    found = _CARGO.findall(text)
    return RunCounts(*(sum(int(row[at]) for row in found) for at in range(3))) if found else None


_RUNNERS: tuple[Callable[[str], RunCounts | None], ...] = (
    _summary_reader(_PYTEST),
    _unittest,
    _cargo,
    _summary_reader(_JEST),
    lambda text: _sum([(int(number), word) for number, word in _MOCHA.findall(text)]),
    lambda text: _sum([(int(number), word) for word, number in _NODE.findall(text)]),
    _go,
)


def reports_failure(output: str) -> bool:
    """Returns True if an output says of itself that its command failed: agents wrap it as JSON with an exit code."""
    if not output.startswith("{") or '"exit_code"' not in output:
        return False
    try:
        held = json.loads(output)
    except (ValueError, RecursionError):
        return False
    metadata = held.get("metadata") if isinstance(held, dict) else None
    return isinstance(metadata, dict) and metadata.get("exit_code") not in (0, None)
