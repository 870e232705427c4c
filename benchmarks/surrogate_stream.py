"""Costs of compaction on top of reading, at once and while reading: seconds, and the most bytes of KV ever held.

Reads the beginning of a session at several lengths. The full method and the surrogate hold the full cache for a
moment; the stream never does.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import holdfast
from holdfast.blocks.block import Block, Kind, Origin
from holdfast.blocks.render import render
from holdfast.context.budget import budget_from_ratio
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import LocalEngine
from holdfast.gate.latent.fact_tokens import build_fact_mask
from holdfast.methods.base import Span
from holdfast.methods.registry import build
from holdfast.model.load import Model, full_bytes


class WatchedEngine(LocalEngine):
    """Remembers the most bytes of KV that were held after any read."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.peak = 0

    def capture(self, *args: Any, **kwargs: Any) -> Any:
        after, states = super().capture(*args, **kwargs)
        self.peak = max(self.peak, after.nbytes)
        return after, states


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("session", type=Path)
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--latent", nargs="+", default=["informed", "surrogate", "surrogate_stream"])
    parser.add_argument("--length", type=int, nargs="+", default=[1024, 4096, 8192, 16384])
    parser.add_argument("--ratio", type=float, default=8.0)
    given = parser.parse_args()
    model = holdfast.load(given.model).model
    ids = render(holdfast.read(given.session), model.tokenizer).ids
    print(f"{given.model}, {model.dtype}, {given.ratio:g}x; seconds beyond the read, of which it is a part\n")
    print("| tokens | method | read s | compact s | of the read | peak MB | of full |")
    print("|--:|---|--:|--:|--:|--:|--:|")
    for length in given.length:
        if length > len(ids):
            print(f"the session has {len(ids)} tokens; {length} is left out")
            continue
        for latent in given.latent:
            _measure(model, tuple(ids[:length]), latent, given.ratio)


def _measure(model: Model, ids: tuple[int, ...], latent: str, ratio: float) -> None:
    engine, method = WatchedEngine(model), build(latent)
    block = Block(ids, Origin(0, Kind.OBSERVATION, (0, 0), (0, len(ids))))
    span = Span((block,), 0, facts=build_fact_mask((block,), model.tokenizer))
    began = time.perf_counter()
    study = method.study(span, KVContext(model), engine)
    method.compress(study, budget_from_ratio(len(ids), ratio))
    whole = time.perf_counter() - began
    read, full = engine.reading_seconds, full_bytes(model, len(ids))
    print(
        f"| {len(ids):,} | `{latent}` | {read:.1f} | {whole - read:.2f} | {(whole - read) / read:.2f} | "
        f"{engine.peak / 1e6:.0f} | {engine.peak / full:.2f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
