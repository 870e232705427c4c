"""The rejected ablation: weigh a turn's tokens by the attention of one probe's question, then ask all of its probes.

Prints retained answer information at 3.2x for the question that set the weights and for the turn's other questions.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import holdfast
from holdfast.blocks.render import question_ids, render
from holdfast.compaction.plan import Plan, Policy
from holdfast.compaction.walk import compact_parts
from holdfast.context.segments import CompactContext
from holdfast.engine.local import Continuation, LocalEngine
from holdfast.eval.probes import Probe, read_probes
from holdfast.eval.windows import Window, locate, turn_windows

FOLDER = Path(__file__).parents[1] / "examples" / "taskdeck"
TURN = 31


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("session", nargs="?", type=Path, default=FOLDER / "session.json")
    parser.add_argument("probes", nargs="?", type=Path, default=FOLDER / "probes.jsonl")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--ratio", type=float, default=3.2)
    arguments = parser.parse_args()
    engine, session = holdfast.load(), holdfast.read(arguments.session)
    rendered = render(session, engine.model.tokenizer)
    located, _ = locate(read_probes(arguments.probes), rendered)
    windows, _ = turn_windows(session, rendered, located, 4096)
    window = next(w for w in windows if w.parts[-1].blocks[0].origin.turn == TURN)
    full = answers(engine, window, 1.0, "truncate")
    none = score_answers(engine, CompactContext((), window.tokens), window.probes)
    own = other = own_full = other_full = 0.0
    for i, probe in enumerate(window.probes):
        question = probe.question.replace(",", " ").replace(":", " ")
        got = answers(
            engine, window, arguments.ratio, f"virtual_tokens_attention:steps={arguments.steps},question={question}"
        )
        gains = [(g - n, f - n) for g, n, f in zip(got, none, full, strict=True)]
        own, own_full = own + gains[i][0], own_full + gains[i][1]
        rest = [g for j, g in enumerate(gains) if j != i]
        other, other_full = other + sum(g for g, _ in rest), other_full + sum(f for _, f in rest)
        print(f"{probe.id}: own question {gains[i][0] / gains[i][1]:.3f}", flush=True)
    print(f"n = {len(window.probes)}; by its own question {own / own_full:.3f}, by another's {other / other_full:.3f}")


def answers(engine: LocalEngine, window: Window, ratio: float, latent: str) -> list[float]:
    context = compact_parts(list(window.parts), engine, Plan(latent, ratio, policy=Policy(pin=(), keep_recent=0)))
    return score_answers(engine, context, window.probes)


def score_answers(engine: LocalEngine, context: CompactContext, probes: tuple[Probe, ...]) -> list[float]:
    tokenizer = engine.model.tokenizer
    asked = [
        Continuation(
            tuple(question_ids(tokenizer, p.question)),
            tuple(tokenizer(p.answer, add_special_tokens=False)["input_ids"]),
        )
        for p in probes
    ]
    return [float(s.sum()) for s in engine.score(engine.open(context), asked)]


if __name__ == "__main__":
    main()
