"""Compaction at production speed, as ratios of one run: production.py [LENGTH …] (default 1024 4096 7900).

For each length: prefill, compaction on top of it, bytes that the allocator handed out, decoding over the full, the
packed and a padded memory, loading and answering against reading the text again, and peak memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

import holdfast
from holdfast.blocks.block import Block
from holdfast.blocks.render import question_ids, render
from holdfast.context.budget import budget_from_ratio
from holdfast.context.segments import CompactContext, Segment, StateSegment, token_segment
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import LocalEngine
from holdfast.methods.base import Span
from holdfast.methods.registry import build
from holdfast.model.slots import Slots

SESSION = Path(__file__).parents[1] / "examples" / "taskdeck" / "session.json"
METHODS = ("informed", "snapkv")
RATIO = 8
STEPS = 24  # tokens decoded
ANSWER = 8


def main(session: Path, lengths: list[int]) -> None:
    engine = holdfast.load()
    rendered = render(holdfast.read(session), engine.model.tokenizer)
    print(f"{torch.get_num_threads()} threads, {engine.model.name}, {RATIO}x\n")
    for length in lengths:
        one_length(engine, rendered.ids[:length], rendered.blocks[0], session)


def one_length(engine: LocalEngine, ids: tuple[int, ...], block: Block, session: Path) -> None:
    span = Span((Block(ids, block.origin),), 0)
    prefill, full = seconds(lambda: engine.open(CompactContext((token_segment(ids, 0),), len(ids))))
    print(f"{len(ids)} tokens: prefill {prefill:.2f} s, {peak(session, len(ids), '')} MB at the peak")
    made = [compact_span(engine, span, spec, prefill, session) for spec in METHODS]
    context = CompactContext(made[0], len(ids), model_digest=engine.model.digest)
    compact = engine.open(context)
    sizes = f"{memory_bytes(full) / 1e6:.1f} MB -> {memory_bytes(compact) / 1e6:.1f} MB"
    print(f"  held             {sizes}: {memory_bytes(full) / memory_bytes(compact):.2f} times fewer bytes")
    time_decoding(engine, full, compact, context)
    time_answers(engine, ids, context)


def compact_span(engine: LocalEngine, span: Span, spec: str, prefill: float, session: Path) -> tuple[Segment, ...]:
    """Compacts with one method and prints its cost beyond reading the span."""
    method, read = build(spec), engine.reading_seconds
    budget = budget_from_ratio(len(span), RATIO)
    made: tuple[Segment, ...]
    total, made = seconds(lambda: method.compress(method.study(span, KVContext(engine.model), engine), budget))
    extra = total - (engine.reading_seconds - read)
    cost = (
        f"{extra:6.2f} s on top, {extra / prefill:.2f} of the prefill, {peak(session, len(span), spec)} MB at the peak"
    )
    print(f"  {spec:<16} {cost}")
    return made


def time_decoding(engine: LocalEngine, full: KVContext, compact: KVContext, context: CompactContext) -> None:
    """Prints tokens per second over each kind of memory, alternating so that noise affects all alike."""
    memories = {
        "full": full,
        "full, not copied": full.fork(frozen=True),
        "packed": compact,
        "padded": engine.open(
            replace(context, segments=tuple(pad_heads(s) for s in context.segments if isinstance(s, StateSegment)))
        ),
    }
    spent = dict.fromkeys(memories, 0.0)
    for name in (*memories, *memories):
        live = memories[name].fork()
        with torch.no_grad():
            live.feed([1])
            spent[name] += seconds(partial(decode_steps, live))[0]
    for name, spent_here in spent.items():
        print(
            f"  decode {name:<18} {2 * STEPS / spent_here:6.1f} tokens/s, {memory_bytes(memories[name]) / 1e6:7.1f} MB"
        )


def decode_steps(live: KVContext) -> None:
    """Feeds one token at a time."""
    for _ in range(STEPS):
        live.feed([1])


def time_answers(engine: LocalEngine, ids: tuple[int, ...], context: CompactContext) -> None:
    """Prints the time to answer from a stored context, and from the text read again."""
    prompt = question_ids(engine.model.tokenizer, "Which file was changed last?")

    def answer(live: KVContext) -> None:
        live = live.fork()
        with torch.no_grad():
            live.feed(prompt)
            for _ in range(ANSWER):  # whatever it says, as many tokens on both sides
                live.feed([1])

    with tempfile.TemporaryDirectory() as folder:
        path = holdfast.save(context, Path(folder) / "c.holdfast", engine)
        stored = seconds(lambda: answer(engine.open(holdfast.restore(path, engine))))[0]
        size = Path(path).stat().st_size
    text = seconds(lambda: answer(engine.open(CompactContext((token_segment(ids, 0),), len(ids)))))[0]
    took = f"{stored:.2f} s, read again and answer {text:.2f} s: {text / stored:.1f} times sooner"
    print(f"  load ({size / 1e6:.1f} MB) and answer in {ANSWER} tokens {took}\n")


def pad_heads(segment: StateSegment) -> StateSegment:
    """Pads every head to the longest of its layer, as a plain tensor holds them, and hides the padding by a bias."""
    layers = []
    for slots in segment.layers:
        assert isinstance(slots, Slots)  # nothing is quantized here
        n = max(slots.lengths)
        parts: dict[str, list[torch.Tensor]] = {"keys": [], "values": [], "positions": [], "bias": []}
        for keys, values, positions, _ in slots.heads():
            more = n - len(keys)
            parts["keys"].append(torch.cat((keys, keys.new_zeros(more, keys.shape[1]))))
            parts["values"].append(torch.cat((values, values.new_zeros(more, values.shape[1]))))
            parts["positions"].append(torch.cat((positions, positions.new_zeros(more))))
            parts["bias"].append(torch.cat((torch.zeros(len(keys)), torch.full((more,), -1e9))))
        layers.append(Slots(**{k: torch.cat(v) for k, v in parts.items()}, lengths=(n,) * len(slots.lengths)))
    return StateSegment(tuple(layers))


def memory_bytes(live: KVContext) -> int:
    """Returns the bytes of all storages that the allocator handed out for a memory, with positions and all."""
    storages = {}
    for layer in live.cache.layers:
        slots = layer.slots
        kept = [] if slots is None else [slots.keys, slots.values, slots.positions, slots.bias]
        for t in (layer.keys, layer.values, *kept):
            if t is not None:
                storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
    return sum(storages.values())


def seconds(what: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = what()
    return time.perf_counter() - began, result


def peak(session: Path, length: int, spec: str) -> str:
    """Returns the highest resident megabytes, beyond the model's, of a process of its own that reads and compacts with
    `spec`.
    """
    done = subprocess.run(
        [sys.executable, __file__, str(length), "--session", str(session), "--peak", spec],
        capture_output=True,
        text=True,
        check=True,
    )
    return str(json.loads(done.stdout.splitlines()[-1]))


def one_peak(session: Path, length: int, spec: str) -> None:
    engine = holdfast.load()
    rendered = render(holdfast.read(session), engine.model.tokenizer)
    span = Span((Block(rendered.ids[:length], rendered.blocks[0].origin),), 0)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of loading the model (Linux alone)
    before = resident("VmRSS")
    if spec:
        method = build(spec)
        method.compress(method.study(span, KVContext(engine.model), engine), budget_from_ratio(length, RATIO))
    else:
        engine.open(CompactContext((token_segment(span.ids, 0),), length))
    print(round((resident("VmHWM") - before) / 1024))


def resident(field: str) -> int:
    """Kilobytes of this process by one line of its status."""
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in status if line.startswith(field)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lengths", nargs="*", type=int, default=[1024, 4096, 7900])
    parser.add_argument("--session", type=Path, default=SESSION)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peak is None:
        main(given.session, given.lengths)
    else:
        one_peak(given.session, given.lengths[0], given.peak)
