"""The tool `str_replace_editor`: view, create, str_replace, insert and undo_edit, as SWE-agent's models know it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from holdfast.agent.tools import Observation, Tool, clamp_text
from holdfast.agent.workplace import Workplace
from holdfast.errors import BadInput

_AROUND = 4  # lines shown before and behind an edit


def run_editor(arguments: Mapping[str, Any], place: Workplace) -> Observation:
    """Runs one command of the editor. Raises BadInput that says what to give."""
    command, path = str(arguments["command"]), str(arguments["path"])
    if command not in _COMMANDS:
        raise BadInput(f"there is no command {command!r}; there are: {', '.join(_COMMANDS)}")
    return Observation(_COMMANDS[command](arguments, path, place))


def _text(arguments: Mapping[str, Any], name: str) -> str:
    value = arguments.get(name)
    if not isinstance(value, str):
        raise BadInput(f"{arguments['command']} needs {name}, a text")
    return value


def _view(arguments: Mapping[str, Any], path: str, place: Workplace) -> str:
    if place.path(path).is_dir():
        names = sorted(f"{each.name}/" if each.is_dir() else each.name for each in place.path(path).iterdir())
        return "\n".join(name for name in names if not name.startswith("."))
    lines, span = place.read(path).splitlines(), arguments.get("view_range")
    if span is None:
        return _number(lines, 1, len(lines))
    if not (isinstance(span, list) and len(span) == 2 and all(isinstance(at, int) for at in span)):
        raise BadInput("view_range must be two line numbers, as [1, 40]; -1 is the last line")
    first, last = span[0], len(lines) if span[1] == -1 else span[1]
    if not 1 <= first <= min(last, len(lines)):
        raise BadInput(f"view_range must lie within lines 1 to {len(lines)}, got {span}")
    return _number(lines, first, last)


def _number(lines: list[str], first: int, last: int) -> str:
    return clamp_text("\n".join(f"{at:6}\t{line}" for at, line in enumerate(lines[first - 1 : last], first)))


def _create(arguments: Mapping[str, Any], path: str, place: Workplace) -> str:
    if place.path(path).exists():
        raise BadInput(f"{path} exists already; change it with str_replace or insert")
    place.write(path, _text(arguments, "file_text"))
    return f"Created {path}."


def _replace(arguments: Mapping[str, Any], path: str, place: Workplace) -> str:
    text, old, new = place.read(path), _text(arguments, "old_str"), str(arguments.get("new_str", ""))
    times = text.count(old) if old else 0
    if times != 1:
        raise BadInput(
            f"old_str stands {times} times in {path}, and must stand there exactly once; "
            + ("give more of the lines around it" if times else "copy it exactly from the file, white space included")
        )
    before = text[: text.index(old)].count("\n") + 1
    return _edit(path, place, text, text.replace(old, new), (before, before + new.count("\n")))


def _insert(arguments: Mapping[str, Any], path: str, place: Workplace) -> str:
    text, at, new = place.read(path), arguments.get("insert_line"), _text(arguments, "new_str")
    lines = text.splitlines(keepends=True)
    if not isinstance(at, int) or not 0 <= at <= len(lines):
        raise BadInput(f"insert_line must be a line number from 0 to {len(lines)}, got {at!r}")
    if at and not lines[at - 1].endswith("\n"):
        lines[at - 1] += "\n"
    whole = "".join([*lines[:at], new if new.endswith("\n") else new + "\n", *lines[at:]])
    return _edit(path, place, text, whole, (at + 1, at + 1 + new.count("\n")))


def _edit(path: str, place: Workplace, old: str, new: str, span: tuple[int, int]) -> str:
    place.write(path, new)
    place.edits.setdefault(path, []).append(old)
    lines = new.splitlines()
    first, last = max(1, span[0] - _AROUND), min(len(lines), span[1] + _AROUND)
    return f"Changed {path}:\n{_number(lines, first, last)}"


def _undo(arguments: Mapping[str, Any], path: str, place: Workplace) -> str:
    if not place.edits.get(path):
        raise BadInput(f"no edit of {path} by this tool is known since the run was started or resumed")
    place.write(path, place.edits[path].pop())
    return f"Took back the last edit of {path}."


_COMMANDS: dict[str, Callable[[Mapping[str, Any], str, Workplace], str]] = {
    "view": _view,
    "create": _create,
    "str_replace": _replace,
    "insert": _insert,
    "undo_edit": _undo,
}
EDITOR = Tool(
    "str_replace_editor",
    "Views, creates and edits files. `view` shows a file with line numbers, or a folder; `create` writes a new file; "
    "`str_replace` replaces text that stands exactly once in the file; `insert` puts text behind a line; `undo_edit` "
    "takes back the last edit of a file.",
    {
        "command": "view, create, str_replace, insert or undo_edit.",
        "path": "The path, below the work tree.",
        "file_text": "For create: the whole text.",
        "old_str": "For str_replace: the text to replace, exactly as it stands, white space included.",
        "new_str": "For str_replace and insert: the new text.",
        "insert_line": "For insert: the line behind which the text goes; 0 is the beginning.",
        "view_range": "For view: the first and the last line, as [1, 40]; -1 is the end.",
    },
    run_editor,
    optional=frozenset({"file_text", "old_str", "new_str", "insert_line", "view_range"}),
    typed={"insert_line": {"type": "integer"}, "view_range": {"type": "array", "items": {"type": "integer"}}},
)
