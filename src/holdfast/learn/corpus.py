"""The data of a training: texts and sessions of any files and folders, as token ids, with a digest that names them."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from holdfast.blocks.render import RenderedSession, render
from holdfast.compaction.compact import session_digest
from holdfast.errors import BadInput, BadTranscript
from holdfast.transcript.read import read
from holdfast.transcript.turn import Transcript

TEXT_SUFFIXES = (".txt", ".rst", ".py")
HELD_OUT = 40  # one stream in so many is not trained on and judges
LONGEST = 2048  # tokens of a stream of text, so that long files are held out in part


@dataclass(frozen=True)
class Question:
    """A question on a text, as SQuAD has it."""

    context: str
    question: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Corpus:
    """Texts and sessions."""

    streams: tuple[tuple[int, ...], ...]
    """Token ids of each text or session."""
    sessions: tuple[RenderedSession, ...] = ()
    transcripts: tuple[Transcript, ...] = ()
    questions: tuple[Question, ...] = ()

    @property
    def tokens(self) -> int:
        return sum(map(len, self.streams))

    def about(self) -> dict[str, Any]:
        """Returns what a manifest says of it."""
        whole = hashlib.sha256()
        for stream in self.streams:
            whole.update(repr(stream).encode())
        digests = sorted(map(session_digest, self.sessions))
        return {"digest": whole.hexdigest()[:16], "tokens": self.tokens, "sessions": digests}

    def split(self) -> tuple[Corpus, Corpus]:
        """Returns the streams that are trained on, and those that judge."""
        judge = self.streams[::-HELD_OUT][::-1] if len(self.streams) >= HELD_OUT else ()
        kept = {id(stream) for stream in judge}
        return replace(self, streams=tuple(s for s in self.streams if id(s) not in kept)), replace(self, streams=judge)


def read_corpus(paths: Sequence[Path], tokenizer: Any) -> Corpus:
    """Reads files, and of folders all files in them, in order of name.

    A file is a text (.txt, .rst, .py), lines of JSON with a field `text`, questions in the form of SQuAD, or a session.
    Raises BadInput if there is nothing to train on, naming the file that cannot be read.
    """
    texts: list[str] = []
    sessions: list[RenderedSession] = []
    transcripts: list[Transcript] = []
    questions: list[Question] = []
    for path in _files(paths):
        found = _read_text(path)
        if found is None:
            transcripts.append(_read_session(path))
            sessions.append(render(transcripts[-1], tokenizer))
        else:
            texts += found[0]
            questions += found[1]
    streams = [tuple(part) for text in texts for part in _tokenize(text, tokenizer)]
    streams += [session.ids for session in sessions]
    corpus = Corpus(tuple(streams), tuple(sessions), tuple(transcripts), tuple(questions))
    if not corpus.tokens:
        raise BadInput(f"{', '.join(map(str, paths)) or 'no file'} holds nothing to train on; give texts or sessions")
    return corpus


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if not path.exists():
            raise BadInput(f"{path} does not exist; give files or folders of texts or sessions")
        yield from sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else (path,)


def _read_text(path: Path) -> tuple[list[str], list[Question]] | None:
    """Returns the texts and the questions of a file, or None if it must be a session."""
    try:
        whole = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read {path}: {error}") from error
    if path.suffix in TEXT_SUFFIXES:
        return [whole], []
    try:
        if path.suffix == ".jsonl":
            lines = [json.loads(line) for line in filter(str.strip, whole.splitlines())]
            return ([line["text"] for line in lines], []) if lines and "text" in lines[0] else None
        questions = list(_questions(json.loads(whole))) if path.suffix == ".json" else []
        return (list(dict.fromkeys(q.context for q in questions)), questions) if questions else None
    except (ValueError, KeyError, TypeError):
        return None


def _questions(document: Any) -> Iterator[Question]:
    for article in document["data"]:
        for paragraph in article["paragraphs"]:
            for asked in paragraph["qas"]:
                answers = tuple(answer["text"] for answer in asked["answers"])
                yield Question(paragraph["context"], asked["question"], answers)


def _read_session(path: Path) -> Transcript:
    try:
        return read(path, lenient=True)
    except BadTranscript as error:
        raise BadInput(f"{path} is no text that can be trained on and no session: {error}") from error


def _tokenize(text: str, tokenizer: Any) -> Iterator[list[int]]:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    yield from (ids[at : at + LONGEST] for at in range(0, len(ids), LONGEST))


class Chunks(Sequence[tuple[tuple[int, ...], tuple[int, ...]]]):
    """All chunks of `size` tokens of the streams one behind another, each with up to `after` tokens that follow it."""

    def __init__(self, streams: Sequence[tuple[int, ...]], size: int, after: int = 0, limit: int = 0) -> None:
        self.streams, self.size, self.after = streams, size, after
        starts = [(n, at) for n, s in enumerate(streams) for at in range(0, len(s) - size - after + 1, size)]
        self.starts = random.Random(0).sample(starts, limit) if 0 < limit < len(starts) else starts
        if not starts:
            raise BadInput(f"no text has {size + after} tokens; give longer ones, or a smaller memory or ratio")

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: Any) -> Any:
        number, at = self.starts[index]
        end = at + self.size
        return self.streams[number][at:end], self.streams[number][end : end + self.after]
