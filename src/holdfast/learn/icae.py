"""Rows to train an ICAE on: texts to say again and to go on with, questions, and steps of sessions."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.blocks.block import Block, Kind
from holdfast.blocks.render import RenderedSession
from holdfast.errors import BadInput, BadOption
from holdfast.learn.corpus import Chunks, Corpus
from holdfast.learn.pieces import CompressedText, Example, Mark, Piece, Text

AFTER, UNSCORED = (
    72,
    8,
)  # tokens that follow a text in a row of continuation, and the first of them, which are not scored
LONG = 256  # tokens from which an observation is compressed
PREFIXES = ("clean", "cumulative")


class Pretraining(Sequence[Example]):
    """Chunks of texts, a share of them to say again (AE), the others to go on with (LM); drawn by the row's number."""

    def __init__(self, chunks: Chunks, reconstruct: float, end: int) -> None:
        if not 0 <= reconstruct <= 1:
            raise BadOption(f"the share of rows that are said again must be from 0 to 1, got {reconstruct}")
        self.chunks, self.reconstruct, self.end = chunks, reconstruct, end

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, index: Any) -> Any:
        text, after = self.chunks[index]
        if random.Random(index).random() < self.reconstruct:
            return say_again(text, self.end)
        return (CompressedText(text), Mark("lm"), Text(after[:UNSCORED]), Text(after[UNSCORED:], True))


def say_again(text: tuple[int, ...], end: int) -> Example:
    """Returns the row that reconstructs a text, up to the id `end`."""
    return (CompressedText(text), Mark("ae"), Text((*text, end), True))


def pretraining_rows(corpus: Corpus, size: int, reconstruct: float, end: int) -> Pretraining:
    """Returns all chunks of `size` tokens; those of continuation need as many more."""
    return Pretraining(Chunks(corpus.streams, size, AFTER if reconstruct < 1 else 0), reconstruct, end)


def question_rows(corpus: Corpus, tokenizer: Any, end: int) -> list[Example]:
    """Returns a row for each question with an answer, loss on the answer alone. Raises BadInput if there is none."""

    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

    rows: list[Example] = [
        (
            CompressedText(ids(q.context)),
            Mark("ft"),
            Text(ids(ask(q.question))),
            Text((*ids(f" {q.answers[0]}"), end), True),
        )
        for q in corpus.questions
        if q.answers
    ]
    if not rows:
        raise BadInput("the data has no questions with answers; give a file in the form of SQuAD")
    return rows


def ask(question: str) -> str:
    """Returns a question as it stands behind a context."""
    return f"\nQuestion: {question}\nAnswer:"


@dataclass(frozen=True)
class Steps:
    """The way from steps of a session to rows: one for each action."""

    credit: int = 0
    """Observations before an action whose memories its loss goes into: 1 is what the public agent code does, 0 is
    all that the row has."""
    prefix: str = "clean"
    """`clean`: an observation is compressed once and its memory stays; `cumulative`: the text of the newest one stays
    beside its memory."""
    long: int = LONG
    window: int = 2048
    """Most tokens of a row, before compression; older turns are left out."""

    def __post_init__(self) -> None:
        if self.prefix not in PREFIXES or self.credit < 0 or self.window < 64:
            raise BadOption(
                f"prefix must be one of {', '.join(PREFIXES)}, credit at least 0 and window at least 64, got "
                f"{self.prefix!r}, {self.credit} and {self.window}"
            )


def step_rows(sessions: Sequence[RenderedSession], steps: Steps) -> list[Example]:
    """Returns a row for each action of the sessions, loss on the action alone. Raises BadInput if there is none."""
    rows = [row for session in sessions for row, _ in cut_history(session, steps)]
    if not rows:
        raise BadInput(f"no session has an action behind an observation of {steps.long} tokens; give longer sessions")
    return rows


def cut_history(session: RenderedSession, steps: Steps) -> Iterator[tuple[Example, Sequence[Block]]]:
    """Yields each action behind as many of the blocks before it as fit, which come with it; at least one of them is
    compressed.
    """
    for at, block in enumerate(session.blocks):
        if block.kind is not Kind.ACTION or len(block) > steps.window // 2:
            continue
        first, room = at, steps.window - len(block)
        while first and len(session.blocks[first - 1]) <= room:
            first -= 1
            room -= len(session.blocks[first])
        history = session.blocks[first:at]
        pieces = _pieces(history, steps)
        if any(isinstance(piece, CompressedText) for piece in pieces):
            yield (*pieces, Text(block.ids, True)), history


def _pieces(history: Sequence[Block], steps: Steps) -> list[Piece]:
    long = [n for n, b in enumerate(history) if b.kind is Kind.OBSERVATION and len(b) >= steps.long]
    learn = set(long[-steps.credit :] if steps.credit else long)
    pieces: list[Piece] = []
    for number, block in enumerate(history):
        if number not in long:
            pieces.append(Text(block.ids))
            continue
        pieces.append(CompressedText(block.ids, number in learn))
        if steps.prefix == "cumulative" and number == long[-1]:
            pieces.append(Text(block.ids))
    return pieces
