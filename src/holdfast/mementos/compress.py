"""Mementos: the dense note that stands for a block. By code, or by a model that a judge sends back to its work.

The deterministic judge stands beside the model's: every live fact of a block stands in its memento or is listed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from holdfast.engine.chat import Chat
from holdfast.errors import BadOption, Failed
from holdfast.facts.fact import Fact
from holdfast.facts.notes import NotesSection
from holdfast.facts.occurrences import SearchableText
from holdfast.facts.section import write_section
from holdfast.facts.session_facts import SessionFacts, collect_facts
from holdfast.gate.text.gate import choose_facts
from holdfast.mementos.records import LostFact, Refinement, Round
from holdfast.mementos.traces import Trace, as_transcript
from holdfast.methods.text.activity_notes import activity_notes
from holdfast.transcript.token_estimate import estimate_tokens
from holdfast.transcript.turn import Transcript

SMALLEST = 48
"""Tokens that a memento may always take."""


@dataclass(frozen=True)
class TraceBlock:
    """A block of a trace and what must survive of it."""

    text: str
    facts: tuple[Fact, ...]
    """Live facts that stand in the block, and nowhere in what stays."""
    notes: tuple[str, ...]
    """Lines that code knows: files, commands with their results, calls without an answer."""
    known: SessionFacts

    @property
    def tokens(self) -> int:
        return max(1, estimate_tokens(self.text))

    def find_losses(self, memento: str) -> tuple[Fact, ...]:
        """Returns the facts that a memento does not hold, word for word."""
        text = SearchableText(memento)
        return tuple(fact for fact in self.facts if not text.contains(fact.text, fact.kind))


def cut_blocks(trace: Trace, blocks: Sequence[tuple[int, int]]) -> list[TraceBlock]:
    """Returns the blocks of a trace, given as (first, last) unit."""
    transcript = trace.transcript or as_transcript(trace.units)
    facts, head = collect_facts(transcript), range(trace.first)
    starts = [trace.first]
    for group in trace.turns or [(None,)] * len(trace.units):
        starts.append(starts[-1] + len(group))
    return [
        describe_block(
            transcript,
            facts,
            "".join(trace.units[first : last + 1]),
            range(starts[first], starts[last + 1]),
            head,
        )
        for first, last in blocks
    ]


def describe_block(
    transcript: Transcript, facts: SessionFacts, text: str, turns: Collection[int], stays: Collection[int]
) -> TraceBlock:
    """Returns the block of a session's `turns`. Facts that also stand in the turns `stays` need no memento."""
    live = [fact for fact in facts.live if any(place.turn in turns for place in fact.live)]
    own = tuple(fact for fact in live if not any(place.turn in stays for place in fact.live))
    notes = activity_notes(transcript.turns, turns, facts.activity)
    return TraceBlock(text, own, tuple(line.text for name in NotesSection for line in notes.of(name)), facts)


class Compressor(Protocol):
    """Writes the memento of a block."""

    @property
    def name(self) -> str: ...

    def write(self, block: TraceBlock) -> tuple[str, Refinement]:
        """Returns a memento and how it came to be. Raises Failed where no memento came."""


@dataclass(frozen=True)
class CodeCompressor:
    """The ledger as a memento: what code knows of a block, the facts that bind first, in a share of its tokens."""

    name: ClassVar[str] = "ledger"
    share: float = 0.2

    def __post_init__(self) -> None:
        check_share(self.share)

    def write(self, block: TraceBlock) -> tuple[str, Refinement]:
        """Returns the memento; a rule of the user or a live handle goes in whatever the share is."""
        room = max(SMALLEST, int(self.share * block.tokens))
        lines: list[str] = []
        for line in reversed(block.notes):
            if estimate_tokens("\n".join((line, *lines))) <= room // 2:
                lines.insert(0, line)
        missing = [fact for fact in block.facts if not SearchableText("\n".join(lines)).contains(fact.text, fact.kind)]
        left = room - estimate_tokens("\n".join(lines))
        chosen = choose_facts(missing, left, estimate_tokens, block.known.written)
        facts = write_section(chosen).turn.text.split("\n")[1:] if chosen else []
        memento = "\n".join((*facts, *lines)) or "- nothing that later work depends on"
        return memento, _refinement(block, memento, [Round(**_sizes(block, memento))])


WRITER = (
    "You compress the state of work. You extract, you never add: no new reasoning, no repairs, no comments. What later "
    "work needs stays literally: values, names, paths, commands with their results, formulas, decisions and why, ideas "
    "that were rejected where that matters. Plain ASCII, short lines, the result first."
)
JUDGE = (
    "You judge the compressed state of a block of work strictly, by its rubric, and answer with one JSON object only."
)
_RUBRIC: dict[str, float] = {
    "formulas": 3,
    "values": 2,
    "methods": 2,
    "validation": 1,
    "correctness": 1,
    "result_first": 1,
}
"""The most points of each part; 10 together."""
_DEDUCTIONS: dict[str, float] = {"vague": 1, "filler": 1, "too_long": 1, "invented": 2}
_ASK_JUDGE = """Block:
{block}

Memento:
{memento}

Points: formulas and exact texts kept (0-3), values (0-2), methods and decisions (0-2), checks and their outcome (0-1),
nothing wrong (0-1), the result stands first (0-1). Then true or false for each fault: vague, filler, too_long,
invented.
Answer: {{"formulas": 0, "values": 0, "methods": 0, "validation": 0, "correctness": 0, "result_first": 0,
"vague": false, "filler": false, "too_long": false, "invented": false, "feedback": "what to change first, exactly"}}
"""
_JSON = re.compile(r"\{.*\}", re.DOTALL)


@dataclass(frozen=True)
class ModelCompressor:
    """A model writes; a judge scores 0 to 10; what is below `accept` goes back, `rounds` times at most."""

    writer: Chat
    judge: Chat | None = None
    """None: the deterministic judge alone, which accepts what lost no fact."""
    accept: float = 8.0
    rounds: int = 3
    share: float = 0.2
    shown: int = 12_000
    """Characters of a block that the models see; of a longer one its two ends."""
    timeout: float = 180.0

    def __post_init__(self) -> None:
        check_share(self.share)
        if not (0 <= self.accept <= 10 and self.rounds >= 1):
            raise BadOption(f"accept is 0 to 10 and rounds at least 1, got {self.accept} and {self.rounds}")

    @property
    def name(self) -> str:
        return f"model {self.writer.name}, judge {self.judge.name if self.judge else 'code'}"

    def write(self, block: TraceBlock) -> tuple[str, Refinement]:
        """Returns the best memento of all rounds. Raises Failed where the writer gives none."""
        room = max(SMALLEST, int(self.share * block.tokens))
        best, rounds = "", list[Round]()
        task = f"Compress this block into at most {room} tokens:\n\n{_ends(block.text, self.shown)}\n"
        prompt = task
        for _ in range(self.rounds):
            memento = _plain(self.writer(WRITER, prompt, room + room // 2 + 32, self.timeout).text)
            if not memento:
                raise Failed(f"{self.writer.name} wrote an empty memento; choose another model")
            score, feedback = self._judge(block, memento, room)
            rounds.append(Round(score=score, feedback=feedback, **_sizes(block, memento)))
            if rounds[-1] == max(rounds, key=lambda one: one.score or 0):
                best = memento
            if (score or 0) >= self.accept:
                break
            prompt = f"{task}\nYour memento was:\n{memento}\n\nIt falls short: {feedback}\nWrite it again, whole.\n"
        return best, _refinement(block, best, rounds)

    def _judge(self, block: TraceBlock, memento: str, room: int) -> tuple[float | None, str]:
        """Returns the score and what to change. What code can tell, code tells."""
        lost = block.find_losses(memento)
        told = [f"these stand in the block and are missing, word for word: {', '.join(f.text for f in lost[:12])}"]
        too_long = estimate_tokens(memento) > 1.5 * room
        if self.judge is None:
            kept = 1 - len(lost) / max(1, len(block.facts))
            score = round(max(0.0, 10 * kept - too_long), 2)
        else:
            prompt = _ASK_JUDGE.format(block=_ends(block.text, self.shown), memento=memento)
            score, said = _read_judgement(self.judge(JUDGE, prompt, 400, self.timeout).text, too_long)
            told = [said, *told]
        return score, "; ".join(filter(None, told if lost else told[:-1])) + ("; it is too long" if too_long else "")


def _read_judgement(reply: str, too_long: bool) -> tuple[float, str]:
    """Returns the score by the rubric and the feedback; an answer that is no JSON is worth 0."""
    match = _JSON.search(reply)
    try:
        row: dict[str, Any] = json.loads(match.group()) if match else {}
    except ValueError:
        row = {}
    points = sum(min(most, max(0.0, _number(row.get(name)))) for name, most in _RUBRIC.items())
    faults = {**row, "too_long": too_long}
    points -= sum(worth for name, worth in _DEDUCTIONS.items() if faults.get(name) is True)
    return round(max(0.0, points), 2), str(row.get("feedback", "")) if row else "the judge gave no JSON"


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def check_share(share: float) -> None:
    """Raises BadOption for a share that no memento can have."""
    if not 0 < share <= 1:
        raise BadOption(f"the share of a memento must be over 0 and at most 1, got {share}; 0.2 is usual")


def _plain(text: str) -> str:
    return text.replace("```", "").strip()


def _ends(text: str, most: int) -> str:
    half = most // 2
    return text if len(text) <= most else f"{text[:half]}\n[…]\n{text[-half:]}"


def _sizes(block: TraceBlock, memento: str) -> dict[str, Any]:
    tokens = estimate_tokens(memento)
    return {"tokens": tokens, "ratio": round(tokens / block.tokens, 4)}


def _refinement(block: TraceBlock, memento: str, rounds: list[Round]) -> Refinement:
    lost = [LostFact(kind=fact.kind.value, text=fact.text, turn=fact.turn + 1) for fact in block.find_losses(memento)]
    return Refinement(iterations=rounds, block_tokens=block.tokens, live_facts=len(block.facts), lost_facts=lost)
