"""Checkpoints: memories of a session as they were stored, from which it is resumed, rewound or undone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import uuid4

from torch import Tensor

from holdfast.context import holdfast_file
from holdfast.context.segments import CompactContext
from holdfast.errors import BadContext
from holdfast.model.load import Model
from holdfast.storage.store import Store


@dataclass(frozen=True)
class Checkpoint:
    """One stored memory."""

    blocks: int
    """Blocks that it holds, compacted or not."""
    tail: int
    """The first of them that was verbatim and is its last segment."""
    context: str
    hidden: str
    """Digests of the context and of the tail's hidden states."""
    compactions: int
    """Compactions that stand in it."""
    saved: bool = False
    """True if it is the whole memory at some time and not the result of a compaction: the next one takes its place."""


def add_checkpoint(checkpoints: Sequence[Checkpoint], checkpoint: Checkpoint) -> tuple[Checkpoint, ...]:
    """Returns the checkpoints that count after `checkpoint` was stored: those of compactions, and the newest save."""
    return (*(c for c in checkpoints if not c.saved), checkpoint)


def clip_checkpoints(checkpoints: Sequence[Checkpoint], blocks: int) -> tuple[Checkpoint, ...]:
    """Returns the checkpoints that serve the first `blocks` blocks; blocks beyond them do not count any more."""
    return tuple(replace(c, blocks=min(c.blocks, blocks)) for c in checkpoints if c.tail <= blocks)


class CheckpointStore:
    """Keeps the memories of a session in a store, or in this process if there is none."""

    def __init__(self, store: Store | None) -> None:
        self._store = store
        self._in_process: dict[str, tuple[CompactContext, Tensor]] = {}

    def put(self, context: CompactContext, hidden: Tensor, model: Model) -> tuple[str, str]:
        """Stores a memory; returns the names of `context` and `hidden [T, d]` for a checkpoint."""
        if self._store:
            return self._store.put(holdfast_file.to_bytes(context, model)), self._store.put(encode_hidden(hidden))
        name = uuid4().hex
        self._in_process[name] = context, hidden
        return name, name

    def get(self, checkpoint: Checkpoint, model: Model, session: str) -> tuple[CompactContext, Tensor]:
        """Returns a stored context and its hidden states `[T, d]`.

        Raises Missing if they are gone, BadContext if they are damaged.
        """
        if not self._store:
            return self._in_process[checkpoint.context]
        context = holdfast_file.from_bytes(self._store.get(checkpoint.context), model, name=f"session {session}")
        return context, decode_hidden(self._store.get(checkpoint.hidden)).to(model.device, model.dtype)


def encode_hidden(hidden: Tensor) -> bytes:
    """Writes hidden states `[T, d]` as the bytes of a safetensors file."""
    from safetensors.torch import save

    return bytes(save({"hidden": hidden.detach().cpu().contiguous()}))


def decode_hidden(data: bytes) -> Tensor:
    """Reads the bytes of `encode_hidden`. Raises BadContext for anything else."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        hidden: Tensor = load(data)["hidden"]
        return hidden
    except (SafetensorError, KeyError) as error:
        raise BadContext(f"stored hidden states are damaged: {error}") from error
