"""The four delimiters of blocks and mementos, as texts."""

from __future__ import annotations

from dataclasses import dataclass, fields

from holdfast.errors import BadOption


@dataclass(frozen=True)
class Delimiters:
    """The texts around a block and its memento. Raises BadOption if one of them begins another or is empty."""

    block_start: str = "<|block_start|>"
    block_end: str = "<|block_end|>"
    memento_start: str = "<|summary_start|>"
    memento_end: str = "<|summary_end|>"

    def __post_init__(self) -> None:
        texts = self.texts
        if any(
            not one.strip() or (at != to and other.startswith(one))
            for at, one in enumerate(texts)
            for to, other in enumerate(texts)
        ):
            raise BadOption(
                f"the four delimiters must differ, and none may begin another, got {', '.join(map(repr, texts))}"
            )

    @property
    def texts(self) -> tuple[str, ...]:
        """All four, in the order in which they stand around a block and its memento."""
        return tuple(getattr(self, field.name) for field in fields(self))

    def quote(self, text: str) -> str:
        """Returns a text in which no delimiter stands: a blank goes behind the first character of each."""
        for one in self.texts:
            text = text.replace(one, f"{one[:1]} {one[1:]}")
        return text

    def frame(self, block: str, memento: str) -> str:
        """Returns a block and its memento between their delimiters."""
        return f"{self.block_start}{block}{self.block_end}{self.memento_start}{memento}{self.memento_end}"
