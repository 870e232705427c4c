"""A recorded session as the calls that it made: every assistant turn is one, its prompt is all that stands before it.

Where the file has usage, the provider's own counts say how many tokens one of ours is (a line through all calls) and
how many every prompt had that the file does not hold (system prompt, tools). Where it has times, they are used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import blake2b
from statistics import linear_regression
from typing import Any

from holdfast.cost.cache import Block, Prompt, build_prompt
from holdfast.cost.usage import Usage, read_recorded_usage
from holdfast.errors import BadOption
from holdfast.facts.session_facts import SessionFacts, collect_facts
from holdfast.transcript.draft import turn_size
from holdfast.transcript.token_estimate import estimate_tokens
from holdfast.transcript.turn import Role, ToolCall, Transcript, Turn

SECONDS_PER_TURN = 15.0
"""Between two calls of a file without times."""
_SCALES = 0.5, 2.0
"""Tokens of a provider for one of ours: what lies outside is no tokenizer but a file that is not what it seems."""
_TIMES = ("timestamp",), ("ts",), ("time", "created"), ("extra", "timestamp"), ("extra", "response", "created")


@dataclass(frozen=True)
class Call:
    """One call of the model."""

    turn: int
    """0-based assistant turn that it made."""
    at: float
    """Seconds since the first call."""
    output: int
    """Tokens: as recorded, or of what the turn holds where that is more (some files record the first of a stream)."""
    recorded: Usage | None


@dataclass(frozen=True)
class Session:
    """The calls of a transcript, and how its tokens are counted."""

    transcript: Transcript
    calls: tuple[Call, ...]
    overhead: int = 0
    """Tokens of every prompt that the file does not hold."""
    scale: float = 1.0
    """Tokens of the provider for one that `count` finds."""
    timed: bool = False
    """True if the file says when each call was made."""
    ledgers: dict[int, SessionFacts] = field(default_factory=dict, repr=False, compare=False)
    """The last ledger that was asked for, by its number of turns: strategies and cuts of one call share it."""

    @property
    def measured(self) -> bool:
        """True if the file says what calls took."""
        return any(call.recorded for call in self.calls)

    def ledger(self, turns: int) -> SessionFacts:
        """Returns the facts of the first `turns` turns."""
        if turns not in self.ledgers:
            self.ledgers.clear()
            self.ledgers[turns] = collect_facts(replace(self.transcript, turns=self.transcript.turns[:turns]))
        return self.ledgers[turns]

    def count(self, text: str) -> int:
        """Returns the tokens of a text."""
        return round(estimate_tokens(text) * self.scale)

    def prompt(self, turns: Iterable[Turn]) -> Prompt:
        """Returns these turns as they are sent."""
        sent = tuple(turns)
        head = next((at for at, turn in enumerate(sent) if turn.role is not Role.SYSTEM), len(sent))
        extra = (Block(b"overhead", self.overhead),) if self.overhead else ()
        blocks = (_block(t.role, t.text, t.reasoning, t.calls, t.call_id, self.scale) for t in sent)
        return build_prompt((*extra, *blocks), head + len(extra))


def read_session(transcript: Transcript, seconds_per_turn: float = SECONDS_PER_TURN) -> Session:
    """Returns the calls of a recorded session. Raises BadOption for seconds that are no number of at least 0."""
    if not 0 <= seconds_per_turn < float("inf"):
        raise BadOption(f"seconds per turn must be a number of at least 0, got {seconds_per_turn}")
    turns = transcript.turns
    made = [at for at, turn in enumerate(turns) if turn.role is Role.ASSISTANT]
    usages = [read_recorded_usage(turns[at]) for at in made]
    overhead, scale = _fit_scale(turns, made, usages)
    times, timed = _call_times(turns, made, seconds_per_turn)
    own = [round(turn_size(turns[at], estimate_tokens) * scale) for at in made]
    outputs = [max(size, usage.output if usage else 0) for size, usage in zip(own, usages, strict=True)]
    calls = tuple(Call(*parts) for parts in zip(made, times, outputs, usages, strict=True))
    return Session(transcript, calls, overhead, scale, timed)


def _fit_scale(turns: tuple[Turn, ...], made: list[int], usages: list[Usage | None]) -> tuple[int, float]:
    """Fits overhead and scale by a straight line through the recorded prompts; 0 and 1 if there are none."""
    sizes = [0]
    for turn in turns:
        sizes.append(sizes[-1] + turn_size(turn, estimate_tokens))
    points = [(sizes[at], usage.prompt) for at, usage in zip(made, usages, strict=True) if usage]
    ours, theirs = [x for x, _ in points], [y for _, y in points]
    if not points:
        return 0, 1.0
    slope = linear_regression(ours, theirs).slope if len(set(ours)) > 1 else 1.0
    scale = slope if _SCALES[0] <= slope <= _SCALES[1] else 1.0
    rest = sorted(theirs[at] - scale * ours[at] for at in range(len(points)))
    return max(0, round(rest[len(rest) // 2])), scale


def _call_times(turns: tuple[Turn, ...], made: list[int], step: float) -> tuple[list[float], bool]:
    """Returns the time of each call, never backwards; `step` seconds after the one before if the file does not say."""
    stamps = [_stamp(turns[at].extra) for at in made]
    first = next((at for at, stamp in enumerate(stamps) if stamp is not None), None)
    start = 0.0 if first is None else (stamps[first] or 0.0) - step * first
    times = [start]
    for stamp in stamps[1:]:
        times.append(max(times[-1], times[-1] + step if stamp is None else stamp))
    return [time - start for time in times[: len(made)]], bool(made) and None not in stamps


def _stamp(extra: Mapping[str, Any]) -> float | None:
    for path in _TIMES:
        value: Any = extra
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e14:
            return value / 1000 if value > 1e11 else float(value)
        if isinstance(value, str):
            try:
                when = datetime.fromisoformat(value)
            except ValueError:
                continue
            return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    return None


@lru_cache(maxsize=1 << 14)
def _block(role: Role, text: str, reasoning: str, calls: tuple[ToolCall, ...], call_id: str, scale: float) -> Block:
    digest = blake2b(digest_size=16)
    for part in (role, text, reasoning, call_id, *(x for call in calls for x in (call.id, call.name, call.arguments))):
        digest.update(f"{len(part)}:".encode() + part.encode("utf-8", "surrogatepass"))
    turn = Turn(role, text, reasoning, calls, call_id)
    return Block(digest.digest(), round(turn_size(turn, estimate_tokens) * scale))
