"""Sessions in the journal of a proxy, of one key: a file each, whose first line says whose it is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast.errors import BadInput, Missing
from holdfast.recall.notes import NoteFile, Notes, note_name
from holdfast.recall.past import Past, past_of_history
from holdfast.storage.files import DISK, check
from holdfast.transcript.read import decode_text, parse

HEAD = "holdfast"
"""The field of a file's first line that says whose session it is."""


@dataclass(frozen=True)
class JournalFiles:
    """The sessions in `folder` whose key has this digest."""

    folder: Path
    key: str

    def sessions(self) -> Sequence[str]:
        files = [
            path for path in self.folder.glob("*.jsonl") if not path.is_symlink() and self._owner(path) == self.key
        ]
        return [path.stem for path in sorted(files, key=lambda path: path.stat().st_mtime, reverse=True)]

    def past(self, session: str) -> Past:
        path = self._path(session)
        data = DISK.read(path)
        whole = data if data.endswith(b"\n") else data[: data.rfind(b"\n") + 1]  # the last line may be half written
        return past_of_history(session, parse(decode_text(whole, path), path=str(path), lenient=True).turns)

    def notes(self, session: str) -> Notes:
        notes = self.folder / f"{note_name(self.key, self.past(session).turns)}.notes"
        check(notes)
        return NoteFile(notes)

    def compact(self, session: str, tokens: int | None) -> str:
        raise BadInput(
            "the proxy compacts this session by itself when it passes the trigger; start it with --memory-tools to ask "
            "for it from inside the session"
        )

    def _path(self, session: str) -> Path:
        if session not in self.sessions():
            raise Missing(
                f"there is no session {session[:80]!r} of this key; context_status names those that there are"
            )
        return self.folder / f"{session}.jsonl"

    def _owner(self, path: Path) -> str | None:
        try:
            with path.open(encoding="utf-8", errors="replace") as file:
                return str(json.loads(file.readline())[HEAD]["key"])
        except (OSError, ValueError, KeyError, TypeError):  # another program's file
            return None
