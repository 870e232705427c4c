"""Holdfast compacts the context of coding agents and measures every loss.

Importing this package loads no model library; the names below are looked up when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from holdfast._moved import install

if TYPE_CHECKING:
    from holdfast.compaction.compact import ask, compact, load, restore, save
    from holdfast.compaction.plan import Plan, Policy
    from holdfast.compaction.recompact import join, recompact
    from holdfast.gate.latent.gate import Gate
    from holdfast.session.session import Session
    from holdfast.storage.store import Store
    from holdfast.text.file_log.change_file import compact_file
    from holdfast.text.rewrite import TextPlan, rewrite
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

install()
_HOMES = {name: "holdfast.compaction.compact" for name in ("ask", "compact", "load", "restore", "save")}
_HOMES |= {"Plan": "holdfast.compaction.plan", "Policy": "holdfast.compaction.plan"}
_HOMES |= {"read": "holdfast.transcript.read", "Gate": "holdfast.gate.latent.gate"}
_HOMES |= {"TextPlan": "holdfast.text.rewrite", "rewrite": "holdfast.text.rewrite"}
_HOMES |= {"compact_file": "holdfast.text.file_log.change_file"}
_HOMES |= {"Session": "holdfast.session.session", "Store": "holdfast.storage.store"}
_HOMES |= {"join": "holdfast.compaction.recompact", "recompact": "holdfast.compaction.recompact"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'holdfast' has no attribute {name!r}; it has: {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
