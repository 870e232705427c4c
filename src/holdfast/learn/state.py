"""The state of a run besides its weights, to go on to the same bits: optimiser, place in the data, generators."""

from __future__ import annotations

import io
import random
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from holdfast.learn.loop import Training


class Batches:
    """Endless batches of rows, each epoch in an order that follows from the seed; its state names the next one."""

    def __init__(self, rows: Sequence[Any], training: Training) -> None:
        from torchdata.stateful_dataloader import StatefulDataLoader

        self._order, self._seed, self._epoch = torch.Generator(), training.seed, 0
        how: Any = {"batch_size": training.batch, "shuffle": True, "drop_last": True, "collate_fn": list}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchdata 0.11 calls what torch has since deprecated
            self._loader = StatefulDataLoader(rows, **how, generator=self._order)  # type: ignore[arg-type]
        self._next = self._begin()

    def take(self) -> list[Any]:
        """Returns the next batch."""
        for batch in self._next:
            return batch  # type: ignore[no-any-return]
        self._epoch += 1
        self._next = self._begin()
        return next(self._next)  # type: ignore[no-any-return]

    def state(self) -> dict[str, Any]:
        return {"epoch": self._epoch, "loader": self._loader.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        self._epoch = state["epoch"]
        self._loader.load_state_dict(state["loader"])
        self._next = self._begin()

    def _begin(self) -> Iterator[Any]:
        # torchdata 0.11 restores the place within an epoch, but not the generator that orders those behind it
        self._order.manual_seed(random.Random(f"{self._seed} {self._epoch}").getrandbits(63))
        return iter(self._loader)


def pack_state(optimiser: Any, batches: Batches) -> bytes:
    """Returns the state as bytes that hold tensors and plain values alone."""
    drawn: Any = np.random.get_state()
    kind, keys, at, has_normal, normal = drawn
    state = {
        "optimiser": optimiser.state_dict(),
        "data": batches.state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": random.getstate(),
        "numpy": (str(kind), torch.from_numpy(keys.astype(np.int64)), int(at), int(has_normal), float(normal)),
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def unpack_state(data: bytes, optimiser: Any, batches: Batches) -> None:
    """Puts everything back where `pack_state` found it. Loads no code: tensors and plain values only."""
    state = torch.load(io.BytesIO(data), weights_only=True)
    optimiser.load_state_dict(state["optimiser"])
    batches.load(state["data"])
    random.setstate(_as_tuple(state["python"]))
    kind, keys, at, has_normal, normal = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), at, has_normal, normal))
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    torch.set_rng_state(state["torch"])  # last: what is above may have drawn from it


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list | tuple) else value
