"""The state of a run as a value: its logged events, applied in turn. What is not in the log did not happen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from holdfast.agent.account import Account, read_usage
from holdfast.agent.tools import ASKS_COMPACTION
from holdfast.transcript.turn import Role, ToolCall, Turn
from holdfast.transcript.turn_rows import decode_turn

Row = Mapping[str, Any]


@dataclass(frozen=True)
class RunState:
    """A run after some events."""

    turns: tuple[Turn, ...] = ()
    """All turns as they were said."""
    sent: tuple[Turn, ...] = ()
    """The turns that the newest compaction left; they stand for the first `compacted` ones."""
    compacted: int = 0
    started: frozenset[str] = frozenset()
    """Ids of the calls of the last answer whose action was begun."""
    steps: int = 0
    """Answers of the model."""
    format_errors: int = 0
    """Answers in a row that held no action that could be run."""
    compactions: int = 0
    asks_compaction: bool = False
    """True if the model has asked for one since its last answer."""
    tokens: int = 0
    """Tokens of the last prompt."""
    account: Account = field(default_factory=Account)
    submission: str | None = None
    status: str = ""
    """The status of its end; empty while it goes on."""
    text: str = ""

    @property
    def view(self) -> tuple[Turn, ...]:
        """The history as it was sent last, with the turns since."""
        return (*self.sent, *self.turns[self.compacted :])

    @property
    def pending(self) -> tuple[ToolCall, ...]:
        """The calls that no observation answers yet."""
        answered = set()
        for turn in reversed(self.turns):
            if turn.role is Role.ASSISTANT:
                return tuple(call for call in turn.calls if call.id not in answered)
            answered.add(turn.call_id)
        return ()


def _add_turn(state: RunState, row: Row) -> RunState:
    return replace(state, turns=(*state.turns, decode_turn(row["turn"])))


def _add_answer(state: RunState, row: Row) -> RunState:
    usage, turns = read_usage(row["usage"]), [decode_turn(row["turn"])]
    problem = row.get("problem", "")
    if problem:
        turns.append(Turn(Role.USER, problem))
    return replace(
        state,
        turns=(*state.turns, *turns),
        started=frozenset(),
        steps=state.steps + 1,
        format_errors=state.format_errors + 1 if problem else state.format_errors,
        tokens=usage.prompt,
        account=state.account.add_call(usage, row["money"], row["seconds"]),
        submission=row.get("submission"),
        asks_compaction=False,
    )


def _add_intent(state: RunState, row: Row) -> RunState:
    return replace(state, started=state.started | {row["call"]})


def _add_observation(state: RunState, row: Row) -> RunState:
    spent = replace(state.account, seconds=state.account.seconds + row.get("seconds", 0.0))
    malformed = row.get("malformed", False)
    return replace(
        _add_turn(state, row),
        format_errors=state.format_errors + 1 if malformed else 0,
        account=spent,
        submission=row.get("submission"),
        asks_compaction=state.asks_compaction or row.get(ASKS_COMPACTION, False),
    )


def _add_compaction(state: RunState, row: Row) -> RunState:
    sent = tuple(state.view[item] if isinstance(item, int) else decode_turn(item) for item in row["view"])
    account = state.account.add_compaction(read_usage(row["usage"]), row["money"], row["seconds"])
    return replace(
        state,
        sent=sent,
        compacted=len(state.turns),
        compactions=state.compactions + 1,
        asks_compaction=False,
        account=account,
    )


def _add_end(state: RunState, row: Row) -> RunState:
    return replace(state, status=row["status"], text=row["text"])


def _go_on(state: RunState, row: Row) -> RunState:
    return replace(state, status="", text="", format_errors=0)


_APPLY: dict[str, Callable[[RunState, Row], RunState]] = {
    "run": lambda state, row: state,
    "turn": _add_turn,
    "answer": _add_answer,
    "intent": _add_intent,
    "observation": _add_observation,
    "compaction": _add_compaction,
    "end": _add_end,
    "resume": _go_on,
}
"""The change that each kind of event makes."""


def apply(state: RunState, row: Row) -> RunState:
    """Returns the state after one event."""
    return _APPLY[row["kind"]](state, row)


@dataclass(frozen=True)
class AgentRun:
    """A run that has ended."""

    status: str
    """`submitted`, or what stopped it: a status of `control.py`."""
    text: str
    """The model's words on its work, or the reason of the stop and how to go on."""
    account: Account
    steps: int
    compactions: int
    turns: tuple[Turn, ...]
    folder: Path
