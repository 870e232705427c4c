"""The log: one JSON line a request, with counts and kinds; words of a session only where asked for, never keys."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdfast.proxy.caller import Prepared


def row_of(prepared: Prepared, with_text: bool) -> dict[str, Any]:
    """What was done for a request."""
    lost, failure = prepared.lost, prepared.failure
    row: dict[str, Any] = {
        "before": prepared.before,
        "after": prepared.after,
        "compacted": prepared.compacted,
        "lost": dict(Counter(fact.kind.value for fact in lost)),
        "failure": failure.kind if failure else None,
    }
    if with_text:
        row["lost_text"] = [fact.text for fact in lost]
        row["failure_text"] = failure.words if failure else None
    return row


class Journal:
    """Appends to a file that only its owner can read; nothing where there is none."""

    def __init__(self, path: Path | None) -> None:
        """Raises OSError where the file cannot be written."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self._file = os.open(path, flags, 0o600) if path else None
        self.failed = 0
        """Lines that could not be written, a full disk for one; requests go on."""

    def write(self, row: Mapping[str, Any]) -> None:
        if self._file is None:
            return
        line = json.dumps({"time": round(time.time(), 3), **row}) + "\n"
        try:
            os.write(self._file, line.encode())  # one write, so that lines of two processes do not mix
        except OSError:
            self.failed += 1

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
