"""The only file that knows transformers' Cache. A layer is packed slots in front, then a dense tail of tokens.

Tensors are never written in place: a fork shares all of them, and a failed pass leaves the fork's origin as it was.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from holdfast.context.packing import join, pack, where
from holdfast.model.family import Family
from holdfast.model.quantized_slots import AnySlots, QuantizedSlots
from holdfast.model.slots import Slots


class SlotLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's memory, as `holdfast.model.attention.CachedLayer` reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: Tensor | None = None
        self.values: Tensor | None = None
        self.slots: Slots | None = None
        self.quantized: tuple[QuantizedSlots, ...] = ()
        self.positions: Tensor = torch.empty(1, 0)
        self.valid: Tensor | None = None
        self.scores: Tensor | None = None
        """`[G, s]`: what the first s tokens of the tail are worth to a compaction; NaN where nobody measured it."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Appends new keys and values `[B, G, Q, D]` to the tail and returns the whole tail."""
        if self.keys is not None and self.values is not None:
            key_states = torch.cat((self.keys, key_states), dim=2)  # [B, G, t + Q, D]
            value_states = torch.cat((self.values, value_states), dim=2)
        self.keys, self.values = key_states, value_states
        return key_states, value_states

    def copy(self) -> SlotLayer:
        """Returns a layer that shares every tensor."""
        twin = SlotLayer()
        twin.keys, twin.values, twin.slots, twin.quantized = self.keys, self.values, self.slots, self.quantized
        twin.positions, twin.valid, twin.scores = self.positions, self.valid, self.scores
        return twin

    def freeze(self) -> None:
        """Turns the tail (of batch 1) into slots, so that a batch can share it."""
        if self.keys is None or self.values is None:
            return
        tail = pack(self.keys[0], self.values[0], self.positions[0])
        self.slots = tail if self.slots is None else join((self.slots, tail))
        self._drop_tail(self.positions)

    def splice(self, slots: AnySlots) -> None:
        """Puts already rotated slots behind everything held so far; quantized ones stand apart, those of a form
        together.
        """
        if isinstance(slots, QuantizedSlots):
            alike = [part.form == slots.form and part.keys.basis is slots.keys.basis for part in self.quantized]
            same = [part for part, yes in zip(self.quantized, alike, strict=True) if yes]
            others = [part for part, yes in zip(self.quantized, alike, strict=True) if not yes]
            self.quantized = (*others, join([*same, slots]))
            return
        if self.slots is None and slots.dense:
            self.extend(slots)
            return
        self.freeze()
        self.slots = slots if self.slots is None else join((self.slots, slots))

    def extend(self, slots: Slots) -> None:
        """Puts already rotated slots, as many for each head and without bias, behind the tail as its newest tokens."""
        G, n = len(slots.lengths), slots.lengths[0]
        dims = slots.keys.shape[-1], slots.values.shape[-1]
        self.update(slots.keys.view(1, G, n, dims[0]), slots.values.view(1, G, n, dims[1]))
        # heads share one row of tail positions; only sliding layers read it, and theirs are equal
        self.positions = torch.cat((self.positions, slots.positions[:n][None]), dim=1)  # [1, t + n]

    def note(self, scores: Tensor) -> None:
        """Notes what the newest tokens of the tail are worth, `[G, n]`."""
        older = slice(0, self.positions.shape[1] - scores.shape[1])
        self.scores = torch.cat((self.read_scores(older, scores.shape[0]), scores), dim=1)

    def read_scores(self, part: slice, heads: int) -> Tensor:
        """Returns what the tokens `part` of the tail are worth, `[G, n]`; NaN where nobody noted it."""
        held = self.positions.new_empty(heads, 0) if self.scores is None else self.scores
        missing = held.new_full((heads, self.positions.shape[1] - held.shape[1]), float("nan"))
        return torch.cat((held, missing), dim=1)[:, part]

    def take(self, other: SlotLayer, part: slice) -> None:
        """Puts the tokens `part` of another layer's tail (both of batch 1) behind this one, to the last bit."""
        if other.scores is not None:
            heads = other.scores.shape[0]
            self.scores = torch.cat(
                (self.read_scores(slice(None), heads), other.read_scores(part, heads)), dim=1
            )  # [G, t + n]
        if other.keys is not None and other.values is not None:  # a view would hold on to all of the other's memory
            self.update(other.keys[:, :, part].clone(), other.values[:, :, part].clone())
        self.positions = torch.cat((self.positions, other.positions[:, part]), dim=1)

    def forget(self, before: float) -> None:
        """Drops everything at positions up to `before`, which a sliding layer can no longer see."""
        seen = self.positions[0] > before  # [t]
        if self.keys is not None and self.values is not None and not bool(seen.all()):
            self.keys, self.values = self.keys[:, :, seen], self.values[:, :, seen]
            self.positions, self.scores = self.positions[:, seen], None
        if self.slots is not None and bool((self.slots.positions <= before).any()):
            self.slots = where(self.slots, self.slots.positions > before)
        self.quantized = tuple(where(part, part.positions > before) for part in self.quantized)

    def narrow(self, count: int, seen: slice) -> None:
        """Keeps, of the newest `count` tokens of the tail, only those in `seen`."""
        first = self.positions.shape[1] - count
        index = torch.cat((torch.arange(first), torch.arange(first, first + count)[seen])).to(self.positions.device)
        self.positions, self.scores = self.positions[:, index], None
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys[:, :, index], self.values[:, :, index]

    def crop(self, tokens_to_remove: int) -> None:
        """Forgets the newest tokens of the tail, and frees their memory."""
        keep = self.positions.shape[1] - tokens_to_remove
        self.positions = self.positions[:, :keep]
        self.scores = None if self.scores is None else self.scores[:, :keep].clone()
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys[:, :, :keep].clone(), self.values[:, :, :keep].clone()

    @property
    def nbytes(self) -> int:
        """Bytes really held: keys, values and biases of slots and tail."""
        tail = sum(t.nbytes for t in (self.keys, self.values) if t is not None)
        return tail + sum(part.nbytes for part in (self.slots, *self.quantized) if part is not None)

    def nbytes_at(self, itemsize: int) -> int:
        """Returns the bytes of the same memory where a plain number takes `itemsize`; codes stay as they are."""
        tail = sum(t.numel() * itemsize for t in (self.keys, self.values) if t is not None)
        return tail + sum(part.nbytes_at(itemsize) for part in (self.slots, *self.quantized) if part is not None)

    def _drop_tail(self, like: Tensor) -> None:
        self.keys = self.values = self.valid = self.scores = None
        self.positions = like.new_empty(1, 0)

    # what transformers asks of a layer; the masks that it would build from these are not used
    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None: ...

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return 0 if self.keys is None else self.keys.shape[2]

    def get_max_length(self) -> int:
        return -1


class SlotCache(Cache):  # type: ignore[misc]
    """The memory of all layers."""

    def __init__(self, layers: list[SlotLayer]) -> None:
        super().__init__(layers=layers)

    @classmethod
    def empty(cls, family: Family, device: torch.device) -> SlotCache:
        cache = cls([SlotLayer() for _ in family.layers])
        for layer in cache.layers:
            layer.positions = layer.positions.to(device)
        return cache

    def fork(self, *, frozen: bool = False) -> SlotCache:
        """Returns a cache that grows on its own; `frozen` makes all of it shareable by a batch."""
        twin = SlotCache([layer.copy() for layer in self.layers])
        if frozen:
            for layer in twin.layers:
                layer.freeze()
        return twin

    def announce(self, positions: Tensor, valid: Tensor | None = None) -> None:
        """Sets the positions `[B, Q]` that the next pass appends, and which of them are padding."""
        for layer in self.layers:
            held = layer.positions.expand(positions.shape[0], -1)
            if valid is not None or layer.valid is not None:
                old = layer.valid if layer.valid is not None else torch.ones_like(held, dtype=torch.bool)
                new = valid if valid is not None else torch.ones_like(positions, dtype=torch.bool)
                layer.valid = torch.cat((old.expand(positions.shape[0], -1), new), dim=1)
            layer.positions = torch.cat((held, positions), dim=1)  # [B, t + Q]

    def newest(self, layer: int, count: int) -> tuple[Tensor, Tensor]:
        """Returns rotated keys and values `[G, count, D]` of the last `count` tokens of the tail."""
        held = self.layers[layer]
        return held.keys[0, :, -count:], held.values[0, :, -count:]

    def settle(self, family: Family, next_position: int) -> None:
        """Lets sliding layers (of batch 1) forget what no token from `next_position` on can see."""
        for held, layer in zip(self.layers, family.layers, strict=True):
            if layer.window is not None:
                held.forget(next_position - layer.window)

    @property
    def nbytes(self) -> int:
        return sum(layer.nbytes for layer in self.layers)

    def nbytes_at(self, itemsize: int) -> int:
        """Returns the bytes that the same memory takes where a plain number takes `itemsize` of them."""
        return sum(layer.nbytes_at(itemsize) for layer in self.layers)
