"""A host whose answers are written beforehand: every wire is tested against it, without a model."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from holdfast.errors import BadContext, BadInput, Missing
from holdfast.server.protocol import (
    AnswerEnd,
    AnswerStart,
    FinishReason,
    GenerateOutput,
    GenerateRequest,
    HostStats,
    Logprob,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
)
from holdfast.transcript.turn import Role, ToolCall, Turn
from waiting import PATIENCE


@dataclass(frozen=True)
class Reply:
    """One answer. Each piece is a token."""

    pieces: tuple[str, ...] = ("Hello", " world")
    thoughts: tuple[str, ...] = ()
    calls: tuple[ToolCall, ...] = ()
    error: BaseException | None = None
    after: int | None = None
    """How many pieces are said before `error`; None raises before the answer begins."""
    ready: threading.Event | None = None
    """Waited for before the answer begins."""
    go: threading.Event | None = None
    """Waited for after the first piece."""


Script = Callable[[GenerateRequest], Reply]


@dataclass
class Held:
    """A session as the script keeps it."""

    id: str
    key: str
    turns: tuple[Turn, ...] = ()
    compactions: int = 0
    pins: set[int] = field(default_factory=set)
    marks: list[tuple[str, int | None]] = field(default_factory=list)


class ScriptedHost:
    """`replies` in turn, the last again and again, or a function of the ask. Each turn is a token, and each word."""

    def __init__(self, *replies: Reply, script: Script | None = None, model: str = "scripted") -> None:
        self.model, self.window, self.shows_tools = model, 4096, True
        self.replies = list(replies) or [Reply()]
        self.script = script or self._next
        self.asks: list[GenerateRequest] = []
        self.held: list[Held] = []
        self.closed = False
        self.running = self.most = self.said = self.ended_early = 0
        self.idle = threading.Event()
        """Set whenever no answer is being made."""
        self.idle.set()
        self._lock = threading.Lock()
        self._counts: dict[str, list[int]] = {}  # of each key: prompt, cached and completion tokens

    def _next(self, _ask: GenerateRequest) -> Reply:
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]

    def complete(self, ask: GenerateRequest) -> Iterator[GenerateOutput]:
        with self._lock:
            self.asks.append(ask)
            reply = self.script(ask)
            self.running += 1
            self.most = max(self.most, self.running)
            self.idle.clear()
        whole = False
        try:
            yield from self._answer(ask, reply)
            whole = True
        finally:
            with self._lock:
                self.running -= 1
                self.ended_early += not whole and reply.error is None
                if not self.running:
                    self.idle.set()

    def _answer(self, ask: GenerateRequest, reply: Reply) -> Iterator[GenerateOutput]:
        wait(reply.ready)
        if reply.error and reply.after is None:
            raise reply.error
        held, cached = self._match(ask)
        prompt = self.count(ask)
        yield AnswerStart(held.id, prompt, cached)
        yield from map(ReasoningDelta, reply.thoughts)
        text, reason, stopped, tokens = "", "stop", "", 0
        for number, piece in enumerate(reply.pieces):
            if reply.error and number == reply.after:
                raise reply.error
            if tokens == ask.max_tokens:
                reason = "length"
                break
            tokens += 1
            shown, stopped = cut(text, piece, ask.stop)
            text += shown
            if shown:
                yield TextDelta(shown, () if ask.logprobs is None else (logprob(shown, ask.logprobs),))
            self.said += 1
            if stopped:
                break
            if number == 0:
                wait(reply.go)
        if reply.calls and reason == "stop" and not stopped:
            yield from map(ToolCallDelta, reply.calls)
            reason = "tool_calls"
        turn = Turn(Role.ASSISTANT, text, "".join(reply.thoughts), reply.calls if reason == "tool_calls" else ())
        yield self._finished(ask, held, turn, reason, (prompt, cached, tokens + len(reply.calls), stopped))  # type: ignore[arg-type]

    def _finished(
        self, ask: GenerateRequest, held: Held, turn: Turn, reason: FinishReason, told: tuple[int, int, int, str]
    ) -> AnswerEnd:
        prompt, cached, tokens, stopped = told
        if ask.prompt is None:
            held.turns = (*ask.turns, turn)
        with self._lock:
            counts = self._counts.setdefault(ask.key, [0, 0, 0])
            self._counts[ask.key] = [old + new for old, new in zip(counts, (prompt, cached, tokens), strict=True)]
        extension = {"session": held.id, "slots": prompt, "bytes": 8 * prompt, "compactions": held.compactions}
        return AnswerEnd(turn, reason, prompt, cached, tokens, extension, stopped)

    def _match(self, ask: GenerateRequest) -> tuple[Held, int]:
        """The caller's session that holds the longest head of the history, whole; else a new one."""
        if ask.prompt is not None:
            return Held("", ask.key), 0
        said = [spoken(turn) for turn in ask.turns]
        heads = [
            held
            for held in self.held
            if held.key == ask.key and [spoken(turn) for turn in held.turns] == said[: len(held.turns)]
        ]
        if heads:
            best = max(heads, key=lambda held: len(held.turns))
            return best, words(best.turns)
        with self._lock:
            self.held.append(Held(f"s{len(self.held) + 1}", ask.key))
            return self.held[-1], 0

    def count(self, ask: GenerateRequest) -> int:
        return len(ask.prompt.split()) if ask.prompt is not None else words(ask.turns)

    def _of(self, session: str, key: str) -> Held:
        for held in self.held:
            if (held.id, held.key) == (session, key):
                return held
        raise Missing(f"there is no session {session!r}; GET /holdfast/sessions lists yours")

    def sessions(self, key: str) -> Any:
        return [row(held) for held in self.held if held.key == key]

    def has_other_keys(self, key: str) -> bool:
        return any(held.key != key for held in self.held)

    def session(self, session: str, key: str) -> Any:
        held = self._of(session, key)
        blocks = [
            {
                "turn": n,
                "kind": t.role.value,
                "tokens": words([t]),
                "slots": words([t]),
                "fate": "verbatim",
                "text": t.text,
            }
            for n, t in enumerate(held.turns, 1)
        ]
        rounds = [
            {"turn": n, "tokens": words(held.turns[:n]), "slots": words(held.turns[:n])}
            for n in range(1, len(blocks) + 1)
        ]
        return {**row(held), "blocks": blocks, "rounds": rounds, "events": [], "evidence": {"lost": []}}

    def compact(self, session: str, key: str, options: Mapping[str, Any]) -> Any:
        if unknown := set(options) - {"ratio", "method", "keep_recent"}:
            raise BadInput(f"no option is called {min(unknown)!r}; there are: keep_recent, method, ratio")
        held = self._of(session, key)
        held.compactions += 1
        return row(held)

    def undo(self, session: str, key: str) -> Any:
        held = self._of(session, key)
        if not held.compactions:
            raise BadInput(f"session {session} has no compaction to undo")
        held.compactions -= 1
        return row(held)

    def expand(self, session: str, key: str, turn: int) -> Any:
        said = self._turn(session, key, turn)
        return {"turn": turn, "role": said.role.value, "text": said.text}

    def pin(self, session: str, key: str, turn: int, pinned: bool) -> Any:
        self._turn(session, key, turn)
        held = self._of(session, key)
        (held.pins.add if pinned else held.pins.discard)(turn)
        return {**row(held), "pins": sorted(held.pins)}

    def _turn(self, session: str, key: str, turn: int) -> Turn:
        turns = self._of(session, key).turns
        if not 1 <= turn <= len(turns):
            raise Missing(f"session {session} has turns 1 to {len(turns)}, not {turn}")
        return turns[turn - 1]

    def mark(self, session: str, key: str, mark: str, turn: int | None) -> Any:
        if mark not in ("fork", "discard", "boundary"):
            raise BadInput(f"no mark is called {mark!r}; there are: fork, discard, boundary")
        held = self._of(session, key)
        held.marks.append((mark, turn))
        return row(held)

    def export(self, session: str, key: str) -> bytes:
        held = self._of(session, key)
        return json.dumps({"scripted": [[turn.role.value, turn.text] for turn in held.turns]}).encode()

    def take(self, data: bytes, key: str) -> Any:
        try:
            turns = tuple(Turn(Role(role), text) for role, text in json.loads(data)["scripted"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise BadContext("this is no exported session") from error
        self.held.append(Held(f"s{len(self.held) + 1}", key, turns))
        return row(self.held[-1])

    def drop(self, session: str, key: str) -> None:
        self.held.remove(self._of(session, key))

    def stats(self, key: str | None = None) -> HostStats:
        held = [session for session in self.held if key in (None, session.key)]
        counts = [count for of, count in self._counts.items() if key in (None, of)]
        prompt, cached, completion = (sum(count[at] for count in counts) for at in range(3))
        tokens = {"prompt_tokens": prompt, "cached_tokens": cached, "completion_tokens": completion}
        return HostStats(len(held), len(held), compactions=sum(session.compactions for session in held), **tokens)

    def close(self) -> None:
        self.closed = True


def wait(flag: threading.Event | None) -> None:
    if flag and not flag.wait(PATIENCE):
        raise AssertionError("the test never let this answer go on")


def spoken(turn: Turn) -> tuple[Any, ...]:
    """What of a turn makes it the same turn when a client sends it again."""
    return turn.role, turn.text, turn.calls, turn.call_id


def words(turns: Sequence[Turn]) -> int:
    return sum(1 + len(turn.text.split()) for turn in turns)


def row(held: Held) -> dict[str, Any]:
    tokens = words(held.turns)
    return {
        "id": held.id,
        "turns": len(held.turns),
        "tokens": tokens,
        "slots": tokens,
        "bytes": 8 * tokens,
        "bytes_full": 8 * tokens,
        "compactions": held.compactions,
        "resident": True,
        "busy": False,
        "activities": [],
        "parent": "",
        "newest": "",
        "updated": 0.0,
    }


def cut(text: str, piece: str, stops: Sequence[str]) -> tuple[str, str]:
    """What of a piece may be said, and the stop that ends the answer in it. A stop lies within one piece here."""
    found = [(at, stop) for stop in stops if (at := piece.find(stop)) >= 0]
    if not found:
        return piece, ""
    at, stop = min(found)
    return piece[:at], stop


def logprob(token: str, top: int) -> Logprob:
    return Logprob(token, -0.5, tuple((f"{token}{n}" if n else token, -0.5 - n) for n in range(top)))
