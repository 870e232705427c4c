"""Finds the tokens that hold the facts of a session (`holdfast.facts.extract`), block by block."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from holdfast.blocks.block import Block, Kind
from holdfast.facts.extract import extract_facts
from holdfast.facts.fact import TextFact
from holdfast.gate.latent.token_text import TokenDecoder
from holdfast.transcript.speaker import split_voices
from holdfast.transcript.turn import Role, Turn


@dataclass(frozen=True)
class FactTokens:
    """A fact and the tokens that hold it."""

    fact: TextFact
    """The fact in its block's text, as the tokenizer decodes it; its characters count from the block's beginning."""
    turn: int
    """Index into `Transcript.turns`."""
    tokens: tuple[int, int]
    """Span in the token ids of the session, as in `Block.origin.tokens`. A token may hold more than the fact."""


_SPEAKERS = {
    Kind.SYSTEM: Role.SYSTEM,
    Kind.REASONING: Role.ASSISTANT,
    Kind.ACTION: Role.ASSISTANT,
    Kind.MEMENTO: Role.ASSISTANT,
    Kind.OBSERVATION: Role.TOOL,
}


def build_fact_mask(blocks: Sequence[Block], tokenizer: Any) -> Tensor:
    """Returns `[T]` bool over the tokens of all blocks: True for a token of a fact."""
    out, at = torch.zeros(sum(map(len, blocks)), dtype=torch.bool), 0
    for block in blocks:
        first = block.origin.tokens[0]
        for found in locate_facts((block,), tokenizer):
            out[at + found.tokens[0] - first : at + found.tokens[1] - first] = True
        at += len(block)
    return out


def locate_facts(blocks: Sequence[Block], tokenizer: Any) -> tuple[FactTokens, ...]:
    """Returns the facts of each block, in order, with their tokens. Needs nothing but the blocks' ids."""
    decoder = TokenDecoder(tokenizer)
    found: list[FactTokens] = []
    for block in blocks:
        text, starts, ends = decoder.decode(block.ids)
        first = block.origin.tokens[0]
        for fact in _facts_of_block(block.kind, text):
            begin = bisect_right(ends, fact.chars[0])
            end = bisect_left(starts, fact.chars[1])
            found.append(FactTokens(fact, block.origin.turn, (first + begin, first + end)))
    return tuple(found)


def _facts_of_block(kind: Kind, text: str) -> Iterator[TextFact]:
    """Yields the facts of a block's text; what a harness put into a user's message holds no rules."""
    if kind in _SPEAKERS:
        yield from extract_facts(text, _SPEAKERS[kind])
        return
    for voice in split_voices(Turn(Role.USER, text)):
        yield from (fact.shift(voice.start) for fact in extract_facts(voice.text, voice.speaker))
