"""What a wire asks of a host and what it is told: values only, so that wires, hosts and tests meet here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from holdfast.transcript.turn import ToolCall, Turn

Reason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True)
class Ask:
    """One request: the whole history as a stateless client sends it, and how to answer."""

    turns: tuple[Turn, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    """OpenAI function definitions, as chat templates take them."""
    key: str = ""
    """Digest of the caller's API key. Sessions of different keys are never shared."""
    prompt: str | None = None
    """A plain text to continue in place of turns: no template, no session."""
    limit: int | None = None
    """Most tokens of the answer; None leaves it to the host."""
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    """Texts that end the answer and are not part of it."""
    logprobs: int | None = None
    """How many alternatives to tell for each token; 0 tells the token's own, None nothing."""


@dataclass(frozen=True)
class Logprob:
    """One token of an answer as the model saw it."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Started:
    """The history is read and the answer begins."""

    session: str
    prompt_tokens: int
    cached_tokens: int
    """Of the prompt, those that the session already held."""


@dataclass(frozen=True)
class Said:
    """Text of the answer. Joined, they are the text of the turn."""

    text: str
    logprobs: tuple[Logprob, ...] = ()


@dataclass(frozen=True)
class Thought:
    """Reasoning, where the model marks it."""

    text: str


@dataclass(frozen=True)
class Called:
    """A whole tool call; what its text was is never said."""

    call: ToolCall


@dataclass(frozen=True)
class Finished:
    """The end of an answer, which now stands in its session."""

    turn: Turn
    reason: Reason
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    extension: Mapping[str, Any] = field(default_factory=dict)
    """`holdfast` beside the usage: session, slots, bytes, bytes_full, compactions, evidence."""
    stopped_by: str = ""
    """Which of `stop` ended it."""


Event = Started | Said | Thought | Called | Finished


@dataclass(frozen=True)
class Stats:
    """What a host holds and has done: gauges and counters."""

    sessions: int = 0
    resident: int = 0
    """Sessions in memory; the others are on disk."""
    bytes_held: int = 0
    slots_held: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    compactions: int = 0
    compaction_seconds: float = 0.0
    failures: int = 0
    """Compactions that failed and left their session as it was."""


class Host(Protocol):
    """Holds sessions and answers over them. Every method may be called from any thread and may block.

    `key` is that of `Ask`; a session of another key does not exist for its caller. Unknown sessions raise Missing.
    """

    model: str

    def complete(self, ask: Ask) -> Iterator[Event]:
        """Started, pieces, Finished. Closing the iterator early ends the answer; the history stays read.

        Raises BadInput for a history that cannot be served, TooLarge for one that never fits, Busy where there is no
        room now.
        """
        ...

    def count(self, ask: Ask) -> int:
        """Tokens of the prompt, without reading it."""
        ...

    def sessions(self, key: str) -> Sequence[Mapping[str, Any]]:
        """A row for each session: id, turns, tokens, slots, bytes, bytes_full, compactions, resident, busy, updated."""
        ...

    def session(self, session: str, key: str) -> Mapping[str, Any]:
        """The row, and `blocks` (turn, kind, tokens, slots, fate, text), `rounds` (tokens and slots after each turn),
        `events`, `evidence`."""
        ...

    def compact(self, session: str, key: str, options: Mapping[str, Any]) -> Mapping[str, Any]: ...

    def undo(self, session: str, key: str) -> Mapping[str, Any]:
        """Take back the newest compaction."""
        ...

    def expand(self, session: str, key: str, turn: int) -> Mapping[str, Any]:
        """The raw turn (counted from 1) as it was given."""
        ...

    def pin(self, session: str, key: str, turn: int, pinned: bool) -> Mapping[str, Any]: ...

    def mark(self, session: str, key: str, mark: str, turn: int | None) -> Mapping[str, Any]:
        """`fork`, `discard` (the newest turn), or `boundary` (a good place to compact)."""
        ...

    def export(self, session: str, key: str) -> bytes:
        """The whole session as one file, for `take`."""
        ...

    def take(self, data: bytes, key: str) -> Mapping[str, Any]:
        """Import what `export` gave. Raises BadContext for anything else."""
        ...

    def drop(self, session: str, key: str) -> None: ...

    def stats(self) -> Stats: ...

    def close(self) -> None:
        """Finish or save every session."""
        ...
