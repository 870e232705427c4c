"""The row: one answer of one item under one condition, what it kept, and what the context cost."""

from __future__ import annotations

from holdfast.eval.rows import Count, ModelRow, Seconds, Share

Key = tuple[str, str, str]


class KeepRow(ModelRow):
    """One (item, condition). A row file is only ever appended to, so that an interrupted run goes on."""

    item: str
    item_digest: str
    """Digest of the session, the task and the agreed values."""
    seed: int
    size: Count
    """Tokens that were asked for."""
    family: str
    place: str
    """`user` or `file`: where the agreement stands."""
    depth: Share
    """Share of the session in front of the agreement."""

    condition: str
    """The condition as spelled; `full` and `none` are the baselines."""
    kind: str
    ratio: float | None
    tokens_full: Count
    """Tokens of the session without the task."""
    tokens: float
    """Slots held for them: the mean over layers and heads."""
    bytes_full: Count
    """KV bytes of the full context in bfloat16."""
    bytes: Count
    """KV bytes held, as a bfloat16 model holds them."""
    seconds_prefill: Seconds
    seconds_context: Seconds
    """Seconds of compacting or rewriting (and reading the rewritten text) beyond the prefill."""
    seconds_answer: Seconds

    text: str
    """The greedy answer."""
    facts: dict[str, bool]
    """Every fact of the agreement, and whether the program that was written keeps it."""
    passed: bool
    """True if it keeps them all."""
    error: str = ""
    """The reason why the program did not run."""

    @property
    def key(self) -> Key:
        return self.item, self.item_digest, self.condition
