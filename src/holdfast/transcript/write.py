"""A rewritten session back to the file format that it came from: entries that nothing touched stay as they stood."""

from __future__ import annotations

from holdfast.errors import BadInput
from holdfast.transcript.document import decode
from holdfast.transcript.draft import Draft
from holdfast.transcript.formats import FORMATS


def write(text: str, held: Draft, *, path: str = "", lenient: bool = False) -> str:
    """The file of which `held.raw` was read, `text`, with the changes of `held`.

    A draft without changes gives `text` itself. Raises BadInput where the format cannot be written.
    """
    if all(not piece.made for piece in held.pieces) and not held.dropped:
        return text
    form = next((known for known in FORMATS if known.name == held.raw.format), None)
    if form is None or form.write is None:
        names = ", ".join(known.name for known in FORMATS if known.write)
        raise BadInput(f"cannot write a session as {held.raw.format or 'no format'}; can write: {names}")
    return form.write(decode(text, path, lenient), held)
