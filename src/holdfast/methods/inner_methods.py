"""Methods that are made of other methods: an option may name one, as `base=kvzip` or `base=kvzip(chunk=64;cap=4)`."""

from __future__ import annotations

from holdfast.errors import BadOption
from holdfast.methods.base import LatentMethod
from holdfast.methods.eviction import Eviction
from holdfast.methods.registry import build


def build_inner(owner: str, option: str, spec: str) -> LatentMethod:
    """Builds the method that an option names. Raises BadOption, which names `owner` and `option`, if it cannot."""
    name, bracket, rest = spec.partition("(")
    try:
        if bracket and not rest.endswith(")"):
            raise BadOption(f"expected {name}(key=value;key=value), got {spec!r}")
        return build(f"{name}:{restore_commas(rest[:-1])}" if bracket else name)
    except BadOption as error:
        raise BadOption(f"{owner}: {option}: {error}") from error


def build_inner_eviction(owner: str, option: str, spec: str) -> Eviction:
    """Builds the method that an option names. Raises BadOption if it does not score KV pairs."""
    method = build_inner(owner, option, spec)
    if not isinstance(method, Eviction):
        raise BadOption(f"{owner}: {option} must name a method that scores KV pairs, such as informed; got {spec!r}")
    return method


def restore_commas(options: str) -> str:
    """Returns options with commas for semicolons, except inside further brackets."""
    depth, out = 0, []
    for char in options:
        depth += (char == "(") - (char == ")")
        out.append("," if char == ";" and depth == 0 else char)
    return "".join(out)
