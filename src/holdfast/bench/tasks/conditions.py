"""The conditions under which the tasks are built: how the context is kept, and whether the provider caches prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from holdfast.agent.contexts import Context, SentHistory, open_context
from holdfast.agent.models import AgentModel
from holdfast.cost.prices import Prices, Rates
from holdfast.errors import BadOption
from holdfast.methods.text.similarity import SCORERS
from holdfast.transcript.draft import new_draft, units
from holdfast.transcript.turn import Role, Transcript, Turn

TRIGGER = 12_000
"""Tokens of a history at which it is compacted."""
PRICES = Prices(
    "sonnet", Rates(3.0, 15.0, 0.3, 3.75, 6.0), source="USD per million tokens, as the source's posts state"
)
NAMED = {
    "raw": "none",
    "cache": "none+cache",
    "compression": "tiered@5",
    "compression+cache": "tiered@5+cache",
    "retrieval": "retrieval",
}
"""The conditions that have a name; any context of the agent is one too, with `+cache` behind it."""
_CACHE = "+cache"


@dataclass(frozen=True)
class TaskCondition:
    """One way of keeping the context."""

    name: str
    context: str
    """As `holdfast agent --context` spells it, or `retrieval`."""
    cached: bool

    def open(self, model: AgentModel, trigger: int = TRIGGER) -> Context:
        """Returns the context of a session. Raises BadOption for one that does not go with the model."""
        name, colon, scorer = self.context.partition(":")
        if name == "retrieval":
            return Retrieval(scorer=scorer if colon else "bm25")
        return open_context(self.context, model, trigger=trigger)


def read_condition(name: str) -> TaskCondition:
    """Returns a condition by name; the context itself is checked when it is opened."""
    spelled = NAMED.get(name, name)
    return TaskCondition(name, spelled.removesuffix(_CACHE), spelled.endswith(_CACHE))


@dataclass(frozen=True)
class Retrieval:
    """The task, the newest exchange, and of the older ones the five most like it: chosen anew before every call."""

    k: int = 5
    scorer: str = "bm25"
    """`bm25`, or `embedding`."""

    def __post_init__(self) -> None:
        if self.scorer not in SCORERS:
            raise BadOption(f"no scorer is called {self.scorer!r}; there are: {', '.join(SCORERS)}")

    @property
    def spec(self) -> str:
        return f"retrieval:{self.scorer}"

    def prepare(self, turns: Sequence[Turn], force: bool = False) -> SentHistory:
        """Returns the history to send."""
        head = len(list(takewhile(lambda turn: turn.role in (Role.SYSTEM, Role.USER), turns)))
        spans = [(start, stop) for start, stop in units(new_draft(Transcript(tuple(turns)))) if start >= head]
        older, newest = spans[:-1], spans[-1:]
        if len(older) > self.k:
            texts = [_text(turns[start:stop]) for start, stop in older]
            scores = SCORERS[self.scorer](_text(turns[newest[0][0] :]), texts)
            best = sorted(range(len(older)), key=lambda at: (-scores[at], -at))[: self.k]
            older = [older[at] for at in sorted(best)]
        sent = [*turns[:head], *(turn for start, stop in (*older, *newest) for turn in turns[start:stop])]
        return SentHistory(tuple(sent))


def _text(turns: Sequence[Turn]) -> str:
    return "\n".join([turn.text for turn in turns] + [call.arguments for turn in turns for call in turn.calls])
