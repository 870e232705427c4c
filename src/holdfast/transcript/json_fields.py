"""Takes fields out of JSON objects: each `take` removes the field that it understood, so the rest is unknown.

A wrong shape raises MalformedEntry. Used by the formats only.
"""

from __future__ import annotations

import json
from typing import Any

from holdfast.transcript.document import MalformedEntry


def json_kind(value: object) -> str:
    """Returns the name of a value's type in JSON's words, for messages."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    names = {str: "a string", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), "something else")


def copy_object(value: object, what: str) -> dict[str, Any]:
    """Returns a copy of a JSON object, to take fields from."""
    if not isinstance(value, dict):
        raise MalformedEntry(f"expected {what} to be an object, got {json_kind(value)}")
    return dict(value)


def take_text(fields: dict[str, Any], key: str) -> str:
    """Removes and returns a string; absent and null are the empty string."""
    value = fields.pop(key, None)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise MalformedEntry(f'expected "{key}" to be a string, got {json_kind(value)}')
    return value


def take_required_text(fields: dict[str, Any], key: str, what: str) -> str:
    """Removes and returns a string that must be there and not be empty."""
    value = take_text(fields, key)
    if not value:
        raise MalformedEntry(f'expected {what} to have a "{key}"')
    return value


def take_list(fields: dict[str, Any], key: str) -> list[Any]:
    """Removes and returns a list; absent and null are the empty list."""
    value = fields.pop(key, None)
    if value is None:
        return []
    if not isinstance(value, list):
        raise MalformedEntry(f'expected "{key}" to be a list, got {json_kind(value)}')
    return value


def text_or_empty(value: object) -> str:
    """Returns the value if it is a string, else an empty one: for fields that a reader can do without."""
    return value if isinstance(value, str) else ""


def to_json_text(value: object) -> str:
    """Returns tool arguments as text: a string as it stood, an object serialised the way models write it."""
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False)
