"""The product in one file: a transcript in, a compact context out, questions answered over it.

`Policy` alone decides what may be compacted, `Plan` says how; methods decide neither.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby, takewhile
from pathlib import Path
from typing import Any

import torch

from holdfast.blocks.block import Block, Kind
from holdfast.blocks.render import Rendered, question_ids, render
from holdfast.context import store
from holdfast.context.budget import from_ratio
from holdfast.context.segments import CompactContext, Segment, TokenSegment, tokens
from holdfast.context.surgery import keep
from holdfast.engine.live import Live
from holdfast.engine.local import LocalEngine, spoken
from holdfast.engine.sampling import Sampling
from holdfast.errors import BadInput, BadOption
from holdfast.gate.facts import marked
from holdfast.gate.gate import Gate, Report, Work, checked
from holdfast.methods.base import LatentMethod, Progress, Span, quiet
from holdfast.methods.registry import build
from holdfast.model.bundled import DEFAULT
from holdfast.model.load import Model
from holdfast.model.load import load as load_model
from holdfast.transcript.cuts import exchanges
from holdfast.transcript.said import speaker
from holdfast.transcript.turn import Role, Transcript, Turn

LATER = 1024  # tokens of what the session said after a span that a method may ask with
ROOM = 256  # tokens kept free behind a session for a question and its answer


@dataclass(frozen=True)
class Policy:
    """What stays verbatim. Everything else may be compacted."""

    pin: tuple[Kind, ...] = (Kind.SYSTEM, Kind.TASK, Kind.USER)
    """Kinds of block that are never compacted."""
    keep_recent: int = 1
    """How many of the newest exchanges (an assistant turn with its tool results, or a user turn) stay."""
    window: int | None = None
    """Leave out what is older than the newest so many tokens, except the system prompt and the task."""

    def __post_init__(self) -> None:
        if unknown := [kind for kind in self.pin if kind not in tuple(Kind)]:
            raise BadOption(f"no kind of block is called {unknown[0]!r}; there are: {', '.join(Kind)}")
        if self.keep_recent < 0:
            raise BadOption(f"keep_recent must be at least 0, got {self.keep_recent}")


@dataclass(frozen=True)
class Plan:
    """How a session is compacted."""

    latent: str = "informed"
    """Method and options: `name` or `name:key=value,…`."""
    ratio: float = 8.0
    """Tokens per slot of what is compacted."""
    by_turn: bool | None = None
    """Compact each turn on its own against the running compact memory; None asks the method."""
    policy: Policy = Policy()
    gate: Gate | None = None
    """Measure what was lost and repair it; None trusts the method."""
    slots: int | None = None
    """Total slots of the context, what stays verbatim included; takes the place of `ratio`."""


@dataclass(frozen=True)
class Part:
    """A run of blocks that is either kept verbatim or compacted as one span."""

    blocks: tuple[Block, ...]
    start: int
    compact: bool

    def __len__(self) -> int:
        return sum(map(len, self.blocks))


def load(name: str = DEFAULT, *, dtype: str = "float32", device: str = "cpu") -> LocalEngine:
    """An engine for a bundled model, a local folder or a Hugging Face id."""
    return LocalEngine(load_model(name, dtype=dtype, device=device))


def save(context: CompactContext, path: str | Path, engine: LocalEngine) -> Path | str:
    """Write a context to one file, or to any URL of fsspec."""
    return store.save(context, path, engine.model)


def restore(path: str | Path, engine: LocalEngine) -> CompactContext:
    """Read a context that was made with the same model. Raises BadContext for any other file."""
    return store.load(path, engine.model)


def compact(
    transcript: Transcript, engine: LocalEngine, plan: Plan | None = None, progress: Progress = quiet
) -> CompactContext:
    """Compact a session for the engine's model.

    Raises BadInput for a session that cannot be rendered or is too long for the model, and BadOption for a plan that
    makes no sense.
    """
    plan = plan or Plan()
    rendered = render(transcript, engine.model.tokenizer)
    cut = parts(transcript, rendered, plan.policy)
    length, most = sum(map(len, cut)), engine.model.max_tokens - ROOM
    if length > most:
        raise BadInput(
            f"the session has {length} tokens; {engine.model.name} reads {most} and a question; use --window {most} "
            "(Policy.window), or a model with a longer context"
        )
    made = compact_parts(cut, engine, plan, progress)
    told = {"tokens_left_out": len(rendered.ids) - length, "session_digest": session_digest(rendered)}
    return replace(made, evidence={**made.evidence, **told})


def session_digest(rendered: Rendered) -> str:
    """What tells whether a session is the one that a context was made from."""
    return hashlib.sha256(",".join(map(str, rendered.ids)).encode()).hexdigest()[:16]


def ask(
    context: CompactContext,
    engine: LocalEngine,
    question: str,
    limit: int = 128,
    sampling: Sampling | None = None,
) -> Iterator[str]:
    """Answer a question over a context, piece by piece; the context is not changed.

    Raises BadInput when question and answer would go beyond what the model reads, BadOption for an answer of no token.
    """
    if limit < 1:
        raise BadOption(f"an answer needs a limit of at least 1 token, got {limit}")
    prompt = question_ids(engine.model.tokenizer, question)
    needed, most = context.next_position + len(prompt) + limit, engine.model.max_tokens
    if needed > most:
        raise BadInput(
            f"{context.next_position} positions, a question of {len(prompt)} tokens and an answer of up to {limit} "
            f"do not fit the {most} that {engine.model.name} reads"
        )
    yield from spoken(engine.generate(engine.open(context), prompt, limit, sampling), engine.model.tokenizer)


def parts(transcript: Transcript, rendered: Rendered, policy: Policy) -> list[Part]:
    """Cut a rendered session into runs of blocks that stay and runs that are compacted."""
    units = exchanges(transcript)
    newest = units[-min(policy.keep_recent, len(units)) :] if policy.keep_recent else ()
    recent = newest[0][0] if newest else len(transcript.turns)
    blocks = windowed(rendered.blocks, [start for start, _ in units], policy)
    turns = transcript.turns
    return list(runs(blocks, [stays(b, turns[b.origin.turn], policy) or b.origin.turn >= recent for b in blocks]))


def stays(block: Block, turn: Turn, policy: Policy) -> bool:
    """Whether the policy keeps a block of this turn verbatim. What a tool says in a user's message is the tool's."""
    return block.kind in policy.pin and (block.kind is not Kind.USER or speaker(turn) is Role.USER)


def ratio_for(cut: list[Part], slots: int, by_turn: bool = False) -> float:
    """The ratio at which a context takes `slots` in all. Raises BadOption where what is pinned leaves too few.

    A span takes one slot at least, so spans shorter than the ratio take more than their share.
    """
    pinned = sum(len(part) for part in cut if not part.compact)
    lengths = [len(span) for part in cut for span in spans(part, by_turn)]
    if slots < pinned + len(lengths):
        raise BadOption(
            f"a budget of {slots} slots does not hold the {pinned} tokens that stay verbatim and one slot for each of "
            f"{len(lengths)} compacted spans; raise it, pin fewer kinds of block (Policy.pin, --pin), or keep fewer "
            "recent exchanges (--keep-recent)"
        )
    room, ratio = slots - pinned, 1.0
    while lengths:
        ratio = max(1.0, math.nextafter(sum(lengths) / room, 0))  # so that dividing by it does not round a slot away
        longer = [n for n in lengths if n >= ratio]
        if len(longer) == len(lengths):
            break
        lengths, room = longer, room - (len(lengths) - len(longer))
    return ratio


def windowed(blocks: tuple[Block, ...], starts: list[int], policy: Policy) -> tuple[Block, ...]:
    """The pinned head and the newest whole exchanges (which begin at turns `starts`) within the window."""
    if policy.window is None or sum(map(len, blocks)) <= policy.window:
        return blocks
    head = tuple(takewhile(lambda b: b.kind in (Kind.SYSTEM, Kind.TASK), blocks))
    room = policy.window - sum(map(len, head))
    at, left = len(head), sum(map(len, blocks[len(head) :]))
    for start in starts:  # blocks and starts are both in the order of turns
        while at < len(blocks) and blocks[at].origin.turn < start:
            left -= len(blocks[at])
            at += 1
        if at < len(blocks) and left <= room:
            return head + blocks[at:]
    raise BadOption(
        f"--window {policy.window} is too small: the system prompt and the task take {sum(map(len, head))} tokens "
        f"and the last exchange {sum(len(b) for b in blocks if b.origin.turn >= starts[-1])}"
    )


def runs(blocks: tuple[Block, ...], stay: list[bool]) -> Iterator[Part]:
    """Neighbouring blocks of the same fate, with the position of their first token."""
    at = 0
    for fate, group in groupby(zip(blocks, stay, strict=True), key=lambda pair: pair[1]):
        part = Part(tuple(block for block, _ in group), at, not fate)
        at += len(part)
        yield part


def compact_parts(
    cut: list[Part], engine: LocalEngine, plan: Plan, progress: Progress = quiet, shared: Shared | None = None
) -> CompactContext:
    """Walk the parts in order: verbatim ones are kept, the others compacted against the memory so far.

    Calls that differ in their ratio alone may pass the same `shared` for the same parts.
    """
    return compact_live(cut, engine, plan, progress, shared)[0]


@dataclass(frozen=True)
class Begin:
    """What stands before the parts that are compacted."""

    live: Live
    segments: tuple[Segment, ...] = ()
    """What `live` is made of."""
    retain: bool = False
    """Hold the states of what stays verbatim as the engine has them, in place of its tokens."""


def compact_live(
    cut: list[Part],
    engine: LocalEngine,
    plan: Plan,
    progress: Progress = quiet,
    shared: Shared | None = None,
    begin: Begin | None = None,
) -> tuple[CompactContext, Live]:
    """`compact_parts`, with the memory that the walk ends in: the same as opening the context."""
    method, shared = build(plan.latent), shared or Shared()
    by_turn = method.by_turn if plan.by_turn is None else plan.by_turn
    if plan.slots is not None:
        plan = replace(plan, ratio=ratio_for(cut, plan.slots, by_turn))
    from_ratio(1, plan.ratio)  # a senseless ratio fails before any work is done
    report = Report(plan.gate.threshold) if plan.gate else None
    work = _Work(method, engine, plan.ratio, progress, plan.gate, report)
    first = next((part.start for part in cut if part.compact), -1)
    begin = begin or Begin(Live(engine.model))
    segments, live, began = list(begin.segments), begin.live, time.perf_counter()
    ids = torch.tensor([i for part in cut for i in _ids(part.blocks)])
    base = cut[0].start if cut else live.next_position
    for part in cut:
        for span in spans(part, by_turn):
            told = replace(span, later=ids[span.start - base + len(span) :][:LATER])
            made = work.compress(told, live, shared if span.start == first else None)
            segments.extend(made)
            live = _extended(live, made, span.start + len(span))
        if not part.compact:
            kept, live = _kept(part, live, engine, begin.retain)
            segments.append(kept)
    recipe = {"latent": plan.latent, "ratio": plan.ratio, "by_turn": by_turn, "policy": asdict(plan.policy)}
    if plan.slots is not None:  # the ratio is then the one that was worked out
        recipe["slots"] = plan.slots
    evidence = _evidence(cut, live, engine, work.seconds, time.perf_counter() - began)
    if work.told:
        evidence["method"] = work.told
    if plan.gate and report:
        recipe["gate"] = asdict(plan.gate)
        evidence["gate"] = report.as_evidence()
        if plan.gate.strict:
            report.refuse()
    end = base + sum(map(len, cut))
    return CompactContext(tuple(segments), end, recipe, evidence, engine.model.digest), live


def _kept(part: Part, live: Live, engine: LocalEngine, retain: bool) -> tuple[Segment, Live]:
    """A verbatim part and the memory after it: read from its tokens, or its states as the engine has them."""
    origins, end = tuple(b.origin for b in part.blocks), part.start + len(part)
    if not retain:
        segment = tokens(_ids(part.blocks), part.start, origins)
        return segment, _extended(live, (segment,), end)
    span = Span(part.blocks, part.start)
    after, states = engine.capture(live, span.ids, span.positions)
    after.settle(end)
    return keep(states, [None] * len(states.keys), origins), after


def spans(part: Part, by_turn: bool) -> Iterator[Span]:
    """The spans of a part that are compressed one after another; none where it stays verbatim."""
    if not part.compact:
        return
    at = part.start
    key = (lambda b: b.origin.turn) if by_turn else (lambda b: 0)
    for _, group in groupby(part.blocks, key=key):
        span = Span(tuple(group), at)
        at += len(span)
        yield span


@dataclass
class Shared:
    """What several ratios of one method have in common: nothing before the first span depends on the ratio."""

    study: Any = None
    seconds: float = 0.0


@dataclass
class _Work:
    """One compaction under way, and the seconds that it takes on top of reading the session."""

    method: LatentMethod
    engine: LocalEngine
    ratio: float
    progress: Progress
    gate: Gate | None
    report: Report | None
    seconds: float = 0.0
    told: list[Any] = field(default_factory=list)
    """What methods report of their own work, span by span, as the held-out error of a fit."""

    def compress(self, span: Span, live: Live, shared: Shared | None) -> tuple[Segment, ...]:
        budget = from_ratio(len(span), self.ratio)
        if budget.holds(len(span)):
            return (TokenSegment(span.ids, span.positions, span.origins),)
        began = time.perf_counter()
        span = replace(span, facts=marked(span.blocks, self.engine.model.tokenizer))
        finding = time.perf_counter() - began
        study, seconds = self._study(span, live, shared)
        began = time.perf_counter() - finding
        made = self._gated(Work(self.method, study, budget, span, live, self.engine, self.progress))
        self.seconds += seconds + time.perf_counter() - began
        if report := getattr(study, "report", None):
            self.told.append(dict(report))
        return made

    def _gated(self, work: Work) -> tuple[Segment, ...]:
        if self.gate is None or self.report is None:
            return self.method.compress(work.study, work.budget, self.progress)
        return checked(self.gate, work, self.report)

    def _study(self, span: Span, live: Live, shared: Shared | None) -> tuple[Any, float]:
        if shared and shared.study is not None:
            return shared.study, shared.seconds
        began, read = time.perf_counter(), self.engine.reading_seconds
        study = self.method.study(span, live, self.engine, self.progress)
        seconds = max(0.0, time.perf_counter() - began - (self.engine.reading_seconds - read))
        if shared:
            shared.study, shared.seconds = study, seconds
        return study, seconds


def _extended(live: Live, made: tuple[Segment, ...], end: int) -> Live:
    """The memory after `made`, with the next token at `end` however few slots were kept."""
    after = live.fork()
    with torch.no_grad():
        for segment in made:
            after.append(segment)
    after.settle(end)
    return after


def _ids(blocks: tuple[Block, ...]) -> list[int]:
    return [i for block in blocks for i in block.ids]


def _evidence(cut: list[Part], live: Live, engine: LocalEngine, seconds: float, total: float) -> dict[str, Any]:
    length = sum(map(len, cut))
    return {
        "tokens": length,
        "tokens_compacted": sum(len(part) for part in cut if part.compact),
        "bytes_full": full_bytes(engine.model, length),
        "bytes": live.nbytes,
        "seconds_compact": round(seconds, 3),
        "seconds_total": round(total, 3),
    }


def full_bytes(model: Model, length: int) -> int:
    """KV bytes of `length` verbatim tokens; sliding layers hold only what the next token sees."""
    pair = 2 * model.family.kv_heads * model.family.head_dim * model.dtype.itemsize
    seen = (length if layer.window is None else min(length, layer.window - 1) for layer in model.family.layers)
    return sum(pair * n for n in seen)
