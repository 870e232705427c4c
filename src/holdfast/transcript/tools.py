"""The action of a tool call, known by its name and arguments: it runs a command, reads files, or writes files.

Covers the tools of every format read here; an unknown tool does none of the three.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.transcript.shell import find_patched_files, find_shell_access
from holdfast.transcript.turn import Role, ToolCall, Turn

_SHELL = {"runcommand", "runcommands", "executecommand", "runterminalcmd", "run", "execbash", "cmd", "containerexec"}
_READ = {
    *("read", "readfile", "readfiles", "view", "viewfile", "open", "openfile", "cat", "fsread", "readtextfile"),
    *("readmanyfiles", "notebookread", "getfile", "fileread"),
}
_WRITE = {
    *("write", "writefile", "writetofile", "create", "createfile", "edit", "editfile", "multiedit", "strreplace"),
    *(
        "replace",
        "replaceinfile",
        "insert",
        "append",
        "appendfile",
        "searchreplace",
        "searchandreplace",
        "notebookedit",
    ),
    *("fswrite", "filewrite", "insertcontent", "applydiff", "deletefile", "editfiles"),
}
_EDITOR = {"strreplaceeditor", "strreplacebasededittool", "editor", "texteditor", "fileeditor", "edittool"}
_PATCH = {"applypatch", "patch"}
_PATHS = (
    *("file_path", "path", "filePath", "absolute_path", "filename", "file_name", "file", "target_file"),
    *("notebook_path", "TargetFile", "paths", "files"),
)
_RANGES = (
    *("offset", "limit", "start_line", "end_line", "view_range", "line_number", "start", "end", "ranges"),
    *("start_line_one_indexed", "end_line_one_indexed_inclusive", "startLine", "endLine"),
)
COMMAND_KEYS = ("command", "cmd", "commands", "script", "code_edit_command")
_FOLDERS = ("workdir", "cwd", "working_directory")
_XML_CALL = re.compile(r"<function=([\w.-]+)>(.*?)</function>", re.DOTALL)
XML_ARGUMENT = re.compile(r"<parameter=([\w.-]+)>(.*?)</parameter>", re.DOTALL)
_XML_RESULT = re.compile(
    r"\s*(?:OBSERVATION:|EXECUTION RESULT of \[|<returncode>|<tool_response>|<function_results?>|"
    r"Your (?:last )?command ran successfully and did not produce any output)"
)


@dataclass(frozen=True)
class Action:
    """The effect of one call."""

    commands: tuple[str, ...] = ()
    reads: tuple[tuple[str, str], ...] = ()
    """Path, and the part of the file that is asked for; empty for all of it."""
    writes: tuple[str, ...] = ()
    alone: bool = True
    """True if the result is the content of `reads` and nothing else."""
    pathless_write: bool = False
    """True for an edit of the file that is open, whose name only the result tells."""


def parse_action(call: ToolCall) -> Action:
    """Returns the action of `call`, as far as its name and arguments tell it."""
    name = re.sub(r"[^a-z]", "", call.name.rpartition("__")[2].lower())
    arguments = read_arguments(call.arguments)
    if name in _PATCH:
        return Action(writes=find_patched_files(_patch_text(arguments, call.arguments)))
    if name in _EDITOR:
        asked = str(arguments.get("command", "edit"))
        name = "view" if asked in ("view", "open") else "edit"
    if name in _READ:
        return Action(reads=tuple(_paths_with_ranges(arguments)))
    if name in _WRITE:
        paths = tuple(path for path, _ in _paths_with_ranges(arguments))
        return Action(writes=paths, pathless_write=not paths)
    if name in _SHELL or re.search(r"bash|shell|terminal|exec", name):
        return _shell(tuple(_commands(arguments)), arguments)
    return Action()


def list_calls(turn: Turn) -> tuple[ToolCall, ...]:
    """Returns the calls of a turn, and those in its text as `<function=NAME>` (models without tool calls)."""
    if turn.calls or turn.role is not Role.ASSISTANT or "<function=" not in turn.text:
        return turn.calls
    return tuple(
        ToolCall("", name, json.dumps(dict(XML_ARGUMENT.findall(body)))) for name, body in _XML_CALL.findall(turn.text)
    )


def answers_text_call(turn: Turn) -> bool:
    """Returns True for a user message that is the result of a call in the text before it."""
    return turn.role is Role.USER and bool(_XML_RESULT.match(turn.text))


def read_arguments(text: str) -> Mapping[str, Any]:
    """Returns the arguments of a call; what is no JSON object is the one argument `input`."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # a custom tool's input is plain text, and models write broken JSON
        value = None
    return value if isinstance(value, dict) else {"input": text}


def _patch_text(arguments: Mapping[str, Any], whole: str) -> str:
    """Returns a patch under whatever name, its line ends decoded."""
    return next((value for value in arguments.values() if isinstance(value, str) and "\n" in value), whole)


def _paths_with_ranges(arguments: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns the paths, each with the range that stands beside it."""
    part = ",".join(f"{key}={arguments[key]}" for key in _RANGES if arguments.get(key) is not None)
    found: list[tuple[str, str]] = []
    for key in _PATHS:
        value = arguments.get(key)
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, str) and item:
                found.append((item, part))
            elif isinstance(item, dict):
                found += _paths_with_ranges(
                    {name: inner for name, inner in item.items() if not isinstance(inner, dict | list)}
                )
    return found


def _commands(arguments: Mapping[str, Any]) -> list[str]:
    """Returns the command lines; of `["bash", "-lc", "…"]` the last word."""
    for key in COMMAND_KEYS:
        value = arguments.get(key)
        if isinstance(value, str):
            return [value]
        if isinstance(value, list) and value:
            words = [str(item.get("command", "")) if isinstance(item, dict) else str(item) for item in value]
            if key == "commands":
                return words
            return [words[-1] if words[1:2] and words[1].startswith("-") else " ".join(words)]
    return []


def _shell(commands: tuple[str, ...], arguments: Mapping[str, Any]) -> Action:
    folder = next((value for key in _FOLDERS if isinstance(value := arguments.get(key), str)), "")
    accesses = [find_shell_access(command, folder) for command in commands]
    return Action(
        commands,
        tuple(read for access in accesses for read in access.reads),
        tuple(path for access in accesses for path in access.writes),
        bool(accesses) and all(access.alone for access in accesses),
    )
