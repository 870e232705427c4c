"""The published record of a trace in blocks with their mementos, one JSON line each; our own fields beside it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Round(BaseModel):
    """One try at a memento."""

    model_config = ConfigDict(extra="allow", frozen=True)

    score: float | None = None
    """0 to 10 by the judge; None where no model judges."""
    feedback: str = ""
    tokens: int
    ratio: float
    """Tokens of the memento over those of its block."""


class LostFact(BaseModel):
    """A live fact of a block that its memento does not hold."""

    model_config = ConfigDict(frozen=True)

    kind: str
    text: str
    turn: int
    """Counted from 1, as `holdfast expand` takes it."""


class Refinement(BaseModel):
    """The tries at a memento, and what it lost of its block."""

    model_config = ConfigDict(extra="allow", frozen=True)

    iterations: list[Round]
    block_tokens: int
    live_facts: int = 0
    lost_facts: list[LostFact] = Field(default_factory=list)

    @property
    def final(self) -> Round:
        return self.iterations[-1]


class MementoRecord(BaseModel):
    """One trace."""

    model_config = ConfigDict(extra="allow", frozen=True)

    task_id: str
    sentences: list[str]
    boundary_scores: list[float]
    blocks: list[tuple[int, int]]
    """First and last sentence of each, both inclusive."""
    block_summaries: list[str]
    refinement_metadata: list[Refinement]
    avg_final_score: float | None = None
    num_blocks: int = 0
    num_sentences: int = 0
    think_prefix: str = ""
    think_suffix: str = ""
    seconds: float = 0.0
    options: dict[str, Any] = Field(default_factory=dict)
    """The options of its making; with others it is made anew."""

    def block_texts(self) -> list[str]:
        """Returns the text of each block."""
        return ["".join(self.sentences[first : last + 1]) for first, last in self.blocks]


class Failure(BaseModel):
    """A trace that failed: the next run tries it again."""

    model_config = ConfigDict(frozen=True)

    task_id: str
    reason: str
