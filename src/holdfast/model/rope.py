"""All position arithmetic. No other file rotates, un-rotates or rounds a position.

Keys are stored un-rotated with their positions as data; the engine rotates them once, on load. Rotation is the
half-split form that every supported family uses (Su et al., RoFormer, https://arxiv.org/abs/2104.09864).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rope:
    """The rotation of one layer. Dimensions past `2 * len(inv_freq)` pass through (partial rotary)."""

    inv_freq: Tensor
    """Angles per position, `[D_rot / 2]` float32, as the model holds them."""
    scaling: float = 1.0
    """Factor on cos and sin (YaRN's attention factor); un-rotating divides it out again."""

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """Rotates `x [..., N, D]` to `positions [..., N]`, which may be fractional."""
        cos, sin = self._cos_sin(positions, x)
        return self._apply(x, cos * self.scaling, sin * self.scaling)

    def unrotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """Undoes `rotate` at the same positions."""
        cos, sin = self._cos_sin(positions, x)
        return self._apply(x, cos / self.scaling, -sin / self.scaling)

    def move(self, x: Tensor, old: Tensor, new: Tensor) -> Tensor:
        """Moves keys rotated at `old` to `new`; equals rotating the un-rotated key at `new`."""
        return self.rotate(self.unrotate(x, old), new)

    def mean_rotation(self, dims: int, positions: Tensor) -> Tensor:
        """Returns the mean over `positions [N]` of the matrix `[dims, dims]` by which `rotate` multiplies a column."""
        eye = torch.eye(dims, device=positions.device)
        turned = self.rotate(eye.expand(len(positions), dims, dims), positions[:, None].expand(-1, dims))
        return turned.mean(0).T

    def _cos_sin(self, positions: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        # float32 angles are what the models compute; float64 is for proofs
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        angles = positions[..., None].to(wide) * self.inv_freq.to(x.device, wide)
        return angles.cos(), angles.sin()

    def _apply(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        half = self.inv_freq.shape[0]
        first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
        return torch.cat((turned.to(x.dtype), rest), dim=-1)


def spread_positions(first: float, last: float, count: int) -> Tensor:
    """Returns `count` positions laid evenly from `first` to `last`, both included, `[count]` float32.

    One slot sits at `last`, so that what follows is as near to it as it was to the span's end.
    """
    if count == 1:
        return torch.tensor([float(last)])
    return torch.linspace(first, last, count)


def place_slots(first: float, last: float, count: int) -> Tensor:
    """Returns the positions of `count` slots, each in the middle of its share of `first` to `last`, whole numbers.

    The layout of EPL (https://arxiv.org/abs/2409.14364): r = (last - first + 1) / count, from first + (r - 1) / 2 to
    last - (r - 1) / 2. `[count]` float32.
    """
    half = ((last - first + 1) / count - 1) / 2
    return torch.linspace(first + half, last - half, count).round()
