"""Memory tokens: learned embeddings read behind a text whose last hidden states stand for it as input embeddings.

The encoder of ICAE (https://arxiv.org/abs/2307.06945): the model with an adapter reads a segment and then the memory
tokens; what it computes there is what the model without it reads instead of the segment. Training and inference are
this one code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from holdfast.engine.kv_context import KVContext
from holdfast.errors import BadOption
from holdfast.model.adapter import Lora, adapter_parameters, add_adapter, set_training
from holdfast.model.checkpoint import Checkpoint, read_checkpoint
from holdfast.model.forward import embed, hidden_states
from holdfast.model.load import Model
from holdfast.model.rope import place_slots

MARKS = ("ae", "lm", "ft")
"""Vectors that say what is to be done behind a memory: say the text again, go on, answer."""


class Memory(NamedTuple):
    """Input embeddings that stand for a span."""

    vectors: Tensor
    """`[k, d]`"""
    positions: Tensor
    """`[k]` float32, counted from the span's first token."""
    advance: int
    """Positions that the span takes up."""


class Encoder(Protocol):
    """Turns spans into input embeddings."""

    @property
    def marks(self) -> Tensor | None:
        """`[3, d]`, the vectors of `MARKS`; None where the method has none."""
        ...

    def parameters(self) -> dict[str, nn.Parameter]: ...

    def encode(self, spans: Sequence[Tensor]) -> list[Memory]:
        """Returns what stands for each of the spans, ids `[n]`."""
        ...


@dataclass(frozen=True)
class IcaeRecipe:
    """The shape of an ICAE."""

    memory: int = 256
    """Memory tokens of a segment."""
    ratio: float = 4.0
    rank: int = 128
    alpha: float = 32.0
    dropout: float = 0.05
    targets: str = "qv"
    epl: bool = True
    """Memory tokens at the positions of what they stand for, in encoder and decoder; False is behind the text, and
    one after another."""
    head: bool = False
    """A network of two layers on the memory vectors."""
    gain: bool = True
    """A learned factor on them, which begins where their size is that of embeddings; False is the thesis."""

    def __post_init__(self) -> None:
        if self.memory < 1 or not 1 < self.ratio < math.inf:
            raise BadOption(f"an ICAE needs memory >= 1 and ratio > 1, got {self.memory} and {self.ratio}")

    @property
    def segment(self) -> int:
        """Tokens of the longest segment."""
        return int(self.memory * self.ratio)

    def count(self, tokens: int) -> int:
        """Returns the memory tokens of a segment; a text no longer than them stays text."""
        return min(self.memory, math.ceil(tokens / self.ratio))


class Icae:
    """The encoder: an adapter, the memory tokens, the marks."""

    def __init__(self, model: Model, recipe: IcaeRecipe, seed: int = 0) -> None:
        """Draws an untrained one, the same for a seed."""
        self.base, self.recipe = model, recipe
        lora = Lora(recipe.rank, recipe.alpha, recipe.dropout, recipe.targets)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.twin = add_adapter(model, lora)
            table = model.hf.get_input_embeddings().weight.detach().float()
            near = table.mean(0) + table.std(0) * torch.randn(recipe.memory + len(MARKS), table.shape[1]).to(table)
            self.memory = nn.Parameter(near[: recipe.memory].clone())
            self.marks: Tensor = nn.Parameter(near[recipe.memory :].clone())
            d = table.shape[1]
            self.head = _head(d).to(table.device) if recipe.head else None
        self.gain = nn.Parameter(self._size_ratio(table)) if recipe.gain else None

    def parameters(self) -> dict[str, nn.Parameter]:
        """Returns everything that is trained, by name."""
        found: dict[str, Any] = {**adapter_parameters(self.twin), "memory": self.memory, "marks": self.marks}
        found |= {f"head.{name}": weight for name, weight in self.head.named_parameters()} if self.head else {}
        return found | ({"gain": self.gain} if self.gain is not None else {})

    def train(self, on: bool) -> None:
        """Switches dropout."""
        set_training(self.twin, on)

    def encode(self, spans: Sequence[Tensor]) -> list[Memory]:
        """Compresses spans of any lengths in one batch, each in segments of equal length."""
        cut = [split_evenly(span, self.recipe.segment) for span in spans]
        flat = [(part, self.recipe.count(len(part))) for parts in cut for part in parts]
        vectors = iter(self.encode_segments(flat))
        return [self._join([(len(part), next(vectors)) for part in parts]) for parts in cut]

    def encode_segments(self, segments: Sequence[tuple[Tensor, int]]) -> list[Tensor]:
        """Returns `[k, d]` for each pair of ids `[n]` and a number k of memory tokens; padding changes nothing."""
        device, longest = self.base.device, max(len(ids) + k for ids, k in segments)
        ids = torch.zeros(len(segments), longest, dtype=torch.int64, device=device)
        positions = torch.zeros(len(segments), longest, device=device)
        for row, (text, k) in enumerate(segments):
            n = len(text)
            ids[row, :n] = text.to(device)
            positions[row, :n] = torch.arange(n)
            positions[row, n : n + k] = self._read_positions(n, k)
        inputs = embed(self.base, ids)  # [B, Q, d]
        rows = []
        for row, (text, k) in enumerate(segments):  # padding stands last, where causality hides it
            own = self.memory[:k].to(inputs.dtype)
            rows.append(torch.cat((inputs[row, : len(text)], own, inputs[row, len(text) + k :])))
        hidden = read_batch(self.twin, torch.stack(rows), positions)
        return [self._shape(hidden[row, len(text) : len(text) + k]) for row, (text, k) in enumerate(segments)]

    def _shape(self, hidden: Tensor) -> Tensor:
        out: Tensor = hidden.float()
        out = self.head(out) if self.head else out
        return out if self.gain is None else out * self.gain

    def _read_positions(self, n: int, k: int) -> Tensor:
        return place_slots(0, n - 1, k) if self.recipe.epl else torch.arange(n, n + k, dtype=torch.float32)

    def _join(self, parts: list[tuple[int, Tensor]]) -> Memory:
        vectors = torch.cat([vectors for _, vectors in parts])
        total = sum(n for n, _ in parts)
        if not self.recipe.epl:
            return Memory(vectors, torch.arange(len(vectors), dtype=torch.float32), len(vectors))
        return Memory(vectors, place_segments([(n, len(v)) for n, v in parts]), total)

    @torch.no_grad()
    def _size_ratio(self, table: Tensor) -> Tensor:
        """Returns the size of the model's embeddings over that of its last hidden states, of the memory tokens' own."""
        hidden = read_batch(self.base, self.memory[None].to(self.base.dtype), torch.arange(len(self.memory))[None])
        ratio: Tensor = table.norm(dim=1).mean() / hidden.float().norm(dim=-1).mean()
        return ratio.reshape(1)


def _head(d: int) -> nn.Module:
    return nn.Sequential(nn.Linear(d, d), nn.GELU(), nn.Linear(d, d))


def read_batch(model: Model, inputs: Tensor, positions: Tensor) -> Tensor:
    """Reads rows of embeddings `[B, Q, d]`, padded on the right; returns hidden states `[B, Q, d]` with a graph."""
    memory, positions = KVContext(model), positions.to(model.device, torch.float32)
    memory.cache.announce(positions)
    return hidden_states(model, inputs, positions, memory.cache)


def place_segments(segments: Sequence[tuple[int, int]], start: int = 0) -> Tensor:
    """Returns the positions of the memory tokens of segments, each `(tokens, memory tokens)`, one behind another."""
    places = []
    for tokens, count in segments:
        places.append(place_slots(start, start + tokens - 1, count))
        start += tokens
    return torch.cat(places)


def split_evenly(ids: Tensor, longest: int) -> tuple[Tensor, ...]:
    """Returns parts of nearly equal length, as few as hold at most `longest` tokens each."""
    return torch.tensor_split(ids, math.ceil(len(ids) / longest))


def build_icae(checkpoint: Checkpoint, model: Model) -> Icae:
    """Returns the trained encoder of a checkpoint."""
    icae = Icae(model, IcaeRecipe(**{k: checkpoint.recipe[k] for k in asdict(IcaeRecipe())}))
    load_parameters(icae.parameters(), checkpoint)
    for parameter in icae.parameters().values():
        parameter.requires_grad_(False)
    icae.train(False)
    return icae


@torch.no_grad()
def load_parameters(parameters: dict[str, nn.Parameter], checkpoint: Checkpoint) -> None:
    """Puts a checkpoint's tensors in place. Raises BadOption if it does not hold exactly these."""
    tensors = checkpoint.weights()
    if {n: t.shape for n, t in tensors.items()} != {n: p.shape for n, p in parameters.items()}:
        raise BadOption(f"{checkpoint.folder} holds weights of another shape than its recipe says; train it again")
    for name, parameter in parameters.items():
        parameter.copy_(tensors[name])


def load_icae(folder: Path | None, model: Model) -> Icae:
    """Returns the trained encoder in a folder, or one drawn at random. Raises BadOption as `read_checkpoint` does."""
    if folder is None:
        return _draw(model)
    checkpoint = read_checkpoint(folder, "icae", model.digest)
    return _load(checkpoint.folder, str(checkpoint.manifest["files"]), model)


@lru_cache(maxsize=1)
def _draw(model: Model) -> Icae:
    return Icae(model, IcaeRecipe(memory=16, rank=8, dropout=0))


@lru_cache(maxsize=2)
def _load(folder: Path, files: str, model: Model) -> Icae:
    return build_icae(read_checkpoint(folder), model)
