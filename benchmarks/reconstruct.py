"""Gain of fitting, merging, pooling and refining over plain eviction: retained answer information, method by option.

Methods of one group share a study, so that a window is read once a group. Nothing is generated: answers are scored.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

import holdfast
from holdfast.blocks.render import question_ids, render
from holdfast.context.budget import budget_from_ratio
from holdfast.context.segments import CompactContext, Segment, token_segment
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import Continuation, LocalEngine
from holdfast.eval.probes import read_probes
from holdfast.eval.run import transcripts_in
from holdfast.eval.windows import Window, locate, windows
from holdfast.methods.base import Span
from holdfast.methods.registry import build

GROUPS = (
    ("informed", "merge", "merge:keys=true", "merge:mass=true", "merge:weights=even"),
    (
        "attention_match:queries=repeat",
        "attention_match:queries=repeat,bias=false",
        "attention_match:queries=repeat,values=false",
        "attention_match:queries=repeat,select=rms",
    ),
    (  # least squares on a repeat alone, as it stands
        "attention_match:queries=repeat,gain=false,held=0,pull=0.000001",
        "attention_match:queries=repeat,gain=false,held=0,pull=0.000001,bias=false",
    ),
    ("attention_match", "attention_match:bias=false", "attention_match:values=false", "attention_match:pull=1"),
    ("attention_match:queries=own",),
    ("pool", "pool:weights=uniform", "pool:position=last", "pool:mass=true"),
    ("hybrid", "hybrid:share=0.6", "hybrid:second=pool(mass=true)", "hybrid:share=0.95"),
    ("hybrid:second=virtual_tokens(steps=30)",),
    ("split_by_age",),
    ("split_by_age:old=virtual_tokens(steps=30)",),
    ("refine", "refine:what=values", "refine:what=keys+values", "refine:what=bias"),
)


class OpenWindow(NamedTuple):
    """A window with its memory, in the form that the methods take."""

    window: Window
    past: KVContext
    span: Span
    suffix: list[int]

    def answers(self, engine: LocalEngine, made: tuple[Segment, ...]) -> list[float]:
        """Returns the log-probability of every answer when `made` stands for the span."""
        live, tokenizer = self.past.fork(), engine.model.tokenizer
        with torch.no_grad():
            for segment in made:
                live.append(segment)
            live.settle(self.span.start + len(self.span))
            if self.suffix:
                live.feed(self.suffix)
        asked = [
            Continuation(
                tuple(question_ids(tokenizer, p.question)),
                tuple(tokenizer(p.answer, add_special_tokens=False)["input_ids"]),
            )
            for p in self.window.probes
        ]
        return [float(s.sum()) for s in engine.score(live, asked)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("transcripts")
    parser.add_argument("probes")
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--limit", type=int, default=4, help="windows, those with the most probes first")
    parser.add_argument("--ratios", default="8,16,32")
    parser.add_argument("--only", default="", help="measure only groups with this text in a name")
    arguments = parser.parse_args()
    ratios = [float(r) for r in arguments.ratios.split(",")]
    groups = [g for g in GROUPS if any(arguments.only in spec for spec in g)]
    engine = holdfast.load()
    kept: dict[tuple[str, float], list[float]] = defaultdict(list)
    seconds: dict[str, list[float]] = defaultdict(list)
    reports: dict[tuple[str, float], list[dict[str, float]]] = defaultdict(list)
    whole: list[float] = []
    for name, window in choose_windows(engine, arguments):
        opened = open_window(engine, window)
        none = opened.answers(engine, ())
        full = opened.answers(engine, (token_segment(opened.span.ids, opened.span.start),))
        whole += [f - n for f, n in zip(full, none, strict=True)]
        print(f"{name} {window.id}: {len(opened.span)} tokens, {len(window.probes)} probes", flush=True)
        for group in groups:
            began = time.perf_counter()
            study: Any = build(group[0]).study(opened.span, opened.past, engine)
            studied = time.perf_counter() - began
            for spec in group:
                for ratio in ratios:
                    began = time.perf_counter()
                    made = build(spec).compress(study, budget_from_ratio(len(opened.span), ratio))
                    seconds[spec].append(studied + time.perf_counter() - began)
                    got = opened.answers(engine, made)
                    kept[spec, ratio] += [g - n for g, n in zip(got, none, strict=True)]
                    if report := getattr(study, "report", None):
                        reports[spec, ratio].append(dict(report))
        table([spec for group in groups for spec in group], ratios, kept, reports, seconds, whole)


def choose_windows(engine: LocalEngine, arguments: argparse.Namespace) -> list[tuple[str, Window]]:
    """Returns the windows with the most probes."""
    found, probes = [], read_probes(Path(arguments.probes))
    for path in transcripts_in(arguments.transcripts):
        mine = [p for p in probes if p.transcript == path.name]
        if mine:
            session = holdfast.read(path)
            rendered = render(session, engine.model.tokenizer)
            located, _ = locate(mine, rendered)
            found += [(path.name, w) for w in windows(session, rendered, located, arguments.window)[0]]
    return sorted(found, key=lambda pair: -len(pair[1].probes))[: arguments.limit]


def open_window(engine: LocalEngine, window: Window) -> OpenWindow:
    """Opens the memory before the span, the span, and the tokens behind it."""
    (middle,) = (p for p in window.parts if p.compact)
    before = [i for p in window.parts if p.start < middle.start for b in p.blocks for i in b.ids]
    after = [i for p in window.parts if p.start > middle.start for b in p.blocks for i in b.ids]
    segments = (token_segment(before, 0),) if before else ()
    past = engine.open(CompactContext(segments, middle.start))
    return OpenWindow(window, past, Span(middle.blocks, middle.start, torch.tensor(after, dtype=torch.int64)), after)


def table(specs: list[str], ratios: list[float], kept: Any, reports: Any, seconds: Any, whole: list[float]) -> None:
    """Prints the retained answer information, and the held-out error before and after where a method fits."""
    print(f"\nn = {len(whole)} probes, {sum(whole):.1f} nats")
    print(f"{'method':<76}", *(f"{r:>5g}x" for r in ratios), " seconds  held-out error (heads left as they were)")
    for spec in specs:
        shares = [f"{sum(kept[spec, r]) / sum(whole):>6.3f}" for r in ratios]
        fits = []
        for r in ratios:
            if rows := reports[spec, r]:
                mean = {k: sum(row[k] for row in rows) / len(rows) for k in rows[0]}
                fits.append(f"{mean['before']:.2f}>{mean['after']:.2f} ({mean['plain']:.0f}/{mean['heads']:.0f})")
        print(f"{spec:<76}", *shares, f"{sum(seconds[spec]) / len(seconds[spec]):>8.1f} ", *fits, flush=True)


if __name__ == "__main__":
    main()
