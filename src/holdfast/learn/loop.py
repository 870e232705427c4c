"""The training loop, for any objective: data order, optimiser, schedule, checkpoints, and a resume that is exact.

An `Objective` gives a summed loss and a count for some rows; everything else is here. A run that is killed at any step
goes on from its newest checkpoint to the same bits, on one thread of a processor. Several processes (`accelerate
launch`, `torchrun`) share each batch and add up their gradients, so that they do what one process does.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from holdfast.errors import BadInput, BadOption, Failed
from holdfast.learn.state import Batches, pack_state, unpack_state
from holdfast.learn.stop_request import StopRequest
from holdfast.learn.workers import Workers
from holdfast.model.checkpoint import Checkpoint, read_checkpoint, save_checkpoint, step_folders
from holdfast.progress import Progress, quiet
from holdfast.storage import files

SCHEDULES = ("constant", "linear", "cosine")
STATE, LOG = "state.pt", "losses.jsonl"
FREE = ("steps", "save_every", "keep", "judge_every")
"""Settings that may change when a run goes on."""


class Loss(NamedTuple):
    """The loss of some rows."""

    total: Tensor
    """Sum over the scored tokens, a float32 scalar with a graph."""
    scored: int
    """Scored tokens; a step divides by their sum, so that batches of any shape weigh alike."""
    tokens: int = 0
    """Tokens that were read, for the speed that is shown."""


class Objective(Protocol):
    """The thing that is trained."""

    def parameters(self) -> dict[str, nn.Parameter]:
        """Returns the trained parameters by name, always in one order; a checkpoint holds exactly these."""
        ...

    def loss(self, rows: Sequence[Any]) -> Loss:
        """Returns the loss of rows of the data. Randomness comes from torch's generator alone."""
        ...


Judge = Callable[[], dict[str, float]]
"""Measures the objective as it is now, on data that it is not trained on."""


@dataclass(frozen=True)
class Training:
    """The settings of a run."""

    steps: int = 1000
    batch: int = 8
    """Rows that are read at once, over all processes."""
    accumulate: int = 1
    """Batches of a step."""
    rate: float = 1e-4
    warmup: int = 0
    """Steps over which the rate rises."""
    schedule: str = "constant"
    """`constant`, or down to zero at the last step: `linear`, `cosine`."""
    clip: float = 2.0
    """Largest norm of a gradient; 0 is no bound."""
    decay: float = 0.0
    seed: int = 0
    save_every: int = 100
    keep: int = 2
    """Checkpoints that stay; 0 keeps all."""
    judge_every: int = 0

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise BadOption(f"schedule must be one of {', '.join(SCHEDULES)}, got {self.schedule!r}")
        if min(self.steps, self.batch, self.accumulate, self.save_every) < 1 or not 0 < self.rate < math.inf:
            raise BadOption("steps, batch, accumulate and save_every must be at least 1, and rate above 0")
        if min(self.warmup, self.clip, self.decay, self.keep, self.judge_every) < 0:
            raise BadOption("warmup, clip, decay, keep and judge_every must be at least 0")

    def factor(self, step: int) -> float:
        """Returns what the rate is multiplied with at a step, counted from 0."""
        rising = min(1.0, (step + 1) / (self.warmup + 1))
        done = min(1.0, max(0.0, (step - self.warmup) / max(1, self.steps - self.warmup)))
        falling = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
        return rising * falling[self.schedule]


def train(
    objective: Objective,
    rows: Sequence[Any],
    training: Training,
    folder: Path,
    about: Mapping[str, Any],
    progress: Progress = quiet,
    judge: Judge | None = None,
) -> Checkpoint:
    """Trains up to the last step, from the newest checkpoint in `folder` if there is one; returns the last checkpoint.

    `about` goes into every manifest: `kind`, `model`, `model_digest`, `recipe`, `data`. Ctrl-C ends the step, saves and
    raises KeyboardInterrupt. Raises BadInput for too few rows, BadOption for a folder of another run, Failed where
    the loss is no number (the newest good checkpoint stays), the disk refuses, or another run has the folder.
    """
    if len(rows) < training.batch:
        raise BadInput(f"{len(rows)} rows do not fill a batch of {training.batch}; give more data or a smaller batch")
    workers = Workers()
    folder.mkdir(parents=True, exist_ok=True)
    with StopRequest() as stop, files.Lines(folder / f"{workers.prefix}{LOG}") as log:
        log.lock()
        run = _Run(objective, training, folder, about, workers, Batches(rows, training), log, progress, judge)
        run.resume()
        while run.step < training.steps and not workers.any(stop.asked):
            run.advance()
            if run.step % training.save_every == 0:
                run.save()
        if run.saved != run.step:
            run.save()
        if stop.asked:
            raise KeyboardInterrupt
    return read_checkpoint(folder)


@dataclass
class _Run:
    """A run under way."""

    objective: Objective
    training: Training
    folder: Path
    about: Mapping[str, Any]
    workers: Workers
    batches: Batches
    log: files.Lines
    progress: Progress
    judge: Judge | None
    step: int = 0
    saved: int = -1
    began: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self.weights = self.objective.parameters()
        if not self.weights:
            raise BadOption("nothing is trained: the objective has no parameters that need a gradient")
        self.optimiser = torch.optim.AdamW(self.weights.values(), self.training.rate, weight_decay=self.training.decay)
        torch.manual_seed(self.training.seed)

    def resume(self) -> None:
        """Takes up the newest whole checkpoint of the folder, if there is one.

        Raises BadOption if it is of another recipe.
        """
        for number, folder in enumerate(reversed(step_folders(self.folder))):
            try:
                checkpoint = read_checkpoint(folder)
                state, weights = checkpoint.read(STATE), checkpoint.weights()
            except BadOption as error:
                self.progress("train", 0, self.training.steps, f"passing over a damaged checkpoint: {error}")
                continue
            self._check_recipe(checkpoint)
            with torch.no_grad():
                for name, parameter in self.weights.items():
                    parameter.copy_(weights[name])
            self.step = checkpoint.step
            self.saved = self.step if number == 0 else -1
            unpack_state(state, self.optimiser, self.batches)
            return
        if step_folders(self.folder):
            raise BadOption(f"no checkpoint in {self.folder} is whole; give another folder, or remove it to begin anew")

    def advance(self) -> None:
        """Takes one step. Raises Failed before anything is changed if loss or gradient are no numbers."""
        total, count, tokens = 0.0, 0.0, 0.0
        self.optimiser.zero_grad(set_to_none=True)
        for _ in range(self.training.accumulate):
            loss = self.objective.loss(self.workers.share(self.batches.take()))
            if loss.scored:
                loss.total.backward()  # type: ignore[no-untyped-call]
            total, count, tokens = total + float(loss.total.detach()), count + loss.scored, tokens + loss.tokens
        total, count, tokens = self.workers.add(total, count, tokens)
        self.workers.add_gradients(list(self.weights.values()), 1 / max(1, count))
        norm = float(nn.utils.clip_grad_norm_(self.weights.values(), self.training.clip or math.inf))
        if not (math.isfinite(total) and math.isfinite(norm)):
            raise Failed(
                f"step {self.step + 1}: loss {total / max(1, count)}, gradient {norm}, so the step was not taken; "
                f"the newest checkpoint in {self.folder} is of step {max(self.saved, 0)}: take it, or begin anew with "
                "a lower rate"
            )
        rate = self.training.rate * self.training.factor(self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.step += 1
        self._report(total / max(1, count), norm, rate, int(tokens))

    def save(self) -> None:
        """Writes a checkpoint, and removes those that are too many."""
        if self.workers.first:
            state = pack_state(self.optimiser, self.batches)
            manifest = {**self.about, "training": asdict(self.training)}
            save_checkpoint(self.folder, self.step, self.weights, manifest, {STATE: state})
            for old in step_folders(self.folder)[: -self.training.keep] if self.training.keep else ():
                files.remove_folder(old)
        self.saved = self.step
        self.workers.wait()

    def _report(self, loss: float, norm: float, rate: float, tokens: int) -> None:
        now = time.perf_counter()
        seconds, self.began = now - self.began, now
        row = {"step": self.step, "loss": loss, "norm": norm, "rate": rate, "tokens": tokens, "seconds": seconds}
        every = self.training.judge_every
        if self.judge and every and self.step % every == 0 and self.workers.first:
            with torch.random.fork_rng(), torch.no_grad():
                row |= self.judge()
        self.log.append(json.dumps(row))
        self.began = time.perf_counter()  # saving and judging are not the step's
        left = seconds * (self.training.steps - self.step)
        note = f"loss {loss:.4f}, {tokens / seconds:,.0f} tokens/s, {left / 60:.0f} min left"
        self.progress("train", self.step, self.training.steps, note)

    def _check_recipe(self, checkpoint: Checkpoint) -> None:
        ours = {**self.about, "training": {k: v for k, v in asdict(self.training).items() if k not in FREE}}
        held = dict(checkpoint.manifest)
        held["training"] = {k: v for k, v in held["training"].items() if k not in FREE}
        other = [key for key, value in ours.items() if key != "commit" and held.get(key) != value]
        if other or set(checkpoint.weights()) != set(self.weights):
            key = other[0] if other else "weights"
            raise BadOption(
                f"{self.folder} holds a run whose {key} is {held.get(key)}, not {ours.get(key)}; give the same "
                "settings, or another folder"
            )
