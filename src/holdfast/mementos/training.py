"""Two-stage training of a model that writes mementos: first it sees all, then a block is masked behind its memento.

Rows are exported records. The loss is on every token of the completion in both stages. On a processor attention takes a
dense mask (FlexAttention has no backward there). Samples that are packed into one row see nothing of each other.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from holdfast.errors import BadInput, BadOption
from holdfast.learn.loop import Judge, Loss, Training, train
from holdfast.mementos.delimiters import Delimiters
from holdfast.mementos.export import MementoText
from holdfast.mementos.tracker import BlockSpan, find_spans
from holdfast.model.adapter import copy_model
from holdfast.model.checkpoint import Checkpoint
from holdfast.model.load import Model
from holdfast.progress import Progress, quiet

STAGES = ("full", "masked")
NOISE = 0.01
WORDS = (
    ("start", "begin", "block", "step"),
    ("end", "finish", "block", "step"),
    ("start", "begin", "summary", "memory"),
    ("end", "finish", "summary", "memory"),
)
"""Words whose mean a delimiter's embedding begins with, in the order of `Delimiters.texts`."""


@dataclass(frozen=True)
class MementoRow:
    """One sample as tokens."""

    ids: tuple[int, ...]
    first: int
    """The first token of the completion."""
    spans: tuple[BlockSpan, ...]

    def mask(self) -> Tensor:
        """Returns who sees whom, `[T, T]` bool: what came before, but no block behind its memento's end."""
        seen = torch.ones(len(self.ids), len(self.ids), dtype=torch.bool).tril()
        for span in self.spans:
            seen[span.memento[1] :, slice(*span.block)] = False
        return seen


Pack = tuple[MementoRow, ...]
"""Samples that are read as one row."""


def encode_sample(sample: MementoText, tokenizer: Any, delimiters: Delimiters, most: int) -> MementoRow:
    """Returns a sample as tokens, cut behind the first `most`."""
    prompt = tokenizer(sample.prompt, add_special_tokens=False)["input_ids"][-most // 4 :]
    ids = (*prompt, *tokenizer(sample.completion, add_special_tokens=False)["input_ids"])[:most]
    spans = find_spans(ids[len(prompt) :], tokenizer, delimiters, mask_delimiters=False)
    moved = [BlockSpan(*((a + len(prompt), b + len(prompt)) for a, b in (x.block, x.memento))) for x in spans]
    return MementoRow(tuple(ids), max(1, len(prompt)), tuple(moved))


def pack_rows(rows: Sequence[MementoRow], length: int) -> list[Pack]:
    """Returns the rows in packs of at most `length` tokens, the longest first, each where it still fits."""
    packs: list[list[MementoRow]] = []
    for row in sorted(rows, key=lambda one: -len(one.ids)):
        fits = (pack for pack in packs if sum(len(one.ids) for one in pack) + len(row.ids) <= length)
        if (pack := next(fits, None)) is None:
            packs.append(pack := [])
        pack.append(row)
    return [tuple(pack) for pack in packs]


def pack_mask(pack: Pack, masked: bool) -> Tensor:
    """Returns who sees whom in a pack, `[T, T]` bool; without `masked` blocks stay visible."""
    parts = [row.mask() if masked else torch.ones(len(row.ids), len(row.ids), dtype=torch.bool).tril() for row in pack]
    mask: Tensor = torch.block_diag(*parts)  # type: ignore[no-untyped-call]
    return mask.bool()


def add_delimiters(model: Model, delimiters: Delimiters, seed: int = 0) -> Model:
    """Returns a twin that is trained, whose tokenizer has each delimiter as one token.

    Their embeddings are the mean of related words' with a little noise.
    """
    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": list(delimiters.texts)})
    twin = replace(copy_model(model), tokenizer=tokenizer)
    if len(tokenizer) > twin.hf.get_input_embeddings().weight.shape[0]:
        twin.hf.resize_token_embeddings(len(tokenizer))
    noise = torch.Generator().manual_seed(seed)
    ids = tokenizer.convert_tokens_to_ids(list(delimiters.texts))
    with torch.no_grad():
        for embeddings in {
            id(m): m for m in (twin.hf.get_input_embeddings(), twin.hf.get_output_embeddings())
        }.values():
            for token, words in zip(ids, WORDS, strict=True):
                related = [i for word in words for i in tokenizer(f" {word}", add_special_tokens=False)["input_ids"]]
                mean = embeddings.weight[related].mean(0)
                embeddings.weight[token] = mean + NOISE * torch.randn(mean.shape, generator=noise)
    return twin


class MementoObjective:
    """`learn.loop.Objective`: next-token loss on the completions of packs."""

    def __init__(self, model: Model, masked: bool) -> None:
        self.model, self.masked = model, masked

    def parameters(self) -> dict[str, nn.Parameter]:
        """Returns every weight once, tied ones under their first name."""
        return {name: weight for name, weight in self.model.hf.named_parameters() if weight.requires_grad}

    def loss(self, rows: Sequence[Any]) -> Loss:
        """Returns the summed loss of some packs, in nats."""
        total, scored, tokens = torch.zeros(()), 0, 0
        for pack in rows:
            logits = pack_logits(self.model, pack, self.masked)  # [T, V]
            labels = pack_labels(pack)
            total = total + functional.cross_entropy(logits[:-1], labels[1:], ignore_index=-100, reduction="sum")
            scored, tokens = scored + int((labels[1:] >= 0).sum()), tokens + len(labels)
        return Loss(total, scored, tokens)


def pack_logits(model: Model, pack: Pack, masked: bool) -> Tensor:
    """Returns the logits `[T, V]` of a pack; each sample stands at positions from 0."""
    ids = torch.tensor([[i for row in pack for i in row.ids]])
    positions = torch.cat([torch.arange(len(row.ids)) for row in pack])[None]
    out = model.hf.get_decoder()(
        input_ids=ids, position_ids=positions, use_cache=False, attention_mask=pack_mask(pack, masked)[None, None]
    )
    return model.hf.get_output_embeddings()(out.last_hidden_state[0]).float()  # type: ignore[no-any-return]


def pack_labels(pack: Pack) -> Tensor:
    """Returns the tokens that are scored, `[T]`; -100 stands for those that are given."""
    return torch.tensor([-100 if at < row.first else token for row in pack for at, token in enumerate(row.ids)])


@dataclass(frozen=True)
class Stages:
    """The stages of a run, and its rows. Raises BadOption for a stage that there is not."""

    names: tuple[str, ...] = STAGES
    length: int = 1024
    """Tokens of a row."""
    held_out: int = 0
    """Samples, the last ones, that judge and are not trained on."""

    def __post_init__(self) -> None:
        if not self.names or set(self.names) - set(STAGES):
            raise BadOption(f"stages are of {', '.join(STAGES)}, in order, got {', '.join(self.names) or 'none'}")
        if self.length < 2 or self.held_out < 0:
            raise BadOption(
                f"a row has at least 2 tokens, got {self.length}; held out are 0 or more, got {self.held_out}"
            )


def train_stages(
    model: Model,
    samples: Sequence[MementoText],
    folder: Path,
    training: Training,
    how: Stages | None = None,
    progress: Progress = quiet,
) -> tuple[Model, Checkpoint]:
    """Trains stage after stage, each in a folder of its own; a run that was killed goes on. Returns the trained model.

    Raises BadInput for too few samples or rows too short for a memento, and as `learn.loop.train` does.
    """
    how = how or Stages()
    stages, length, held_out = how.names, how.length, how.held_out
    delimiters = Delimiters()
    twin = add_delimiters(model, delimiters, training.seed)
    rows = [encode_sample(sample, twin.tokenizer, delimiters, length) for sample in samples]
    judged, packs = rows[len(rows) - held_out :], pack_rows(rows[: len(rows) - held_out], length)
    if not packs:
        raise BadInput(f"{len(rows)} samples, {held_out} of them held out, leave nothing to train on")
    if "masked" in stages and not any(row.spans for pack in packs for row in pack):
        raise BadInput(
            f"no row of {length} tokens holds a block with its memento, so that the masked stage has nothing to mask; "
            "take longer rows (--length), or shorter blocks (holdfast mementos make --least 60 --typical 200)"
        )
    about: dict[str, Any] = {
        "kind": "memento",
        "model": model.name,
        "model_digest": model.digest,
        "recipe": {"length": length, "stages": list(stages), "delimiters": asdict(delimiters)},
        "data": {"samples": len(samples), "held_out": held_out, "tokens": sum(len(row.ids) for row in rows)},
    }
    folder.mkdir(exist_ok=True)
    for number, stage in enumerate(stages, 1):
        objective = MementoObjective(twin, stage == "masked")
        own: Mapping[str, Any] = {**about, "stage": f"{number} {stage}"}
        judge = _judge(twin, judged) if judged else None
        done = train(objective, packs, training, folder / f"{number}-{stage}", own, progress, judge)
    twin.hf.eval()
    return twin, done


def judge_rows(model: Model, rows: Sequence[MementoRow]) -> dict[str, float]:
    """Returns the nats a token of held-out completions: with all in sight, and with blocks masked."""
    found = {}
    with torch.no_grad():
        for stage in STAGES:
            loss = MementoObjective(model, stage == "masked").loss([(row,) for row in rows])
            found[stage] = float(loss.total) / max(1, loss.scored)
    return found


def _judge(model: Model, rows: Sequence[MementoRow]) -> Judge:
    return lambda: judge_rows(model, rows)
