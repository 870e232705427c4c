"""The ways in which a run leaves its loop: raised where they happen, caught once, in `loop.py`.

A status is a word for scripts; the text is for people and says what to do next.
"""

from __future__ import annotations


class RunEnd(Exception):
    """Base of all ends of a run."""

    status = "ended"

    def __init__(self, text: str) -> None:
        self.text = text
        super().__init__(text)


class TaskDone(RunEnd):
    """The model handed its work in; the text is what it said of it."""

    status = "submitted"


class LimitReached(RunEnd):
    """A limit on steps, money, seconds or format errors was reached."""

    status = "limit"


class ContextFull(RunEnd):
    """The model cannot read the history, and compacting it did not help."""

    status = "context_full"


class ModelLost(RunEnd):
    """The model gave no answer; the run can be resumed."""

    status = "model_failed"


class UserStop(RunEnd):
    """The user stopped the run; it can be resumed."""

    status = "stopped"


class FormatError(Exception):
    """An answer that holds no action that can be run; the text tells the model what was wrong."""
