"""The row of a session file format: a name, a way to recognise it by content, a reader and a writer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from holdfast.transcript.document import Document
from holdfast.transcript.draft import Draft
from holdfast.transcript.turn import Transcript


@dataclass(frozen=True)
class Format:
    """One row of the registry."""

    name: str
    sniff: Callable[[Document], bool]
    """Returns True if the content is of this format. Never raises, whatever the document holds."""
    read: Callable[[Document], Transcript]
    write: Callable[[Document, Draft], str] | None = None
    """Returns the document with the changes of a draft; the draft's raw transcript is the one that `read` made of it.
    """
    dialect: bool = False
    """True for a format that is written in a more general wire, and is therefore asked before it."""
    relink: Callable[[Document, int], str] | None = None
    """Returns the document with the links of its entries mended, but for the first so many, after the records of a
    compaction were taken out from between. None for a format whose entries name no others.
    """
