"""Keeps the turns that are most similar to the task, and drops the rest: retrieval as context management.

The query is the newest request of the user and the task. Every kept turn brings its exchange along, so that calls keep
their results. If that does not fit, the least similar go first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from holdfast.errors import BadOption
from holdfast.methods.text.base import Room
from holdfast.methods.text.exchanges import Span, choose_until_fit, drop_exchanges, droppable_exchanges
from holdfast.methods.text.similarity import SCORERS
from holdfast.transcript.draft import Draft, task_piece
from holdfast.transcript.speaker import extract_own_words
from holdfast.transcript.turn import Turn


@dataclass(frozen=True)
class Retrieve:
    """System prompt, task, newest exchanges and the best `k` turns stay."""

    k: int = 5
    """Turns that are retrieved; 0 keeps as many as fit, the best first."""
    scorer: str = "embedding"
    """`embedding` (all-MiniLM-L6-v2, the first 256 tokens of a turn) or `bm25`."""

    name: ClassVar[str] = "retrieve"

    def __post_init__(self) -> None:
        if self.k < 0:
            raise BadOption(f"retrieve: k must be at least 0, got {self.k}")
        if self.scorer not in SCORERS:
            raise BadOption(f"retrieve: no scorer is called {self.scorer!r}; there are: {', '.join(SCORERS)}")

    def rewrite(self, held: Draft, room: Room) -> Draft:
        spans = [] if room.fits(held) else droppable_exchanges(held, room)
        if not spans:
            return held
        scores = self._scores(held, spans)
        ranked = sorted(scores, key=lambda at: (-scores[at], at))
        best = set(ranked[: self.k] if self.k else ranked)
        worst_first = sorted(spans, key=lambda span: max(scores[at] for at in range(*span)))
        kept = [span for span in worst_first if best.intersection(range(*span))]
        others = [span for span in worst_first if not best.intersection(range(*span))]
        return drop_exchanges(held, {*others, *choose_until_fit(held, room, [*others, *kept])})

    def _scores(self, held: Draft, spans: list[Span]) -> dict[int, float]:
        """Returns the similarity of every piece that may go to the query."""
        pieces = [at for span in spans for at in range(*span)]
        texts = [_turn_text(held.pieces[at].turn) for at in pieces]
        return dict(zip(pieces, SCORERS[self.scorer](_query(held), texts), strict=True))


def _query(held: Draft) -> str:
    """Returns the query: the newest request first, because an embedding sees only the beginning."""
    asked = [said for turn in held.turns if (said := extract_own_words(turn).strip())]
    task = task_piece(held)
    return "\n".join(dict.fromkeys([*asked[-1:], *([] if task is None else [held.turns[task].text])]))


def _turn_text(turn: Turn) -> str:
    """Returns all text of a turn: its text, its reasoning and its calls."""
    calls = [f"{call.name} {call.arguments}" for call in turn.calls]
    return "\n".join(filter(None, (turn.text, turn.reasoning, *calls)))
