"""Surrogate: predicts the scores of the full method from what the prefill computed anyway; no extra pass.

A small network a layer (KVzap, https://arxiv.org/abs/2601.07891, has the idea of a surrogate) was trained on what the
full method found in recorded sessions. Its inputs are keys, values and the matches of the span's own queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, cast

import torch
from torch import Tensor

from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import LocalEngine
from holdfast.errors import BadOption
from holdfast.methods.base import Span
from holdfast.methods.eviction import Eviction, Study
from holdfast.methods.inner_methods import build_inner_eviction
from holdfast.methods.reference_queries import QueryRecorder, SpanPrefill
from holdfast.methods.storage_option import MethodWithStorage
from holdfast.methods.surrogate_features import layer_features
from holdfast.methods.surrogate_network import COMMAND, SurrogateNetwork, find_network, load_network
from holdfast.model.attention import Observer
from holdfast.model.load import Model
from holdfast.model.states import States
from holdfast.progress import Progress, quiet


@dataclass(frozen=True)
class Surrogate(Eviction):
    """Keeps the KV pairs of the highest predicted score."""

    weights: str = ""
    """File of `holdfast calibrate --learn surrogate`; empty is your own for the model, else the one that is shipped."""
    otherwise: str = ""
    """Method that scores where the model has no surrogate, as `informed`; empty refuses such a model."""

    name: ClassVar[str] = "surrogate"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.otherwise:
            build_inner_eviction(self.name, "otherwise", self.otherwise)

    def watch(self, span: Span, past: KVContext, engine: LocalEngine) -> Observer | None:
        if instead := self._stand_in(engine):
            return instead.watch(span, past, engine)
        find_surrogate(self.weights, engine)  # before anything is read
        return QueryRecorder()

    @torch.no_grad()
    def study(self, span: Span, past: KVContext, engine: LocalEngine, progress: Progress = quiet) -> Study:
        """Returns the study of a span: from the pass that read it, if that was watched, else from another one."""
        network = None if self._stand_in(engine) else find_surrogate(self.weights, engine)
        scores = None if network is None else engine.read_scores(network, past, span.positions)
        if scores is None:
            return super().study(span, past, engine, progress)
        after, states = engine.capture(past, span.ids, span.positions)
        allocation = self.find_allocation(engine)
        return Study(SpanPrefill(span, past, after, states, engine, progress), scores, allocation)

    def scorer(self, engine: LocalEngine) -> SurrogateScorer | None:
        """Returns what scores tokens while they are read; None for a model without a surrogate."""
        if self._stand_in(engine):
            return None
        return SurrogateScorer(find_surrogate(self.weights, engine), engine.model)

    @torch.no_grad()
    def score(self, prefill: SpanPrefill) -> dict[int, Tensor]:
        if instead := self._stand_in(prefill.engine):
            return instead.score(prefill)
        network, record = find_surrogate(self.weights, prefill.engine), cast(QueryRecorder, prefill.observer)
        return predict_scores(network, prefill.engine.model, prefill.states, record)

    def _stand_in(self, engine: LocalEngine) -> Eviction | None:
        """Returns the method that scores instead, for a model without a surrogate."""
        if not self.otherwise or self.weights or find_network(engine.model.digest):
            return None
        return build_inner_eviction(self.name, "otherwise", self.otherwise)


@dataclass(frozen=True)
class SurrogateScorer:
    """Scores tokens while they are read, so that a live session is compacted without another pass."""

    network: SurrogateNetwork
    model: Model

    def watch(self) -> QueryRecorder:
        """Returns an observer for one pass."""
        return QueryRecorder()

    def score(self, observers: Sequence[Observer], states: States) -> dict[int, Tensor]:
        """Returns the scores `[G, n]` per full-attention layer of the tokens that these passes read in turn."""
        whole = QueryRecorder()
        for record in observers:
            whole.extend(cast(QueryRecorder, record))
        return predict_scores(self.network, self.model, states, whole)


def find_scorer(method: object, engine: LocalEngine) -> SurrogateScorer | None:
    """Returns what scores tokens for a method while they are read; None where the method needs a pass of its own.

    None too for a model that forgets by itself: its sessions are read again when they are compacted.
    """
    if any(layer.window is not None for layer in engine.model.family.layers):
        return None
    method = method.method if isinstance(method, MethodWithStorage) else method
    return method.scorer(engine) if isinstance(method, Surrogate) else None


def predict_scores(network: SurrogateNetwork, model: Model, states: States, record: QueryRecorder) -> dict[int, Tensor]:
    """Returns `[G, T]` float32 per full-attention layer, for T tokens whose pass was recorded."""
    out = {}
    for layer in model.family.full:
        inputs = layer_features(model, layer, states, record.queries[layer], record.mass[layer])
        out[layer] = network.layers[layer].predict(inputs).exp()
    return out


def find_surrogate(weights: str, engine: LocalEngine) -> SurrogateNetwork:
    """Returns the network of a model. Raises BadOption where there is none, or the file is of another model."""
    path = Path(weights).expanduser() if weights else find_network(engine.model.digest)
    if path is None:
        raise BadOption(
            f"there is no surrogate for {engine.model.name}; make one with `{COMMAND}`, or use --latent informed"
        )
    return _load(path, engine.model.digest, path.stat().st_mtime_ns if path.exists() else 0)


@lru_cache(maxsize=4)
def _load(path: Path, model_digest: str, changed: int) -> SurrogateNetwork:
    return load_network(path, model_digest)
