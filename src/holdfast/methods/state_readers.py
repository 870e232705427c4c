"""Learned readers of a span's states: tokens that read the whole cache before it is cut, and anchors that read it anew.

Both are an adapter and a few vectors, and what they give are keys and values, which stand in the cache like any others.
Training runs this same code with gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.engine.kv_context import KVContext, check_retains
from holdfast.errors import BadOption
from holdfast.methods.memory_tokens import load_parameters, split_evenly
from holdfast.model.adapter import Lora, adapter_parameters, add_adapter, set_training
from holdfast.model.checkpoint import read_checkpoint
from holdfast.model.forward import embed, hidden_states_two_ways
from holdfast.model.load import Model
from holdfast.model.states import States


@dataclass(frozen=True)
class ReaderRecipe:
    """The shape of a reader."""

    memory: int = 8
    """Restore tokens."""
    chunk: int = 512
    """Tokens that anchors read at one time, in both directions."""
    rank: int = 128
    alpha: float = 32.0
    dropout: float = 0.05
    targets: str = "qv"

    def __post_init__(self) -> None:
        if self.memory < 1 or self.chunk < 2:
            raise BadOption(f"a reader needs memory >= 1 and chunk >= 2, got {self.memory} and {self.chunk}")


class Reader:
    """An adapter and `count` learned vectors."""

    def __init__(self, model: Model, recipe: ReaderRecipe, seed: int, count: int) -> None:
        self.base, self.recipe = model, recipe
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.twin = add_adapter(model, Lora(recipe.rank, recipe.alpha, recipe.dropout, recipe.targets))
            self.table = model.hf.get_input_embeddings().weight.detach()
            self.noise = torch.randn(count, self.table.shape[1]).to(self.table.device)
        self.vectors = nn.Parameter(torch.zeros_like(self.noise))

    def parameters(self) -> dict[str, nn.Parameter]:
        """Returns everything that is trained, by name."""
        return {**adapter_parameters(self.twin), "vectors": self.vectors}

    def train(self, on: bool) -> None:
        """Switches dropout."""
        set_training(self.twin, on)


class RestoreTokens(Reader):
    """Tokens that stand behind a span and read all of it; what they computed is kept beside what a method keeps."""

    def __init__(self, model: Model, recipe: ReaderRecipe, seed: int = 0) -> None:
        super().__init__(model, recipe, seed, recipe.memory)
        start = self.table.float().mean(0) + self.table.float().std(0) * self.noise
        self.vectors = nn.Parameter(start)

    def read(self, after: KVContext, end: int) -> States:
        """Returns the states of the tokens, read over `after`, which holds the span up to position `end`.

        They stand between the last two tokens, so that what follows stays where it was.
        """
        live, count = after.fork(), len(self.vectors)
        live.model = self.twin
        places = end - 1 - torch.arange(count, 0, -1) / (count + 1)
        hidden = live.feed_inputs(self.vectors.to(self.base.dtype), places)
        return live.newest_states(torch.zeros(count, dtype=torch.int64), hidden, None)


class AnchorTokens(Reader):
    """Tokens of the text that stand for those around them: a vector says which, both directions are read."""

    def __init__(self, model: Model, recipe: ReaderRecipe, seed: int = 0) -> None:
        check_retains(model)
        super().__init__(model, recipe, seed, 1)
        self.vectors = nn.Parameter(0.02 * self.noise)

    def read(self, ids: Tensor, start: int, anchors: Tensor) -> list[States]:
        """Returns the states of the tokens at `anchors [k]` (indices, in order) of `ids [T]`, chunk by chunk.

        The first token stands at position `start`.
        """
        out, first = [], 0
        for part in split_evenly(ids, self.recipe.chunk):
            here = anchors[(anchors >= first) & (anchors < first + len(part))] - first
            if len(here):
                out.append(self._read_chunk(part, start + first, here))
            first += len(part)
        return out

    def _read_chunk(self, ids: Tensor, start: int, here: Tensor) -> States:
        model, T = self.base, len(ids)
        role = torch.zeros(T, 1, device=model.device).index_fill(0, here.to(model.device), 1.0)
        inputs = embed(model, ids.to(model.device)) + (role * self.vectors).to(model.dtype)  # [T, d]
        live, positions = KVContext(self.twin), torch.arange(start, start + T, dtype=torch.float32, device=model.device)
        live.cache.announce(positions[None])
        hidden = hidden_states_two_ways(self.twin, inputs[None], positions[None], live.cache)[0]
        whole = live.newest_states(ids, hidden, None)
        keys, values = (tuple(t[:, here] for t in found) for found in (whole.keys, whole.values))
        return States(keys, values, positions[here], whole.surprise, hidden[here])


READERS: dict[str, type[Any]] = {"restore": RestoreTokens, "anchors": AnchorTokens}


def load_reader(kind: str, folder: Path | None, model: Model) -> Any:
    """Returns the trained reader in a folder, or one drawn at random. Raises BadOption as `read_checkpoint` does."""
    if folder is None:
        return _draw(kind, model)
    checkpoint = read_checkpoint(folder, kind, model.digest)
    return _load(kind, checkpoint.folder, str(checkpoint.manifest["files"]), model)


@lru_cache(maxsize=2)
def _draw(kind: str, model: Model) -> Any:
    return READERS[kind](model, ReaderRecipe(rank=8, dropout=0))


@lru_cache(maxsize=2)
def _load(kind: str, folder: Path, files: str, model: Model) -> Any:
    checkpoint = read_checkpoint(folder, kind, model.digest)
    reader = READERS[kind](model, recipe_of(checkpoint.recipe))
    load_parameters(reader.parameters(), checkpoint)
    freeze(reader.parameters().values())
    reader.train(False)
    return reader


def recipe_of(held: dict[str, Any]) -> ReaderRecipe:
    """Returns the part of a recipe that shapes a reader."""
    return ReaderRecipe(**{f.name: held[f.name] for f in fields(ReaderRecipe) if f.name in held})


def freeze(parameters: Any) -> None:
    """Takes the parameters out of every graph."""
    for parameter in parameters:
        parameter.requires_grad_(False)


def place_evenly(tokens: int, count: int) -> Sequence[int]:
    """Returns the indices of `count` tokens, each in the middle of its share."""
    return [min(tokens - 1, (2 * n + 1) * tokens // (2 * count)) for n in range(count)]
