"""A live session: turns are appended, answers generated, old turns compacted in place.

Start with `session.py`; `cache.py` is its memory, `events.py` its log, `trigger.py` the rule for when it is compacted.
"""

from typing import TYPE_CHECKING

from holdfast._moved import find_name

if not TYPE_CHECKING:  # so that a misspelt name is still an error to mypy

    def __getattr__(name: str) -> object:
        return find_name("session", name)
