"""A host whose sessions can be looked at: it compacts by arithmetic, so that what must be shown is known."""

from __future__ import annotations

import json
import socket
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from scripted import ScriptedHost

from holdfast.cli.serve import build_server
from holdfast.errors import BadContext, BadInput, Missing
from holdfast.server.http.app import create_app
from holdfast.server.http.settings import Settings
from holdfast.server.protocol import BlockRow, CurvePoint, FactResult, RawTurn, SessionDetail, SessionRow
from waiting import PATIENCE

RATIO = 8
ROLES = {"system": "system", "task": "user", "user": "user", "observation": "tool"}


@dataclass
class Shown:
    """A session of turns of one block each; a token is a word."""

    id: str
    key: str = ""
    turns: list[tuple[Any, str]] = field(default_factory=list)
    facts: list[FactResult] = field(default_factory=list)
    rounds: list[CurvePoint] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    """For each compaction, how many turns it reached."""
    pinned: set[int] = field(default_factory=set)
    updated: float = 1_700_000_000.0
    resident: bool = True
    activities: list[Any] = field(default_factory=list)
    parent: str = ""

    def say(self, kind: str, text: str) -> None:
        self.turns.append((kind, text))
        self.point(len(text.split()))

    def compact(self, ratio: float = RATIO) -> None:
        self.cuts.append(len(self.turns) - 1)
        self.ratio = ratio
        self.point(0, compacted=True)

    def point(self, prefilled: int, compacted: bool = False) -> None:
        self.updated += 1
        row = self.row()
        prompt = row["tokens"] if prefilled else 0
        self.rounds.append(
            CurvePoint(
                turn=len(self.turns),
                tokens=row["tokens"],
                slots=row["slots"],
                bytes=row["bytes"],
                compacted=compacted,
                prompt_tokens=prompt,
                prefilled=prefilled,
                seconds_to_first_token=0.1 if prefilled else None,
            )
        )

    def blocks(self) -> list[BlockRow]:
        return [self.block(number, kind, text) for number, (kind, text) in enumerate(self.turns, 1)]

    def block(self, number: int, kind: Any, text: str) -> BlockRow:
        tokens = len(text.split())
        kept = number > (self.cuts or [0])[-1] or kind in ("system", "task", "user") or number in self.pinned
        found = {fact["fate"] for fact in self.facts if fact["turn"] == number}
        fate: Any = "verbatim" if kept else next((f for f in ("lost", "repaired") if f in found), "compacted")
        slots = tokens if kept else max(1, int(tokens / self.ratio))
        return BlockRow(
            turn=number,
            kind=kind,
            tokens=tokens,
            slots=slots,
            fate=fate,
            pinned=number in self.pinned,
            text=text[:2000],
        )

    def row(self) -> SessionRow:
        blocks = self.blocks()
        tokens, slots = sum(b["tokens"] for b in blocks), sum(b["slots"] for b in blocks)
        title = next((text for kind, text in self.turns if kind == "task"), "")
        return SessionRow(
            id=self.id,
            title=title[:120],
            turns=len(blocks),
            tokens=tokens,
            slots=slots,
            bytes=46_080 * slots,
            bytes_full=46_080 * tokens,
            compactions=len(self.cuts),
            resident=self.resident,
            busy=bool(self.activities),
            activities=self.activities,
            parent=self.parent,
            newest=next((text for kind, text in reversed(self.turns) if kind in ("task", "user")), "")[:120],
            updated=self.updated,
        )


class ShownHost(ScriptedHost):
    """Holds `Shown` sessions."""

    def __init__(self, *shown: Shown) -> None:
        super().__init__()
        self.shown = {session.id: session for session in shown}
        self.options: list[Mapping[str, Any]] = []
        self.looks: Counter[str] = Counter()
        """How often the list was asked for, by key."""

    def _shown(self, session: str, key: str) -> Shown:
        found = self.shown.get(session)
        if found is None or found.key != key:
            raise Missing(f"there is no session {session!r}; GET /holdfast/sessions lists yours")
        return found

    def sessions(self, key: str) -> Sequence[SessionRow]:
        self.looks[key] += 1
        return [session.row() for session in list(self.shown.values()) if session.key == key]

    def has_other_keys(self, key: str) -> bool:
        return any(session.key != key for session in self.shown.values())

    def session(self, session: str, key: str) -> SessionDetail:
        found = self._shown(session, key)
        found.resident = True
        gate = {"gate": {"lost": [f for f in found.facts if f["fate"] == "lost"]}} if found.cuts else {}
        events = [{"kind": "compact", "at": found.updated, "turns": cut} for cut in found.cuts]
        return SessionDetail(
            **found.row(),
            blocks=found.blocks(),
            rounds=found.rounds,
            curve=[],
            events=events,
            facts=found.facts if found.cuts else [],
            evidence=gate,
        )

    def compact(self, session: str, key: str, options: Mapping[str, Any]) -> SessionRow:
        found = self._shown(session, key)
        self.options.append(options)
        if len(found.turns) < 3:
            raise BadInput(f"session {session} has {len(found.turns)} turns; there is nothing to compact yet")
        found.compact(options.get("ratio", RATIO))
        return found.row()

    def undo(self, session: str, key: str) -> SessionRow:
        found = self._shown(session, key)
        if not found.cuts:
            raise BadInput(f"session {session} has no compaction to undo")
        found.cuts.pop()
        found.point(0)
        return found.row()

    def expand(self, session: str, key: str, turn: int) -> RawTurn:
        kind, text = self._said(session, key, turn)
        calls = [{"id": "c1", "name": "shell", "arguments": json.dumps({"cmd": text})}] if kind == "action" else []
        return RawTurn(
            turn=turn,
            role=ROLES.get(kind, "assistant"),  # type: ignore[typeddict-item]
            text="" if calls else text,
            reasoning="",
            calls=calls,  # type: ignore[typeddict-item]
            call_id="",
            is_error=False,
        )

    def _said(self, session: str, key: str, turn: int) -> tuple[str, str]:
        turns = self._shown(session, key).turns
        if not 1 <= turn <= len(turns):
            raise Missing(f"session {session} has turns 1 to {len(turns)}, not {turn}")
        return turns[turn - 1]

    def pin(self, session: str, key: str, turn: int, pinned: bool) -> SessionRow:
        self._said(session, key, turn)
        found = self._shown(session, key)
        (found.pinned.add if pinned else found.pinned.discard)(turn)
        found.updated += 1
        return found.row()

    def mark(self, session: str, key: str, mark: str, turn: int | None) -> SessionRow:
        found = self._shown(session, key)
        if mark == "fork":
            forked = Shown(f"{session}-fork", key, found.turns[:turn], parent=session)
            self.shown[forked.id] = forked
            return forked.row()
        if mark == "discard":
            found.turns.pop()
        return found.row()

    def export(self, session: str, key: str) -> bytes:
        return b"shown" + json.dumps(self._shown(session, key).turns).encode()

    def take(self, data: bytes, key: str) -> SessionRow:
        if not data.startswith(b"shown"):
            raise BadContext("this is no exported session")
        taken = Shown(f"taken-{len(self.shown)}", key, [tuple(turn) for turn in json.loads(data[5:])])
        self.shown[taken.id] = taken
        return taken.row()

    def drop(self, session: str, key: str) -> None:
        del self.shown[self._shown(session, key).id]


def worked(name: str = "s-1", exchanges: int = 14, key: str = "") -> Shown:
    """A session of a coding agent that was compacted every five exchanges, with facts lost and repaired."""
    made = Shown(name, key)
    made.say("system", "You are a coding agent. " * 20)
    made.say("task", "Make the flaky date tests of the billing service pass without touching the public API. " * 3)
    for turn in range(exchanges):
        made.say("action", f"pytest tests/billing/test_dates_{turn}.py -x " * 4)
        made.say("observation", f"E AssertionError: invoice_{turn} due 2024-03-{turn + 1:02d} " * (20 + 9 * (turn % 4)))
        if turn % 5 == 4:
            made.compact()
    made.facts = [
        FactResult(turn=6, kind="date", text="2024-03-02", fate="lost"),
        FactResult(turn=10, kind="path", text="tests/billing/test_dates_3.py", fate="repaired"),
    ]
    return made


@contextmanager
def serving(host: ShownHost, settings: Settings | None = None, port: int = 0) -> Iterator[str]:
    """A real server on a free port of loopback; gives its address."""
    settings = settings or Settings()
    running = build_server(create_app(host, settings), settings)
    with socket.create_server(("127.0.0.1", port)) as taken:
        thread = threading.Thread(target=running.run, kwargs={"sockets": [taken]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{taken.getsockname()[1]}"
        finally:
            running.should_exit = True
            thread.join(PATIENCE)
            assert not thread.is_alive()
