"""Holdfast compacts the context of coding agents and measures every loss.

Importing this package loads no model library; the names below are looked up when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.gate.gate import Gate
    from holdfast.history.changes import compact_file
    from holdfast.latent import Plan, Policy, ask, compact, load, restore, save
    from holdfast.rounds import join, recompact
    from holdfast.session import Session
    from holdfast.store import Store
    from holdfast.textual import TextPlan, rewrite
    from holdfast.transcript.read import read

__version__ = "0.4.0"
__all__ = [
    "Gate",
    "Plan",
    "Policy",
    "Session",
    "Store",
    "TextPlan",
    "__version__",
    "ask",
    "compact",
    "compact_file",
    "join",
    "load",
    "read",
    "recompact",
    "restore",
    "rewrite",
    "save",
]

_HOMES = {name: "holdfast.latent" for name in ("Plan", "Policy", "ask", "compact", "load", "restore", "save")}
_HOMES |= {"read": "holdfast.transcript.read", "Gate": "holdfast.gate.gate"}
_HOMES |= {"TextPlan": "holdfast.textual", "rewrite": "holdfast.textual", "compact_file": "holdfast.history.changes"}
_HOMES |= {"Session": "holdfast.session", "Store": "holdfast.store"}
_HOMES |= {"join": "holdfast.rounds", "recompact": "holdfast.rounds"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'holdfast' has no attribute {name!r}; it has: {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
