"""The contents of a memory: texts decoded from it, BLEU, exact match and F1, token accuracy."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from holdfast.engine.kv_context import KVContext
from holdfast.learn.icae import say_again
from holdfast.learn.pieces import Example, Text, assemble, predicting_states
from holdfast.methods.memory_tokens import Encoder
from holdfast.model.forward import embed, hidden_states, logits
from holdfast.model.load import Model


@torch.no_grad()
def continue_rows(rows: Sequence[Example], encoder: Encoder, decoder: Model, limit: int, stop: int) -> list[list[int]]:
    """Returns up to `limit` greedy tokens behind each row, up to the id `stop`.

    Rows whose memory has one length are decoded as one batch, so the order of the work is theirs.
    """
    batch = assemble(rows, encoder, decoder)
    out: list[list[int]] = [[] for _ in rows]
    for length in sorted(set(batch.lengths)):
        group = [n for n, own in enumerate(batch.lengths) if own == length]
        said = _decode(batch.inputs[group, :length], batch.positions[group, :length], decoder, limit)
        for number, ids in zip(group, said.tolist(), strict=True):
            out[number] = ids[: ids.index(stop)] if stop in ids else ids
    return out


def _decode(inputs: Tensor, positions: Tensor, decoder: Model, limit: int) -> Tensor:
    """Returns `[B, limit]` greedy ids behind embeddings `[B, Q, d]` of one length."""
    cache, said = KVContext(decoder).cache, []
    for _ in range(limit):
        cache.announce(positions)
        hidden = hidden_states(decoder, inputs, positions, cache)
        said.append(logits(decoder, hidden[:, -1]).argmax(-1))
        inputs, positions = embed(decoder, said[-1][:, None]), positions[:, -1:] + 1
    return torch.stack(said, 1)


def bleu(said: Sequence[str], meant: Sequence[str]) -> float:
    """Returns the corpus BLEU of sacrebleu, from 0 to 1."""
    from sacrebleu import corpus_bleu

    return float(corpus_bleu(list(said), [list(meant)]).score) / 100


def reconstruction_bleu(texts: Sequence[tuple[int, ...]], encoder: Encoder, decoder: Model, stop: int) -> float:
    """Returns the BLEU of texts that are said again from their memory alone."""
    rows = [say_again(text, stop)[:2] for text in texts]
    said = continue_rows(rows, encoder, decoder, max(map(len, texts)) + 4, stop)
    words = decoder.tokenizer
    return bleu([words.decode(ids) for ids in said], [words.decode(text) for text in texts])


@torch.no_grad()
def token_accuracy(rows: Sequence[Example], encoder: Encoder, decoder: Model) -> tuple[int, int]:
    """Returns how many scored tokens are the decoder's first choice (teacher forced), and how many there are."""
    hidden, targets = predicting_states(assemble(rows, encoder, decoder), decoder)
    right = sum(int((logits(decoder, h).argmax(-1) == t).sum()) for h, t in _parts(hidden, targets))
    return right, len(targets)


@torch.no_grad()
def log_likelihood(rows: Sequence[Example], encoder: Encoder, decoder: Model) -> float:
    """Returns the log-probability of all scored tokens of the rows, nats."""
    hidden, targets = predicting_states(assemble(rows, encoder, decoder), decoder)
    parts = (logits(decoder, h).log_softmax(-1).gather(-1, t[:, None]).sum() for h, t in _parts(hidden, targets))
    return float(sum(parts))


def _parts(hidden: Tensor, targets: Tensor) -> zip[tuple[Tensor, Tensor]]:
    return zip(torch.split(hidden, 512), torch.split(targets, 512), strict=True)


def exact_match(said: str, answers: Sequence[str]) -> float:
    """Returns 1 if the answer is one of those that are right, as SQuAD's own script normalises them."""
    return float(any(normalize(said) == normalize(answer) for answer in answers))


def f1(said: str, answers: Sequence[str]) -> float:
    """Returns the best F1 of the words of an answer, as SQuAD's own script counts them."""
    return max((_f1(normalize(said).split(), normalize(answer).split()) for answer in answers), default=0.0)


def normalize(text: str) -> str:
    """Returns a text in lower case without punctuation, articles and doubled blanks."""
    plain = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", plain).split())


def _f1(said: list[str], meant: list[str]) -> float:
    same = sum((Counter(said) & Counter(meant)).values())
    return 2 * same / (len(said) + len(meant)) if same else 0.0


def answer_questions(
    rows: Sequence[Example], encoder: Encoder, decoder: Model, stop: frozenset[int], limit: int = 24
) -> list[str]:
    """Returns greedy answers to rows of questions, up to a stop token or the end of the line."""
    words: Any = decoder.tokenizer
    asked = [row[:-1] if isinstance(row[-1], Text) and row[-1].scored else row for row in rows]
    said = [continue_rows([row], encoder, decoder, limit, -1)[0] for row in asked]
    cut = [next((ids[:n] for n, token in enumerate(ids) if token in stop), ids) for ids in said]
    return [words.decode(ids).strip().split("\n")[0].strip() for ids in cut]
