"""Rules of blocks and mementos in a live session, under their published names."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from holdfast.errors import BadOption
from holdfast.mementos.delimiters import Delimiters


class MementoRules(BaseModel):
    """The rules by which a block goes, by which parts of it stay, and how long it may be."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    keep_last_n_blocks: Annotated[int, Field(ge=-1)] = 0
    """Newest blocks with a memento that stay; -1 lets none go."""
    mask_delimiters: bool = False
    """The delimiters of a block go with it."""
    restart_mode: bool = False
    """A memento is read again once its block is gone: what it knew of the block beside its words is forgotten."""
    keep_last_block_for_answer: bool = False
    """A block goes when the next one opens, and the last one when the answer has ended."""
    max_block_tokens: Annotated[int, Field(ge=0)] = 0
    """From so many tokens on the next token closes the block; 0 sets no limit."""
    max_memento_tokens: Annotated[int, Field(ge=0)] = 0
    block_start: str = Delimiters.block_start
    block_end: str = Delimiters.block_end
    summary_start: str = Delimiters.memento_start
    summary_end: str = Delimiters.memento_end

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.delimiters  # noqa: B018
        return self

    @property
    def delimiters(self) -> Delimiters:
        return Delimiters(self.block_start, self.block_end, self.summary_start, self.summary_end)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads a JSON object, or `on` for the defaults. Raises BadOption naming the field."""
        try:
            return cls.model_validate_json("{}" if text == "on" else text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the object"
            raise BadOption(
                f"rules of mementos are `on` or a JSON object of {', '.join(cls.model_fields)}; {where}: {first['msg']}"
            ) from error
