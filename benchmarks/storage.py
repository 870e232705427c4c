"""Cost of fewer bits: retained answer information and bytes of `informed` with its slots held in every form.

Every window's session is read and scored once; only the slots are coded differently. Probes that a model answers
without the middle count too: their answers gain little by any context, so they weigh little.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import holdfast
from holdfast.blocks.render import question_ids, render
from holdfast.compaction.partition import Part
from holdfast.compaction.plan import Plan, Policy
from holdfast.compaction.walk import SharedStudy, compact_in_memory
from holdfast.context.segments import CompactContext, token_segment
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import Continuation, LocalEngine
from holdfast.eval.probes import read_probes
from holdfast.eval.run import transcripts_in
from holdfast.eval.windows import Window, locate, windows
from holdfast.model.quantized_slots import FORMS

TASKDECK = Path(__file__).parents[1] / "examples" / "taskdeck"
POLICY = Policy(pin=(), keep_recent=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--transcripts", type=Path, default=TASKDECK / "session.json")
    parser.add_argument("--probes", type=Path, default=TASKDECK / "probes.jsonl")
    parser.add_argument("--window", type=int, default=2048, help="tokens of a window around the probes")
    parser.add_argument("--limit", type=int, default=None, help="measure only so many windows")
    parser.add_argument("--latent", default="informed")
    parser.add_argument("--ratio", type=float, nargs="+", default=[8.0, 16.0])
    parser.add_argument("--dtype", default="float32", help="of the model")
    given = parser.parse_args()
    engine = holdfast.load(dtype=given.dtype)
    plans = [(ratio, form) for ratio in given.ratio for form in FORMS]
    kept, held = dict.fromkeys(plans, 0.0), dict.fromkeys(plans, 0)
    gain, size, probes, count = 0.0, 0, 0, 0
    for window in list(cut(engine, given))[: given.limit]:
        rest = [token_segment(ids(p), p.start) for p in window.parts if not p.compact]
        none = engine.open(CompactContext(tuple(rest), window.tokens))
        full = engine.open(CompactContext((token_segment(window.ids(), 0),), window.tokens))
        without, shared = answers(engine, none, window), SharedStudy()
        gain, size = gain + answers(engine, full, window) - without, size + full.nbytes - none.nbytes
        for ratio, form in plans:
            plan = Plan(f"{given.latent}:storage={form}", ratio, False, POLICY)
            _, live = compact_in_memory(list(window.parts), engine, plan, shared=shared)
            kept[ratio, form] += answers(engine, live, window) - without
            held[ratio, form] += live.nbytes - none.nbytes
        probes, count = probes + len(window.probes), count + 1
        print(f"{count}: {window.id}, {len(window.probes)} probes", flush=True)
    print(f"{given.latent}, {given.dtype} model, {count} windows of {given.window} tokens, {probes} probes")
    print("ratio  form       retained   bytes of the span   smaller than full")
    for ratio, form in plans:
        share, nbytes = kept[ratio, form] / gain, held[ratio, form]
        print(f"{ratio:4g}x  {form:<10} {share:8.3f} {nbytes / 1e6:14.3f} MB {size / nbytes:14.1f}x")


def cut(engine: LocalEngine, given: argparse.Namespace) -> Iterator[Window]:
    """Yields the windows of every session, in order."""
    asked = read_probes(given.probes)
    for path in transcripts_in(given.transcripts):
        session = holdfast.read(path)
        rendered = render(session, engine.model.tokenizer)
        located, _ = locate([p for p in asked if p.transcript == path.name], rendered)
        yield from windows(session, rendered, located, given.window)[0]


def answers(engine: LocalEngine, live: KVContext, window: Window) -> float:
    """Returns the summed log-probability of all answers."""
    tokenizer = engine.model.tokenizer
    asked = [
        Continuation(
            tuple(question_ids(tokenizer, p.question)),
            tuple(tokenizer(p.answer, add_special_tokens=False)["input_ids"]),
        )
        for p in window.probes
    ]
    return sum(float(s.sum()) for s in engine.score(live, asked))


def ids(part: Part) -> list[int]:
    return [i for block in part.blocks for i in block.ids]


if __name__ == "__main__":
    main()
