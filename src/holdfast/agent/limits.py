"""The limits of a run, checked before each call of the model."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.agent.account import Account
from holdfast.agent.control import LimitReached
from holdfast.errors import BadOption


@dataclass(frozen=True)
class Limits:
    """The limits of one run; 0 is no limit."""

    steps: int = 100
    """Calls of the model."""
    money: float = 3.0
    """USD, the compactor's included. Calls whose price nobody knows count as 0."""
    seconds: float = 0.0
    """Seconds of the run, those before it was resumed included."""
    format_errors: int = 3
    """Answers in a row that hold no action that can be run."""
    answer_tokens: int = 4096
    """Tokens of one answer."""
    answer_seconds: float = 600.0
    """Seconds of one answer."""
    command_seconds: float = 120.0
    """Seconds of one command."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least = 1 if name.startswith(("answer", "command", "format")) else 0
            if not least <= value < float("inf"):
                raise BadOption(f"{name} must be a number of at least {least}, got {value}")

    def check(self, account: Account, steps: int, format_errors: int) -> None:
        """Raises LimitReached with the limit and how to go on."""
        for reached, most, what in (
            (steps, self.steps, "steps"),
            (account.money, self.money, "USD"),
            (account.seconds, self.seconds, "seconds"),
        ):
            if most and reached >= most:
                raise LimitReached(f"the limit of {most:g} {what} is reached; resume the run with a higher one")
        if format_errors >= self.format_errors:
            raise LimitReached(
                f"{format_errors} answers in a row held no action that could be run; choose another model, or another "
                "way of calling tools"
            )
