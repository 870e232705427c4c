"""The append-only log beside a session: every compaction is an event, and nothing is ever lost.

`SESSION.holdfast.jsonl` holds, for every change that Holdfast made, the file before and after it and where each line
came from, so that undo, diff, expand and why need nothing else, at any later time. Beside a session of Gemini CLI its
name begins with a dot.
"""

from __future__ import annotations

from holdfast.text.file_log.change_file import Compaction, compact_file, expand_file, undo_file
from holdfast.text.file_log.lineage import Lineage, read_lineage
from holdfast.text.file_log.log import Event, log_path, read_log

__all__ = [
    "Compaction",
    "Event",
    "Lineage",
    "compact_file",
    "expand_file",
    "log_path",
    "read_lineage",
    "read_log",
    "undo_file",
]
