"""Conditions: the ways of keeping a session's context that are compared, by name.

`full` keeps everything, `none` only the system prompt and the task. Others are spelled as an agent's context is
(`informed@8`, `text:truncate@8`, `latent:truncate@8`, `mementos:ledger@8`); `+gate` behind a text method puts facts
back, `+pin` behind another keeps word for word what `holdfast compact` keeps so by default: the user's words and the
last exchange, and `+pin:int8` or another form keeps their states so. Latent contexts are made in place, as in a live
session.
"""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.agent.contexts import parse_spec
from holdfast.compaction.plan import Policy
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
_GATE, _PIN, _MEMENTOS = "+gate", "+pin", "mementos"


@dataclass(frozen=True)
class Condition:
    """One way of keeping the context."""

    name: str
    """The condition as it was asked for."""
    kind: str
    """`full`, `none`, `latent`, `text` or `mementos`."""
    method: str = ""
    """The method; the writer of mementos."""
    ratio: float | None = None
    gate: bool = False
    pin: Policy | None = None
    """The policy of what stays word for word in a latent context; None keeps nothing so."""


def read_condition(name: str) -> Condition:
    """Reads a condition. Raises BadOption for an unknown method or a ratio that is none."""
    if name in (FULL, NONE):
        return Condition(name, name, ratio=1.0 if name == FULL else None)
    gate, (plain, pinned, form) = _GATE in name, name.replace(_GATE, "").partition(_PIN)
    pin = _read_pin(form) if pinned else None
    if (head := plain.rpartition("@"))[0].partition(":")[0] == _MEMENTOS:
        return _read_mementos(name, head[0], head[2], gate, pin)
    spec = parse_spec(plain)
    if spec.ratio is None:
        raise BadOption(f"a condition is full, none, or a method with its ratio as in informed@8, got {name!r}")
    (build_text if spec.kind == "text" else build)(spec.method)
    if (gate and spec.kind != "text") or (pin and spec.kind != "latent"):
        raise BadOption(f"{_GATE} is for text methods and {_PIN} for latent ones, got {name!r}")
    return Condition(name, spec.kind, spec.method, spec.ratio, gate, pin)


def _read_mementos(name: str, head: str, ratio: str, gate: bool, pin: Policy | None) -> Condition:
    """Reads `mementos@8`, or with a writer, as `mementos:ledger@8`: a memento has an eighth of its block's tokens."""
    writer = parse_spec(head).method
    if gate or not ratio.replace(".", "", 1).isdigit() or float(ratio) <= 1:
        raise BadOption(f"mementos have a ratio above 1 and no {_GATE}, as in mementos:ledger@8, got {name!r}")
    return Condition(name, _MEMENTOS, writer, float(ratio), pin=pin)


def _read_pin(form: str) -> Policy:
    """Reads what stands behind `+pin`: nothing, or a form of the states as in `:int4`."""
    if form and not form.startswith(":"):
        raise BadOption(f"behind {_PIN} stands nothing or a form of states as in {_PIN}:int4, got {form!r}")
    return Policy(verbatim=form[1:]) if form else Policy()
