"""Convergence of virtual tokens on one turn at 3.2x: the loss after N evaluations of each start and optimiser."""

from __future__ import annotations

import argparse
from pathlib import Path

import holdfast
from holdfast.blocks.render import render
from holdfast.context.budget import budget_from_ratio
from holdfast.context.segments import CompactContext, token_segment
from holdfast.methods.base import Span
from holdfast.methods.registry import build

SESSION = Path(__file__).parents[1] / "examples" / "taskdeck" / "session.json"
TURN, RATIO, STEPS, MARKS = 31, 3.2, 60, (1, 10, 20, 30, 60)
TRIED = (
    *(f"lr={lr}" for lr in (0.003, 0.01, 0.03, 0.1)),
    *(f"lr=0.03,start={start}" for start in ("weighted", "token")),
    *(f"optimiser=lbfgs,start={start}" for start in ("pooled", "weighted", "token")),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("session", nargs="?", type=Path, default=SESSION)
    engine, session = holdfast.load(), holdfast.read(parser.parse_args().session)
    blocks = render(session, engine.model.tokenizer).blocks
    head = [i for b in blocks if b.origin.turn == 0 for i in b.ids]
    past = engine.open(CompactContext((token_segment(head, 0),), len(head)))
    span = Span(tuple(b for b in blocks if b.origin.turn == TURN), len(head))
    print(f"turn {TURN}: {len(span)} tokens at {RATIO}x; loss after {', '.join(map(str, MARKS))} evaluations")
    for options in TRIED:
        method = build(f"virtual_tokens:steps={STEPS},patience={STEPS},{options}")
        curve: dict[int, str] = {}

        def note(what: str, done: int, total: int, text: str, curve: dict[int, str] = curve) -> None:
            curve[done] = text.removeprefix("loss ")

        method.compress(method.study(span, past, engine), budget_from_ratio(len(span), RATIO), note)
        print(f"{options:<32}", *(curve.get(m, "-") for m in MARKS), flush=True)


if __name__ == "__main__":
    main()
