"""Reference queries: what a model asks of a span. Scores are statistics of the attention that these queries give.

No future question is known when a span is compacted, so other queries stand for it: those of the model repeating the
span (KVzip, https://arxiv.org/abs/2505.23416), of what the session said later, of the span itself, or none at all.
A pass is recorded chunk by chunk and reduced at once: nothing of size T x T is ever held.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from holdfast.blocks.render import question_ids
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import LocalEngine
from holdfast.errors import BadOption
from holdfast.methods.base import Span
from holdfast.methods.repeat_prompt import prompt_ids, score_repeat
from holdfast.model.attention import Observer
from holdfast.model.forward import log_probs
from holdfast.model.states import States
from holdfast.progress import Progress

WORTHS = ("surprisal", "gain")
"""Of a token that a query predicts: its surprisal at first reading, or that minus its surprisal in the repeat."""
ROWS = 4096  # queries times heads whose logits over a span exist at one time


@dataclass(frozen=True)
class SpanPrefill:
    """A span that has just been read: what every score is computed from."""

    span: Span
    past: KVContext
    after: KVContext
    """The memory with the whole span in it."""
    states: States
    engine: LocalEngine
    progress: Progress
    observer: Observer | None = None
    """The observer that saw the prefill."""

    def keys(self, layer: int) -> Tensor:
        """Returns the rotated keys of the span, `[G, T, D]`."""
        return self.after.cache.newest(layer, len(self.span))[0]

    @cached_property
    def repeat_log_probs(self) -> Tensor:
        """Log-probability of each token when the model says the span again over the full memory, `[T]`."""
        return score_repeat(self.after, self.span.ids, self.progress, "repeat")

    @property
    def layers(self) -> Sequence[int]:
        """The layers of full attention: the only ones that are scored."""
        return self.engine.model.family.full


class QueryRecorder:
    """An observer that keeps the queries of one pass (of batch 1), of all its steps."""

    def __init__(self) -> None:
        self.queries: dict[int, Tensor] = {}
        """Per layer `[H, Q, D]`, rotated and scaled."""
        self.mass: dict[int, Tensor] = {}
        """Per layer `[H, Q]`: log-sum-exp of everything that a query looked at."""

    def __call__(self, layer: int, query: Tensor, mass: Tensor, key: Tensor) -> None:
        self._add(layer, query[0], mass[0])  # a long pass is read in several steps

    @property
    def nbytes(self) -> int:
        """Bytes of the queries and masses."""
        return sum(t.nbytes for kept in (self.queries, self.mass) for t in kept.values())

    def extend(self, other: QueryRecorder) -> None:
        """Takes the queries of a later pass behind these."""
        for layer, query in other.queries.items():
            self._add(layer, query, other.mass[layer])

    def _add(self, layer: int, query: Tensor, mass: Tensor) -> None:
        for kept, new in ((self.queries, query), (self.mass, mass)):
            kept[layer] = torch.cat((kept[layer], new), dim=1) if layer in kept else new


@dataclass(frozen=True)
class ReferenceQueries:
    """One recorded pass of reference queries."""

    recorder: QueryRecorder
    visible: slice
    """The tokens of the span that these queries looked at."""
    nats: Callable[[str], Tensor]
    """`nats(kind) [Q]`: nats that a query is worth by one of `WORTHS`, computed when asked for; 0 where not known."""
    predicts_fact: Tensor
    """`[Q]` bool: whether that token belongs to a fact of the session."""
    first_token: int | None = None
    """For the span's own queries: the token of the first one; later tokens are hidden from it. None for all others."""


def check_query_options(name: str, queries: str, chunk: int, reach: int) -> None:
    """Raises BadOption for options of which no reference queries can be made."""
    if unknown := [source for source in queries.split("+") if source not in SOURCES]:
        raise BadOption(f"{name}: queries must be {', '.join(SOURCES)} or several joined by +, got {unknown[0]!r}")
    if chunk < 1:
        raise BadOption(f"{name}: chunk must be at least 1 token, got {chunk}")
    if reach < 0:
        raise BadOption(f"{name}: reach must be at least 0 tokens, got {reach}")


@torch.no_grad()
def reference_queries(
    prefill: SpanPrefill, queries: str = "repeat", chunk: int = 256, reach: int = 0
) -> Iterator[ReferenceQueries]:
    """Yields the reference queries of every source named in `queries` (joined by `+`), pass by pass.

    Raises BadOption where a source has nothing to offer, as `later` for the newest span of a session.
    """
    for source in queries.split("+"):
        if source == "repeat":
            yield from repeat_queries(prefill, chunk, reach)
        else:
            yield from SOURCES[source](prefill, chunk)


def repeat_queries(prefill: SpanPrefill, chunk: int, reach: int) -> Iterator[ReferenceQueries]:
    """Yields the queries of the model as it repeats the span, `chunk` tokens after one request each.

    `reach` > 0 lets a chunk look at itself and so many tokens before and after it only, which makes the cost linear.
    """
    T, model = len(prefill.span), prefill.engine.model
    prompt, ids = torch.tensor(prompt_ids(model)), prefill.span.ids
    whole = None if reach else prefill.after.fork(frozen=True)
    for at in range(0, T, chunk):
        prefill.progress("repeat", at, T, "")
        seen = slice(max(0, at - reach), min(T, at + chunk + reach)) if reach else slice(0, T)
        said = ids[at : at + chunk]
        memory = whole or prefill.after.fork_narrowed(T, seen)
        record, hidden = _record_queries(memory, torch.cat((prompt, said)))
        # the query that predicts a token stands one before it
        predicts = slice(len(prompt) - 1, len(prompt) - 1 + len(said))
        fact = torch.zeros(len(hidden), dtype=torch.bool, device=hidden.device)
        if len(prefill.span.facts):
            fact[predicts] = prefill.span.facts[at : at + chunk].to(fact.device)
        yield ReferenceQueries(
            record, seen, partial(_nats_of_predictions, prefill, hidden, predicts, slice(at, at + chunk)), fact
        )
    prefill.progress("repeat", T, T, "")


@torch.no_grad()
def _nats_of_predictions(prefill: SpanPrefill, hidden: Tensor, predicts: slice, said: slice, kind: str) -> Tensor:
    out = hidden.new_zeros(len(hidden), dtype=torch.float32)
    out[predicts] = prefill.states.surprisal[said]
    if kind == "gain":
        out[predicts] += log_probs(prefill.engine.model, hidden[predicts], prefill.span.ids[said].to(hidden.device))
    return out


def own_queries(prefill: SpanPrefill, chunk: int) -> Iterator[ReferenceQueries]:
    """Yields the span's own queries, read once more over what stands before it."""
    T, memory = len(prefill.span), prefill.past.fork()
    for at in range(0, T, chunk):
        prefill.progress("own queries", at, T, "")
        record = QueryRecorder()
        part = slice(at, at + chunk)
        memory.feed(prefill.span.ids[part], positions=prefill.span.positions[part], observer=record)
        yield equal_weight_queries(prefill, record, first_token=at)


def later_queries(prefill: SpanPrefill, chunk: int) -> Iterator[ReferenceQueries]:
    """Yields the queries of the turns after the span: free in a live session, and the questions really asked of it."""
    if not len(prefill.span.later):
        raise BadOption("queries=later: nothing of the session stands behind this span; use repeat as well, or alone")
    yield _record_unweighted(prefill, prefill.span.later)


def self_study_queries(prefill: SpanPrefill, chunk: int) -> Iterator[ReferenceQueries]:
    """Yields the queries of prompts and of the model's own answers (self-study, https://arxiv.org/abs/2506.06266)."""
    engine = prefill.engine
    prompts = [question_ids(engine.model.tokenizer, text) for text in STUDY]
    for prompt, answer in zip(prompts, engine.answers(prefill.after, prompts, ANSWER), strict=True):
        yield _record_unweighted(prefill, torch.tensor([*prompt, *answer]))


def random_queries(prefill: SpanPrefill, chunk: int) -> Iterator[ReferenceQueries]:
    """Yields random directions as long as real queries: the control for every other source."""
    record, _ = _record_queries(prefill.after.fork(frozen=True), torch.tensor(prompt_ids(prefill.engine.model)))
    noise = torch.Generator().manual_seed(0)
    for layer in prefill.layers:
        real, keys = record.queries[layer], prefill.keys(layer)
        drawn = torch.randn(real.shape[0], RANDOM, real.shape[2], generator=noise).to(real)
        drawn *= real.norm(dim=-1).mean(1)[:, None, None] / drawn.norm(dim=-1, keepdim=True)
        by_group = drawn.view(keys.shape[0], -1, keys.shape[2])  # one at a time, to hold few logits
        mass = [(q @ k.T).float().logsumexp(-1) for q, k in zip(by_group, keys, strict=True)]
        record.queries[layer], record.mass[layer] = drawn, torch.cat(mass).view(real.shape[0], RANDOM)
    yield equal_weight_queries(prefill, record)


SOURCES: Mapping[str, Callable[..., Iterator[ReferenceQueries]]] = {
    "repeat": repeat_queries,
    "own": own_queries,
    "later": later_queries,
    "study": self_study_queries,
    "random": random_queries,
}
STUDY = (
    "Summarize what was done so far and what is left to do.",
    "List every file, path, number, name and command that appeared, exactly as it was written.",
    "Which errors appeared, and how were they fixed?",
    "What did the user ask for, and what did the user forbid?",
)
ANSWER = 64  # tokens of an answer to a study prompt
RANDOM = 256  # random queries a head


def log_attention(one: ReferenceQueries, layer: int, keys: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Computes the log of the attention that rotated `keys [G, T, D]` receive from one layer's queries, in parts.

    Yields the queries (a slice of Q) and `[G, H/G, q, n]` float32, n being the tokens in `one.visible`.
    """
    keys = keys[:, one.visible]
    query, mass = one.recorder.queries[layer], one.recorder.mass[layer]
    G, n, (H, Q, D) = keys.shape[0], keys.shape[1], query.shape
    step = max(1, ROWS // H)
    for at in range(0, Q, step):
        rows = slice(at, min(Q, at + step))
        logits = (query[:, rows].reshape(G, -1, D) @ keys.transpose(1, 2)).float()
        logits = logits.sub_(mass[:, rows].reshape(G, -1, 1)).view(G, H // G, -1, n)
        if one.first_token is not None:
            token = torch.arange(n, device=keys.device)
            logits.masked_fill_(
                token > one.first_token + torch.arange(rows.start, rows.stop)[:, None].to(token), -math.inf
            )
        yield rows, logits


def raise_to_attention(
    scores: Tensor, one: ReferenceQueries, layer: int, keys: Tensor, log_weight: Tensor | None = None
) -> None:
    """Raises `scores [G, T]` in place to the largest attention that each key received; `log_weight [Q]` of queries."""
    here = scores[:, one.visible]
    for rows, logits in log_attention(one, layer, keys):
        weighted = logits if log_weight is None else logits.add_(log_weight[rows, None])
        torch.maximum(here, weighted.amax((1, 2)).exp(), out=here)


def _record_queries(memory: KVContext, ids: Tensor) -> tuple[QueryRecorder, Tensor]:
    record = QueryRecorder()
    return record, memory.fork().feed(ids, observer=record)


def _record_unweighted(prefill: SpanPrefill, ids: Tensor) -> ReferenceQueries:
    return equal_weight_queries(prefill, _record_queries(prefill.after, ids)[0])


def equal_weight_queries(
    prefill: SpanPrefill, record: QueryRecorder, first_token: int | None = None
) -> ReferenceQueries:
    """Returns queries that look at the whole span and whose gain is not known: all weigh the same."""
    mass = record.mass[prefill.layers[0]]  # a sliding layer may have kept other queries
    none = mass.new_zeros(mass.shape[1])
    return ReferenceQueries(record, slice(0, len(prefill.span)), lambda kind: none, none.bool(), first_token)
