"""The account of a run: the model's tokens, the compactor's own, money and seconds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Self

from holdfast.cost.usage import Usage


@dataclass(frozen=True)
class Account:
    """The sums of one run."""

    calls: int = 0
    """Calls of the model."""
    usage: Usage = field(default_factory=Usage)
    """Tokens of the agent's own calls, cache reads and writes apart."""
    compactor: Usage = field(default_factory=Usage)
    """Tokens of the models that wrote summaries."""
    money: float = 0.0
    """USD of both, as far as prices are known."""
    seconds: float = 0.0
    """Seconds of model, compactor and commands."""
    peak: int = 0
    """Tokens of the longest prompt."""

    def add_call(self, usage: Usage, money: float, seconds: float) -> Self:
        """Returns the account after a call of the agent's model."""
        return replace(
            self,
            calls=self.calls + 1,
            usage=self.usage + usage,
            money=self.money + money,
            seconds=self.seconds + seconds,
            peak=max(self.peak, usage.prompt),
        )

    def add_compaction(self, usage: Usage, money: float, seconds: float) -> Self:
        """Returns the account after a compaction."""
        return replace(self, compactor=self.compactor + usage, money=self.money + money, seconds=self.seconds + seconds)

    def row(self) -> dict[str, Any]:
        """Returns the account as JSON."""
        return asdict(self)


def read_usage(row: dict[str, Any]) -> Usage:
    """Returns the tokens of a logged event; fields that it does not have are 0."""
    return Usage(**{f.name: int(row[f.name]) for f in fields(Usage) if f.name in row})
