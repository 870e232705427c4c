"""The tokens of a call by what they are billed as, and what a session file recorded of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.transcript.turn import Turn


@dataclass(frozen=True)
class Usage:
    """Tokens. The first four add up to the prompt; no token is in two of them."""

    input: int = 0
    """Billed at the plain price: neither read from the cache nor written to it."""
    cached: int = 0
    written: int = 0
    """Written to the cache for five minutes."""
    written_1h: int = 0
    output: int = 0

    @property
    def prompt(self) -> int:
        return self.input + self.cached + self.written + self.written_1h

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input + other.input,
            self.cached + other.cached,
            self.written + other.written,
            self.written_1h + other.written_1h,
            self.output + other.output,
        )


def sum_usage(usages: Iterable[Usage]) -> Usage:
    """Returns the sum of the usages."""
    return sum(usages, Usage())


_PLACES = (
    ("usage",),  # Anthropic, Claude Code, pi
    ("tokens",),  # opencode, Gemini CLI
    ("metrics",),  # Cline
    ("extra", "response", "usage"),  # mini-swe-agent
    ("response", "usage"),
    ("tool_call_metadata", "model_response", "usage"),  # OpenHands
)
_WHOLE = ("prompt_tokens",), ("promptTokens",)
_INPUT = ("input_tokens",), ("inputTokens",), ("input",)
_READ = (
    ("cache_read_input_tokens",),
    ("cacheReadTokens",),
    ("cacheRead",),
    ("cache", "read"),
    ("prompt_tokens_details", "cached_tokens"),
    ("input_tokens_details", "cached_tokens"),
    ("prompt_cache_hit_tokens",),
    ("cached",),
)
_WRITE = ("cache_creation_input_tokens",), ("cacheWriteTokens",), ("cacheWrite",), ("cache", "write")
_HOUR = (("cache_creation", "ephemeral_1h_input_tokens"),)
_OUTPUT = ("output_tokens",), ("outputTokens",), ("completion_tokens",), ("output",)
_THOUGHTS = (("thoughts",), ("reasoning",))
_READ_IS_WITHIN = ("input_tokens_details", "prompt_tokens", "promptTokens", "cached")
"""Keys of the dialects whose count of input holds what was read from the cache."""


def read_recorded_usage(turn: Turn) -> Usage | None:
    """Returns what the file says that an assistant turn's call took, or None if it says nothing usable.

    Counts that are no whole numbers of at least 0 are ignored.
    """
    for place in _PLACES:
        found = _at(turn.extra, place)
        if isinstance(found, Mapping) and (usage := _usage(found)) is not None:
            return usage
    return None


def _usage(found: Mapping[str, Any]) -> Usage | None:
    given = _first(found, (*_WHOLE, *_INPUT))
    if given is None:
        return None
    read, wrote, hour = (_first(found, paths) or 0 for paths in (_READ, _WRITE, _HOUR))
    plain = max(0, given - read) if any(key in found for key in _READ_IS_WITHIN) else given
    output = (_first(found, _OUTPUT) or 0) + (_first(found, _THOUGHTS) or 0)
    usage = Usage(plain, read, max(0, wrote - hour), min(hour, wrote), output)
    return usage if usage.prompt else None


def _first(found: Mapping[str, Any], paths: Iterable[tuple[str, ...]]) -> int | None:
    for path in paths:
        value = _at(found, path)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    return None


def _at(value: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
