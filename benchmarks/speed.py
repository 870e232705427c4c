"""Seconds and bytes of one machine in one run: loading, prefill, compaction, virtual tokens, storing, decoding."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

import holdfast
from holdfast.blocks.block import Block
from holdfast.blocks.render import render
from holdfast.context.budget import budget_from_ratio
from holdfast.context.segments import CompactContext, token_segment
from holdfast.engine.local import LocalEngine
from holdfast.methods.base import LatentMethod, Span
from holdfast.methods.registry import build

SESSION = Path(__file__).parents[1] / "examples" / "taskdeck" / "session.json"
TURN_TOKENS = 240

Result = TypeVar("Result")


def time_call(what: Callable[[], Result]) -> tuple[float, Result]:
    began = time.perf_counter()
    result = what()
    return time.perf_counter() - began, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("session", nargs="?", type=Path, default=SESSION)
    session = parser.parse_args().session
    seconds, engine = time_call(holdfast.load)
    assert isinstance(engine, LocalEngine)
    print(f"load the model, libraries included   {seconds:6.2f} s")
    print(f"load it again                        {time_call(holdfast.load)[0]:6.2f} s")
    rendered = render(holdfast.read(session), engine.model.tokenizer)
    for length in (1024, 2048):
        kvzip(engine, rendered.ids[:length], rendered.blocks[0])
    bf16 = holdfast.load(dtype="bfloat16")
    ids = token_segment(rendered.ids[:1024], 0)
    wide, narrow = (time_call(partial(e.open, CompactContext((ids,), 1024)))[0] for e in (engine, bf16))
    print(
        f"prefill of 1024 in bfloat16          {narrow:6.2f} s, float32 {wide:.2f} s: {wide / narrow:.2f} times faster"
    )
    virtual(engine, rendered.ids[600 : 600 + TURN_TOKENS], rendered.blocks[0])


def kvzip(engine: LocalEngine, ids: tuple[int, ...], block: Block) -> None:
    span = Span((Block(ids, block.origin),), 0)
    empty = engine.open(CompactContext((), 0))
    prefill, full = time_call(lambda: engine.open(CompactContext((token_segment(ids, 0),), len(ids))))
    method = build("kvzip")
    read = engine.reading_seconds
    total, made = time_call(lambda: method.compress(method.study(span, empty, engine), budget_from_ratio(len(ids), 8)))
    extra = total - (engine.reading_seconds - read)
    print(f"prefill of {len(ids)} tokens              {prefill:6.2f} s")
    print(f"  kvzip at 8x on top of it           {extra:6.2f} s: {extra / prefill:.2f} of the prefill")
    context = CompactContext(made, len(ids))  # type: ignore[arg-type]
    live = engine.open(context)
    print(f"  KV bytes {full.nbytes / 1e6:.1f} MB -> {live.nbytes / 1e6:.1f} MB, {full.nbytes / live.nbytes:.2f}x")  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.holdfast"
        saved = time_call(lambda: holdfast.save(context, path, engine))[0]
        back, _ = time_call(lambda: engine.open(holdfast.restore(path, engine)))
        print(f"  file {path.stat().st_size / 1e6:.1f} MB, save {saved:.2f} s, load and open {back:.2f} s")
    for name, memory in (("full", full), ("compact", live)):
        said: list[Any]
        seconds, said = time_call(partial(list, engine.generate(memory, [1], 32)))
        if said:
            print(f"  decode over {name:<8}              {len(said) / seconds:6.1f} tokens/s")  # type: ignore[arg-type]


def study_and_compress(method: LatentMethod, span: Span, engine: LocalEngine) -> object:
    """Compacts a span at 3.2x over an empty memory."""
    study = method.study(span, engine.open(CompactContext((), 0)), engine)
    return method.compress(study, budget_from_ratio(len(span), 3.2))


def virtual(engine: LocalEngine, ids: tuple[int, ...], block: Block) -> None:
    span = Span((Block(ids, block.origin),), 0)
    for name in ("virtual_tokens", "virtual_tokens_distilled"):
        method = build(name)
        seconds, _ = time_call(partial(study_and_compress, method, span, engine))
        print(f"{name} of {len(ids)} tokens at 3.2x: {seconds:.0f} s")


if __name__ == "__main__":
    print(f"threads {torch.get_num_threads()}")
    main()
