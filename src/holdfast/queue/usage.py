"""Tokens in the lines that agents print while they work, by the keys of what they count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Counter = Callable[[dict[str, Any]], dict[str, int]]
"""Returns tokens by key: a later line with the same key replaces the earlier; `result` stands for the end of a turn."""


def count_nothing(event: dict[str, Any]) -> dict[str, int]:
    """Returns nothing: for programs whose output is not known."""
    return {}


def _claude(event: dict[str, Any]) -> dict[str, int]:
    if event["type"] == "result":
        return {"result": 0}
    message = event["message"] if event["type"] == "assistant" else {}
    return {message["id"]: sum_tokens(message["usage"])}


def _codex(event: dict[str, Any]) -> dict[str, int]:
    usage = event["usage"] if event["type"] == "turn.completed" else {}
    return {"turn": int(usage["input_tokens"]) + int(usage["output_tokens"])}  # cached ones are among the input


def _opencode(event: dict[str, Any]) -> dict[str, int]:
    tokens = event["part"]["tokens"]
    cache = tokens.get("cache", {})
    return {event["part"]["id"]: sum(int(tokens.get(n, 0)) for n in ("input", "output")) + sum(cache.values())}


def _holdfast(event: dict[str, Any]) -> dict[str, int]:
    return {"all": int(event["tokens"])}


def sum_tokens(usage: dict[str, Any]) -> int:
    """Returns all tokens of a call as Anthropic's API counts them."""
    names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
    return sum(int(usage.get(name) or 0) for name in names)


COUNTERS: dict[str, Counter] = {"claude": _claude, "codex": _codex, "opencode": _opencode, "holdfast": _holdfast}
