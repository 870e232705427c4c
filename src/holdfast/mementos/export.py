"""Records as training text with special tokens: the thought in blocks, each with its memento, then the answer."""

from __future__ import annotations

from pydantic import BaseModel

from holdfast.mementos.delimiters import Delimiters
from holdfast.mementos.records import MementoRecord
from holdfast.mementos.traces import CLOSES, OPENS


class MementoText(BaseModel):
    """A sample: what is given, and what is learned."""

    task_id: str
    prompt: str
    completion: str


def export_record(record: MementoRecord, delimiters: Delimiters | None = None) -> MementoText:
    """Returns a record as text. A delimiter that stands in its own words is broken by a blank, so that it is text."""
    marks = delimiters or Delimiters()
    pairs = zip(record.block_texts(), record.block_summaries, strict=True)
    body = "".join(marks.frame(marks.quote(block), marks.quote(memento)) for block, memento in pairs)
    before, opened, _ = record.think_prefix.partition("<think>")
    suffix = record.think_suffix if record.think_suffix.startswith("</think>") else CLOSES + record.think_suffix
    return MementoText(
        task_id=record.task_id,
        prompt=marks.quote(before),
        completion=("<think>" if opened else OPENS) + body + marks.quote(suffix),
    )
