"""Measures a trained compressor: reconstruction, answers on SQuAD, the worth of a memory for later actions, seconds.

    python benchmarks/learn_measure.py bleu    --weights RUN --data texts.txt sessions/ --limit 100
    python benchmarks/learn_measure.py squad   --weights RUN --data squad.json --limit 100
    python benchmarks/learn_measure.py credit  --weights RUN --data sessions/ --limit 60
    python benchmarks/learn_measure.py ratio   --weights none --data sessions/
    python benchmarks/learn_measure.py seconds --weights RUN --data texts.txt

`--weights` takes a run or a step of it, `none` (the text as it is), `omit` (deletion), `untrained`, or means of two
tokens: `hard`, `online`, `regenerate`. Prints a line of JSON a figure, with n and a bootstrap interval of 95 %.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from holdfast.blocks.block import Kind
from holdfast.compaction.compact import load
from holdfast.engine.kv_context import KVContext
from holdfast.learn.corpus import Chunks, Corpus, read_corpus
from holdfast.learn.credit import list_omissions, measure_omission
from holdfast.learn.icae import Steps, question_rows, step_rows
from holdfast.learn.kinds import end_id, load_decoder
from holdfast.learn.pieces import Omit, Verbatim
from holdfast.learn.reconstruct import answer_questions, exact_match, f1, reconstruction_bleu, token_accuracy
from holdfast.methods.memory_tokens import Encoder, Icae, IcaeRecipe, build_icae
from holdfast.methods.token_groups import MEANS, MeanEncoder, load_projector
from holdfast.model.checkpoint import read_checkpoint
from holdfast.model.load import Model


class Compressor(NamedTuple):
    """An encoder and who reads what it writes."""

    encoder: Encoder
    decoder: Model


def open_weights(name: str, model: Model) -> Compressor:
    """Returns the encoder and the decoder of a name or a folder."""
    simple: dict[str, Callable[[], Encoder]] = {
        "none": lambda: Verbatim(model),
        "omit": lambda: Omit(model),
        "untrained": lambda: Icae(model, IcaeRecipe(memory=4, dropout=0)),
        **{kind: lambda kind=kind: MeanEncoder(model, kind) for kind in MEANS},  # type: ignore[misc]
    }
    if name in simple:
        return Compressor(simple[name](), model)
    checkpoint = read_checkpoint(Path(name), model_digest=model.digest)
    kind = checkpoint.manifest["kind"]
    if kind in ("lora", "full"):
        decoder = load_decoder(checkpoint, model)
        return Compressor(Verbatim(decoder), decoder)
    return Compressor(
        load_projector(Path(name), model) if kind == "projector" else build_icae(checkpoint, model), model
    )


def interval(values: Sequence[float], draws: int = 1000) -> list[float]:
    """Returns the 95 % interval of the mean, by bootstrap."""
    draw = random.Random(0)
    means = sorted(sum(draw.choices(values, k=len(values))) / len(values) for _ in range(draws))
    return [round(means[draws // 40], 4), round(means[-1 - draws // 40], 4)]


def summarise(what: str, values: Sequence[float], **more: Any) -> dict[str, Any]:
    """Returns a figure as a row."""
    return {"what": what, "mean": round(sum(values) / len(values), 4), "n": len(values), "of": interval(values), **more}


def measure_bleu(one: Compressor, corpus: Corpus, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yields the BLEU of chunks that are said again, in ten parts for the interval."""
    _, held_out = corpus.split()
    size = given.size or (one.encoder.recipe.segment if isinstance(one.encoder, Icae) else 16)
    texts = [text for text, _ in Chunks(held_out.streams or corpus.streams, size, limit=given.limit)]
    parts = [texts[at::10] for at in range(10)]
    found = [reconstruction_bleu(part, one.encoder, one.decoder, end_id(one.decoder)) for part in parts if part]
    whole = reconstruction_bleu(texts, one.encoder, one.decoder, end_id(one.decoder))
    yield {**summarise("bleu", found), "mean": round(whole, 4), "n": len(texts), "tokens": size}


def measure_squad(one: Compressor, corpus: Corpus, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yields exact match and F1 of greedy answers."""
    asked = random.Random(0).sample(corpus.questions, min(given.limit, len(corpus.questions)))
    end = end_id(one.decoder)
    rows = question_rows(Corpus((), questions=tuple(asked)), one.decoder.tokenizer, end)
    began = time.perf_counter()
    said = answer_questions(rows, one.encoder, one.decoder, frozenset([end]))
    seconds = round((time.perf_counter() - began) / len(rows), 3)
    for what, score in (("em", exact_match), ("f1", f1)):
        yield summarise(what, [score(a, q.answers) for a, q in zip(said, asked, strict=True)], seconds=seconds)


def measure_credit(one: Compressor, corpus: Corpus, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yields the nats a token that actions lose without one memory, and the share of action tokens that are right."""
    steps = Steps(long=given.long, window=given.window)
    omissions = list(list_omissions(corpus.sessions, steps))
    for after in sorted({omission.after for omission in omissions}):
        here = [omission for omission in omissions if omission.after == after]
        here = random.Random(0).sample(here, min(given.limit, len(here)))
        values = [measure_omission(omission, one.encoder, one.decoder) for omission in here]
        yield summarise("nats a token without the memory", values, after=after)
    rows = step_rows(corpus.sessions, steps)
    rows = random.Random(0).sample(rows, min(given.limit, len(rows)))
    shares = [right / count for right, count in (token_accuracy([r], one.encoder, one.decoder) for r in rows)]
    yield summarise("token accuracy of actions", shares)


@torch.no_grad()
def measure_seconds(one: Compressor, corpus: Corpus, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yields the seconds of encoding a context, of reading it, of reading its memory, and of a step over the cache."""
    ids = torch.tensor(max(corpus.streams, key=len)[: given.size or 1024])
    times: dict[str, list[float]] = {"encode": [], "read text": [], "read memory": [], "next token, cached": []}
    for _ in range(5):
        began = time.perf_counter()
        (memory,) = one.encoder.encode([ids])
        times["encode"].append(time.perf_counter() - began)
        for name, inputs in (("read text", ids), ("read memory", memory.vectors.to(one.decoder.dtype))):
            live, began = KVContext(one.decoder), time.perf_counter()
            live.feed_inputs(inputs, torch.arange(len(inputs)))
            times[name].append(time.perf_counter() - began)
        began = time.perf_counter()
        live.feed([5])
        times["next token, cached"].append(time.perf_counter() - began)
    for name, values in times.items():
        yield {"what": name, "seconds": round(min(values), 4), "tokens": len(ids), "memory": len(memory.vectors)}


def measure_ratio(one: Compressor, corpus: Corpus, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yields how much smaller whole sessions get where every long observation becomes a quarter; runs no model."""
    before, after = [], []
    for session in corpus.sessions:
        sizes = [(len(b), b.kind is Kind.OBSERVATION and len(b) >= given.long) for b in session.blocks]
        before.append(len(session.ids))
        after.append(sum(math.ceil(n / 4) if long else n for n, long in sizes))
    ratios = [full / small for full, small in zip(before, after, strict=True)]
    yield summarise("tokens of a session by those that are left", ratios, all=round(sum(before) / sum(after), 3))


KINDS = {
    "ratio": measure_ratio,
    "bleu": measure_bleu,
    "squad": measure_squad,
    "credit": measure_credit,
    "seconds": measure_seconds,
}


def main() -> None:
    """Prints the rows of one kind of measurement."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("kind", choices=list(KINDS))
    options.add_argument("--weights", required=True)
    options.add_argument("--data", nargs="+", type=Path, required=True)
    options.add_argument("--model", default="smollm2-135m")
    options.add_argument("--limit", type=int, default=100)
    options.add_argument("--size", type=int, default=0)
    options.add_argument("--long", type=int, default=256)
    options.add_argument("--window", type=int, default=2048)
    given = options.parse_args()
    engine = load(given.model)
    one, corpus = open_weights(given.weights, engine.model), read_corpus(given.data, engine.model.tokenizer)
    for row in KINDS[given.kind](one, corpus, given):
        print(json.dumps({"weights": given.weights, **row}), flush=True)


if __name__ == "__main__":
    main()
