"""The log: one JSON line a request, with counts and kinds; words of a session only where asked for, never keys."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdfast.proxy.caller import OutgoingRequest
from holdfast.storage.files import Lines


def row_of(outgoing: OutgoingRequest, with_text: bool) -> dict[str, Any]:
    """Returns the fields of a line that say what was done for a request."""
    lost, failure = outgoing.lost, outgoing.failure
    row: dict[str, Any] = {
        **({"over": outgoing.over} if outgoing.over else {}),
        **({"passed": outgoing.passed} if outgoing.passed else {}),
        "before": outgoing.before,
        "after": outgoing.after,
        "compacted": outgoing.compacted,
        "lost": dict(Counter(fact.kind.value for fact in lost)),
        "failure": failure.kind if failure else None,
    }
    if with_text:
        row["notes"] = list(outgoing.notes)
        row["lost_text"] = [fact.text for fact in lost]
        row["failure_text"] = failure.words if failure else None
    return row


class AccessLog:
    """Appends lines to a file that only its owner can read; without a path it writes nothing."""

    def __init__(self, path: Path | None) -> None:
        """Raises OSError if the file cannot be written, BadInput if it is a link or another user's."""
        self._lines = Lines(path, mode=0o600) if path else None
        self.failed = 0
        """Lines that could not be written, a full disk for one; requests go on."""

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends a row with its time."""
        if self._lines is None:
            return
        try:
            self._lines.append(json.dumps({"time": round(time.time(), 3), **row}))
        except OSError:
            self.failed += 1

    def close(self) -> None:
        """Closes the file."""
        if self._lines is not None:
            self._lines.close()
            self._lines = None
