"""The estimate of tokens: what it counts, and how far it may be from a real tokenizer."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.model.bundled_models import folder
from holdfast.transcript.read import read
from holdfast.transcript.token_estimate import estimate_tokens


def one_by_one(text: str) -> int:
    """The same estimate, run by run."""
    total = 0
    for run in re.findall(r" ?[^\W\d_]+|\d{1,3}|\n+|[^\S\n]+|_|[^\w\s]{1,3}", text):
        letters = run.strip(" ") if run[-1].isalpha() else ""
        if not letters.isascii():
            total += max(1, round(len(letters.encode()) / 4))
        else:
            total += 1 if len(letters) <= 7 else -(-len(letters) // 4) - 1
    return total


@given(st.text(alphabet="abcXYZé²ß数_1234 \n\t.-'\u0301", max_size=60))
def test_the_fast_count_is_the_count_run_by_run(text):
    assert estimate_tokens(text) == one_by_one(text)


def test_short_words_are_one_token_and_long_ones_several():
    assert [
        estimate_tokens(text) for text in ("", "word", " word", "internationalisation", "12345", "...", "\n\n\n")
    ] == [*(0, 1, 1, 4, 2, 1, 1)]


@pytest.mark.model
def test_the_estimate_is_within_15_percent_of_the_embedded_models_tokenizer():
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder("smollm2-135m") / "tokenizer.json"))
    texts = [turn.text for turn in read("examples/taskdeck/session.json").turns]
    real = sum(len(tokenizer.encode(text).ids) for text in texts)
    assert abs(sum(map(estimate_tokens, texts)) / real - 1) < 0.15
