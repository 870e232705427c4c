"""Sessions in an agent's own files, each with the log that Holdfast keeps beside it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from holdfast.errors import BadInput, Missing
from holdfast.recall.notes import NoteFile, Notes
from holdfast.recall.past import CompactionRecord, LostFact, Past
from holdfast.storage.files import DISK, check
from holdfast.text.file_log import Event, compact_file, log_path, read_lineage
from holdfast.text.file_log.log import move_companion
from holdfast.text.rewrite import TextPlan

SUFFIXES = (".json", ".jsonl", ".traj", ".md")
OURS = ".holdfast.jsonl"
"""The end of the names of logs and notes, which are no sessions."""
_NOTES = ".notes.holdfast.jsonl"


@dataclass(frozen=True)
class SessionFiles:
    """The files at `roots`, and those in the folders among them. Links are never followed."""

    roots: tuple[Path, ...]
    plan: TextPlan
    """The plan of a compaction that is asked for without a size."""
    belongs: Callable[[Path], bool] = lambda _: True
    """Says whether a file of a folder is one of this project."""

    def sessions(self) -> Sequence[str]:
        return list(self._paths())

    def past(self, session: str) -> Past:
        path = self._path(session)
        try:
            data = DISK.read(path)
        except OSError as error:
            raise BadInput(f"{session} cannot be read: {error.strerror}; context_status names the sessions") from None
        check(log_path(path))
        lineage = read_lineage(path, data)
        records = tuple(_record(event) for event, _ in lineage.steps)
        return Past(session, lineage.raw, lineage.now.transcript.turns, records)

    def notes(self, session: str) -> Notes:
        path = self._path(session)
        notes = move_companion(path, _NOTES)
        check(notes)
        return NoteFile(notes)

    def compact(self, session: str, tokens: int | None) -> str:
        path = self._path(session)
        plan = replace(self.plan, budget=tokens, ratio=None) if tokens else self.plan
        plan = replace(
            plan, lookup="Turn N in full: history_read with turns=N; history_search finds a turn by its words"
        )
        made = compact_file(path, plan, lenient=True)
        if made.event is None:
            return f"{session} has {made.rewritten.tokens_before:,} tokens, which fit; nothing was changed"
        report = made.rewritten.report
        lost = f", {len(report.lost)} facts stand only in the history now" if report else ""
        return (
            f"{session}: {made.rewritten.tokens_before:,} -> {made.rewritten.tokens:,} tokens{lost}; it counts when "
            f"the session is resumed from its file, and `holdfast undo` takes it back"
        )

    def _path(self, session: str) -> Path:
        path = self._paths().get(session)
        if path is None:
            raise Missing(f"there is no session {session[:80]!r} here; context_status names those that there are")
        return path

    def _paths(self) -> dict[str, Path]:
        """Returns the files by the names that they are asked for with, the newest first."""
        found = [(root, path) for root in self.roots for path in self._files(root)]
        found.sort(key=lambda pair: pair[1].stat().st_mtime, reverse=True)
        paths: dict[str, Path] = {}
        for root, path in found:
            own = path.name if path == root else path.relative_to(root).as_posix()
            paths.setdefault(own, path)
        return paths

    def _files(self, root: Path) -> Iterator[Path]:
        if _is_file(root):
            yield root
        for folder, _, names in os.walk(root, followlinks=False):
            for name in names:
                path = Path(folder, name)
                if name.endswith(SUFFIXES) and not name.endswith(OURS) and _is_file(path) and self.belongs(path):
                    yield path


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:  # it went meanwhile
        return False


def _record(event: Event) -> CompactionRecord:
    lost = tuple(LostFact(str(row["kind"]), str(row["text"]), int(row["turn"])) for row in _rows_of_lost(event))
    return CompactionRecord(
        str(event.plan.get("method", event.kind)), event.tokens_before, event.tokens, lost, event.time
    )


def _rows_of_lost(event: Event) -> list[dict[str, Any]]:
    return [
        row for row in event.gate.get("lost", ()) if isinstance(row, dict) and {"kind", "text", "turn"} <= row.keys()
    ]
