"""Sessions in the store of a server, of one key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast.errors import BadInput, HoldfastError, Missing
from holdfast.recall.notes import NoteFile, Notes, note_name
from holdfast.recall.past import Past, past_of_history
from holdfast.storage.store import Store


@dataclass(frozen=True)
class StoredSessions:
    """The sessions of a store whose key has this digest; empty for no key."""

    store: Store
    key: str
    folder: Path
    """The folder of notes, which exists."""

    def sessions(self) -> Sequence[str]:
        own = [name for name in self.store.logs() if self._owner(name) == self.key]
        return sorted(own, key=self._last_change, reverse=True)

    def past(self, session: str) -> Past:
        from holdfast.session.events import replay_log

        self._check(session)
        state = replay_log(self.store.events(session), session)
        return past_of_history(session, state.turns)

    def notes(self, session: str) -> Notes:
        return NoteFile(self.folder / f"{note_name(self.key, self.past(session).turns)}.notes")

    def compact(self, session: str, tokens: int | None) -> str:
        raise BadInput(
            f"the server has this session in its memory: POST /holdfast/sessions/{session}/compact there, or start it "
            "with --memory-tools to ask for it from inside the session"
        )

    def _check(self, session: str) -> None:
        if session not in self.sessions():
            raise Missing(
                f"there is no session {session[:80]!r} of this key; context_status names those that there are"
            )

    def _owner(self, name: str) -> str | None:
        try:
            first = self.store.first_event(name)
        except HoldfastError:
            return None
        return None if first is None else str(first.get("key", ""))

    def _last_change(self, name: str) -> float:
        times = [event.get("at") for event in self.store.events(name)]
        return max((at for at in times if isinstance(at, int | float)), default=0.0)
