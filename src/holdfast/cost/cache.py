"""The provider's prompt cache as a state machine: a prompt goes in, what is read, written and paid plainly comes out.

Explicit (Anthropic): up to four breakpoints, each at the end of a block. What stands before one is kept for five
minutes or an hour from its last use, and read where the bytes are the same. Breakpoints are placed by one rule, in
this order while there are any: the end of the prompt, the end of what it shares with the prompt before it (so that
the stable part is still read after a compaction), the end of the system head, the end of the block after that (the
task). A breakpoint sees entries up to twenty blocks back. What stands behind the last breakpoint, or is shorter than
the minimum, is plain input. A read renews every entry within what was read.

Automatic (OpenAI): the longest prefix that any live prompt shared, in steps of 128 tokens from 1,024 on; writing is
free. Within a block that changed nothing is taken as shared, which understates the read by less than one block.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import accumulate
from typing import Literal

from holdfast.cost.prices import Caching
from holdfast.cost.usage import Usage

Life = Literal["5m", "1h"]
SECONDS: dict[Life, float] = {"5m": 300.0, "1h": 3600.0}


@dataclass(frozen=True)
class Rules:
    """The caching rules of a provider."""

    caching: Caching | Literal["off"] = "explicit"
    life: Life = "5m"
    minimum: int = 1024
    """Tokens of the shortest prefix that is cached."""
    breakpoints: int = 4
    lookback: int = 20
    """Blocks before a breakpoint at which an entry is still found."""
    step: int = 128
    """Tokens by which an automatic prefix grows."""


@dataclass(frozen=True)
class Block:
    """A turn as the cache sees it: its bytes, and how many tokens they are."""

    key: bytes
    tokens: int


@dataclass(frozen=True)
class Mark:
    """The end of a block: a name for every byte up to here, and their tokens."""

    prefix: bytes
    tokens: int


@dataclass(frozen=True)
class Prompt:
    """A prompt as it is sent: its blocks' ends."""

    marks: tuple[Mark, ...]
    head: int = 0
    """The number of blocks of the system head."""

    @property
    def tokens(self) -> int:
        return self.marks[-1].tokens if self.marks else 0


def build_prompt(blocks: Iterable[Block], head: int = 0) -> Prompt:
    """Builds a prompt from its blocks."""

    def extend(before: Mark, block: Block) -> Mark:
        return Mark(blake2b(before.prefix + block.key, digest_size=16).digest(), before.tokens + block.tokens)

    marks = accumulate((block for block in blocks), extend, initial=Mark(b"", 0))  # type: ignore[arg-type]
    return Prompt(tuple(marks)[1:], head)


def count_shared_blocks(one: Prompt, other: Prompt) -> int:
    """Returns how many leading blocks two prompts have in common."""
    pairs = zip(one.marks, other.marks, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one.marks), len(other.marks)))


@dataclass(frozen=True)
class Cache:
    """The provider's cache for one client."""

    rules: Rules = field(default_factory=Rules)
    dies: Mapping[bytes, float] = field(default_factory=dict)
    """Prefix -> the second at which it is gone."""
    last: Prompt = Prompt(())

    def call(self, sent: Prompt, at: float) -> tuple[Cache, Usage]:
        """Returns the cache after a prompt that is sent at second `at`, and what it was billed as.
        Time runs forwards.
        """
        if self.rules.caching == "off":
            return self, Usage(input=sent.tokens)
        live = {prefix: dies for prefix, dies in self.dies.items() if dies >= at}
        if self.rules.caching == "automatic":
            return self._automatic(sent, at, live)
        return self._explicit(sent, at, live)

    def _automatic(self, sent: Prompt, at: float, live: dict[bytes, float]) -> tuple[Cache, Usage]:
        known = max((mark.tokens for mark in sent.marks if mark.prefix in live), default=0)
        read = known - known % self.rules.step if known >= self.rules.minimum else 0
        after = live | dict.fromkeys((mark.prefix for mark in sent.marks), at + SECONDS[self.rules.life])
        return replace(self, dies=after, last=sent), Usage(input=sent.tokens - read, cached=read)

    def _explicit(self, sent: Prompt, at: float, live: dict[bytes, float]) -> tuple[Cache, Usage]:
        places = self.places(sent)
        seen = (i for place in places for i in range(place, max(-1, place - self.rules.lookback - 1), -1))
        found = max((i for i in seen if sent.marks[i].prefix in live), default=-1)
        read = sent.marks[found].tokens if found >= 0 else 0
        end = max((sent.marks[place].tokens for place in places), default=0)
        used = {mark.prefix for mark in sent.marks[: found + 1]} & live.keys()
        used |= {sent.marks[place].prefix for place in places}
        after = live | dict.fromkeys(used, at + SECONDS[self.rules.life])
        wrote = {"written_1h" if self.rules.life == "1h" else "written": end - read}
        return replace(self, dies=after, last=sent), Usage(input=sent.tokens - end, cached=read, **wrote)

    def places(self, sent: Prompt) -> tuple[int, ...]:
        """Returns the blocks at whose ends breakpoints stand."""
        wanted = (len(sent.marks), count_shared_blocks(self.last, sent), sent.head, sent.head + 1)
        ends = [count - 1 for count in dict.fromkeys(wanted) if 0 < count <= len(sent.marks)]
        return tuple(i for i in ends[: self.rules.breakpoints] if sent.marks[i].tokens >= self.rules.minimum)
