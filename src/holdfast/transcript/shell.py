"""The files that a shell command reads and writes, as far as its text says so. It is never run, nothing is expanded."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from functools import lru_cache
from posixpath import join

_HEREDOC = re.compile(r"(?<!<)<<-?\s*(['\"]?)([A-Za-z_]\w*)\1")
_PATCHED = re.compile(r"^\*\*\* (?:Add|Update|Delete) File: (.+?)\s*$|^\+\+\+ (?:b/)?([^\s]+)", re.MULTILINE)
_REDIRECT = re.compile(r"(?<![<>&\d=-])(?:[12&])?>{1,2}\|?\s*('[^']+'|\"[^\"]+\"|[^\s;&|<>()'\"`]+)")
_SEPARATOR = re.compile(r"\|\||&&|;|\n|\||&(?!>)")
_RANGE = re.compile(r"[-+]?\d+(?:,\+?(?:\d+|\$))?[pq]?")

_READERS = {"cat", "head", "tail", "sed", "nl", "less", "more", "bat", "tac"}
_SILENT = {"cd", "set", "export", "source", ".", "true", "pushd", "popd", ":"}
_WHOLE = {"cat", "nl", "less", "more", "bat"}
_TAKES_VALUE = {"-n", "-c", "-l", "--lines", "--bytes"}


@dataclass(frozen=True)
class ShellAccess:
    """The files of one command."""

    reads: tuple[tuple[str, str], ...] = ()
    """Path, and the part that was read as the command says it; empty for the whole file."""
    writes: tuple[str, ...] = ()
    alone: bool = False
    """True if the output is the content of `reads` and nothing else."""


@lru_cache(maxsize=1 << 12)
def find_shell_access(text: str, folder: str = "") -> ShellAccess:
    """Finds the files that the command `text` reads (cat, head, tail, sed -n, nl) and writes (redirection, tee, cp, mv,
    sed -i, a heredoc, an apply_patch body).

    Paths are relative to `folder`, where the command was run, and follow its `cd`.
    """
    bare = _without_heredocs(text)
    patched = find_patched_files(text) if "*** Begin Patch" in text else ()
    reads: list[tuple[str, str]] = []
    writes: list[str] = [join(folder, path) for path in patched]
    alone = not patched and "<<" not in bare
    for line in _statements(bare):
        stages = [_words(stage) for stage in line]
        first = stages[0]
        if first[:1] == ["cd"]:
            folder = join(folder, *first[1:2])
        wrote = [join(folder, path) for stage in line for path in _find_writes(stage)]
        found = [] if wrote else [(join(folder, path), part) for path, part in _reads(stages)]
        writes += wrote
        reads += found
        alone &= bool(found) or not first or (first[0] in _SILENT and not wrote)
    return ShellAccess(tuple(dict.fromkeys(reads)), tuple(dict.fromkeys(writes)), alone and bool(reads))


def find_patched_files(text: str) -> tuple[str, ...]:
    """Returns the files that a patch (apply_patch's own form, or a unified diff) changes."""
    found = (match.group(1) or match.group(2) for match in _PATCHED.finditer(text))
    return tuple(dict.fromkeys(path for path in found if path != "/dev/null"))


def _without_heredocs(text: str) -> str:
    """Returns the command lines alone, without the bodies between `<<WORD` and WORD."""
    lines = text.split("\n")
    ends = {line.strip() for line in lines}
    kept: list[str] = []
    waiting: list[str] = []
    for line in lines:
        if waiting:
            waiting = waiting[1:] if line.strip() == waiting[0] else waiting
            continue
        kept.append(line)
        waiting = [match.group(2) for match in _HEREDOC.finditer(line) if match.group(2) in ends]
    return "\n".join(kept)


def _statements(text: str) -> list[list[str]]:
    """Returns the statements, each as the stages of its pipe. Separators inside quotes do not count."""
    statements: list[list[str]] = [[""]]
    at = 0
    for kind, start, stop in _separators(text):
        statements[-1][-1] += text[at:start]
        at = stop
        statements[-1].append("") if kind == "|" else statements.append([""])
    statements[-1][-1] += text[at:]
    return [stages for stages in statements if any(stage.strip() for stage in stages)]


def _separators(text: str) -> list[tuple[str, int, int]]:
    quoted = [(m.start(), m.end()) for m in re.finditer(r"'[^']*'|\"(?:\\.|[^\"\\])*\"", text)]
    found, at = [], 0
    for match in _SEPARATOR.finditer(text):
        while at < len(quoted) and quoted[at][1] <= match.start():
            at += 1
        inside = at < len(quoted) and quoted[at][0] < match.start()
        duplicates = match.group() == "&" and text[match.start() - 1 : match.start()] in (">", "<")
        if not inside and not duplicates:
            found.append((match.group(), match.start(), match.end()))
    return found


def _words(stage: str) -> list[str]:
    bare = re.sub(r"[12&]?>{1,2}&?\s*(?:/dev/null|[12])", " ", stage)
    try:
        words = shlex.split(bare)
    except ValueError:  # an open quote: what the shell would do with it, nobody can say
        words = bare.split()
    while words and re.fullmatch(r"\w+=.*|sudo|time|command", words[0]):
        words = words[1:]
    return words


def _reads(stages: list[list[str]]) -> list[tuple[str, str]]:
    """Returns the files whose content the pipe prints; a filter behind it makes it a part."""
    words = stages[0]
    if not words or words[0] not in _READERS or (words[0] == "sed" and "-n" not in words[1:2]):
        return []
    paths, options = _operands(words)
    whole = len(stages) == 1 and not options and words[0] in _WHOLE
    part = "" if whole else " | ".join(" ".join(w for w in stage if w not in paths) for stage in stages)
    return [(path, part) for path in paths]


def _operands(words: list[str]) -> tuple[list[str], list[str]]:
    """Returns the file names and the other words of a reading command."""
    paths: list[str] = []
    options: list[str] = []
    takes = False
    for word in words[1:]:
        if takes and _RANGE.fullmatch(word):
            options.append(word)
        elif word.startswith("-"):
            options += [] if word in ("-A", "-ba") else [word]
        elif words[0] == "sed" and not paths and len(options) < 2:
            options.append(word)
        elif not word.startswith("<"):
            paths.append(word)
        takes = word in _TAKES_VALUE
    return paths, options


def _find_writes(stage: str) -> list[str]:
    """Returns the files that one stage of a pipe writes."""
    targets = [match.group(1).strip("'\"") for match in _REDIRECT.finditer(_blank_quotes(stage))]
    found = [path for path in targets if not path.startswith(("&", "/dev/"))]
    words = _words(stage)
    if words[:1] == ["tee"]:
        found += [word for word in words[1:] if not word.startswith(("-", "<", ">"))]
    if words[:1] in (["cp"], ["mv"]):
        found += words[-1:]
    if words[:1] in (["sed"], ["perl"]) and any(re.fullmatch(r"-[pnEer]*i.*|--in-place.*", w) for w in words[1:]):
        found += words[-1:]
    return found


def _blank_quotes(stage: str) -> str:
    """Blanks quoted text, unless a redirection names it: `echo "a > b"` writes nothing."""
    return re.sub(r"(>\s*)?('[^']*'|\"[^\"]*\")", lambda m: m.group() if m.group(1) else "''", stage)
