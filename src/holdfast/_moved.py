"""Modules and names of version 0.4 that have moved: they can be imported as before, with a DeprecationWarning."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MODULES: dict[str, tuple[str, ...]] = {
    "agents": ("compaction.subagents",),
    "blocks.places": ("blocks.message_offsets",),
    "calibrate": ("compaction.calibrate",),
    "context.extent": ("context.compress_positions",),
    "context.store": ("context.holdfast_file",),
    "engine.answering": ("engine.answer",),
    "engine.completions": ("vllm.completions",),
    "engine.limit": ("engine.time_limit",),
    "engine.live": ("engine.kv_context",),
    "engine.remembering": ("session.retained_states",),
    "held": ("session.cache",),
    "history": ("text.file_log", "text.file_log.change_file", "text.file_log.log"),
    "latent": ("compaction.compact", "compaction.plan", "compaction.partition", "compaction.walk"),
    "model.bundled": ("model.bundled_models",),
    "places": ("storage.backends",),
    "record": ("session.events", "session.checkpoints"),
    "rounds": ("compaction.recompact",),
    "server.output.tool_parser": ("transcript.tool_parser",),
    "store": ("storage.store",),
    "textual": ("text.rewrite", "session.trigger"),
    "transcript.size": ("transcript.token_estimate",),
    "triggers": ("session.trigger",),
}
"""Old module to the ones that hold its names now; all below `holdfast`."""
NAMES: dict[tuple[str, str], tuple[str, str]] = {
    ("agents", "bring_back"): ("compaction.subagents", "merge_subagent"),
    ("context.extent", "drawn_together"): ("context.compress_positions", "compress_positions"),
    ("engine.chat", "Metered"): ("engine.chat", "MeteredChat"),
    ("engine.chat", "Reply"): ("engine.chat", "ChatAnswer"),
    ("engine.limit", "within"): ("engine.time_limit", "run_within"),
    ("engine.live", "Live"): ("engine.kv_context", "KVContext"),
    ("engine.local", "spoken"): ("engine.local", "stream_text"),
    ("engine.routing", "Routed"): ("engine.routing", "RoutedChat"),
    ("history", "lineage"): ("text.file_log.lineage", "read_lineage"),
    ("held", "Held"): ("session.cache", "SessionCache"),
    ("model.slots", "CodedSlots"): ("model.quantized_slots", "QuantizedSlots"),
    ("session", "Session"): ("session.session", "Session"),
    ("textual", "Breaker"): ("session.trigger", "CircuitBreaker"),
    ("transcript.size", "count"): ("transcript.token_estimate", "estimate_tokens"),
    ("triggers", "Seen"): ("session.trigger", "SessionStatus"),
    ("triggers", "Why"): ("session.trigger", "CompactionReason"),
}
"""Old module and name to the new ones."""


def find_name(module: str, name: str) -> Any:
    """Returns the object that `name` of the old module (below `holdfast`) is now. Raises AttributeError for no other.

    A module that keeps its name and has renamed a class calls it from its `__getattr__`.
    """
    if (module, name) in NAMES:
        home, new = NAMES[module, name]
        message = f"holdfast.{module}.{name} is now holdfast.{home}.{new}"
        warnings.warn(message, DeprecationWarning, stacklevel=3)
        return getattr(import_module(f"holdfast.{home}"), new)
    for home in () if name.startswith("__") else MODULES.get(module, ()):
        if hasattr(found := import_module(f"holdfast.{home}"), name):
            return getattr(found, name)
    raise AttributeError(f"module 'holdfast.{module}' has no attribute {name!r}")


class MovedModules(MetaPathFinder, Loader):
    """Imports an old module as one that looks its names up in the new ones. Asked only for modules that are nowhere."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        old = name.removeprefix("holdfast.")
        return ModuleSpec(name, self, is_package=True) if old != name and old in MODULES else None

    def exec_module(self, module: ModuleType) -> None:
        old = module.__name__.removeprefix("holdfast.")
        homes = " and ".join(f"holdfast.{home}" for home in MODULES[old])
        warnings.warn(f"{module.__name__} is now {homes}", DeprecationWarning, stacklevel=2)
        module.__dict__["__getattr__"] = partial(find_name, old)


def install() -> None:
    """Makes the old modules importable. Harmless to call again."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(MovedModules())
