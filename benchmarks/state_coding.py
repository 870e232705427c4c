"""Bits that un-rotated keys and values need: 4-bit codes with group scales, a calibrated basis and entropy.

A basis per head (PCA) is learned on some sessions; on others each component is rounded to one step for all, and its
bits are those that an entropy coder with a normal model of the calibrated spread would spend. Error is that of the
rows, relative to their variance.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

import holdfast
from holdfast.blocks.render import render
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import LocalEngine
from holdfast.model.quantized_slots import quantize_rows

STEPS = (0.125, 0.25, 0.5, 1.0, 1.5)  # of a code, in spreads of the head
INT4_BITS = 4.5  # codes and their group scales


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calibrate", type=Path, nargs="+", required=True, help="sessions to learn the bases on")
    parser.add_argument("--judge", type=Path, nargs="+", required=True, help="other sessions")
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--window", type=int, default=1024)
    given = parser.parse_args()
    engine = holdfast.load(given.model)
    learned = [_states(engine, path, given.window) for path in given.calibrate]
    judged = [_states(engine, path, given.window) for path in given.judge]
    print(
        f"{given.model}, {engine.model.dtype}; bits a number and relative squared error, mean over layers and heads\n"
    )
    print("| states | int4 | " + " | ".join(f"step {step:g}" for step in STEPS) + " |")
    print("|---|--:|" + "--:|" * len(STEPS))
    for number, name in enumerate(("keys", "values")):
        rows = torch.stack(
            [_measure(one, other) for one, other in _heads([s[number] for s in learned], [s[number] for s in judged])]
        ).mean(0)
        cells = [
            f"{INT4_BITS:.2f} bits, {rows[0, 1]:.4f}",
            *(f"{bits:.2f} bits, {error:.4f}" for bits, error in rows[1:]),
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")


def _states(engine: LocalEngine, path: Path, window: int) -> tuple[Tensor, Tensor]:
    """Returns un-rotated keys and values of a session's beginning, `[L, G, T, D]` float32 each."""
    ids = torch.tensor(render(holdfast.read(path), engine.model.tokenizer).ids[:window])
    _, states = engine.capture(KVContext(engine.model), ids)
    full = engine.model.family.full
    return torch.stack([states.keys[n].float() for n in full]), torch.stack([states.values[n].float() for n in full])


def _heads(learned: list[Tensor], judged: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields the rows `[N, D]` of each head of each layer, those to learn on and those to judge by."""
    one, other = torch.cat(learned, 2).flatten(0, 1), torch.cat(judged, 2).flatten(0, 1)
    yield from zip(one, other, strict=True)


def _measure(learned: Tensor, judged: Tensor) -> Tensor:
    """Returns bits and error of int4 and of each of `STEPS`, `[1 + steps, 2]`."""
    mean = learned.mean(0)
    basis = torch.linalg.svd(learned - mean, full_matrices=False).Vh.T  # [D, D]
    spread = ((learned - mean) @ basis).std(0)
    rows, variance = judged - mean, (judged - mean).square().mean()
    coarse = quantize_rows(rows, "int4").plain(torch.float32)
    out, turned = [[INT4_BITS, float((coarse - rows).square().mean() / variance)]], rows @ basis
    for share in STEPS:
        step = share * (learned - mean).std()
        codes = (turned / step).round()
        edges = [torch.special.ndtr((codes + half) * step / spread.clamp_min(1e-6)) for half in (0.5, -0.5)]
        bits = -(edges[0] - edges[1]).clamp_min(2**-16).log2().mean()  # of a normal model
        out.append([float(bits), float((codes * step - turned).square().mean() / variance)])
    return torch.tensor(out)


if __name__ == "__main__":
    main()
