"""Takes out of a Gemini CLI log the histories that the program restated from a session that was compacted.

At every resume the program writes the whole history again, as it found it, and what stands before is dead. Behind a
session whose compaction is undone, such a line would bring the compacted history back.
"""

from __future__ import annotations

import json
from typing import Any

from holdfast.errors import BadInput
from holdfast.transcript.document import Document
from holdfast.transcript.formats.gemini_cli import read_restatement
from holdfast.transcript.formats.relink import replace_row
from holdfast.transcript.json_fields import text_or_empty


def relink(document: Document, kept: int) -> str:
    """Returns the log in which no line behind the first `kept` ones restates the history.

    Raises BadInput if one of them says what stands in no other line: a compaction of the program's own.
    """
    rows = document.text.split("\n")
    known: set[str] = set()
    for at, entry in enumerate(document.lines):
        value = entry.value
        if not isinstance(value, dict):
            continue
        messages = read_restatement(value)
        if messages is None:
            known.add(text_or_empty(value.get("id")))
        elif at < kept:
            known |= {text_or_empty(message.get("id")) for message in messages if isinstance(message, dict)}
        elif all(_is_known(message, known) for message in messages):
            replace_row(rows, entry.number, _without_messages(value))
        else:
            raise BadInput(
                f"{document.path}:{entry.number}: Gemini CLI compacted the session itself since, and undo would lose "
                f"what it wrote then; write the session as it was before with `holdfast undo {document.path} -o OTHER`"
            )
    return "\n".join(rows)


def _is_known(message: Any, known: set[str]) -> bool:
    """Returns True for what stands elsewhere, what a compaction of Holdfast wrote, and what the program says anew at
    every start.
    """
    if not isinstance(message, dict):
        return False
    id_, said = text_or_empty(message.get("id")), json.dumps(message.get("content"))
    ours = id_.startswith("holdfast-") or id_.removesuffix("_response") in known
    return ours or said.startswith('[{"text": "<session_context>')


def _without_messages(value: dict[str, Any]) -> dict[str, Any]:
    held = value.get("$set")
    if isinstance(held, dict):
        return {**value, "$set": _without_messages(held)}
    return {key: field for key, field in value.items() if key != "messages"}
