"""What a wire format is: a name, a way to recognise it by content, a reader and a writer."""

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
    """True when the content is this format's. Never raises, whatever the document holds."""
    read: Callable[[Document], Transcript]
    write: Callable[[Document, Draft], str] | None = None
    """The document with the changes of a draft of the transcript that `read` made of it."""
    dialect: bool = False
    """Written in a more general wire, and therefore asked before it."""
