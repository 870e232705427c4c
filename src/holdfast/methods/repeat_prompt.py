"""The repeat: a model that is told to say the span again looks at everything in it.

Three uses: the attention of the repeat scores KV pairs (KVzip, https://arxiv.org/abs/2505.23416), what it can no
longer say is what a compaction lost (`holdfast.gate`), and the distribution that the full context gives while
repeating teaches virtual tokens what has to stay readable.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from holdfast.blocks.render import question_ids
from holdfast.engine.kv_context import KVContext
from holdfast.model.forward import log_probs, logits
from holdfast.model.load import Model
from holdfast.progress import Progress, quiet

PROMPT = "Repeat the previous context exactly."
CHUNK = 256  # tokens repeated after one request
ROWS = 128  # token distributions that exist at one time


class Teacher(NamedTuple):
    """A teacher-forced repeat over the full span."""

    ids: Tensor
    """`[P + T]`: the request and the span again."""
    hidden: Tensor
    """`[T, d_model]`: what predicts each token of the repeated span."""


def prompt_ids(model: Model) -> list[int]:
    """Returns the ids of the request to repeat, as one more user turn."""
    return question_ids(model.tokenizer, PROMPT)


@torch.no_grad()
def score_repeat(memory: KVContext, ids: Tensor, progress: Progress = quiet, what: str = "check") -> Tensor:
    """Returns the log-probability of each of `ids [T]` as the model repeats them over `memory`, `[T]` float32."""
    frozen, prompt = memory.fork(frozen=True), torch.tensor(prompt_ids(memory.model))
    out: list[Tensor] = []
    for at in range(0, len(ids), CHUNK):
        progress(what, at, len(ids), "")
        said = ids[at : at + CHUNK]
        hidden = frozen.fork().feed(torch.cat((prompt, said)))
        out.append(log_probs(memory.model, hidden[len(prompt) - 1 : -1], said.to(hidden.device)).cpu())
    progress(what, len(ids), len(ids), "")
    return torch.cat(out)


@torch.no_grad()
def record_teacher(after: KVContext, span: Tensor) -> Teacher:
    """Returns the states of the model as it repeats `span [T]`, which it has just read."""
    prompt = prompt_ids(after.model)
    ids = torch.cat((torch.tensor(prompt), span)).to(after.model.device)
    return Teacher(ids, _predicting_states(after.fork().feed(ids), len(span)))


def teacher_divergence(teacher: Teacher, live: KVContext) -> Tensor:
    """Returns the mean KL (nats a token) from the teacher's distribution to that of `live` on the same tokens.

    Differentiable in what `live` holds; vocabulary-sized matrices are recomputed instead of kept.
    """
    T = len(teacher.hidden)
    ours = _predicting_states(live.feed(teacher.ids), T)
    parts = [
        checkpoint(_kl, live.model, q, p, use_reentrant=False)
        for q, p in zip(torch.split(ours, ROWS), torch.split(teacher.hidden, ROWS), strict=True)
    ]
    return torch.stack(parts).sum() / T  # type: ignore[arg-type]


def _predicting_states(hidden: Tensor, count: int) -> Tensor:
    return hidden[-count - 1 : -1]


def _kl(model: Model, ours: Tensor, theirs: Tensor) -> Tensor:
    p, q = logits(model, theirs).log_softmax(-1), logits(model, ours).log_softmax(-1)
    return (p.exp() * (p - q)).sum()
