"""The log of measurements: every heading has a verdict, and the index at the top names every entry."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
GENERATE = runpy.run_path(str(DOCS / "generate.py"))
LOG = (DOCS / "log.md").read_text(encoding="utf-8")
ENTRY = re.compile(r"^## (\d{4}-\d\d-\d\d): ([^:]+): (.+)$", re.MULTILINE)
ROW = re.compile(r"^\| (\d{4}-\d\d-\d\d) \| \[([^]]+)\]\(#([^)]+)\) \| (.+) \|$", re.MULTILINE)


def test_every_entry_has_a_date_a_title_and_a_verdict():
    assert len(ENTRY.findall(LOG)) == len(re.findall(r"^## ", LOG, re.MULTILINE)) > 30
    assert all(": " in heading for heading in re.findall(r"^###.*", LOG, re.MULTILINE))


def test_the_index_names_every_entry_in_order_with_its_verdict():
    entries = ENTRY.findall(LOG)
    assert [(date, title, verdict) for date, title, _, verdict in ROW.findall(LOG)] == entries
    links = [link for _, _, link, _ in ROW.findall(LOG)]
    assert links == [GENERATE["anchor"](": ".join(entry)) for entry in entries]
    assert len(set(links)) == len(links)
    assert LOG.index("<!-- /index -->") < LOG.index("\n## ")


@pytest.mark.parametrize("heading", ["## 2026-11-20: costs", "## costs: none", "### In sequence"])
def test_a_heading_without_a_verdict_is_refused(heading):
    with pytest.raises(ValueError, match="title: verdict"):
        GENERATE["log_with_index"](f"{LOG}\n{heading}\n")


def test_an_entry_that_the_index_lacks_is_added():
    made = GENERATE["log_with_index"](f"{LOG}\n## 2026-12-01: speed, again: no change\n")
    assert "| [speed, again](#2026-12-01-speed-again-no-change) | no change |" in made
    assert GENERATE["log_with_index"](LOG) == LOG
