"""Drift of a memory that is compacted turn by turn, against one-shot compaction of the same turns in as many bytes.

    python benchmarks/drift.py examples/taskdeck/session.json examples/taskdeck/probes.jsonl

Behind the verbatim head (system prompt and task), every turn is read over the memory so far and compacted.

- `per-turn` compacts each turn once and never again; `total` lets the new turn and everything held compete for the
  one-shot budget of the turns so far (holdfast.context.recompact), `fixed` for that of all turns from the start.
- over `compact`, a turn is read over what was kept of the earlier ones, as in a live session; over `full`, over all of
  them, but it is evicted in the same way.
- `swapped` holds the slots that `per-turn over compact` chose with their states as read over `full`: what is left of
  the drift then is in the choice, not the states.
- `one-shot, by turn` spreads one-shot scores over turns as `per-turn` does: what it loses is the budget's doing.

All hold the slots of the one-shot budget, `fixed` at the last round alone. Nothing is generated, so rule (b) of the
probes is not checked; what the model knows without the session is subtracted on both sides of the share anyway.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby, takewhile
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

import holdfast
from holdfast.blocks.block import Block, Kind
from holdfast.blocks.render import RenderedSession, question_ids, render
from holdfast.context.budget import Budget, budget_from_ratio
from holdfast.context.packing import where
from holdfast.context.recompact import tighten
from holdfast.context.segments import CompactContext, Segment, StateSegment, token_segment
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import Continuation, LocalEngine
from holdfast.eval.later_action import NEXT_TOKENS
from holdfast.eval.metrics import ratio_interval
from holdfast.eval.probes import check_static_rules, read_probes
from holdfast.eval.report import drawing
from holdfast.eval.windows import LocatedProbe, locate
from holdfast.methods.base import LatentMethod, Span
from holdfast.methods.registry import build
from holdfast.model.quantized_slots import QuantizedSlots
from holdfast.model.slots import Slots

MARKS = (1, 5, 10, 20, 30, 45, 60, 90, 120)
PER_TURN, TOTAL, FIXED, COMPACT, FULL = "per-turn", "total", "fixed", "compact", "full"


@dataclass
class Form:
    """One way to keep a memory, and what it holds after the turns so far."""

    name: str
    kind: str
    over: str
    segments: list[Segment] = field(default_factory=list)
    slots: int = 0

    def take(self, made: tuple[Segment, ...], slots: int, budget: Budget, heads: int) -> None:
        self.segments += made
        self.slots += slots
        if self.kind != PER_TURN and self.slots > budget.slots:
            self.segments, self.slots = tighten(self.segments, budget.pairs(heads)), budget.slots


@dataclass(frozen=True)
class Row:
    """Results of one form after some rounds."""

    rounds: int
    token_segment: int
    probes: int
    form: str
    retained: float
    low: float
    high: float
    kl: float
    top1: float
    kv_bytes: int


@dataclass(frozen=True)
class Measurement:
    """Log-probability of each probe's answer, and of the session's next tokens."""

    answers: np.ndarray
    following: Tensor


@dataclass
class Bench:
    """The parts that all forms share: the model, the method, the session cut into turns, and the memory of its head."""

    engine: LocalEngine
    method: LatentMethod
    ratio: float
    rendered: RenderedSession
    spans: list[Span]
    head: KVContext
    probes: list[LocatedProbe]

    @property
    def heads(self) -> int:
        family = self.engine.model.family
        return len(family.full) * family.kv_heads

    def budget(self, rounds: int) -> Budget:
        """Returns the one-shot budget of the first `rounds` turns."""
        return budget_from_ratio(sum(map(len, self.spans[:rounds])), self.ratio)

    def end(self, rounds: int) -> int:
        last = self.spans[rounds - 1] if rounds else None
        return last.start + len(last) if last else self.head.next_position

    def memory(self, segments: Sequence[Segment], rounds: int) -> KVContext:
        live = self.head.fork()
        with torch.no_grad():
            for segment in segments:
                live.append(segment)
        live.settle(self.end(rounds))
        return live

    def measure(self, live: KVContext, rounds: int) -> Measurement:
        encode, end = self.engine.model.tokenizer, self.end(rounds)
        asked = [
            Continuation(
                tuple(question_ids(encode, x.probe.question)),
                tuple(encode(x.probe.answer, add_special_tokens=False)["input_ids"]),
            )
            for x in self.probes_within(rounds)
        ]
        sums = [float(s.sum()) for s in self.engine.score(live, asked)] if asked else []
        following = self.rendered.ids[end : end + NEXT_TOKENS]
        return Measurement(np.array(sums), self.engine.next_logits(live, following[:-1]).log_softmax(-1))

    def probes_within(self, rounds: int) -> list[LocatedProbe]:
        """Returns the probes whose evidence lies in the first `rounds` turns."""
        return [x for x in self.probes if self.end(0) <= x.start and x.stop <= self.end(rounds)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("transcript", type=Path)
    parser.add_argument("probes", type=Path)
    parser.add_argument("--rounds", type=int, default=30, help="turns that are compacted one after another")
    parser.add_argument("--method", default="informed", help="an evicting method: NAME or NAME:key=value,…")
    parser.add_argument("--ratio", type=float, default=8.0)
    parser.add_argument("--budget-kind", nargs="+", choices=(PER_TURN, TOTAL, FIXED), default=[PER_TURN, TOTAL])
    parser.add_argument("--read-over", nargs="+", choices=(COMPACT, FULL), default=[COMPACT, FULL])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--out", type=Path, default=Path("out/drift"))
    arguments = parser.parse_args()
    began = perf_counter()
    bench = prepare(arguments)
    forms = [Form(f"{k} over {o}", k, o) for k in arguments.budget_kind for o in arguments.read_over]
    if {PER_TURN} <= set(arguments.budget_kind) and {COMPACT, FULL} <= set(arguments.read_over):
        forms.append(Form("swapped", PER_TURN, "swapped"))
    print(
        f"{arguments.transcript.name}, {arguments.method} at {arguments.ratio:g}x, {bench.engine.model.name}: "
        f"a head of {bench.end(0)} tokens, then {len(bench.spans)} turns of {bench.end(len(bench.spans))} tokens in all"
    )
    rows = list(rounds(bench, forms))
    write_results(rows, arguments)
    print(f"{perf_counter() - began:.0f} s")


def prepare(arguments: argparse.Namespace) -> Bench:
    """Reads the session and its probes, and opens its head.

    Raises SystemExit if the model cannot read all rounds together with a question and the next tokens.
    """
    engine, session = holdfast.load(arguments.model), holdfast.read(arguments.transcript)
    rendered = render(session, engine.model.tokenizer)
    first = list(takewhile(lambda b: b.kind in (Kind.SYSTEM, Kind.TASK), rendered.blocks))
    spans = list(turns(rendered.blocks[len(first) :]))[: arguments.rounds]
    most = engine.model.max_tokens - NEXT_TOKENS
    if len(spans) < arguments.rounds or spans[-1].start + len(spans[-1]) > most:
        fit = sum(span.start + len(span) <= most for span in spans)
        raise SystemExit(f"{arguments.rounds} rounds do not fit the session or the model; there are {fit}")
    found, _ = locate([p for p in read_probes(arguments.probes) if p.transcript == arguments.transcript.name], rendered)
    ids = [i for b in first for i in b.ids]
    text = rendered.text[: rendered.offsets[len(ids)]]
    fair = [x for x in found if not check_static_rules(x.probe, text)]
    head = engine.open(CompactContext((token_segment(ids, 0),), len(ids)))
    return Bench(engine, build(arguments.method), arguments.ratio, rendered, spans, head, fair)


def turns(blocks: Sequence[Block]) -> Iterator[Span]:
    for _, group in groupby(blocks, key=lambda b: b.origin.turn):
        own = tuple(group)
        yield Span(own, own[0].origin.tokens[0])


def rounds(bench: Bench, forms: list[Form]) -> Iterator[Row]:
    """Compacts turn after turn into every form and yields the rows measured at the marks."""
    full, differ = bench.head.fork(), []
    for n, span in enumerate(bench.spans, 1):
        whole = Budget(len(span))
        made: dict[str, tuple[Segment, ...]] = {}
        shared = bench.method.study(span, full, bench.engine) if any(f.over == FULL for f in forms) else None
        for form in forms:
            budget = bench.budget(len(bench.spans) if form.kind == FIXED else n)
            slots = min(len(span), max(1, budget.slots - form.slots)) if form.kind == PER_TURN else len(span)
            if form.over == "swapped":
                everything = bench.method.compress(shared, whole)
                pairs = zip(everything, made[f"{PER_TURN} over {COMPACT}"], strict=True)
                made[form.name] = tuple(swap_states(a, b) for a, b in pairs)
            else:
                past = full if form.over == FULL else bench.memory(form.segments, n - 1)
                study = shared if form.over == FULL else bench.method.study(span, past, bench.engine)
                made[form.name] = bench.method.compress(study, Budget(slots))
            form.take(made[form.name], slots, budget, bench.heads)
        if "swapped" in made:
            differ.append(apart(made[f"{PER_TURN} over {COMPACT}"], made[f"{PER_TURN} over {FULL}"], made["swapped"]))
        with torch.no_grad():
            full.feed(span.ids, positions=span.positions)
        full.settle(bench.end(n))
        if n in MARKS or n == len(bench.spans):
            yield from measure_forms(bench, forms, full, n)
            if differ:
                same, keys, values = np.mean(differ[1:] or differ, axis=0)  # the first turn is read over the same head
                print(
                    f"  turns read over compact and over full memory choose {100 * same:.0f} % of their slots alike; "
                    f"the same slots differ by {100 * keys:.1f} % in keys and {100 * values:.1f} % in values",
                    flush=True,
                )


def measure_forms(bench: Bench, forms: Sequence[Form], full: KVContext, n: int) -> Iterator[Row]:
    """Yields a row for every baseline and form after `n` rounds."""
    budget, start = bench.budget(n), bench.spans[0].start
    span = Span(tuple(b for s in bench.spans[:n] for b in s.blocks), start)
    lives = {"none": bench.memory((), n), "full": full}
    reference = {name: bench.measure(live, n) for name, live in lives.items()}
    newest = build("truncate")
    lives["truncate"] = bench.memory(newest.compress(newest.study(span, bench.head, bench.engine), budget), n)
    study = bench.method.study(span, bench.head, bench.engine)
    lives["one-shot"] = bench.memory(bench.method.compress(study, budget), n)
    lives["one-shot, by turn"] = bench.memory(by_turn(bench, bench.method.compress(study, Budget(len(span))), n), n)
    lives |= {form.name: bench.memory(form.segments, n) for form in forms}
    where_from = np.unique([x.start for x in bench.probes_within(n)], return_inverse=True)[1]
    print(f"\nafter {n} rounds, {len(span)} tokens, {len(where_from)} probes", flush=True)
    print(f"  {'':<22}{'retained':>9}  {'95 %':<15}{'KL':>8}{'top-1':>8}{'KV bytes':>12}")
    for name, live in lives.items():
        got = reference.get(name) or bench.measure(live, n)
        row = score_form(name, got, reference, where_from, n, len(span), live.nbytes - bench.head.nbytes)
        bounds = "" if np.isnan(row.low) else f"[{100 * row.low:.1f}, {100 * row.high:.1f}]"
        share = "-" if np.isnan(row.retained) else f"{100 * row.retained:.1f}"
        print(
            f"  {name:<22}{share:>9}  {bounds:<15}{row.kl:>8.4f}{100 * row.top1:>8.1f}{row.kv_bytes:>12,}", flush=True
        )
        yield row


def score_form(
    form: str, got: Measurement, reference: dict[str, Measurement], clusters: np.ndarray, n: int, length: int, held: int
) -> Row:
    none, full = reference["none"], reference["full"]
    top, bottom = got.answers - none.answers, full.answers - none.answers
    supplied = float(bottom.sum())
    share, bounds = float("nan"), (float("nan"), float("nan"))
    if supplied > 0:
        share, bounds = float(top.sum()) / supplied, ratio_interval(top, bottom, clusters)
    ours, theirs = got.following, full.following
    kl = max(0.0, float((theirs.exp() * (theirs - ours)).sum(-1).mean()))
    top1 = float((ours.argmax(-1) == theirs.argmax(-1)).float().mean())
    return Row(n, length, len(top), form, share, *bounds, kl, top1, held)


def by_turn(bench: Bench, everything: Sequence[Segment], n: int) -> list[Segment]:
    """Returns the best slots of each of the first `n` turns, as many as `per-turn` gives to each."""
    (whole,) = everything
    assert isinstance(whole, StateSegment)
    out: list[Segment] = []
    used = 0
    for number, span in enumerate(bench.spans[:n], 1):
        inside = [(s.positions >= span.start) & (s.positions < span.start + len(span)) for s in whole.layers]
        layers = tuple(where(s, mask) for s, mask in zip(whole.layers, inside, strict=True))
        scores = tuple(s[mask] if len(s) else s for s, mask in zip(whole.scores, inside, strict=True))
        slots = min(len(span), max(1, bench.budget(number).slots - used))
        used += slots
        out += tighten([StateSegment(layers, span.origins, scores)], slots * bench.heads)
    return out


def swap_states(whole: Segment, chosen: Segment) -> Segment:
    """Returns the slots of `whole` at the heads and positions of the slots of `chosen`."""
    assert isinstance(whole, StateSegment)
    assert isinstance(chosen, StateSegment)
    layers = tuple(where(a, torch.isin(places(a), places(b))) for a, b in zip(whole.layers, chosen.layers, strict=True))
    return StateSegment(layers, whole.origins)


def apart(ours: Sequence[Segment], theirs: Sequence[Segment], alike: Sequence[Segment]) -> tuple[float, float, float]:
    """Returns the share of slots chosen by both, and the relative differences of keys and of values between the same
    slots (`alike`).
    """
    both = total = 0
    off, size = np.zeros(2), np.zeros(2)
    for a, b, c in zip(ours, theirs, alike, strict=True):
        assert isinstance(a, StateSegment)
        assert isinstance(b, StateSegment)
        assert isinstance(c, StateSegment)
        for x, y, z in zip(a.layers, b.layers, c.layers, strict=True):
            both, total = both + int(torch.isin(places(x), places(y)).sum()), total + len(x.keys)
            assert isinstance(x, Slots)  # nothing is quantized here
            assert isinstance(z, Slots)
            for i, (p, q) in enumerate(((x.keys, z.keys), (x.values, z.values))):
                off[i] += float((p - q).float().square().sum())
                size[i] += float(q.float().square().sum())
    return both / max(1, total), *np.sqrt(off / np.maximum(size, 1e-12))


def places(slots: Slots | QuantizedSlots) -> Tensor:
    """Returns one number for each slot's head and position."""
    head = torch.repeat_interleave(torch.arange(len(slots.lengths)), torch.tensor(slots.lengths))
    return head.double() * (1 << 24) + slots.positions.double()


def write_results(rows: Sequence[Row], arguments: argparse.Namespace) -> None:
    """Writes the rows as JSON lines, and a plot of the retained information and of KL."""
    arguments.out.mkdir(parents=True, exist_ok=True)
    stem = arguments.transcript.stem
    common = {"method": arguments.method, "ratio": arguments.ratio, "model": arguments.model}
    (arguments.out / f"{stem}.jsonl").write_text("".join(json.dumps(asdict(r) | common) + "\n" for r in rows))
    names = [name for name in dict.fromkeys(r.form for r in rows) if name not in ("none", "full")]
    looks = drawing.line_styles(names)

    def paint(figure: Any) -> None:
        for axes, what, title in zip(
            figure.subplots(1, 2),
            ("retained", "kl"),
            ("Retained answer information", "KL on the next tokens, nats"),
            strict=True,
        ):
            for name in names:
                own = [r for r in rows if r.form == name]
                look = looks[name]
                xs, ys = [r.rounds for r in own], [getattr(r, what) for r in own]
                axes.plot(xs, ys, color=look.color, marker=look.marker, linestyle=look.dash, label=name)
            axes.set_title(title)
            axes.set_xlabel("turns compacted one after another")
        figure.axes[0].legend(fontsize=8)

    path = arguments.out / f"{stem}-drift.png"
    path.write_bytes(drawing.draw("drift", 10, 4, paint).png)
    print(f"\n{path} written")


if __name__ == "__main__":
    main()
