"""The work between the agreement and the task: an agent reads, searches, counts and edits real files of the standard
library, and gets the real output of each call.

The calls are carried out here and not by a shell, so that one seed gives one session on one version of Python.
"""

from __future__ import annotations

import difflib
import json
import re
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random

from holdfast.transcript.turn import Role, ToolCall, Turn

_NAMES = """
argparse base64 bisect calendar cmd code codeop colorsys configparser contextlib copy csv dataclasses difflib dis
filecmp fileinput fnmatch fractions functools getopt getpass gettext glob gzip hashlib heapq hmac imaplib inspect
ipaddress keyword linecache locale mailbox mimetypes netrc ntpath numbers opcode operator optparse pathlib pickle
platform plistlib poplib posixpath pprint profile pstats pyclbr queue quopri random reprlib sched secrets selectors
shelve shlex shutil smtplib socketserver stat statistics string stringprep struct symtable tabnanny tarfile tempfile
textwrap threading timeit token tokenize trace traceback types uuid warnings weakref zipapp zipfile
"""
_FILES = tuple(_NAMES.split())
_LINES = 34  # of a file that one read shows
_HITS = 14  # lines of one search


@cache
def _source(module: str) -> tuple[str, ...]:
    path = Path(sysconfig.get_paths()["stdlib"]) / f"{module}.py"
    return tuple(path.read_text("utf-8").splitlines()) if path.exists() else ()


def draw_work(random: Random) -> Iterator[tuple[Turn, ...]]:
    """Yields exchanges without end: a call of a tool with its result, and now and then a word of the user."""
    files = [module for module in _FILES if _source(module)]
    for number in range(1, 1 << 30):
        module = random.choice(files)
        action = random.choice((_read, _read, _search, _outline, _edit))
        said, name, arguments, result = action(module, random)
        call = ToolCall(f"call_{number:05d}", name, json.dumps(arguments))
        turns = [Turn(Role.ASSISTANT, said, calls=(call,)), Turn(Role.TOOL, result, call_id=call.id)]
        if number % 4 == 0:
            turns += [
                Turn(Role.ASSISTANT, f"{module}.py is done: nothing in it has to change for now."),
                Turn(Role.USER, random.choice(_GO_ON)),
            ]
        yield tuple(turns)


_GO_ON = ("Good, go on.", "Fine. Next file, please.", "OK, look at the rest too.", "Go on with the review.")


def _read(module: str, random: Random) -> tuple[str, str, dict[str, object], str]:
    lines = _source(module)
    first = random.randint(0, max(0, len(lines) - _LINES))
    shown = (f"{number:5d}  {line}" for number, line in enumerate(lines[first : first + _LINES], first + 1))
    arguments = {"path": f"lib/{module}.py", "offset": first + 1, "limit": _LINES}
    return f"I read the next part of {module}.py.", "read_file", arguments, "\n".join(shown)


def _search(module: str, random: Random) -> tuple[str, str, dict[str, object], str]:
    word = random.choice(("return", "raise", "import", "None", "self", "if not", "for", "class"))
    hits = [f"{number}:{line}" for number, line in enumerate(_source(module), 1) if word in line]
    first = random.randint(0, max(0, len(hits) - _HITS))
    command = f"grep -n '{word}' lib/{module}.py | tail -n +{first + 1} | head -{_HITS}"
    shown = "\n".join(hits[first : first + _HITS]) or "(no output)"
    return f"Where does {module}.py use `{word}`?", "run_command", {"command": command}, shown


def _outline(module: str, random: Random) -> tuple[str, str, dict[str, object], str]:
    heads = [f"{number}:{line}" for number, line in enumerate(_source(module), 1) if re.match(r"\s*(def|class) ", line)]
    first = random.randint(0, max(0, len(heads) - _HITS))
    command = f"grep -nE '^ *(def|class) ' lib/{module}.py | tail -n +{first + 1} | head -{_HITS}"
    shown = f"{len(_source(module))} lib/{module}.py\n" + "\n".join(heads[first : first + _HITS])
    return f"An outline of {module}.py first.", "run_command", {"command": f"wc -l lib/{module}.py; {command}"}, shown


def _edit(module: str, random: Random) -> tuple[str, str, dict[str, object], str]:
    lines = list(_source(module))
    at = random.choice([number for number, line in enumerate(lines) if line.strip()])
    changed = [*lines[:at], lines[at].rstrip() + "  # reviewed", *lines[at + 1 :]]
    diff = difflib.unified_diff(lines, changed, f"a/lib/{module}.py", f"b/lib/{module}.py", lineterm="", n=6)
    arguments = {"path": f"lib/{module}.py", "line": at + 1, "text": changed[at]}
    return f"I mark line {at + 1} of {module}.py as reviewed.", "edit_line", arguments, "\n".join(diff)
