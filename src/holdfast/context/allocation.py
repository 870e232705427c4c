"""The allocation of a budget over heads: apart from scoring, and usable with every score."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from holdfast.errors import BadOption
from holdfast.storage.files import replace

KINDS = ("global", "layer", "head", "pyramid", "learned")
STEEPEST = 0.1  # a pyramid's last layer gets this part of an even share, its first layer 2 minus it

Scores = Mapping[int, Tensor]
"""Per full-attention layer `[G, T]` float32, higher is kept; comparable over heads only for `global`."""


@dataclass(frozen=True)
class Allocation:
    """One way to spread a budget."""

    kind: str = "global"
    """`global`: one threshold over all layers and heads; `layer`: over the heads of each layer, layers equal (AdaKV,
    https://arxiv.org/abs/2407.11550); `head`: the same number for every head; `pyramid`: fewer in later layers
    (https://arxiv.org/abs/2406.02069); `learned`: the shares that `holdfast calibrate` found."""
    cap: float = 0.0
    """Longest head as a multiple of the mean, which bounds raggedness; 0 is no bound."""
    floor: float = 0.0
    """Part of an even share that every head gets anyway; the kind spreads the rest."""
    shares: Mapping[int, Sequence[float]] = field(default_factory=dict)
    """For `learned`: per layer, each head's part of all pairs."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise BadOption(f"allocation must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if self.cap and not (math.isfinite(self.cap) and self.cap >= 1):
            raise BadOption(f"cap must be 0 (none) or at least 1 (the mean), got {self.cap}")
        if not 0 <= self.floor <= 1:
            raise BadOption(f"floor must be between 0 and 1 of an even share, got {self.floor}")

    def choose(self, scores: Scores, slots: int) -> dict[int, Tensor]:
        """Masks `[G, T]` of the pairs that stay, `slots` a head on average, or all where there are no more."""
        T = next(iter(scores.values())).shape[1]
        slots = min(slots, T)
        most = min(T, math.ceil(self.cap * slots)) if self.cap else T
        least = math.floor(self.floor * slots)
        heads = [(layer, g) for layer, s in scores.items() for g in range(s.shape[0])]
        turn = {layer: _rank_order(s, least, most) for layer, s in scores.items()}
        if self.kind == "global":
            return best(scores, slots * len(heads), turn)
        if self.kind == "layer":
            return {layer: best({layer: s}, slots * s.shape[0], turn)[layer] for layer, s in scores.items()}
        counts = [least + n for n in apportion(self._weights(heads), (slots - least) * len(heads), most - least)]
        masks = {layer: torch.zeros_like(s, dtype=torch.bool) for layer, s in scores.items()}
        for (layer, g), count in zip(heads, counts, strict=True):
            masks[layer][g, _descending(scores[layer][g])[:count]] = True
        return masks

    def _weights(self, heads: list[tuple[int, int]]) -> list[float]:
        if self.kind == "head":
            return [1.0] * len(heads)
        if self.kind == "learned":
            try:
                return [float(self.shares[layer][g]) for layer, g in heads]
            except (KeyError, IndexError) as error:
                raise BadOption("the learned shares are of a model of another shape; calibrate this one") from error
        layers = list(dict.fromkeys(layer for layer, _ in heads))
        place = {layer: i / max(1, len(layers) - 1) for i, layer in enumerate(layers)}
        return [(2 - STEEPEST) * (1 - place[layer]) + STEEPEST * place[layer] for layer, _ in heads]


def best(scores: Scores, pairs: int, turn: Scores | None = None) -> dict[int, Tensor]:
    """Masks of the `pairs` highest of `scores` under one threshold over all layers and heads.

    Exactly `pairs` are chosen; ties go to the lower layer, head and position, so that a run repeats. A higher `turn`
    goes before any score.
    """
    flat = torch.cat([s.reshape(-1) for s in scores.values()])
    order = _descending(flat)
    if turn is not None:
        order = order[_descending(torch.cat([turn[layer].reshape(-1) for layer in scores])[order])]
    mask = torch.zeros_like(flat, dtype=torch.bool)
    mask[order[:pairs]] = True
    parts = torch.split(mask, [s.numel() for s in scores.values()])
    return {layer: part.view_as(s) for (layer, s), part in zip(scores.items(), parts, strict=True)}


def _rank_order(scores: Tensor, least: int, most: int) -> Tensor:
    """Returns 1 for each head's first `least`, which come before all else, -1 for those beyond its first `most`, else
    0.
    """
    if not least and most >= scores.shape[1]:
        return torch.zeros_like(scores, dtype=torch.int8)
    rank = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return (rank < least).to(torch.int8) - (rank >= most).to(torch.int8)


def apportion(weights: Sequence[float], total: int, most: int) -> list[int]:
    """Divides `total` things by weight, at most `most` each: what a full one cannot take flows on; largest remainders
    round.

    There must be room for all. Raises BadOption for weights that are negative, not finite or all zero.
    """
    w = torch.tensor(list(weights), dtype=torch.float64)
    if not torch.isfinite(w).all() or (w < 0).any() or not (w > 0).any():
        raise BadOption("shares must be finite and not negative, and one of them above zero")
    w = w / w.max()
    counts = torch.zeros_like(w)
    free = torch.ones_like(w, dtype=torch.bool)
    for _ in range(len(w)):  # each round fills at least one, or is the last
        left = total - counts[~free].sum()
        weight = torch.where(free, w, 0.0)
        if weight.sum() == 0:
            weight = free.double()
        counts = torch.where(free, left * weight / weight.sum(), counts)
        over = free & (counts > most)
        if not over.any():
            break
        counts[over], free = float(most), free & ~over
    whole = counts.floor()
    rest = counts - whole
    rest[whole >= most] = -1.0
    whole[_descending(rest)[: round(total - float(whole.sum()))]] += 1
    return [int(n) for n in whole]


def save_shares(path: Path, model_digest: str, shares: Mapping[int, Sequence[float]]) -> None:
    """Writes calibrated shares as a small JSON file, over an older one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, shares_json(model_digest, shares))


def shares_json(model_digest: str, shares: Mapping[int, Sequence[float]]) -> bytes:
    """Returns the bytes of such a file."""
    rounded = {str(layer): [round(x, 7) for x in row] for layer, row in shares.items()}
    return (json.dumps({"model_digest": model_digest, "shares": rounded}, indent=1) + "\n").encode()


def load_shares(path: Path, model_digest: str) -> dict[int, list[float]]:
    """Reads calibrated shares. Raises BadOption for a file that is missing, damaged, or of another model."""
    try:
        held = json.loads(path.read_text())
        shares = {int(layer): [x + 0.0 for x in row] for layer, row in held["shares"].items()}
        apportion([x for row in shares.values() for x in row], 0, 0)
    except (OSError, BadOption, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise BadOption(f"no calibrated shares in {path}; make them with `holdfast calibrate`") from error
    if held.get("model_digest") != model_digest:
        raise BadOption(f"{path} was calibrated for another model; run `holdfast calibrate` for this one")
    return shares


def _descending(row: Tensor) -> Tensor:
    return row.argsort(descending=True, stable=True)
