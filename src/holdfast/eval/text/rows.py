"""The row: how one probe was answered from one context. Only ever appended, so that a run can be resumed."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from holdfast.eval.rows import Count, Seconds, Share

Score = Annotated[FiniteFloat, Field(ge=0, le=5)]


class TextRow(BaseModel):
    """One (transcript, probe, method, ratio)."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)

    version: str
    created: str
    """ISO 8601 time with its zone."""
    config: dict[str, Any] = {}
    """The models that wrote the probes, answered and judged; `keep_recent`, `seed`."""
    transcript: str
    transcript_digest: str
    probe: str
    probe_digest: str
    category: str
    question: str
    answer: str
    distractor: str
    turn: Count
    method: str
    """The method as spelled; `full` for the session as it was."""
    ratio: Annotated[FiniteFloat, Field(ge=1)]
    """The ratio of tokens that was asked for."""
    used: str = ""
    """The method whose result it is: another one where the method failed, none where nothing was rewritten."""
    tokens_full: Count
    tokens: Count
    """Of the session after compaction."""
    seconds_compact: Seconds
    compactor_tokens_in: Count = 0
    compactor_tokens_out: Count = 0
    notes: tuple[str, ...] = ()
    """The messages of the compaction."""
    text: str
    """The answer; empty where only the context was searched."""
    hit: bool
    """True if the right answer stands in the answer, or in the context if no model answers."""
    fooled: bool
    """True if the distractor stands in the answer and the right answer does not; false if no model answers."""
    exact: bool | None = None
    f1: Share | None = None
    judged: tuple[Score, ...] = ()
    """By each pass of the judge."""
    tokens_in: Count = 0
    """Read by the model that answers, and by the judge."""
    tokens_out: Count = 0

    @property
    def score(self) -> float:
        """0 to 5: the mean of the judge's passes, else 5 for a hit."""
        return sum(self.judged) / len(self.judged) if self.judged else 5.0 * self.hit

    @property
    def key(self) -> tuple[str, str, str, float]:
        """The measurement's identity: two rows with one key are the same measurement."""
        return self.transcript_digest, self.probe_digest, self.method, self.ratio
