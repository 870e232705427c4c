"""Measures facts by asking for each one: the model reads a few tokens in front of it and says how likely it is.

A repeat says a fact with the whole text before it at hand, from which much can be guessed; behind a short cue it has to
come from memory. What counts is the share of what the span supplies: the fact's log-probability over the full memory,
less that without the span. docs/log.md (2026-12-01) has how well either finds the answers that fail.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import Continuation, LocalEngine
from holdfast.facts.fact import FactKind
from holdfast.gate.latent.fact_tokens import FactTokens
from holdfast.gate.latent.survival import Survival, measure_fall
from holdfast.methods.base import Span
from holdfast.progress import Progress

CUE = 8  # tokens in front of a fact that the model is given
LONGEST = 48  # tokens of a fact that are asked for
AT_ONCE = 16  # facts that are asked in one pass
RULES = (FactKind.PROHIBITION, FactKind.INSTRUCTION)
RULE_SHARE = 4  # a rule of the user counts as lost at a fourth of the loss that another fact may bear


class FactScore(NamedTuple):
    """The log-probabilities of one fact's tokens, `[n]` nats each."""

    full: Tensor
    none: Tensor
    """Without the span."""


@dataclass(frozen=True)
class CueSurvival(Survival):
    """The fall of each fact, and of the tokens of facts; no other token is measured."""

    share: float
    """Part of the nats that the span supplies by which a fact may fall before it is lost."""
    supply: Mapping[FactTokens, float]
    falls: Mapping[FactTokens, float]

    @property
    def loss_mask(self) -> Tensor:
        """`[T]` bool: the tokens of lost facts."""
        out = torch.zeros_like(self.fall, dtype=torch.bool)
        for found in filter(self.is_lost, self.falls):
            out[self.token_slice(found)] = True
        return out

    def nats(self, found: FactTokens) -> float:
        """Returns the nats by which the log-probability of a fact fell."""
        return self.falls[found]

    def is_lost(self, found: FactTokens) -> bool:
        """Returns True if a fact fell by more than its share of what the span supplies (the threshold at least)."""
        part = RULE_SHARE if found.fact.kind in RULES else 1
        return self.falls[found] * part > self.share * max(self.supply[found], self.threshold)


class CueCheck:
    """The facts of a span, asked over its full memory and over one without it."""

    def __init__(
        self, facts: Sequence[FactTokens], span: Span, memories: tuple[KVContext, KVContext], engine: LocalEngine
    ) -> None:
        """Takes the `facts` of the span, and its `memories`: the full one, and one without the span."""
        self.facts, self.engine = facts, engine
        self.index = torch.cat([torch.arange(*block.origin.tokens) for block in span.blocks])
        self._asked = {_key(found): found for found in facts}  # what stands several times is asked for where it is last
        newline = tuple(engine.model.tokenizer("\n", add_special_tokens=False)["input_ids"])
        ids = tuple(span.ids.tolist())
        self._rows = {
            key: Continuation(ids[max(0, part.start - CUE) : part.start] or newline, ids[part])
            for key, part in ((key, self._place(found)) for key, found in self._asked.items())
        }
        full, none = (self._score(memory) for memory in memories)
        self._known = {key: FactScore(full[key], none[key]) for key in self._rows}

    def measure(self, memory: KVContext, threshold: float, share: float, progress: Progress) -> CueSurvival:
        """Returns what became of the facts in a compact memory."""
        compact = self._score(memory, progress)
        falls = {key: measure_fall(known.full, compact[key]) for key, known in self._known.items()}
        fall = torch.zeros(len(self.index))
        for key, found in self._asked.items():
            part = self._place(found)
            fall[part] = torch.maximum(fall[part], falls[key])
        supply = {f: float((self._known[_key(f)].full - self._known[_key(f)].none).sum()) for f in self.facts}
        fell = {f: float(falls[_key(f)].sum()) for f in self.facts}
        return CueSurvival(fall, self.index, threshold, share, supply, fell)

    def _place(self, found: FactTokens) -> slice:
        """Returns the tokens of the span that are asked for: those of a fact, or the first of them."""
        first, last = torch.searchsorted(self.index, torch.tensor(found.tokens)).tolist()
        return slice(first, min(last, first + LONGEST))

    def _score(self, memory: KVContext, progress: Progress | None = None) -> dict[tuple[str, str], Tensor]:
        keys = sorted(self._rows, key=lambda key: len(self._rows[key].prompt) + len(self._rows[key].target))
        out: dict[tuple[str, str], Tensor] = {}
        for at in range(0, len(keys), AT_ONCE):
            if progress:
                progress("check", at, len(keys), "")
            some = keys[at : at + AT_ONCE]
            scored = self.engine.score(memory, [self._rows[key] for key in some])
            out |= {key: log_probs.cpu() for key, log_probs in zip(some, scored, strict=True)}
        return out


def _key(found: FactTokens) -> tuple[str, str]:
    return found.fact.kind.value, found.fact.text
