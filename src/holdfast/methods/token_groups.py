"""Groups of neighbouring tokens as one input embedding each: plain means, and trained projections of pairs.

The naive methods of the thesis. They cost a pass at most, and show what an encoder has to beat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from holdfast.engine.kv_context import KVContext
from holdfast.errors import BadOption
from holdfast.methods.memory_tokens import Memory, load_parameters
from holdfast.methods.repeat_prompt import record_teacher
from holdfast.model.checkpoint import read_checkpoint
from holdfast.model.forward import embed, logits
from holdfast.model.load import Model

MEANS = ("hard", "online", "regenerate")
SHAPES = ("linear", "mlp1", "mlp2", "bert")
NORMS = ("none", "pre", "post")
GROUP = 2


def group_positions(tokens: int, groups: int) -> Tensor:
    """Returns the middle of each of `groups` parts of nearly equal length, `[groups]`."""
    parts = torch.tensor_split(torch.arange(tokens, dtype=torch.float32), groups)
    return torch.stack([part.mean() for part in parts])


@torch.no_grad()
def mean_vectors(kind: str, ids: Tensor, groups: int, past: KVContext) -> Tensor:
    """Returns `[groups, d]`, a mean for each part of `ids [T]`.

    `hard`: of the tokens' embeddings. `online`: of the embeddings that the model expects there, part by part, over the
    means so far. `regenerate`: of its last hidden states while it says the text again.
    """
    model = past.model
    if kind == "online":
        return _online(torch.tensor_split(ids, groups), past)
    if kind == "regenerate":
        after = past.fork()
        after.feed(ids)
        vectors = record_teacher(after, ids).hidden
    else:
        vectors = embed(model, ids.to(model.device))
    return torch.stack([part.float().mean(0) for part in torch.tensor_split(vectors, groups)])


def _online(parts: Sequence[Tensor], past: KVContext) -> Tensor:
    live, out = past.fork(), []
    table = live.model.hf.get_input_embeddings().weight
    for part in parts:
        hidden = live.fork().feed(part)  # [n, d]
        expected = logits(live.model, hidden).softmax(-1).to(table.dtype) @ table  # [n, d]
        out.append(expected.float().mean(0))
        place = torch.tensor([live.next_position + (len(part) - 1) / 2])
        live.feed_inputs(out[-1][None].to(live.model.dtype), place)
    return torch.stack(out)


class MeanEncoder:
    """The means as an encoder of whole spans, which knows nothing of what stands before them."""

    marks: Tensor | None = None

    def __init__(self, model: Model, kind: str, group: int = GROUP) -> None:
        self.model, self.kind, self.group = model, kind, group

    def parameters(self) -> dict[str, nn.Parameter]:
        return {}

    def encode(self, spans: Sequence[Tensor]) -> list[Memory]:
        """Returns a vector for every `group` tokens."""
        return [self._encode(ids) for ids in spans]

    def _encode(self, ids: Tensor) -> Memory:
        groups = -(-len(ids) // self.group)
        vectors = mean_vectors(self.kind, ids, groups, KVContext(self.model))
        return Memory(vectors, group_positions(len(ids), groups), len(ids))


@dataclass(frozen=True)
class ProjectorRecipe:
    """The shape of a projector of two embeddings to one."""

    shape: str = "linear"
    """`linear` with a gate on the pair's mean, `mlp1` or `mlp2` hidden layers, or a small `bert` over all pairs."""
    norm: str = "none"
    """A layer norm before or behind it: `pre`, `post`."""
    vocabulary: bool = False
    """Projects on the vocabulary and takes the expected embedding."""
    width: int = 512
    layers: int = 2
    """Of bert."""
    dropout: float = 0.05

    def __post_init__(self) -> None:
        if self.shape not in SHAPES or self.norm not in NORMS:
            raise BadOption(
                f"shape must be one of {', '.join(SHAPES)} and norm one of {', '.join(NORMS)}, got {self.shape!r} and "
                f"{self.norm!r}"
            )


class Projector:
    """Projects each pair of neighbouring embeddings to one vector; begins at their mean."""

    marks: Tensor | None = None

    def __init__(self, model: Model, recipe: ProjectorRecipe, seed: int = 0) -> None:
        self.base, self.recipe = model, recipe
        d = model.family.d_model
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = _network(recipe, d).to(model.device)
        self.before = nn.LayerNorm(2 * d).to(model.device) if recipe.norm == "pre" else None
        self.behind = nn.LayerNorm(d).to(model.device) if recipe.norm == "post" else None
        self.gate = nn.Parameter(torch.zeros(1, device=model.device))

    def parameters(self) -> dict[str, nn.Parameter]:
        """Returns everything that is trained, by name."""
        parts = {"net": self.net, "before": self.before, "behind": self.behind}
        named = {f"{n}.{k}": p for n, part in parts.items() if part is not None for k, p in part.named_parameters()}
        return {**named, "gate": self.gate}

    def train(self, on: bool) -> None:
        """Switches dropout."""
        self.net.train(on)

    def encode(self, spans: Sequence[Tensor]) -> list[Memory]:
        """Returns a vector for every two tokens; a last one alone is a pair with itself."""
        return [self.project(ids) for ids in spans]

    def project(self, ids: Tensor) -> Memory:
        """Projects one span, ids `[T]`."""
        ids = ids if len(ids) % GROUP == 0 else torch.cat((ids, ids[-1:]))
        pairs = embed(self.base, ids.to(self.base.device)).float().view(len(ids) // GROUP, -1)  # [k, 2 d]
        mean = pairs.view(len(pairs), GROUP, -1).mean(1)
        out = self.net(self.before(pairs) if self.before else pairs)
        out = self.behind(out) if self.behind else out
        vectors = mean + self.gate * out
        if self.recipe.vocabulary:
            table = self.base.hf.get_input_embeddings().weight
            vectors = (vectors.to(table.dtype) @ table.T).float().softmax(-1).to(table.dtype) @ table
        places = torch.arange(len(pairs), dtype=torch.float32) * GROUP + (GROUP - 1) / 2
        return Memory(vectors, places, len(ids))


def _network(recipe: ProjectorRecipe, d: int) -> nn.Module:
    if recipe.shape == "linear":
        return nn.Linear(GROUP * d, d)
    if recipe.shape == "bert":
        layer = nn.TransformerEncoderLayer(recipe.width, 8, 4 * recipe.width, recipe.dropout, F.gelu, batch_first=True)
        whole = nn.TransformerEncoder(layer, recipe.layers)
        return nn.Sequential(nn.Linear(GROUP * d, recipe.width), whole, nn.Linear(recipe.width, d))
    parts: list[nn.Module] = [nn.Linear(GROUP * d, recipe.width), nn.GELU(), nn.Dropout(recipe.dropout)]
    if recipe.shape == "mlp2":
        parts += [nn.Linear(recipe.width, recipe.width), nn.GELU(), nn.Dropout(recipe.dropout)]
    return nn.Sequential(*parts, nn.Linear(recipe.width, d))


def load_projector(folder: Path, model: Model) -> Projector:
    """Returns the trained projector in a folder. Raises BadOption as `read_checkpoint` does."""
    checkpoint = read_checkpoint(folder, "projector", model.digest)
    return _load(checkpoint.folder, str(checkpoint.manifest["files"]), model)


@lru_cache(maxsize=2)
def _load(folder: Path, files: str, model: Model) -> Projector:
    checkpoint = read_checkpoint(folder)
    made = Projector(model, projector_recipe(checkpoint.recipe))
    load_parameters(made.parameters(), checkpoint)
    for parameter in made.parameters().values():
        parameter.requires_grad_(False)
    made.train(False)
    return made


def projector_recipe(held: dict[str, Any]) -> ProjectorRecipe:
    """Returns the part of a recipe that shapes a projector."""
    return ProjectorRecipe(**{k: held[k] for k in ProjectorRecipe.__dataclass_fields__ if k in held})
