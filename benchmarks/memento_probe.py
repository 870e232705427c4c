"""The second channel in a real model, untrained: what of an erased block is read out of mementos' states, by layer.

    python benchmarks/memento_probe.py [--model smollm2-135m] [--samples 320]

Two blocks, each with a passcode of 5 digits that nothing asks for and a port that its memento says. What stands behind
a memento does not see its block (the mask of training). Ridge regression reads each digit out of the keys and values of
one layer, five folds, each passcode in one fold; chance is 10 %.

- direct: of the passcode's own tokens
- masked: of its block's memento, and one hop on: of the second memento, for the first passcode
- causal: of the first memento, for the second passcode, which it cannot know: the control
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from time import process_time

import torch
from torch import Tensor
from torch.nn import functional

import holdfast
from holdfast.mementos.tracker import BlockSpan
from holdfast.mementos.training import MementoRow
from holdfast.model.load import Model

CODE, FOLDS = 5, 5
BLOCK = ("We opened the settings. The passcode is ", " and the service listens on port ", ".\n")
MEMENTO = ("[memento] The service has port ", ", the settings were read.\n")


def encode(model: Model, codes: Sequence[str], ports: Sequence[str]) -> tuple[MementoRow, list[slice]]:
    """Returns a sample, and where its passcodes' digits stand."""
    ids: list[int] = []
    digits: list[slice] = []
    spans: list[BlockSpan] = []
    for code, port in zip(codes, ports, strict=True):
        starts = [len(ids)]
        for part in (BLOCK[0], code, BLOCK[1] + port + BLOCK[2], MEMENTO[0] + port + MEMENTO[1]):
            ids += model.tokenizer(part, add_special_tokens=False)["input_ids"]
            starts.append(len(ids))
        digits.append(slice(starts[1], starts[2]))
        spans.append(BlockSpan((starts[0], starts[3]), (starts[3], starts[4])))
    return MementoRow(tuple(ids), 1, tuple(spans)), digits


@torch.no_grad()
def record(model: Model, rows: Sequence[MementoRow]) -> list[Tensor]:
    """Returns each layer's keys and values `[samples, T, f]`; all samples have one length."""
    mask = rows[0].mask()[None, None]
    parts: list[list[Tensor]] = []
    for at in range(0, len(rows), 16):
        ids = torch.tensor([row.ids for row in rows[at : at + 16]])
        cache = model.hf.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=True).past_key_values
        layers = [torch.cat((layer.keys, layer.values), 1) for layer in cache.layers]  # [b, 2 heads, T, d]
        parts.append([states.transpose(1, 2).flatten(2) for states in layers])
        print(f"… {at + len(ids)} of {len(rows)} samples, {process_time():.0f} s", flush=True)
    return [torch.cat([part[layer] for part in parts]) for layer in range(len(parts[0]))]


def read_digits(states: Tensor, codes: Tensor) -> float:
    """Returns the share of digits `[n, CODE]` that ridge regression reads out of states `[n, t, f]` right."""
    x = states.flatten(1).double()
    x = (x - x.mean(0)) / (x.std(0) + 1e-5)
    gram, fold = x @ x.T / x.shape[1], torch.arange(len(x)) % FOLDS  # [n, n]: as many features as one likes
    want = functional.one_hot(codes, 10).double().flatten(1)  # [n, CODE * 10]
    right = 0
    for at in range(FOLDS):
        own, tested = fold != at, fold == at
        mean = want[own].mean(0)
        weights = torch.linalg.solve(gram[own][:, own] + 0.1 * torch.eye(int(own.sum())).double(), want[own] - mean)
        said = (gram[tested][:, own] @ weights + mean).view(-1, CODE, 10).argmax(-1)
        right += int((said == codes[tested]).sum())
    return right / codes.numel()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--samples", type=int, default=320)
    options = parser.parse_args()
    model, draw = holdfast.load(options.model).model, random.Random(0)
    names = draw.sample(range(10**CODE), 2 * options.samples)
    codes = [[f"{name:0{CODE}}" for name in names[at :: options.samples]] for at in range(options.samples)]
    samples = [encode(model, pair, [str(draw.randint(1000, 9999)) for _ in pair]) for pair in codes]
    rows, (direct, _) = [row for row, _ in samples], samples[0][1]
    assert len({len(row.ids) for row in rows}) == 1, "a digit is no token of its own in this model"
    first, second = (torch.tensor([[int(digit) for digit in pair[at]] for pair in codes]) for at in (0, 1))
    here, later = (slice(*span.memento) for span in rows[0].spans)
    print("| layer | direct | masked | one hop | causal |\n|--:|--:|--:|--:|--:|")
    states = record(model, rows)
    places = ((direct, first), (here, first), (later, first), (here, second))
    for name, layers in (*((str(at), [layer]) for at, layer in enumerate(states)), ("all", states)):
        shares = [read_digits(torch.cat([one[:, at] for one in layers], -1), digits) for at, digits in places]
        print(f"| {name} | {' | '.join(f'{share:.1%}' for share in shares)} |", flush=True)


if __name__ == "__main__":
    main()
