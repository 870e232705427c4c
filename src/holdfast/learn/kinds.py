"""Everything that can be trained, by name: each builds its objective and its rows from one recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import torch

from holdfast.engine.local import LocalEngine
from holdfast.errors import BadOption
from holdfast.learn.corpus import Corpus
from holdfast.learn.icae import Steps, pretraining_rows, question_rows, step_rows
from holdfast.learn.loop import Objective
from holdfast.learn.pieces import Verbatim
from holdfast.learn.soft import SoftObjective
from holdfast.learn.states import (
    AnchorCompression,
    Compression,
    RestoreCompression,
    SpanRows,
    StateObjective,
    read_ratios,
)
from holdfast.methods.memory_tokens import Icae, IcaeRecipe, load_parameters
from holdfast.methods.state_readers import AnchorTokens, ReaderRecipe, RestoreTokens
from holdfast.methods.token_groups import Projector, ProjectorRecipe
from holdfast.model.adapter import Lora, add_adapter, copy_model, set_training
from holdfast.model.checkpoint import Checkpoint
from holdfast.model.load import Model

TASKS = ("texts", "questions", "steps")


@dataclass(frozen=True)
class Recipe:
    """Everything about a training that is not the loop's: the shape of what is trained, and what on."""

    kind: str = "icae"
    task: str = "texts"
    """`texts`: say again and go on; `questions`: answers on a text; `steps`: actions of sessions."""
    reconstruct: float = 0.2
    """Share of the rows of texts that are said again."""
    distil: float = 0.0
    recompute: bool = False
    memory: int = 256
    ratio: float = 4.0
    rank: int = 128
    alpha: float = 32.0
    dropout: float = 0.05
    targets: str = "qv"
    epl: bool = True
    head: bool = False
    gain: bool = True
    shape: str = "linear"
    norm: str = "none"
    vocabulary: bool = False
    width: int = 512
    layers: int = 2
    chunk: int = 512
    ratios: str = "8+16+32"
    """Of restore and anchors: the ratios that are trained, joined by +."""
    later: int = 256
    """Of restore and anchors: tokens after the span on which the full context is followed."""
    past: int = 64
    select: str = ""
    """Of restore, the method that keeps the rest; of anchors, the one whose scores choose, or `surprisal`."""
    credit: int = 0
    prefix: str = "clean"
    long: int = 256
    window: int = 2048

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise BadOption(f"nothing to train is called {self.kind!r}; there are: {', '.join(KINDS)}")
        if self.task not in TASKS:
            raise BadOption(f"task must be one of {', '.join(TASKS)}, got {self.task!r}")
        if not 0 <= self.distil <= 1:
            raise BadOption(f"distil is a share from 0 to 1, got {self.distil}")
        read_ratios(self.ratios)
        for shape in (Lora, IcaeRecipe, ReaderRecipe, ProjectorRecipe, Steps):
            self.part(shape)  # a wrong value fails before any work

    def part(self, shape: type[Any]) -> Any:
        """Returns the fields that a dataclass has in common with the recipe, as one."""
        own = asdict(self)
        return shape(**{f.name: own[f.name] for f in fields(shape) if f.name in own})


class Setup(NamedTuple):
    """The objective of a run, and its rows."""

    objective: Objective
    rows: Sequence[Any]


def build_setup(recipe: Recipe, model: Model, corpus: Corpus, seed: int) -> Setup:
    """Returns the objective and the rows of a recipe. Raises BadInput where the data have no rows for it."""
    return KINDS[recipe.kind](recipe, model, corpus, seed)


def _icae(recipe: Recipe, model: Model, corpus: Corpus, seed: int) -> Setup:
    encoder = Icae(model, recipe.part(IcaeRecipe), seed)
    encoder.train(True)
    return Setup(SoftObjective(model, encoder, model, recipe.distil, recipe.recompute), _rows(recipe, model, corpus))


def _rows(recipe: Recipe, model: Model, corpus: Corpus) -> Sequence[Any]:
    end = end_id(model)
    if recipe.task == "questions":
        return question_rows(corpus, model.tokenizer, end)
    if recipe.task == "steps":
        return step_rows(corpus.sessions, recipe.part(Steps))
    return pretraining_rows(corpus, recipe.part(IcaeRecipe).segment, recipe.reconstruct, end)


def end_id(model: Model) -> int:
    """Returns the id that ends a text."""
    return int(model.tokenizer.eos_token_id)


def _restore(recipe: Recipe, model: Model, corpus: Corpus, seed: int) -> Setup:
    engine, reader = LocalEngine(model), RestoreTokens(model, recipe.part(ReaderRecipe), seed)
    select = recipe.select or "surrogate:otherwise=informed"
    return _reader(recipe, engine, reader, RestoreCompression(engine, reader, select), corpus)


def _anchors(recipe: Recipe, model: Model, corpus: Corpus, seed: int) -> Setup:
    engine, reader = LocalEngine(model), AnchorTokens(model, recipe.part(ReaderRecipe), seed)
    return _reader(recipe, engine, reader, AnchorCompression(engine, reader, recipe.select), corpus)


def _reader(recipe: Recipe, engine: LocalEngine, reader: Any, how: Compression, corpus: Corpus) -> Setup:
    reader.train(True)
    rows = SpanRows(corpus.streams, recipe.past, recipe.window, recipe.later, recipe.ratios)
    return Setup(StateObjective(engine, reader, how), rows)


def _projector(recipe: Recipe, model: Model, corpus: Corpus, seed: int) -> Setup:
    encoder = Projector(model, recipe.part(ProjectorRecipe), seed)
    encoder.train(True)
    return Setup(SoftObjective(model, encoder, model, recipe.distil, recipe.recompute), _rows(recipe, model, corpus))


def _lora(recipe: Recipe, model: Model, corpus: Corpus, seed: int) -> Setup:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        decoder = add_adapter(model, recipe.part(Lora))
    set_training(decoder, True)
    rows = _rows(recipe, model, corpus)
    return Setup(SoftObjective(model, Verbatim(model), decoder, recipe.distil, recipe.recompute), rows)


def _full(recipe: Recipe, model: Model, corpus: Corpus, seed: int) -> Setup:
    decoder, rows = copy_model(model), _rows(recipe, model, corpus)
    return Setup(SoftObjective(model, Verbatim(decoder), decoder, recipe.distil, recipe.recompute), rows)


def load_decoder(checkpoint: Checkpoint, model: Model) -> Model:
    """Returns the decoder of a `lora` or a `full` run. Raises BadOption if it holds something else."""
    kind = checkpoint.manifest["kind"]
    if kind not in ("lora", "full"):
        raise BadOption(f"{checkpoint.folder} holds a trained {kind}, whose decoder is the model itself")
    decoder = copy_model(model) if kind == "full" else add_adapter(model, Recipe(**checkpoint.recipe).part(Lora))
    load_parameters({f"decoder.{n}": p for n, p in decoder.hf.named_parameters() if p.requires_grad}, checkpoint)
    decoder.hf.requires_grad_(False)
    return decoder


KINDS = {
    "icae": _icae,
    "restore": _restore,
    "anchors": _anchors,
    "projector": _projector,
    "lora": _lora,
    "full": _full,
}
