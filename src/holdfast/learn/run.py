"""One training from files to a folder: read the data, build the objective, run the loop, judge on what is held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import holdfast
from holdfast import config
from holdfast.learn.corpus import Chunks, Corpus, read_corpus
from holdfast.learn.kinds import Recipe, Setup, build_setup, end_id
from holdfast.learn.loop import Judge, Training, train
from holdfast.learn.reconstruct import reconstruction_bleu
from holdfast.learn.soft import SoftObjective
from holdfast.methods.memory_tokens import Icae, IcaeRecipe
from holdfast.model.checkpoint import Checkpoint
from holdfast.model.load import Model
from holdfast.progress import Progress, quiet


def run_training(
    recipe: Recipe,
    training: Training,
    model: Model,
    paths: Sequence[Path],
    folder: Path,
    judged: int = 0,
    progress: Progress = quiet,
) -> Checkpoint:
    """Trains what the recipe says on the files of `paths`, into `folder`; raises as `train` and `read_corpus` do.

    `judged` texts that are held out are said again every `judge_every` steps.
    """
    progress("read", 0, 1, "")
    corpus, held_out = read_corpus(paths, model.tokenizer).split()
    setup = build_setup(recipe, model, corpus, training.seed)
    about = {
        "kind": recipe.kind,
        "model": model.name,
        "model_digest": model.digest,
        "recipe": asdict(recipe),
        "data": corpus.about() | {"sources": [path.name for path in paths]},
        "version": holdfast.__version__,
        "commit": config.source_commit(),
    }
    judge = _reconstruction(recipe, setup, model, held_out, judged)
    return train(setup.objective, setup.rows, training, folder, about, progress, judge)


def _reconstruction(recipe: Recipe, setup: Setup, model: Model, held_out: Corpus, count: int) -> Judge | None:
    objective: Any = setup.objective
    if not (count and held_out.streams and recipe.task == "texts" and isinstance(objective, SoftObjective)):
        return None
    encoder: Any = objective.encoder
    chunks = Chunks(held_out.streams, recipe.part(IcaeRecipe).segment, limit=count)
    texts = [text for text, _ in chunks]

    def judge() -> dict[str, float]:
        encoder.train(False)
        try:
            return {"bleu": reconstruction_bleu(texts, encoder, objective.decoder, end_id(model))}
        finally:
            encoder.train(True)

    return judge if isinstance(encoder, Icae) else None
