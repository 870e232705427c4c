"""Drops the tokens of observations that a small language model expects, the most expected first.

Perplexity pruning in the way of LLMLingua (Jiang et al., https://arxiv.org/abs/2310.05736), under one threshold over
all observations and with the embedded model. The result is for a model to read, not for a person. Cost: one prefill of
the observations by the small model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

from holdfast.errors import BadOption
from holdfast.methods.text.base import Room
from holdfast.methods.text.drop_long_observations import STUB
from holdfast.methods.text.observations import MARK, free_observations
from holdfast.transcript.draft import Draft

Token = tuple[int, int, float]
"""Start and end in the text, and surprisal in nats."""

LITERAL = re.compile(
    r"(?<![\w.~$@%+:-])[\w.~$@%+:-]*[\\/][\w.~$@%+:/\\-]+"  # paths and URLs
    r"|(?<!\w)\w*\d[\w.:-]*"  # numbers, versions, hashes, ports
    r"|(?<!\w)[A-Za-z_]\w*(?:_\w*|(?<=[a-z])[A-Z]\w*|\.\w+)+"  # snake_case, camelCase, dotted.names
    r"|\b[A-Z]{2,}\b"
)


@dataclass(frozen=True)
class PruneTokens:
    """Observations lose their most predictable tokens."""

    model: str = "smollm2-135m"
    """The model that tells how predictable a token is: a bundled model, a local folder or a Hugging Face id."""
    window: int = 1024
    """Tokens that the model reads at one time; each observation is read on its own."""
    keep_literals: bool = True
    """True if paths, numbers and identifiers are never cut."""

    name: ClassVar[str] = "prune_tokens"

    def __post_init__(self) -> None:
        if self.window < 2:
            raise BadOption(f"prune_tokens: window must be at least 2 tokens, got {self.window}")

    def rewrite(self, held: Draft, room: Room) -> Draft:
        if room.fits(held):
            return held
        targets = [at for at in free_observations(held, room) if not held.pieces[at].turn.text.startswith(MARK)]
        texts = [held.pieces[at].turn.text for at in targets]
        tokens = token_surprisals(texts, self.model, self.window)
        free = [self._free_tokens(text, found) for text, found in zip(texts, tokens, strict=True)]
        order = sorted((token[2], row, token[0], token[1]) for row, found in enumerate(free) for token in found)
        others = held.size(room.count) - sum(map(room.count, texts))

        def prune(cuts: int) -> list[str]:
            return [_shorter_of(*pair, room) for pair in zip(texts, _cut_texts(texts, order[:cuts]), strict=True)]

        few, many = 0, len(order)  # the fewest cuts that fit, by halves
        while few < many:
            middle = (few + many) // 2
            fits = others + sum(map(room.count, prune(middle))) <= room.budget
            few, many = (few, middle) if fits else (middle + 1, many)
        return _put_texts(held, targets, prune(many), self.name)

    def _free_tokens(self, text: str, tokens: Sequence[Token]) -> list[Token]:
        """Returns the tokens that may go: those that overlap no literal."""
        if not self.keep_literals:
            return list(tokens)
        held = bytearray(len(text))
        for match in LITERAL.finditer(text):
            held[match.start() : match.end()] = b"\1" * (match.end() - match.start())
        return [token for token in tokens if not any(held[token[0] : token[1]])]


def token_surprisals(texts: Sequence[str], model: str, window: int) -> list[list[Token]]:
    """Returns the tokens of each text with their surprisal in nats, read window by window."""
    import torch

    from holdfast.engine.kv_context import KVContext, surprisal

    loaded = _load_model(model)
    out: list[list[Token]] = []
    for text in texts:
        encoded = loaded.tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
        ids, spans = torch.tensor(encoded["input_ids"], dtype=torch.int64), encoded["offset_mapping"]
        nats: list[float] = []
        with torch.no_grad():
            for part in torch.split(ids, window) if len(ids) else ():
                part = part.to(loaded.device)  # noqa: PLW2901
                nats += surprisal(loaded, part, KVContext(loaded).feed(part), None).tolist()
        out.append([(start, end, value) for (start, end), value in zip(spans, nats, strict=True)])
    return out


@lru_cache(maxsize=1)
def _load_model(name: str) -> Any:
    from holdfast.model.load import load

    return load(name)


def _cut_texts(texts: Sequence[str], cuts: Sequence[tuple[float, int, int, int]]) -> list[str]:
    """Returns the texts without the characters of `cuts`, each (surprisal, text, start, end)."""
    spans: list[list[tuple[int, int]]] = [[] for _ in texts]
    for _, row, start, end in cuts:
        spans[row].append((start, end))
    return [_cut_spans(text, sorted(gone)) for text, gone in zip(texts, spans, strict=True)]


def _cut_spans(text: str, spans: Sequence[tuple[int, int]]) -> str:
    """Returns `text` without the spans, with a blank between two words that would become one."""
    kept, at = "", 0
    for start, end in [*spans, (len(text), len(text))]:
        part = text[at:start]
        joins = kept[-1:].isalnum() and part[:1].isalnum()
        kept += f" {part}" if joins else part
        at = max(at, end)  # tokens of one character share its span
    return kept


def _shorter_of(text: str, pruned: str, room: Room) -> str:
    """Returns `pruned` if it is fewer tokens, else `text`: blanks between words may cost more than was cut."""
    pruned = pruned if pruned.strip() else STUB
    return pruned if room.count(pruned) < room.count(text) else text


def _put_texts(held: Draft, targets: Sequence[int], texts: Sequence[str], made: str) -> Draft:
    pieces = list(held.pieces)
    for at, text in zip(targets, texts, strict=True):
        if text != pieces[at].turn.text:
            pieces[at] = replace(pieces[at], turn=replace(pieces[at].turn, text=text), writer=made, lines=())
    return replace(held, pieces=tuple(pieces))
