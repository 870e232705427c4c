"""RULER's kinds of task at any size (https://arxiv.org/abs/2404.06654), from a text and SQuAD: a generator of our own.

A sample is a context that is compacted without knowing the question, a question, the beginning of its answer, and the
strings that a right answer holds. Parameters are RULER's; its wording, its words and its in-context examples are not.
Its second QA set (HotpotQA) is left out.
"""

from __future__ import annotations

import json
import re
import string
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random

from holdfast.errors import BadInput, BadOption

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
HOPS, COMMON, RARE, WANTED = 4, 30, 3, 10
"""Of a chain of variables; times that common and rare words stand in a list; how many common words there are."""
MOST = 1 << 17
"""Units of filler, of whatever kind, beyond which no context grows."""
ZIPF, CODED = 2.0, 2000
"""Exponent of the frequencies of coded words, and how many words there are."""


@dataclass(frozen=True)
class Sample:
    """One question over one context."""

    context: str
    question: str
    opening: str
    """The beginning of the answer, which the model is given."""
    answers: tuple[str, ...]
    any_of: bool = False
    """True: one of `answers` is right; else each counts its share."""
    tokens: int = 128
    """Of the answer, at most."""

    def score(self, text: str) -> float:
        """Returns the share of the answers that stand in a text, in any case (RULER's string match)."""
        held = [answer.casefold() in text.casefold() for answer in self.answers]
        return float(any(held)) if self.any_of else sum(held) / len(held)


@dataclass(frozen=True)
class Question:
    """A question of SQuAD."""

    text: str
    paragraph: int
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Sources:
    """The texts that samples are made of."""

    sentences: tuple[str, ...]
    words: tuple[str, ...]
    paragraphs: tuple[str, ...]
    questions: tuple[Question, ...]


def read_sources(text: Path, squad: Path) -> Sources:
    """Reads a plain text and a file of SQuAD. Raises BadInput if they are too short or something else."""
    try:
        prose = re.sub(r"\s+", " ", text.read_text("utf-8"))
        articles = json.loads(squad.read_text("utf-8"))["data"]
        found = [p for article in articles for p in article["paragraphs"]]
        questions = [
            Question(qa["question"], at, tuple(dict.fromkeys(a["text"] for a in qa["answers"])))
            for at, paragraph in enumerate(found)
            for qa in paragraph["qas"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"RULER needs a plain text and a SQuAD 1.1 file, got {text} and {squad}: {error!r}") from error
    sentences = [s.strip() for s in re.split(r"(?<=[.!?]) ", prose) if 20 <= len(s) <= 400]
    words = sorted({w for w in re.findall(r"\b[a-z]{5,9}\b", prose)})
    if len(sentences) < 200 or len(words) < CODED or len(found) < 10:
        raise BadInput(
            f"{text} and {squad} are too short: RULER needs some 200 sentences, {CODED} words, 10 paragraphs"
        )
    return Sources(tuple(sentences), tuple(words), tuple(p["context"] for p in found), tuple(questions))


@dataclass(frozen=True)
class Needles:
    """A kind of needles in a haystack."""

    hay: str = "essay"
    """noise, essay, or needle: other needles."""
    keys: int = 1
    asked: int = 1
    values: int = 1
    """Of each key."""
    key: str = "word"
    value: str = "number"

    def sample(self, random: Random, sources: Sources, units: int) -> Sample:
        keys = [_secret(self.key, random, sources) for _ in range(self.keys)]
        pairs = [(key, _secret(self.value, random, sources)) for key in keys for _ in range(self.values)]
        lines = [_needle(self.value, *pair) for pair in pairs]
        asked = keys[: self.asked]
        answers = tuple(value for key, value in pairs if key in asked)
        body = _scatter(random, self._hay(random, sources, units), lines)
        name = ", ".join(asked[:-1]) + " and " + asked[-1] if len(asked) > 1 else asked[0]
        several = len(answers) > 1
        kind = f"{self.value}s" if several else self.value
        ask = f"What {'are all' if several else 'is'} the special magic {kind} for {name} in the text above?"
        opening = f"The special magic {kind} for {name} in the text {'are' if several else 'is'}"
        head = f"Special magic {self.value}s are hidden in the following text. Remember them; you will be asked."
        return Sample(f"{head}\n{body}\n", ask, opening, answers)

    def _hay(self, random: Random, sources: Sources, units: int) -> list[str]:
        if self.hay == "noise":
            return [NOISE] * units
        if self.hay == "essay":
            return _essay(random, sources, units)
        made = ((_secret(self.key, random, sources), _secret(self.value, random, sources)) for _ in range(units))
        return [_needle(self.value, *pair) for pair in made]


def _needle(kind: str, key: str, value: str) -> str:
    return f"One of the special magic {kind}s for {key} is: {value}."


def _secret(kind: str, random: Random, sources: Sources) -> str:
    if kind == "word":
        return f"{random.choice(sources.words)}-{random.choice(sources.words)}"
    if kind == "number":
        return str(random.randrange(10**6, 10**7))
    return str(uuid.UUID(int=random.getrandbits(128), version=4))


def _essay(random: Random, sources: Sources, units: int) -> list[str]:
    first = random.randrange(len(sources.sentences))
    return [sources.sentences[(first + n) % len(sources.sentences)] for n in range(units)]


def _scatter(random: Random, hay: Sequence[str], lines: Iterable[str]) -> str:
    """Returns the hay with each line at a place of its own; lines keep their order among themselves."""
    lines = list(lines)
    places = sorted(random.randrange(len(hay) + 1) for _ in lines)
    out = list(hay)
    for place, line in reversed(list(zip(places, lines, strict=True))):
        out.insert(place, line)
    return "\n".join(out)


def _variables(random: Random, _: Sources, units: int) -> Sample:
    names = ["".join(random.choices(string.ascii_uppercase, k=5)) for _ in range(HOPS + 1)]
    value = str(random.randrange(10**4, 10**5))
    lines = [f"VAR {names[0]} = {value}"]
    lines += [f"VAR {new} = VAR {old}" for old, new in pairwise(names)]
    head = "Track the chain of variable assignments that is hidden in the following text."
    body = _scatter(random, [NOISE] * units, lines)
    ask = f"Find all variables that are assigned the value {value} in the text above."
    opening = f"The {len(names)} variables that are assigned the value {value}, directly or through others, are:"
    return Sample(f"{head}\n{body}\n", ask, opening, tuple(names), tokens=30)


def _common_words(random: Random, sources: Sources, units: int) -> Sample:
    chosen = random.sample(sources.words, min(WANTED + units, len(sources.words)))
    common, rare = chosen[:WANTED], chosen[WANTED:]
    words = [*common * COMMON, *rare * RARE]
    random.shuffle(words)
    listed = " ".join(f"{n}. {word}" for n, word in enumerate(words, 1))
    head = "Below is a numbered list of words. Some of them stand in it more often than others; remember which."
    ask = f"What are the {WANTED} words that stand most often in the list above?"
    opening = f"The {WANTED} words that stand most often in the list are:"
    return Sample(f"{head}\n{listed}\n", ask, opening, tuple(common), tokens=120)


def _frequent_words(random: Random, _: Sources, units: int) -> Sample:
    coded = list(dict.fromkeys("".join(random.choices(string.ascii_lowercase, k=6)) for _ in range(CODED)))
    counts = [max(1, round(units / rank**ZIPF / 1.6449)) for rank in range(1, len(coded) + 1)][: max(4, units // 4)]
    words = [word for word, n in zip(["...", *coded], counts, strict=False) for _ in range(n)]
    random.shuffle(words)
    head = "The following is a coded text. Find how often each word stands in it; the dots do not count."
    ask = "What are the three coded words that stand most often in the text above?"
    opening = "The three coded words that stand most often are:"
    return Sample(f"{head}\n{' '.join(words)}\n", ask, opening, tuple(coded[:3]), tokens=50)


def _documents(random: Random, sources: Sources, units: int) -> Sample:
    question = random.choice(sources.questions)
    others = [n for n in range(len(sources.paragraphs)) if n != question.paragraph]
    shown = [question.paragraph, *random.sample(others, min(units, len(others)))]
    random.shuffle(shown)
    body = "\n\n".join(f"Document {n}:\n{sources.paragraphs[at]}" for n, at in enumerate(shown, 1))
    head = "Answer the question from the documents. Give the answer alone."
    ask = f"Answer the question from the documents above. Question: {question.text}"
    return Sample(f"{head}\n\n{body}\n", ask, "Answer:", question.answers, any_of=True, tokens=32)


Maker = Callable[[Random, Sources, int], Sample]
TASKS: dict[str, Maker] = {
    "niah_single_1": Needles(hay="noise").sample,
    "niah_single_2": Needles().sample,
    "niah_single_3": Needles(value="uuid").sample,
    "niah_multikey_1": Needles(keys=4).sample,
    "niah_multikey_2": Needles(hay="needle").sample,
    "niah_multikey_3": Needles(hay="needle", key="uuid", value="uuid").sample,
    "niah_multivalue": Needles(values=4).sample,
    "niah_multiquery": Needles(keys=4, asked=4).sample,
    "vt": _variables,
    "cwe": _common_words,
    "fwe": _frequent_words,
    "qa_1": _documents,
}
GROUPS = {"needles": ("niah",), "tracing": ("vt",), "words": ("cwe", "fwe"), "questions": ("qa",)}
"""Kinds of task, by the beginnings of their names: needles are never shown without the others."""


def make_sample(task: str, seed: str, sources: Sources, size: int, count: Callable[[str], int]) -> Sample:
    """Returns the sample of a task with the longest context of at most `size` tokens, as `count` counts them.

    Raises BadOption if the task does not fit at all.
    """

    def at(units: int) -> Sample:
        return TASKS[task](Random(f"{task} {seed}"), sources, units)

    low, high = 0, 1
    while count(at(high).context) <= size and high < MOST:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(at(middle).context) <= size else (low, middle)
    if count(at(low).context) > size:
        raise BadOption(f"{task} does not fit {size} tokens; give a larger --size, or leave it out (--task)")
    return at(low)
