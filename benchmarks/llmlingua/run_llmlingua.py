"""llmlingua 0.2.2 itself beside prune_tokens: the same observations, model and share of tokens.

    benchmarks/llmlingua/setup.sh
    .venv-llmlingua/bin/python benchmarks/llmlingua/run_llmlingua.py SESSION... [--share 0.5] [--limit 4]

Each observation is compressed on its own, by llmlingua with its defaults to --share, and by ours to the size that
llmlingua reached. Two things are lent to it: a tokenizer for its bill (it asks the network for one), and the tuples
that newer transformers no longer return as a cache.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.methods.text.base import Room
from holdfast.methods.text.observations import free_observations
from holdfast.methods.text.prune_tokens import LITERAL, PruneTokens
from holdfast.model.bundled_models import DEFAULT, ensure_model
from holdfast.transcript.draft import new_draft
from holdfast.transcript.read import read
from holdfast.transcript.token_estimate import estimate_tokens
from holdfast.transcript.turn import Role, ToolCall, Transcript, Turn

LEAST = 200  # tokens of an observation that is worth compressing
LONGEST = 1000


class WithTuples:
    """A causal model that takes and gives its cache as tuples of keys and values."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def __call__(self, *args: Any, past_key_values: Any = None, **named: Any) -> Any:
        from transformers import DynamicCache

        cache = DynamicCache()
        for layer, (keys, values) in enumerate(past_key_values or ()):
            cache.update(keys, values, layer)
        out = self.model(*args, past_key_values=cache, **named)
        if out.past_key_values is not None:
            out.past_key_values = [[layer.keys, layer.values] for layer in out.past_key_values.layers]
        return out


class Words:
    """Stands in for the tokenizer of a bill that nobody reads."""

    def encode(self, text: str) -> list[str]:
        return text.split()


def llmlingua() -> Callable[[str, float], str]:
    import tiktoken

    tiktoken.encoding_for_model = lambda _: Words()
    from llmlingua import PromptCompressor

    compressor = PromptCompressor(str(ensure_model(DEFAULT)), device_map="cpu")
    compressor.model = WithTuples(compressor.model)

    def compress(text: str, share: float) -> str:
        return str(compressor.compress_prompt([text], rate=share, use_context_level_filter=False)["compressed_prompt"])

    return compress


def ours(keep_literals: bool) -> Callable[[str, float], str]:
    method = PruneTokens(keep_literals=keep_literals)

    def compress(text: str, share: float) -> str:
        turns = (Turn(Role.USER, "x"), Turn(Role.ASSISTANT, calls=(ToolCall("k", "x", ""),)), Turn(Role.TOOL, text))
        held = new_draft(Transcript(turns))
        around = held.size(estimate_tokens) - estimate_tokens(text)
        made = method.rewrite(held, Room(around + int(estimate_tokens(text) * share), keep_recent=0))
        return made.turns[-1].text

    return compress


@dataclass
class Sums:
    """Of one compressor."""

    before: int = 0
    after: int = 0
    literals: int = 0
    kept: int = 0
    seconds: float = 0.0

    def add(self, text: str, made: str, seconds: float) -> None:
        found = {match.group() for match in LITERAL.finditer(text)}
        self.before += estimate_tokens(text)
        self.after += estimate_tokens(made)
        self.literals += len(found)
        self.kept += sum(literal in made for literal in found)
        self.seconds += seconds


def texts(paths: list[Path], limit: int) -> list[str]:
    """Returns the first observations of each session that have `LEAST` to `LONGEST` tokens."""
    found = []
    for path in paths:
        held = new_draft(read(path, lenient=True))
        all_of = [held.pieces[at].turn.text for at in free_observations(held, Room(1, keep_recent=0))]
        found += [text for text in all_of if LEAST <= estimate_tokens(text) <= LONGEST][:limit]
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("sessions", nargs="+", type=Path)
    parser.add_argument("--share", type=float, default=0.5, help="of the tokens that stay")
    parser.add_argument("--limit", type=int, default=4, help="observations of each session")
    given = parser.parse_args()
    sources = texts(given.sessions, given.limit)
    if not sources:
        raise SystemExit(f"no observation of {LEAST} to {LONGEST} tokens in these sessions")
    print(f"{len(sources)} observations; llmlingua was asked for {given.share:.0%} of the tokens\n")
    print("| compressor | tokens | share | literals kept | s |\n|---|--:|--:|--:|--:|")
    shares = [given.share] * len(sources)
    theirs = measure("llmlingua 0.2.2", llmlingua(), sources, shares)
    shares = [estimate_tokens(made) / estimate_tokens(text) for text, made in zip(sources, theirs, strict=True)]
    measure("prune_tokens", ours(True), sources, shares)
    measure("prune_tokens:keep_literals=false", ours(False), sources, shares)


def measure(name: str, compress: Callable[[str, float], str], sources: list[str], shares: list[float]) -> list[str]:
    """Compress every text to its share, and print the row."""
    compress(sources[0], 0.5)  # loads the model
    sums, out = Sums(), []
    for text, share in zip(sources, shares, strict=True):
        began = time.process_time()
        out.append(compress(text, share))
        sums.add(text, out[-1], time.process_time() - began)
    whole, kept = sums.after / sums.before, f"{sums.kept}/{sums.literals}"
    print(f"| {name} | {sums.before:,} -> {sums.after:,} | {whole:.2f} | {kept} | {sums.seconds:.1f} |", flush=True)
    return out


if __name__ == "__main__":
    main()
