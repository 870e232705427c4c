"""The engine that runs a model in this process: capture, score, generate. Knows contexts, not sessions."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from holdfast._moved import find_name
from holdfast.context.segments import CompactContext
from holdfast.engine.detokenizer import Detokenizer
from holdfast.engine.kv_context import KVContext, PrefillProgress, open_context
from holdfast.engine.sampling import Sampling
from holdfast.errors import BadContext
from holdfast.model.attention import Observer
from holdfast.model.forward import hidden_states, log_probs, logits
from holdfast.model.load import Model
from holdfast.model.states import States


@dataclass(frozen=True)
class Continuation:
    """A text to be scored: `prompt` is given, `target` is what its probability is asked of."""

    prompt: tuple[int, ...]
    target: tuple[int, ...]


class LocalEngine:
    """Runs contexts on a local model. All methods leave the contexts that they are given unchanged."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.reading_seconds = 0.0
        """Time spent in `capture` so far: the prefill that an agent pays anyway, not the price of compaction."""

    @torch.no_grad()
    def open(self, context: CompactContext, report: PrefillProgress | None = None) -> KVContext:
        """Loads a context into memory. Raises BadContext if it holds another model's states."""
        if context.model_digest not in ("", self.model.digest):
            raise BadContext(f"this context was made with another model than {self.model.name}; load that one")
        return open_context(self.model, context, report)

    def read_scores(self, network: object, past: KVContext, positions: Tensor) -> dict[int, Tensor] | None:
        """Returns what the tokens at `positions [T]` behind `past` are worth, as `network` found when they were read,
        `[G, T]` per full-attention layer; None where it did not watch them.
        """
        return None

    @torch.no_grad()
    def capture(
        self,
        past: KVContext,
        ids: Tensor,
        positions: Tensor | None = None,
        report: PrefillProgress | None = None,
        observer: Observer | None = None,
    ) -> tuple[KVContext, States]:
        """Reads `ids [T]` on top of `past`; returns the memory afterwards and the span's states."""
        began, after = time.perf_counter(), past.fork()
        ids = torch.as_tensor(ids, dtype=torch.int64, device=self.model.device)
        hidden = after.feed(ids, positions=positions, report=report, observer=observer)
        self.reading_seconds += time.perf_counter() - began
        return after, after.newest_states(ids, hidden, past.last_hidden)

    @torch.no_grad()
    def score(self, live: KVContext, continuations: Sequence[Continuation]) -> list[Tensor]:
        """Log-probabilities of every target token, one `[n]` float32 per continuation, run as one batch."""
        rows = [(*c.prompt, *c.target) for c in continuations]
        hidden = self._batch(live, rows)
        out = []
        for row, c in enumerate(continuations):
            end = len(rows[row])
            predicts = hidden[row, end - len(c.target) - 1 : end - 1]
            out.append(log_probs(self.model, predicts, self._ids(c.target)))
        return out

    @torch.no_grad()
    def next_logits(self, live: KVContext, ids: Sequence[int]) -> Tensor:
        """Logits after each of `ids [n]` read on top of `live`, `[n, V]` float32."""
        return logits(self.model, live.fork().feed(list(ids)))

    @torch.no_grad()
    def generate(
        self, live: KVContext, prompt: Sequence[int], limit: int = 256, sampling: Sampling | None = None
    ) -> Iterator[int]:
        """Yields up to `limit` tokens that follow `prompt`, up to the end of turn; `live` is not changed."""
        live, sampling = live.fork(), sampling or Sampling()
        generator, stop = sampling.generator(), self.stop_ids
        ids = list(prompt)
        for _ in range(limit):
            hidden = live.feed(ids)
            token = sampling.choose(logits(self.model, hidden[-1]), generator)
            if token in stop:
                return
            yield token
            ids = [token]

    @torch.no_grad()
    def answers(self, live: KVContext, prompts: Sequence[Sequence[int]], limit: int = 32) -> list[list[int]]:
        """Returns greedy answers to several prompts over one context, decoded as one batch that shares it."""
        live, B = live.fork(frozen=True), len(prompts)
        longest = max(map(len, prompts))
        ids = torch.zeros(B, longest, dtype=torch.int64)
        valid = torch.zeros(B, longest, dtype=torch.bool)
        for row, prompt in enumerate(prompts):  # padded on the left, so that all answers begin together
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            valid[row, longest - len(prompt) :] = True
        positions = (valid.cumsum(1) - 1).clamp_min(0).float() + live.next_position
        out: list[list[int]] = [[] for _ in prompts]
        running = torch.ones(B, dtype=torch.bool)
        cache = live.cache
        for _ in range(limit):
            cache.announce(positions.to(self.model.device), valid.to(self.model.device))
            hidden = hidden_states(self.model, ids.to(self.model.device), positions.to(self.model.device), cache)
            tokens = logits(self.model, hidden[:, -1]).argmax(-1).cpu()
            running &= ~torch.isin(tokens, torch.tensor(sorted(self.stop_ids)))
            if not running.any():
                break
            for row in running.nonzero()[:, 0].tolist():
                out[row].append(int(tokens[row]))
            ids, positions, valid = tokens[:, None], positions[:, -1:] + 1, torch.ones(B, 1, dtype=torch.bool)
        return out

    @property
    def stop_ids(self) -> frozenset[int]:
        """Token ids that end an answer."""
        eos = self.model.hf.generation_config.eos_token_id
        own = self.model.tokenizer.eos_token_id
        return frozenset(x for x in (*(eos if isinstance(eos, list) else [eos]), own) if x is not None)

    def _batch(self, live: KVContext, rows: Sequence[Sequence[int]]) -> Tensor:
        """Returns hidden states `[B, longest, d]` of rows padded on the right, over one shared context."""
        live = live.fork(frozen=True)
        longest = max(map(len, rows))
        ids = torch.zeros(len(rows), longest, dtype=torch.int64)
        for row, content in enumerate(rows):
            ids[row, : len(content)] = torch.tensor(content, dtype=torch.int64)
        positions = (torch.arange(longest).float() + live.next_position).expand(len(rows), -1)
        ids, positions = ids.to(self.model.device), positions.to(self.model.device)
        live.cache.announce(positions)  # padding stands last, where causality hides it
        return hidden_states(self.model, ids, positions, live.cache)

    def _ids(self, ids: Sequence[int]) -> Tensor:
        return torch.tensor(ids, dtype=torch.int64, device=self.model.device)


def stream_text(tokens: Iterable[int], tokenizer: Any) -> Iterator[str]:
    """Yields the text of token ids, piece by piece and never half a character."""
    detokenizer = Detokenizer(tokenizer)
    for token in tokens:
        if text := detokenizer.feed(token):
            yield text
    if rest := detokenizer.end():
        yield rest


if not TYPE_CHECKING:  # so that a misspelt name is still an error to mypy

    def __getattr__(name: str) -> object:
        return find_name("engine.local", name)
