"""Index by which a request that brings its whole history finds the session that holds it: a hash chain over turns.

Two histories have the same link at a turn just when they say the same up to it, for the same key, model and tools.
What clients drop or write anew makes no difference: reasoning, unknown fields, white space around the assistant's
text, the key order, white space and escapes of a call's arguments, and lines of a system prompt that are known to
change from request to request.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from itertools import pairwise
from threading import Lock
from typing import Any

from holdfast.errors import BadInput, BadOption
from holdfast.transcript.turn import Role, Turn

SIZE = 16  # bytes of a link
MAX_DEPTH = 100  # levels of arguments that are read as JSON; fixed, so that the depth of the caller decides nothing


VOLATILE = (r"(?i:x-[a-z0-9-]*(?:billing|session|request|trace)[a-z0-9-]*): .*",)
"""Lines of a system prompt that say nothing to a model and change with each request, as patterns of whole lines.
Claude Code writes one, `x-anthropic-billing-header: cc_version=…; cch=…;`."""


def volatile_lines(patterns: Sequence[str]) -> re.Pattern[str] | None:
    """Returns the pattern of lines that do not count; None for no patterns. Raises BadOption for one that is no regular
    expression."""
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise BadOption(f"a volatile line is a regular expression, got {pattern!r}: {error}") from None
    return re.compile(rf"^(?:{'|'.join(patterns)})$\n?", re.MULTILINE) if patterns else None


def seed(key: str, model: str, tools: Sequence[Mapping[str, Any]] = ()) -> bytes:
    """Returns the start of a chain: histories of another key or model (by their digests) or tools share no link.

    Raises BadInput for tools that are nested too deep to be written.
    """
    try:
        written = _json(list(tools))
    except RecursionError:
        raise BadInput(
            "the tool definitions are nested too deep to be written as JSON; flatten their schemas"
        ) from None
    return _hash(b"", (key, model, written))


def links(turns: Iterable[Turn], seed: bytes, volatile: re.Pattern[str] | None = None) -> list[bytes]:
    """Returns one link for each turn; each stands for the seed and every turn up to its own."""
    chain: list[bytes] = []
    for turn in turns:
        seed = _link(seed, turn, volatile)
        chain.append(seed)
    return chain


class PrefixIndex:
    """The histories of all sessions. Any thread may call; its memory is that of the links and turns of the sessions.

    A turn that was given is known again by comparing it, which is sooner done than writing and hashing it. So give the
    turns as the client sent them: that is how it will send them again.
    """

    def __init__(self, volatile: Sequence[str] = ()) -> None:
        """Takes patterns of the lines of a system prompt that do not count. Raises BadOption as `volatile_lines`."""
        self._volatile = volatile_lines(volatile)
        self._lock = Lock()
        self._chains: dict[str, list[bytes]] = {}  # session, the newest last -> its seed and links
        self._holders: dict[bytes, set[str]] = {}  # link -> sessions that hold it
        self._turns: dict[bytes, Turn] = {}  # link -> its turn
        self._next: dict[bytes, tuple[bytes, ...]] = {}  # link -> those that follow it and have a turn

    def links(self, turns: Iterable[Turn], seed: bytes) -> list[bytes]:
        """Returns what `links` does, sooner if turns are known."""
        chain: list[bytes] = []
        for turn in turns:
            seed = self._look_up(seed, turn) or _link(seed, turn, self._volatile)
            chain.append(seed)
        return chain

    def longest_prefix(self, links: Sequence[bytes]) -> tuple[str, int] | None:
        """Returns the session that has most turns in common, and how many; None if none has any.

        Of several, one that ends there comes before one that would have to fork, then the newest.
        """
        with self._lock:
            for turns in range(len(links), 0, -1):
                if holders := self._holders.get(links[turns - 1]):
                    ending = {session for session in holders if len(self._chains[session]) == turns + 1}
                    best = ending or holders
                    return next(session for session in reversed(self._chains) if session in best), turns
        return None

    def add(self, session: str, seed: bytes, links: Sequence[bytes], turns: Sequence[Turn] = ()) -> None:
        """Records that a session holds these links, and is the newest. `turns` are theirs, from the first on."""
        chain = [seed, *links]
        with self._lock:
            stays = self._leave(session, chain)
            self._chains[session] = chain
            for link in chain[max(1, stays) :]:
                self._holders.setdefault(link, set()).add(session)
            for before, link, turn in zip(chain, links, turns, strict=False):
                if link not in self._turns:
                    self._next[before] = (*self._next.get(before, ()), link)
                self._turns[link] = turn

    def remove(self, session: str) -> None:
        """Forgets a session, if it is known."""
        with self._lock:
            self._leave(session, [])

    def drop_turns(self, session: str) -> None:
        """Drops the turns of a session that goes to disk; its links stay. Sessions that share turns add them again."""
        with self._lock:
            for before, link in pairwise(self._chains.get(session, ())):
                self._drop_turn(before, link)

    def _look_up(self, before: bytes, turn: Turn) -> bytes | None:
        """Returns the link of a turn that was given before. Takes no lock: an entry is whole or gone at any moment."""
        for link in self._next.get(before, ()):
            known = self._turns.get(link)
            if known is not None and _same(known, turn):
                return link
        return None

    def _leave(self, session: str, chain: Sequence[bytes]) -> int:
        """Removes a session from links that are not in `chain`; returns how many links at the start are the same."""
        old = self._chains.pop(session, [])
        same = next((at for at, (one, two) in enumerate(zip(old, chain, strict=False)) if one != two), None)
        stays = min(len(old), len(chain)) if same is None else same
        for before, link in pairwise(old[max(0, stays - 1) :]):
            holders = self._holders[link]
            holders.remove(session)
            if not holders:
                del self._holders[link]
                self._drop_turn(before, link)
        return stays

    def _drop_turn(self, before: bytes, link: bytes) -> None:
        if self._turns.pop(link, None) is None:
            return
        self._next[before] = tuple(other for other in self._next[before] if other != link)
        if not self._next[before]:
            del self._next[before]


def _same(one: Turn, two: Turn) -> bool:
    """Compares two turns to the letter in all that a link stands for."""
    return (
        one.text == two.text
        and one.role is two.role
        and one.calls == two.calls
        and one.call_id == two.call_id
        and one.is_error == two.is_error
    )


def _link(before: bytes, turn: Turn, volatile: re.Pattern[str] | None) -> bytes:
    text = turn.text.strip() if turn.role is Role.ASSISTANT else turn.text
    if volatile and turn.role is Role.SYSTEM:
        text = volatile.sub("", text)
    calls = (field for call in turn.calls for field in (call.id, call.name, *_arguments(call.arguments)))
    return _hash(before, (turn.role, text, turn.call_id, "error" if turn.is_error else "", *calls))


def _arguments(text: str) -> tuple[str, str]:
    """Returns the kind of a call's arguments and their one way to be written: canonical JSON, or the text as it stands.

    An object that readers take differently (a key twice, a number beyond a float, nested too deep) stands as it is.
    """
    try:
        value = _READER.decode(text or "{}")
        written = _json(value)
    except (ValueError, RecursionError):  # models write broken JSON, and custom tools take plain text
        return "text", text
    return ("json", written) if isinstance(value, dict) and not _too_deep(value) else ("text", text)


def _json(value: object) -> str:
    """Writes canonical JSON. True, 1, 1.0, "1" and NaN stay apart."""
    return _WRITER.encode(value)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a key stands twice")
    return value


def _finite(digits: str) -> float:
    if math.isinf(value := float(digits)):
        raise ValueError("a number beyond what a float holds")
    return value


_READER = json.JSONDecoder(object_pairs_hook=_object, parse_float=_finite)
_WRITER = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _too_deep(value: object) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ())
        ]
    return bool(level)


def _hash(before: bytes, fields: Sequence[str]) -> bytes:
    """Hashes fields behind a link; their lengths stand first, so that no two lists of fields are one text."""
    lengths = ",".join([str(len(field)) for field in fields])
    data = "".join((lengths, ":", *fields)).encode("utf-8", "surrogatepass")
    return blake2b(data, digest_size=SIZE, key=before).digest()
