"""Token ids to text: the pieces joined are the whole, never half a character, in linear time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import byte_tokenizer
from holdfast.engine.detokenizer import OVERLAP, WINDOW, Detokenizer

TOKENIZER = byte_tokenizer()
EURO = [TOKENIZER.convert_tokens_to_ids(token) for token in TOKENIZER.tokenize("€")]
BYTES = st.integers(0, len(TOKENIZER) - 1)
WORDS = st.text(max_size=6).map(lambda text: TOKENIZER(text, add_special_tokens=False)["input_ids"])
IDS = st.lists(BYTES.map(lambda one: [one]) | WORDS, max_size=60).map(lambda parts: [i for part in parts for i in part])


class CountingTokenizer:
    """Counts the tokens that are decoded."""

    def __init__(self) -> None:
        self.decoded = 0

    def decode(self, ids: Sequence[int]) -> Any:
        self.decoded += len(ids)
        return TOKENIZER.decode(ids)


def pieces(ids: Sequence[int], tokenizer: Any = TOKENIZER) -> list[str]:
    detokenizer = Detokenizer(tokenizer)
    return [*map(detokenizer.feed, ids), detokenizer.end()]


@given(IDS)
def test_the_pieces_joined_are_what_the_whole_decodes_to(ids: list[int]) -> None:
    assert "".join(pieces(ids)) == TOKENIZER.decode(ids)


@given(st.text(min_size=1, max_size=200))
def test_no_piece_ends_within_a_character(text: str) -> None:
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    shown = pieces(ids)
    assert "".join(shown) == TOKENIZER.decode(ids)
    assert shown[-1].strip("\ufffd") == ""
    assert all("\ufffd" not in piece or "\ufffd" in text for piece in shown[:-1])


@pytest.mark.parametrize("kind", ["characters", "broken bytes"])
def test_the_work_grows_with_the_tokens_alone(kind: str) -> None:
    ids = EURO * 700 if kind == "characters" else EURO[:1] * 2000
    tokenizer = CountingTokenizer()
    assert "".join(pieces(ids, tokenizer)) == TOKENIZER.decode(ids)
    assert tokenizer.decoded <= (WINDOW + 1 + OVERLAP) * (len(ids) + 1)


def test_text_goes_out_while_broken_bytes_go_on() -> None:
    detokenizer = Detokenizer(TOKENIZER)
    assert "".join(map(detokenizer.feed, EURO[:1] * 100))
