"""Writes a rewritten session back to the file format that it came from: untouched entries stay as they stood."""

from __future__ import annotations

import re
from dataclasses import replace

from holdfast.errors import BadInput
from holdfast.transcript.cuts import drop_orphans
from holdfast.transcript.document import Document, decode
from holdfast.transcript.draft import Draft
from holdfast.transcript.formats import FORMATS
from holdfast.transcript.formats.base import Format


def write(text: str, draft: Draft, *, path: str = "", lenient: bool = False) -> str:
    """Returns the file with the changes of `draft`; `text` is the file of which `draft.raw` was read.

    A draft without changes gives `text` itself, unless the reading was lenient and left something out: then the file is
    repaired, without the entries that could not be read and without orphans. Raises BadInput if the format cannot be
    written.
    """
    if all(not piece.writer for piece in draft.pieces) and not draft.dropped and not draft.raw.skipped:
        return text
    form = next((known for known in FORMATS if known.name == draft.raw.format), None)
    if form is None or form.write is None:
        names = ", ".join(known.name for known in FORMATS if known.write)
        raise BadInput(f"cannot write a session as {draft.raw.format or 'no format'}; can write: {names}")
    document = decode(text, path, lenient or bool(draft.raw.skipped))
    return form.write(*(_restore_orphans(form, document, draft) if draft.raw.skipped else (document, draft)))


def relink(text: str, before: str, *, path: str = "") -> str:
    """Returns a session out of which the records of a compaction were taken, so that the agent finds its way from what
    was said behind them to the session `before`, which it begins with.
    """
    old = decode(before, path, lenient=True)
    form = next((known for known in FORMATS if known.relink and known.sniff(old)), None)
    return form.relink(decode(text, path, lenient=True), len(old.entries)) if form and form.relink else text


def _restore_orphans(form: Format, document: Document, draft: Draft) -> tuple[Document, Draft]:
    """Returns the draft over all turns that could be read, orphans included, and the document that names the
    unreadable ones.
    """
    raw = form.read(document)
    at = [index for index, _ in drop_orphans(raw.turns)]
    pieces = tuple(replace(piece, turns=tuple(at[turn] for turn in piece.turns)) for piece in draft.pieces)
    numbers = (re.match(rf"{document.unit} (\d+):", reason) for reason in raw.skipped)
    left_out = frozenset(int(found[1]) for found in numbers if found)
    return replace(document, left_out=left_out), Draft(raw, pieces)
