"""compactbench's cases, compacted over and over by Holdfast: what each cycle still holds. Needs no model.

    run_compactbench.py SUITE [--method user_words] [--share 0.5] [--cases 3] [--cycles 2]

It counts tokens with tiktoken, whose file comes over the network once (`TIKTOKEN_CACHE_DIR` holds it).
compactbench has a model answer its questions from what was kept. This asks what comes before: of the questions with a
text that the answer must contain, is that text still there? A model cannot answer better than that. With a model:

    cd benchmarks/compactbench
    compactbench run --method run_compactbench.py:Holdfast --provider ollama --model … --benchmarks-dir …
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import Any, ClassVar

from compactbench.compactors import Compactor
from compactbench.contracts import CompactionArtifact, Transcript
from compactbench.dsl import DifficultyLevel, load_suite
from compactbench.engine import derive_case_seed, generate_case
from compactbench.providers.mock import MockProvider
from compactbench.runner.cycle import execute_cycle
from compactbench.runner.evaluation import render_artifact_for_prompt
from compactbench.scoring import contains_normalized

from holdfast.text.rewrite import TextPlan, rewrite
from holdfast.transcript import turn as turns


class Holdfast(Compactor):
    """The rewritten session as the artifact's text; the turns that stand in it word for word as its sources."""

    name: ClassVar[str] = "holdfast"
    version: ClassVar[str] = "1"
    method: ClassVar[str] = "user_words"
    share: ClassVar[float] = 0.5

    async def compact(
        self, transcript: Transcript, config: Any = None, previous_artifact: CompactionArtifact | None = None
    ) -> CompactionArtifact:
        said = tuple(turns.Turn(turns.Role(t.role.value), t.content) for t in transcript.turns)
        done = rewrite(turns.Transcript(said), TextPlan(self.method, ratio=1 / self.share, keep_recent=1))
        text = "\n".join(f"[{turn.role}] {turn.text}" for turn in done.draft.turns)
        verbatim = [transcript.turns[p.at].id for p in done.draft.pieces if p.at is not None and not p.writer]
        return CompactionArtifact(summaryText=text, selectedSourceTurnIds=verbatim)


async def score_cycles(template: Any, seed: int, cycles: int) -> list[tuple[int, int, float]]:
    """Returns, for each cycle, the number of questions whose answer is still there, the number of all questions, and
    the compression that compactbench measured.
    """
    case = generate_case(template, seed, DifficultyLevel.HARD)
    provider = MockProvider()
    transcript, before = case.transcript, None
    rows = []
    for cycle in range(cycles + 1):
        result = await execute_cycle(
            case=case,
            transcript=transcript,
            cycle_number=cycle,
            previous_artifact=before,
            compactor=Holdfast(provider, "none"),
            provider=provider,
            model="none",
            case_seed=seed,
        )
        transcript, before = result.extended_transcript, result.artifact
        shown = render_artifact_for_prompt(before)
        asked = [i.expected["value"] for i in case.evaluation_items if i.expected["check"] == "contains_normalized"]
        there = sum(contains_normalized(value, shown) for value in asked)
        rows.append((int(there), len(asked), result.scorecard.compression_ratio))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("suite", type=Path)
    parser.add_argument("--method", default=Holdfast.method)
    parser.add_argument("--share", type=float, default=Holdfast.share)
    parser.add_argument("--cases", type=int, default=3)
    parser.add_argument("--cycles", type=int, default=2)
    given = parser.parse_args()
    Holdfast.method, Holdfast.share = given.method, given.share
    print(f"{given.method} to {given.share:.0%} of the tokens; answers still there, cycle by cycle")
    for template in load_suite(given.suite):
        seeds = [derive_case_seed(given.suite.name, "default", slot) for slot in range(given.cases)]
        runs = [asyncio.run(score_cycles(template, seed, given.cycles)) for seed in seeds]
        for cycle, cells in enumerate(zip(*runs, strict=True)):
            there, asked = sum(cell[0] for cell in cells), sum(cell[1] for cell in cells)
            ratio = sum(cell[2] for cell in cells) / len(cells)
            print(f"{template.key:36} cycle {cycle}: {there}/{asked}, compression {ratio:.2f}")


if __name__ == "__main__":
    main()
