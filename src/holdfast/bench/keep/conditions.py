"""Conditions: the ways of keeping a session's context that are compared, by name.

`full` keeps everything, `none` only the system prompt and the task. Others are spelled as an agent's context is
(`informed@8`, `text:truncate@8`, `latent:truncate@8`); `+gate` behind a text method puts facts back, `+pin` behind a
latent one keeps word for word what `holdfast compact` keeps so by default: the user's words and the last exchange.
"""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.agent.contexts import parse_spec
from holdfast.errors import BadOption
from holdfast.methods.registry import build, build_text

FULL, NONE = "full", "none"
DEFAULT = (
    FULL,
    NONE,
    "surrogate:otherwise=informed@4",
    "surrogate:otherwise=informed@8",
    "surrogate:otherwise=informed@16",
    "surrogate:otherwise=informed@8+pin",
    "informed@8",
    "latent:truncate@8",
    "text:truncate@8",
    "text:mask_observations@8",
    "text:tiered+gate@8",
)
_GATE, _PIN = "+gate", "+pin"


@dataclass(frozen=True)
class Condition:
    """One way of keeping the context."""

    name: str
    """The condition as it was asked for."""
    kind: str
    """`full`, `none`, `latent` or `text`."""
    method: str = ""
    ratio: float | None = None
    gate: bool = False
    pin: bool = False


def read_condition(name: str) -> Condition:
    """Reads a condition. Raises BadOption for an unknown method or a ratio that is none."""
    if name in (FULL, NONE):
        return Condition(name, name, ratio=1.0 if name == FULL else None)
    gate, pin = _GATE in name, _PIN in name
    spec = parse_spec(name.replace(_GATE, "").replace(_PIN, ""))
    if spec.ratio is None:
        raise BadOption(f"a condition is full, none, or a method with its ratio as in informed@8, got {name!r}")
    (build_text if spec.kind == "text" else build)(spec.method)
    if (gate, pin) != (False, False) and (gate, pin) != (spec.kind == "text", spec.kind == "latent"):
        raise BadOption(f"{_GATE} is for text methods and {_PIN} for latent ones, got {name!r}")
    return Condition(name, spec.kind, spec.method, spec.ratio, gate, pin)
