"""The requests of wires to a host and its answers: values only, so that wires, hosts and tests meet here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from typing_extensions import TypedDict

from holdfast.transcript.tool_parser.deltas import Logprob as Logprob  # noqa: PLC0414
from holdfast.transcript.tool_parser.deltas import ReasoningDelta as ReasoningDelta  # noqa: PLC0414
from holdfast.transcript.tool_parser.deltas import TextDelta as TextDelta  # noqa: PLC0414
from holdfast.transcript.tool_parser.deltas import ToolCallDelta as ToolCallDelta  # noqa: PLC0414
from holdfast.transcript.turn import Turn

FinishReason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True)
class GenerateRequest:
    """One request: the whole history as a stateless client sends it, and how to answer."""

    turns: tuple[Turn, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    """OpenAI function definitions, as chat templates take them."""
    key: str = ""
    """Digest of the caller's API key. Sessions of different keys are never shared."""
    prompt: str | None = None
    """A plain text to continue in place of turns: no template, no session."""
    max_tokens: int | None = None
    """Most tokens of the answer; None leaves it to the host."""
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    """Texts that end the answer and are not part of it."""
    logprobs: int | None = None
    """Alternatives to return for each token; 0 returns the token's own alone, None nothing."""


@dataclass(frozen=True)
class AnswerStart:
    """The history is read and the answer begins."""

    session: str
    prompt_tokens: int
    cached_tokens: int
    """Tokens of the prompt that the session already held."""


@dataclass(frozen=True)
class AnswerEnd:
    """The end of an answer, which now stands in its session."""

    turn: Turn
    reason: FinishReason
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    extension: Mapping[str, Any] = field(default_factory=dict)
    """`holdfast` beside the usage: session, slots, bytes, bytes_full, compactions, evidence."""
    stopped_by: str = ""
    """The text of `stop` that ended it."""


GenerateOutput = AnswerStart | TextDelta | ReasoningDelta | ToolCallDelta | AnswerEnd


@dataclass(frozen=True)
class HostStats:
    """Gauges and counters of a host."""

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
    rejected: int = 0
    """Compactions that were prepared and not taken over, because the agent's steps would have been less likely."""
    evicted: int = 0
    """Sessions that were dropped to keep the limits of the store."""


class SessionRow(TypedDict):
    """A session as a list shows it."""

    id: str
    title: str
    """The first 120 characters of the task."""
    turns: int
    tokens: int
    """Of the whole history, as it would be without Holdfast."""
    slots: int
    """Held for them: KV pairs a head, on average over the heads, rounded up."""
    bytes: int
    bytes_full: int
    """KV bytes of the whole history."""
    compactions: int
    """Compactions that stand: an undo takes one back."""
    resident: bool
    """In memory, and not only on disk."""
    busy: bool
    activities: list[Literal["reading", "answering", "compacting"]]
    """The work that is done on it now."""
    parent: str
    """The session that it was forked from; empty for none."""
    newest: str
    """The first 120 characters of the user's newest message, which tells forks apart."""
    updated: float
    """Seconds since the epoch; every change of the session moves it."""


class BlockRow(TypedDict):
    """One block of a session, and its fate."""

    turn: int
    """Counted from 1."""
    kind: Literal["system", "task", "user", "reasoning", "action", "observation", "memento"]
    tokens: int
    slots: int
    fate: Literal["verbatim", "compacted", "lost", "repaired"]
    """`lost` if a fact of it is lost, else `repaired` if one was brought back."""
    pinned: bool
    """By `pin`; kinds that policy always keeps do not count."""
    text: str
    """The first 2,000 characters."""


class CurvePoint(TypedDict):
    """The size of a session after an answer, a compaction or an undo: a point of its curve, in order of time."""

    turn: int
    """The newest, counted from 1."""
    tokens: int
    slots: int
    bytes: int
    compacted: bool
    """This point is a compaction. Only answers read a prompt: for others the next three are 0, 0 and None."""
    prompt_tokens: int
    prefilled: int
    """Of the prompt, those that the model had to read."""
    seconds_to_first_token: float | None


class FactResult(TypedDict):
    """A fact that the gate found lost, or lost and repaired."""

    turn: int
    """Counted from 1."""
    kind: str
    text: str
    fate: Literal["lost", "repaired"]


class SessionDetail(SessionRow):
    """A session with its blocks and its past."""

    blocks: list[BlockRow]
    rounds: list[CurvePoint]
    curve: list[tuple[int, float]]
    """Tokens said and slots held, where blocks with mementos go; empty for a session without."""
    events: list[dict[str, Any]]
    """Each has `kind` and `at` (seconds since the epoch), and what its kind has to say."""
    facts: list[FactResult]
    evidence: dict[str, Any]
    """Of the newest compaction, as a context's manifest has it: turns inside are counted from 0."""


class RawCall(TypedDict):
    """A tool call as the client sent it."""

    id: str
    name: str
    arguments: str


class RawTurn(TypedDict):
    """A turn as it was given."""

    turn: int
    """Counted from 1."""
    role: Literal["system", "user", "assistant", "tool"]
    text: str
    reasoning: str
    calls: list[RawCall]
    call_id: str
    is_error: bool


class Host(Protocol):
    """Holds sessions and answers over them. Every method may be called from any thread and may block.

    `key` is that of `GenerateRequest`; a session of another key does not exist for its caller. Unknown sessions raise
    Missing.
    """

    model: str
    window: int
    """Tokens that the model reads."""
    shows_tools: bool
    """False if the model's chat template leaves the tools of a request out, so that it never hears of them."""

    def complete(self, ask: GenerateRequest) -> Iterator[GenerateOutput]:
        """Yields AnswerStart, deltas, AnswerEnd. Closing the iterator early ends the answer; the history stays read.

        Raises BadInput for a history that cannot be served, TooLarge for one that never fits, Busy where there is no
        room now.
        """
        ...

    def count(self, ask: GenerateRequest) -> int:
        """Counts the tokens of the prompt, without reading it."""
        ...

    def sessions(self, key: str) -> Sequence[SessionRow]:
        """Returns a row for each session of the key."""
        ...

    def has_other_keys(self, key: str) -> bool:
        """Returns True if there are sessions of other keys than this."""
        ...

    def session(self, session: str, key: str) -> SessionDetail: ...

    def compact(self, session: str, key: str, options: Mapping[str, Any]) -> SessionRow:
        """Compacts now. `options` has any of latent, ratio, slots, by_turn, keep_recent, gate and restart.

        Other sessions are answered meanwhile. Raises BadInput if nothing may be compacted.
        """
        ...

    def undo(self, session: str, key: str) -> SessionRow:
        """Takes back the newest compaction."""
        ...

    def expand(self, session: str, key: str, turn: int) -> RawTurn:
        """Returns the raw turn (counted from 1) as it was given."""
        ...

    def pin(self, session: str, key: str, turn: int, pinned: bool) -> SessionRow: ...

    def mark(self, session: str, key: str, mark: str, turn: int | None) -> SessionRow:
        """Applies a mark; returns the row of the session that goes on.

        `fork` branches off at `turn` or the newest one, `discard` forgets the newest turn, and `boundary` marks a good
        place to compact.
        """
        ...

    def export(self, session: str, key: str) -> bytes:
        """Returns the whole session as one file, for `take`."""
        ...

    def take(self, data: bytes, key: str) -> SessionRow:
        """Imports the file of `export`. Raises BadContext for anything else."""
        ...

    def drop(self, session: str, key: str) -> None: ...

    def stats(self, key: str | None = None) -> HostStats:
        """Returns the counts of one key, or of all keys for None."""
        ...

    def close(self) -> None:
        """Finishes or saves every session."""
        ...
