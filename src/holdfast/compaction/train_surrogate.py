"""Trains a surrogate (`methods/latent/surrogate.py`) for one model: on the user's own sessions, or any texts.

Random windows are read once, scored by the full method, and by what the session's later turns really looked at. One
small network a layer then learns the log of those scores from the inputs that the prefill gives anyway.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from holdfast.blocks.block import Block, Kind, Origin
from holdfast.context.allocation import best
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import LocalEngine
from holdfast.errors import BadInput, BadOption
from holdfast.gate.latent.fact_tokens import build_fact_mask
from holdfast.methods.base import Span
from holdfast.methods.eviction import Eviction, zero_scores
from holdfast.methods.reference_queries import QueryRecorder, SpanPrefill, later_queries, raise_to_attention
from holdfast.methods.registry import build
from holdfast.methods.surrogate_features import layer_features
from holdfast.methods.surrogate_network import LayerNetwork, SurrogateNetwork
from holdfast.progress import Progress, quiet

LABELS = ("method", "later", "both")
"""Scores to learn: the full method's, the attention that the session's later turns gave, or the larger of the two."""
PAST = 64  # tokens read in front of a window, so that its first tokens are not the session's first
LATER = 320  # tokens of the session behind a window that may look back at it
SMALLEST = 1e-5  # added to a score before its log is taken
HELD_OUT = 8  # one window in so many judges the training and is not trained on
LEAST_WINDOWS = 8
RATIOS = (4, 8, 16)
BATCH = 2048  # tokens of one step
RATE, DECAY = 3e-3, 1e-2  # of AdamW, on a one-cycle schedule


@dataclass(frozen=True)
class SurrogateTraining:
    """The settings of a training."""

    method: str = "informed"
    """The full method, whose scores are learned."""
    labels: str = "method"
    """One of `LABELS`."""
    windows: int = 128
    window: int = 1024
    """Tokens of a window."""
    hidden: int = 128
    """Units of each layer's network."""
    epochs: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.labels not in LABELS:
            raise BadOption(f"labels must be one of {', '.join(LABELS)}, got {self.labels!r}")
        if self.windows < LEAST_WINDOWS or self.window < 64 or self.hidden < 1 or self.epochs < 1:
            raise BadOption(
                f"a surrogate needs at least {LEAST_WINDOWS} windows of 64 tokens, 1 hidden unit and 1 epoch, got "
                f"{self.windows} of {self.window}, {self.hidden} and {self.epochs}"
            )


@dataclass(frozen=True)
class Sample:
    """One window: inputs and scores of all layers."""

    inputs: Tensor
    """`[L, T, F]` bfloat16"""
    scores: Tensor
    """`[L, G, T]` float32"""


def train_surrogate(
    streams: Sequence[Sequence[int]],
    engine: LocalEngine,
    training: SurrogateTraining | None = None,
    progress: Progress = quiet,
) -> SurrogateNetwork:
    """Returns the network trained on windows of `streams`, which are token ids of sessions or texts.

    Its recipe holds the shares of pairs, at `RATIOS`, that it keeps as the full method does on windows that it was not
    trained on. Raises BadInput if the streams do not fill the windows, BadOption for a method without scores.
    """
    training = training or SurrogateTraining()
    spans = list(_draw_windows(streams, engine, training))
    samples = []
    for number, (past, span) in enumerate(spans):
        progress("score", number, len(spans), "")
        samples.append(score_window(past, span, engine, training))
    progress("score", len(spans), len(spans), "")
    return fit(samples, engine, training, progress)


def fit(
    samples: Sequence[Sample], engine: LocalEngine, training: SurrogateTraining, progress: Progress = quiet
) -> SurrogateNetwork:
    """Returns the network that is fitted to all but every `HELD_OUT`-th of the samples, which judge it."""
    judged = list(samples[::HELD_OUT])
    fitted = [sample for number, sample in enumerate(samples) if number % HELD_OUT]
    networks = {}
    for number, layer in enumerate(engine.model.family.full):
        progress("train", number, len(engine.model.family.full), "")
        networks[layer] = _fit_layer(
            torch.cat([sample.inputs[number] for sample in fitted]),
            torch.cat([sample.scores[number].T for sample in fitted]),
            training,
        )
    progress("train", len(networks), len(networks), "")
    recipe: dict[str, Any] = vars(training) | {"tokens": sum(sample.inputs.shape[1] for sample in fitted)}
    network = SurrogateNetwork(engine.model.digest, networks, recipe)
    recipe["overlap"] = {f"{ratio}x": round(_overlap(network, judged, ratio), 4) for ratio in RATIOS}
    return network


def score_window(past: Sequence[int], span: Span, engine: LocalEngine, training: SurrogateTraining) -> Sample:
    """Returns inputs and scores of one window that stands behind `past`."""
    method, memory, record = build(training.method), KVContext(engine.model), QueryRecorder()
    if not isinstance(method, Eviction):
        raise BadOption(f"{training.method} does not score KV pairs; learn from one that does, e.g. informed")
    with torch.no_grad():
        memory.feed(list(past))
        after, states = engine.capture(memory, span.ids, span.positions, observer=record)
        prefill = SpanPrefill(span, memory, after, states, engine, quiet, record)
        scores = zero_scores(prefill) if training.labels == "later" else method.score(prefill)
        if training.labels != "method":
            for one in later_queries(prefill, LATER):
                for layer, found in scores.items():
                    raise_to_attention(found, one, layer, prefill.keys(layer))
    inputs = [
        layer_features(engine.model, layer, states, record.queries[layer], record.mass[layer]).bfloat16()
        for layer in scores
    ]
    return Sample(torch.stack(inputs).cpu(), torch.stack(list(scores.values())).float().cpu())


def _draw_windows(
    streams: Sequence[Sequence[int]], engine: LocalEngine, training: SurrogateTraining
) -> Iterator[tuple[list[int], Span]]:
    """Yields random windows and what stands before each; a stream is drawn by its length."""
    size = PAST + training.window + LATER
    long = [list(stream) for stream in streams if len(stream) > size]
    if sum(map(len, long)) < training.windows * training.window // 4:
        raise BadInput(
            f"{training.windows} windows of {training.window} tokens need sessions of {size} tokens each and "
            f"{training.windows * training.window // 4:,} in all, and there are {len(long)} of that length with "
            f"{sum(map(len, long)):,}; give more or longer sessions, or smaller --windows and --window"
        )
    draw = random.Random(training.seed)
    for ids in draw.choices(long, weights=[len(ids) - size for ids in long], k=training.windows):
        at = draw.randrange(len(ids) - size)
        first, last = at + PAST, at + PAST + training.window
        block = Block(tuple(ids[first:last]), Origin(0, Kind.OBSERVATION, (0, 0), (0, training.window)))
        facts = build_fact_mask((block,), engine.model.tokenizer)
        yield ids[at:first], Span((block,), PAST, later=torch.tensor(ids[last : last + LATER]), facts=facts)


def _fit_layer(inputs: Tensor, scores: Tensor, training: SurrogateTraining) -> LayerNetwork:
    """Returns the network of one layer, from `inputs [N, F]` and `scores [N, G]`."""
    targets = (scores + SMALLEST).log()
    wide = inputs.float()
    mean, scale = wide.mean(0), wide.std(0) + 1e-4
    wide = (wide - mean) / scale
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        first, second = nn.Linear(wide.shape[1], training.hidden), nn.Linear(training.hidden, targets.shape[1])
        second.bias.data = targets.mean(0)
        _descend(first, second, wide, targets, training.epochs)
    weights = (first.weight, first.bias, second.weight, second.bias)
    return LayerNetwork(mean, scale, *(weight.detach() for weight in weights))


def _descend(first: nn.Linear, second: nn.Linear, inputs: Tensor, targets: Tensor, epochs: int) -> None:
    """Minimises the squared error of the log-scores."""
    parameters = [*first.parameters(), *second.parameters()]
    steps = max(1, len(inputs) // BATCH)
    descent = torch.optim.AdamW(parameters, RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(descent, RATE, total_steps=epochs * steps + 1)
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(inputs)), BATCH)[:steps]:
            loss = (second(F.gelu(first(inputs[rows]))) - targets[rows]).square().mean()
            descent.zero_grad()
            loss.backward()
            descent.step()
            schedule.step()


def _overlap(network: SurrogateNetwork, samples: Sequence[Sample], ratio: int) -> float:
    """Returns the share of the pairs kept at a ratio that the scores would keep too, mean over the samples."""
    shares = []
    for sample in samples:
        inputs = sample.inputs.float()
        ours = {n: net.predict(inputs[n]) for n, net in enumerate(network.layers.values())}
        pairs = sample.scores.numel() // ratio
        wanted = best(dict(enumerate(sample.scores)), pairs)
        got = best(ours, pairs)
        shares.append(sum(int((got[n] & wanted[n]).sum()) for n in got) / pairs)
    return sum(shares) / len(shares)
