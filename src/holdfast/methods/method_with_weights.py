"""The base of every method with trained weights: their folder, and the sessions that they were trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from holdfast.errors import BadOption
from holdfast.model.checkpoint import read_checkpoint

UNTRAINED = "untrained"


@dataclass(frozen=True)
class MethodWithWeights:
    """A method that needs the folder of a run."""

    weights: str = ""
    """Folder of `holdfast train`, or one step of it; `untrained` draws the weights at random."""

    name: ClassVar[str]

    def __post_init__(self) -> None:
        if not self.weights:
            raise BadOption(
                f"{self.name}: give weights=FOLDER, which `holdfast train {self.name}` wrote, or weights={UNTRAINED}"
            )

    @property
    def folder(self) -> Path | None:
        """None where the weights are drawn at random."""
        return None if self.weights == UNTRAINED else Path(self.weights).expanduser()

    @property
    def trained_on(self) -> frozenset[str]:
        """Digests of the sessions that it was trained on (`compaction.compact.session_digest`)."""
        return read_checkpoint(self.folder).sessions if self.folder else frozenset()
