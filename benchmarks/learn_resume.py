"""Kills a training at random moments, and compares what it ends with to a run that was never interrupted.

    python benchmarks/learn_resume.py --kills 20

Each process trains a tiny random model from the newest checkpoint until it is killed (SIGKILL, at any instruction).
Prints JSON; exit code 1 if one bit differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import peft
import torch
import torchdata.stateful_dataloader
from accelerate import PartialState
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from holdfast.learn.corpus import Corpus
from holdfast.learn.kinds import Recipe, build_setup
from holdfast.learn.loop import Training, train
from holdfast.model.checkpoint import WEIGHTS, step_folders
from holdfast.model.load import Model, adopt_model

READY = (peft, torchdata, PartialState)  # imported here once, and not by every process
RECIPE = Recipe(memory=4, ratio=4, rank=4, reconstruct=0.5, dropout=0.1)
ABOUT = {"kind": "icae", "model": "tiny", "model_digest": "", "recipe": {}, "data": {}}


def tiny_model() -> Model:
    """Returns a random model with a tokenizer of bytes."""
    from tokenizers import Tokenizer, models

    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    hf = LlamaForCausalLM(LlamaConfig(**shape, num_key_value_heads=2, vocab_size=320))
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0, "b": 1}, [])), eos_token="b")
    return adopt_model(hf, words, name="tiny")


def work(folder: Path, steps: int) -> None:
    """Trains to the end, from wherever the folder is."""
    draw = random.Random(1)
    corpus = Corpus(tuple(tuple(draw.randrange(2, 320) for _ in range(400)) for _ in range(8)))
    setup = build_setup(RECIPE, tiny_model(), corpus, 0)
    training = Training(steps=steps, batch=4, save_every=5, rate=1e-3, schedule="cosine", keep=2)
    train(setup.objective, setup.rows, training, folder, ABOUT)


def start(folder: Path, steps: int) -> int:
    """Starts `work` in a process of its own, and returns its id."""
    child = os.fork()
    if child:
        return child
    try:
        work(folder, steps)
    except BaseException:
        os._exit(1)
    os._exit(0)


def kill_and_resume(folder: Path, steps: int, kills: int) -> list[int]:
    """Returns the newest step on disk at each kill."""
    draw, seen = random.Random(2), list[int]()
    while len(seen) < kills:
        until = _count_lines(folder) + draw.randint(1, 25)
        child = start(folder, steps)
        while _count_lines(folder) < until:
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.05))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        newest = step_folders(folder)
        seen.append(int(newest[-1].name[5:]) if newest else 0)
        if seen[-1] >= steps:
            raise SystemExit(f"the run ended after {len(seen)} kills; give more --steps")
    return seen


def main() -> None:
    """Prints the outcome as JSON."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--kills", type=int, default=20)
    options.add_argument("--steps", type=int, default=600)
    given = options.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        whole, cut = Path(name) / "whole", Path(name) / "cut"
        kills = kill_and_resume(cut, given.steps, given.kills)
        for folder in (cut, whole):
            if os.waitpid(start(folder, given.steps), 0)[1]:
                raise SystemExit("a run failed")
        ends = [(step_folders(folder)[-1] / WEIGHTS).read_bytes() for folder in (whole, cut)]
        losses = [_read_losses(folder) for folder in (whole, cut)]
    outcome: dict[str, Any] = {"kills": len(kills), "steps_at_kills": kills, "steps": given.steps}
    outcome |= {"weights_equal": ends[0] == ends[1], "losses_equal": losses[0] == losses[1]}
    print(json.dumps(outcome))
    raise SystemExit(0 if outcome["weights_equal"] and outcome["losses_equal"] else 1)


def _count_lines(folder: Path) -> int:
    log = folder / "losses.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def _read_losses(folder: Path) -> dict[int, float]:
    """Returns the loss of each step; a step that was taken twice has its last one."""
    rows = [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows}


if __name__ == "__main__":
    main()
