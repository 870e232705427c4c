"""Sources of sessions: the agent's own files, the proxy's journal, and the server's store.

A source shows the sessions of one caller. A name that a caller gives is only ever compared with the names that the
source lists itself, so no name leads to another file, folder or key.
"""

from __future__ import annotations

from holdfast.recall.sources.journal_files import JournalFiles
from holdfast.recall.sources.session_files import SessionFiles
from holdfast.recall.sources.store_sessions import StoredSessions

__all__ = ["JournalFiles", "SessionFiles", "StoredSessions"]
