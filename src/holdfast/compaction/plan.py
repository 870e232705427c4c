"""The plan of a latent compaction: what may be compacted (`Policy`) and how (`Plan`). Methods decide neither."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.blocks.block import Kind
from holdfast.context.segments import PLAIN_FORMS
from holdfast.errors import BadOption
from holdfast.gate.latent.gate import Gate


@dataclass(frozen=True)
class Policy:
    """The policy of what stays verbatim; everything else may be compacted."""

    pin: tuple[Kind, ...] = (Kind.SYSTEM, Kind.TASK, Kind.USER)
    """Kinds of block that are never compacted."""
    keep_recent: int = 1
    """The number of newest exchanges (an assistant turn with its tool results, or a user turn) that stay."""
    window: int | None = None
    """Leave out what is older than the newest so many tokens, except the system prompt and the task."""
    verbatim: str = "model"
    """The form of the states of what stays verbatim: int8 and int4 take less memory, but a file then holds states and
    not token ids."""

    def __post_init__(self) -> None:
        if unknown := [kind for kind in self.pin if kind not in tuple(Kind)]:
            raise BadOption(f"no kind of block is called {unknown[0]!r}; there are: {', '.join(Kind)}")
        if self.keep_recent < 0:
            raise BadOption(f"keep_recent must be at least 0, got {self.keep_recent}")
        if self.verbatim not in PLAIN_FORMS:
            raise BadOption(f"verbatim must be one of {', '.join(PLAIN_FORMS)}, got {self.verbatim!r}")


@dataclass(frozen=True)
class Plan:
    """The plan of a latent compaction: method, ratio, policy and gate."""

    latent: str = "surrogate:otherwise=informed"
    """Method and options: `name` or `name:key=value,…`. The default is the surrogate where the model has one."""
    ratio: float = 8.0
    """Tokens per slot of what is compacted."""
    by_turn: bool | None = None
    """Compact each turn on its own against the running compact memory; None asks the method."""
    policy: Policy = Policy()
    gate: Gate | None = None
    """Measure what was lost and repair it; None trusts the method."""
    slots: int | None = None
    """Total slots of the context, what stays verbatim included; takes the place of `ratio`."""
