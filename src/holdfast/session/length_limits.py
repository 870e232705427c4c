"""Checks that turns and tokens fit the positions that a model reads, made before anything is read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from holdfast.errors import PromptTooLong
from holdfast.model.load import Model
from holdfast.transcript.turn import Turn


def check_turns(turns: Sequence[Turn], model: Model) -> None:
    """Raises PromptTooLong for a turn whose characters alone show that the model cannot read it."""
    longest = _longest_token(model.tokenizer)
    most = model.max_tokens * longest
    for turn in turns:
        if len(turn.text) > most and (size := sum(map(len, turn.text.split()))) > most:
            raise PromptTooLong(
                f"one turn has {size:,} characters, more than fit the {model.max_tokens} tokens that {model.name} "
                "reads; send it in parts, or a shorter one",
                tokens=size // longest,
                most=model.max_tokens,
            )


def check_positions(end: int, tokens: int, model: Model) -> None:
    """Raises PromptTooLong if `tokens` more behind position `end` go beyond the positions that the model reads."""
    if end + tokens > model.max_tokens:
        raise PromptTooLong(
            f"the session ends at position {end} and {tokens} more tokens do not fit the {model.max_tokens} that "
            f"{model.name} reads; compact it, send less, or use a model with a longer context",
            tokens=end + tokens,
            most=model.max_tokens,
        )


@cache
def _longest_token(tokenizer: Any) -> int:
    """Returns the characters of the longest token, which bound the tokens of a text from below."""
    return max(map(len, tokenizer.get_vocab()))
