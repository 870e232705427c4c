"""Guard against hijack: a compact memory must not break what the model can do without it.

Vectors that were crammed full of a text can take over a model's first layers, so a few next-token predictions that have
nothing to do with the session are scored before and after.
"""

from __future__ import annotations

import torch

from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import Continuation, LocalEngine

CONTROL = (
    ("The capital of France is", " Paris"),
    ("Monday, Tuesday, Wednesday, Thursday,", " Friday"),
    ("one, two, three, four, five, six,", " seven"),
    ("2 + 2 =", " 4"),
    ("The opposite of hot is", " cold"),
    ("Water freezes at zero degrees", " Celsius"),
    ("for i in range(10):\n    print(", "i)"),
    ("def add(a, b):\n    return a", " + b"),
    ("import numpy as", " np"),
    ('if __name__ == "__main', '__":'),
    ("Once upon a", " time"),
    ("The quick brown fox jumps over the lazy", " dog"),
)
"""Prompts and their answers."""


@torch.no_grad()
def measure_skill(engine: LocalEngine, live: KVContext) -> float:
    """Returns the mean log-probability (nats a token, at most 0) of the control's answers over a memory."""

    def ids(text: str) -> tuple[int, ...]:
        return tuple(engine.model.tokenizer(text, add_special_tokens=False)["input_ids"])

    rows = [Continuation(ids("\n\n" + prompt), ids(answer)) for prompt, answer in CONTROL]
    return float(torch.cat(engine.score(live, rows)).mean())
