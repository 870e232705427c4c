"""A running context: what the model holds in memory now, and where the next token goes.

Every change works on a fork of the cache and is committed at the end, so that a pass that fails (out of memory,
an interrupt) leaves the running context exactly as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from holdfast.context.cache import SlotCache
from holdfast.context.segments import CompactContext, Segment, SoftSegment, StateSegment
from holdfast.context.surgery import rotate_segment
from holdfast.errors import BadInput, UnsupportedModel
from holdfast.model.attention import Observer
from holdfast.model.forward import hidden_states
from holdfast.model.load import Model
from holdfast.model.states import States

CHUNK = 256  # tokens of a prefill in one step, between two of which other threads use the model
PrefillProgress = Callable[[int, int], None]
"""Called as `report(done, total)` before each chunk."""


SCORED_AT_ONCE = 1024  # tokens that are scored together at most while they are read
UNSCORED = 64  # tokens whose queries, which take more memory than their keys and values, wait for a score at most


class PassRecord(Protocol):
    """An observer that keeps what it saw."""

    @property
    def nbytes(self) -> int:
        """Bytes of what it keeps."""

    def __call__(self, layer: int, query: Tensor, mass: Tensor, key: Tensor, /) -> None:
        """Takes the queries of one layer, as every observer does."""


class ReadScorer(Protocol):
    """A measure of what tokens are worth to a compaction, taken from the pass that reads them anyway."""

    def watch(self) -> PassRecord:
        """Returns an observer for one pass."""

    def score(self, observers: Sequence[PassRecord], states: States) -> Mapping[int, Tensor]:
        """Returns the scores of the tokens of `states`, which these observers saw, `[G, n]` per layer."""


class KVContext:
    """A model's memory of a context. `fork` is cheap and shares everything held so far."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.cache = SlotCache.empty(model.family, model.device)
        self.next_position = 0
        self.last_hidden: Tensor | None = None
        """`[d]`: predicts the next token; None before the first one and after a splice."""
        self.scorer: ReadScorer | None = None
        """Scores what is fed; what it finds goes where the tokens of the tail go."""
        self._rewindable: list[int] = []
        self._unscored: tuple[tuple[PassRecord, int], ...] = ()

    def fork(self, *, frozen: bool = False) -> KVContext:
        """Returns a second future of the same past."""
        twin = KVContext(self.model)
        twin.cache, twin.next_position = self.cache.fork(frozen=frozen), self.next_position
        twin.last_hidden = self.last_hidden
        if not frozen:
            twin._rewindable, twin.scorer, twin._unscored = list(self._rewindable), self.scorer, self._unscored
        return twin

    def fork_narrowed(self, count: int, seen: slice) -> KVContext:
        """Returns a fork that keeps only `seen` of the newest `count` tokens; positions stay as they are."""
        twin = self.fork()
        for layer in twin.cache.layers:
            layer.narrow(count, seen)
        twin.last_hidden, twin.scorer, twin._rewindable, twin._unscored = None, None, [], ()
        return twin

    def feed(
        self,
        ids: Tensor | list[int],
        *,
        positions: Tensor | None = None,
        observer: Observer | None = None,
        report: PrefillProgress | None = None,
    ) -> Tensor:
        """Runs token ids `[n]` through the model; returns their hidden states `[n, d]`."""
        ids = torch.as_tensor(ids, dtype=torch.int64, device=self.model.device)
        if positions is None:
            positions = torch.arange(self.next_position, self.next_position + len(ids))
        return self.feed_inputs(ids, positions, observer=observer, report=report)

    def feed_inputs(
        self,
        inputs: Tensor,
        positions: Tensor,
        *,
        observer: Observer | None = None,
        report: PrefillProgress | None = None,
    ) -> Tensor:
        """Runs ids `[n]` or embeddings `[n, d]` at `positions [n]`; returns hidden states `[n, d]`."""
        positions = positions.to(self.model.device, torch.float32)
        if len(positions) != len(inputs):
            raise ValueError(f"{len(inputs)} inputs need as many positions, got {len(positions)}")
        if not len(inputs):
            return inputs.new_empty(0, self.model.family.d_model, dtype=self.model.dtype)
        scored = None if observer or self.scorer is None else self.scorer.watch()
        if scored and len(inputs) > SCORED_AT_ONCE:
            return self._feed_by_parts(inputs, positions, report)
        cache, observer = self.cache.fork(), observer or scored
        parts: list[Tensor] = []
        for x, p in zip(torch.split(inputs, CHUNK), torch.split(positions, CHUNK), strict=True):
            if report:
                report(len(parts) * CHUNK, len(inputs))
            cache.announce(p[None])
            parts.append(hidden_states(self.model, x[None], p[None], cache, observer)[0])
        self.cache, self.last_hidden = cache, parts[-1][-1]
        self._rewindable.extend(self._steps(positions))
        self.next_position = max(self.next_position, int(positions[-1].ceil()) + 1)
        if scored:
            self._unscored = (*self._unscored, (scored, len(inputs)))
            if sum(count for _, count in self._unscored) >= UNSCORED:
                self._score()
        return torch.cat(parts)

    def _feed_by_parts(self, inputs: Tensor, positions: Tensor, report: PrefillProgress | None) -> Tensor:
        """Feeds what is too long for an observer to hold at once."""
        twin, done, parts = self.fork(), 0, list[Tensor]()
        pairs = zip(torch.split(inputs, SCORED_AT_ONCE), torch.split(positions, SCORED_AT_ONCE), strict=True)
        for x, p in pairs:
            parts.append(twin.feed_inputs(x, p, report=report and _shift(report, done, len(inputs))))
            done += len(x)
        self.cache, self.last_hidden, self.next_position = twin.cache, twin.last_hidden, twin.next_position
        self._rewindable, self._unscored = twin._rewindable, twin._unscored
        return torch.cat(parts)

    def append(self, segment: Segment, report: PrefillProgress | None = None) -> None:
        """Takes a stored segment into memory: tokens and embeddings are run, states are spliced in."""
        if isinstance(segment, StateSegment):
            self._splice(segment)
        elif isinstance(segment, SoftSegment):
            embeds = segment.embeds.to(self.model.device, self.model.dtype)  # [n, d]
            self.feed_inputs(embeds, segment.positions, report=report)
        else:
            self.feed(segment.ids, positions=segment.positions, report=report)

    @torch.no_grad()
    def extend(
        self, segments: Sequence[Segment], next_position: int, report: PrefillProgress | None = None
    ) -> KVContext:
        """Returns a fork with `segments` behind it; its next token goes to `next_position`.

        `report` is told how many of the tokens and embeddings, which are run, are in memory.
        """
        after, done = self.fork(), 0
        lengths = [0 if isinstance(s, StateSegment) else len(s.positions) for s in segments]
        for segment, length in zip(segments, lengths, strict=True):
            after.append(segment, report and _shift(report, done, sum(lengths)))
            done += length
        if report and done:
            report(done, done)
        after.settle(next_position)
        return after

    def take(self, source: KVContext, part: slice, hidden: Tensor | None = None) -> None:
        """Takes the tokens `part` of another memory's tail as they were read there; `hidden [d]` is the last one's.

        They may have seen what this memory does not hold. Raises UnsupportedModel for layers that forget by themselves.
        """
        check_retains(self.model)
        source._score()
        self._score()
        cache, positions = self.cache.fork(), source.cache.layers[0].positions[0, part]
        for layer, other in zip(cache.layers, source.cache.layers, strict=True):
            layer.take(other, part)
        self._append_tail(cache, positions, hidden)

    def retain(self, segment: StateSegment, hidden: Tensor | None = None) -> None:
        """Takes stored states of verbatim tokens as the newest ones, which a rewind can forget again."""
        check_retains(self.model)
        self._score()
        cache, slots = self.cache.fork(), rotate_segment(cast_to_model(segment, self.model), self.model.family)
        for layer, held in zip(cache.layers, slots, strict=True):
            layer.extend(held)
        self._append_tail(cache, slots[0].positions[: slots[0].lengths[0]], hidden)

    def _append_tail(self, cache: SlotCache, positions: Tensor, hidden: Tensor | None) -> None:
        self._rewindable.extend(self._steps(positions))
        self.cache, self.last_hidden = cache, hidden
        self.next_position = max(self.next_position, int(positions[-1].ceil()) + 1)

    def rewind(self, count: int) -> None:
        """Forgets the newest `count` tokens. Raises BadInput beyond what was fed since the last splice."""
        if not 0 <= count <= len(self._rewindable):
            raise BadInput(f"can rewind 0 to {len(self._rewindable)} tokens here, got {count}")
        if count == 0:
            return
        self._score()
        cache = self.cache.fork()
        for layer in cache.layers:
            layer.crop(count)
        self.cache, self.next_position = cache, self._rewindable[-count]
        del self._rewindable[-count:]
        self.last_hidden = None

    def settle(self, next_position: int) -> None:
        """Closes a context: the next token goes to `next_position`, and nothing before it can be rewound."""
        cache = self.cache.fork()
        cache.settle(self.model.family, next_position)
        self.cache, self.next_position, self._rewindable = cache, next_position, []

    def tail_scores(self, part: slice) -> dict[int, Tensor] | None:
        """Returns what the tokens `part` of the tail are worth, `[G, n]` per full-attention layer.

        The scorer found it when they were read; None if it did not see all of them.
        """
        self._score()
        family = self.model.family
        found = {n: self.cache.layers[n].read_scores(part, family.kv_heads) for n in family.full}
        return None if any(bool(scores.isnan().any()) for scores in found.values()) else found

    @torch.no_grad()
    def _score(self) -> None:
        """Notes the scores of the tokens that were read since the last time; two threads at once find the same."""
        waiting, cache = self._unscored, self.cache.fork()
        if not waiting or self.scorer is None:
            return
        count = sum(n for _, n in waiting)
        nothing = torch.empty(count, 0)  # a scorer looks at keys and values alone
        states = self.newest_states(nothing, nothing, None)
        for n, scores in self.scorer.score([observer for observer, _ in waiting], states).items():
            cache.layers[n].note(scores)
        self.cache, self._unscored = cache, ()

    def tail_states(self, part: slice, ids: Tensor, hidden: Tensor, before: Tensor | None) -> States:
        """Returns the states of the tokens `part` of the tail, `ids [n]` and their `hidden [n, d]`, as
        they were read.
        """
        check_retains(self.model)
        positions = self.cache.layers[0].positions[0, part]
        pairs = zip(self.model.family.layers, self.cache.layers, strict=True)
        keys = tuple(layer.rope.unrotate(held.keys[0, :, part], positions) for layer, held in pairs)
        values = tuple(held.values[0, :, part] for held in self.cache.layers)
        return States(keys, values, positions, partial(surprisal, self.model, ids, hidden, before), hidden)

    def newest_states(self, ids: Tensor, hidden: Tensor, before: Tensor | None) -> States:
        """Returns the states of the `n` tokens just fed; `before` is the hidden state that predicted
        the first of them.
        """
        n, layers = len(ids), self.model.family.layers
        positions = self.cache.layers[0].positions[0, -n:]
        keys, values = [], []
        for index, layer in enumerate(layers):
            count = n if layer.window is None else min(n, layer.window - 1)
            k, v = self.cache.newest(index, count)
            keys.append(layer.rope.unrotate(k, positions[-count:]))
            values.append(v)
        surprise = partial(surprisal, self.model, ids, hidden, before)
        return States(tuple(keys), tuple(values), positions, surprise, hidden)

    @property
    def nbytes(self) -> int:
        """Bytes of KV memory really held."""
        return self.cache.nbytes

    @property
    def score_nbytes(self) -> int:
        """Bytes of the scores of the tail, and of what waits for a score."""
        held = sum(layer.scores.nbytes for layer in self.cache.layers if layer.scores is not None)
        return int(held) + sum(record.nbytes for record, _ in self._unscored)

    def _splice(self, segment: StateSegment) -> None:
        self._score()
        cache = self.cache.fork()
        for layer, slots in zip(
            cache.layers, rotate_segment(cast_to_model(segment, self.model), self.model.family), strict=True
        ):
            layer.splice(slots)
        self.cache, self.last_hidden, self._rewindable = cache, None, []
        self.next_position = max(self.next_position, int(segment.last_position) + 1)

    def _steps(self, positions: Tensor) -> list[int]:
        """Returns for every token fed the position that a rewind to before it returns to."""
        ends = [self.next_position, *(int(p) + 1 for p in positions.ceil().tolist())]
        return [max(self.next_position, end) for end in ends[:-1]]


def surprisal(model: Model, ids: Tensor, hidden: Tensor, before: Tensor | None) -> Tensor:
    """Returns -log p of each of `ids [n]` given what stands before it, `[n]` float32 nats.

    If nothing predicts the first token (`before` is None), it gets the mean of the others.
    """
    from holdfast.model.forward import log_probs

    rest = -log_probs(model, hidden[:-1], ids[1:])
    if before is not None:
        return torch.cat((-log_probs(model, before[None], ids[:1]), rest))
    return torch.cat((rest.mean()[None] if len(rest) else rest.new_ones(1), rest))


def _shift(report: PrefillProgress, before: int, total: int) -> PrefillProgress:
    """Returns the callback of one of several prefills: `before` tokens were read by those before it, `total` by all."""
    return lambda done, _: report(before + done, total)


def open_context(model: Model, context: CompactContext, report: PrefillProgress | None = None) -> KVContext:
    """Loads a context into memory."""
    return KVContext(model).extend(context.segments, context.next_position, report)


def check_retains(model: Model) -> None:
    """Raises UnsupportedModel if a layer forgets by itself, so that states cannot be kept while text goes."""
    sliding = [at for at, layer in enumerate(model.family.layers) if layer.window is not None]
    if sliding:
        raise UnsupportedModel(
            f"layer {sliding[0]} of {model.name} attends to its last {model.family.layers[sliding[0]].window} tokens "
            "only, so that states cannot outlive their text; compact with restart (--restart)"
        )


def cast_to_model(segment: StateSegment, model: Model) -> StateSegment:
    """Returns the segment on the model's device and in its dtype."""
    return replace(segment, layers=tuple(s.to(model.device, model.dtype) for s in segment.layers))
