"""Passages, the wider facts: quoted strings, error messages and shell commands. Rules are in `prohibitions`.

Every function reads a view of `masks`, of the same length as the text. Every pattern is linear, as in `literals`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain

from holdfast.facts.fact import FactKind, Span
from holdfast.facts.literals import line_spans
from holdfast.facts.masks import QUOTE
from holdfast.facts.word_lists import EDITOR, STRUCTURE

LONGEST_QUOTE = 80
LONGEST_LINE = 300
"""Characters of an error or a command that are kept: a longer one is cut."""
MOST_LINES = 20
"""Lines of one script that are commands."""
SENTENCE = re.compile(r"```|[^\n.!?。！？]++(?:[.!?](?![\s\"')*]|$)[^\n.!?。！？]*+)*+[.!?。！？]*+")
"""A sentence on one line, or the mark of a fence. A full stop inside a name ends none."""


def trim_span(start: int, end: int, text: str, longest: int = LONGEST_LINE) -> tuple[int, int]:
    """Returns the span without the blanks around it, at most `longest` long; it is empty if nothing is left."""
    end = min(end, start + 4 * longest)
    piece = text[start:end]
    start += len(piece) - len(piece.lstrip())
    end = min(start + len(piece.strip()), start + longest)
    return start, max(start, end)


_QUOTED = (
    re.compile(
        r"""\"""|\'\'\'|```|"(?P<a>[^"\n]*+)"|(?<!\w)'(?P<b>[^'\n]*+)'(?!\w)|`(?P<c>[^`\n]*+)`
            |\u201c(?P<d>[^\u201c\u201d\n]*+)\u201d|(?<![\w*])\*\*(?P<e>[^*\n]{2,40}+)\*\*(?!\*)""",
        re.VERBOSE,
    ),
    re.compile(f"{QUOTE}(?P<a>[^{QUOTE[0]}\n]*+){QUOTE}"),  # may lie in the others
)
_WORDY = re.compile(r"[\w./@#$<(\[^~:%!&*-].*(?<![\s,:;(+=\[{\\])", re.DOTALL)


def find_quotes(text: str) -> Iterator[Span]:
    """Yields short strings in quotes, backticks or Markdown bold, without these marks."""
    for match in chain.from_iterable(pattern.finditer(text) for pattern in _QUOTED):
        if not match.lastgroup:
            continue
        start, end = match.span(match.lastgroup)
        content = text[start:end] if end - start <= LONGEST_QUOTE else ""
        if not _WORDY.fullmatch(content) or (content.casefold() in STRUCTURE and _is_field(text, start, end)):
            continue
        styling = re.search(r"(?:class|className|style|d|viewBox)=$", text[max(0, start - 12) : start - 1])
        if sum(map(str.isalnum, content)) > 1 and any(map(str.isalpha, content)) and not styling:
            yield Span(start, end, FactKind.QUOTED)


def _is_field(text: str, start: int, end: int) -> bool:
    """Returns True if the quoted string is a key of a JSON object or the value of one."""
    return bool(re.match(r"\s?:", text[end + 1 : end + 3])) or text[max(0, start - 3) : start - 1].strip() == ":"


_ERRORS = tuple(
    re.compile(pattern, re.VERBOSE | re.MULTILINE)
    for pattern in (
        # error: ..., src/a.c:3:4: fatal error: ..., a.ts(3,4): error TS2322: ..., error[E0308]: ...
        r"""^[ \t]*+(?:(?![Ee]rror:|[Ff]atal)[\w./\\@()\[\],+-]{1,200}+(?::\d++)*+(?::[ ]?|[ ]-[ ]|[ ])){0,2}+
            (?:[Ff]atal[ ]|[Ii]nternal[ ])?(?:[Ee]rror|ERROR|[Ff]atal|FATAL|panic)
            (?:[ \[]?[A-Z]{1,4}\d{1,5}\]?)?:[ ]+\S[^\n]*+""",
        r"^[ \t]*+npm[ ](?:ERR!|error)[ ][^\n]*+|^make(?:\[\d++\])?:[ ]\*\*\*[^\n]*+",
        r"^thread[ ]'[^'\n]*+'[ ]panicked[^\n]*+",
        # SyntaxError: ..., in passing or alone on its line
        r"""(?<![\w.$])(?<!except[ ])(?<!raise[ ])(?<!catch[ ])(?=[\w.]*?(?:Error|Exception|Interrupt)\b)
            [A-Za-z][\w.]{0,120}+:[ ]+(?:\w|['"(\[])[^\n`]*+""",
        r"^(?:E[ ]+)?(?=[\w.]*?(?:Error|Exception)[ \t]*$)[A-Za-z][\w.]{4,120}+[ \t]*$",
        # pytest, unittest, go, tap
        r"^E[ ]{2,8}[^\s][^\n]*+|^(?:FAILED|ERROR|FAIL:|---[ ]FAIL:)[ ]+\S*+[^\n]*+|^[ ]*+not[ ]ok[ ]\d[^\n]*+",
        r"^[ \t]*+(?:[Aa]ssertion|[Aa]ssert)[ ][^\n]{0,200}?[ ]failed[^\n]*+",
        # the shell
        r"""^[ ]*+[\w./@$-]{1,80}+:[ ][^\n]{0,200}?(?:not[ ]found|No[ ]such[ ]file[ ]or[ ]directory
            |[Pp]ermission[ ]denied|[Ii]s[ ]a[ ]directory|cannot[ ](?:open|access|stat|find)|unrecognized[ ]option
            |[Cc]onnection[ ]refused)[^\n]*+""",
    )
)


_HINTS = (
    *("rror", "ERR", "ception", "nterrupt", "atal", "FATAL", "panic", "FAIL", "***", "ailed", "not ok", "E  "),
    *("not found", "No such", "enied", "irectory", "cannot", "nrecognized", "refused"),
)
"""A line with none of these is no error: looking for them is what makes this fast."""


def find_errors(text: str) -> Iterator[Span]:
    """Yields error messages, each from its first word to the end of its line."""
    for first, last in line_spans(text):
        line = text[first:last]
        if not any(hint in line for hint in _HINTS):
            continue
        for pattern in _ERRORS:
            for match in pattern.finditer(text, first, last):
                start, end = trim_span(*match.span(), text)
                if re.search(r"[^\W\d]{3}", text[start:end]):
                    yield Span(start, end, FactKind.ERROR)


_SCRIPT = re.compile(
    rf"""(?P<quoted>"(?:command|cmd|script)"\s{{0,8}}:\s{{0,8}}(?:\[\s{{0,8}}"(?:/bin/)?(?:ba|z)?sh",\s{{0,8}}"-l?c",\s{{0,8}})?"
            (?P<a>[^"]*+))
       |<parameter=(?:command|cmd|script)>(?P<b>[^<]*+(?:<(?!/?parameter)[^<]*+)*+)
       |(?:^|(?<=[\n{QUOTE[0]}]))```(?:bash|sh|shell|zsh|console)[ \t]*+\n(?P<c>[^`]*+(?:`(?!``)[^`]*+)*+)
       |^(?:\([\w.-]{{1,40}}\)[ ])?(?:[\w.@:~/-]{{1,80}}+)?\$[ ](?P<d>\S[^\n]*+)""",
    re.VERBOSE | re.MULTILINE,
)


def find_commands(text: str) -> Iterator[Span]:
    """Yields the lines of shell scripts: a call's `command`, a fenced script, a line after a prompt."""
    for match in _SCRIPT.finditer(text):
        group = next(name for name in "abcd" if match[name] is not None)
        yield from _script_lines(text, *match.span(group))


def _script_lines(text: str, start: int, end: int) -> Iterator[Span]:
    """Yields commands line by line, until a here-document or a string of several lines begins."""
    for _ in range(MOST_LINES):
        stop = text.find("\n", start, end)
        stop = end if stop < 0 else stop
        a, b = trim_span(start, stop, text)
        line = text[a:b]
        if line.startswith("$ "):
            a, line = a + 2, line[2:]
        if re.search(r"[^\W\d]{2}", line) and line[0] != "#" and line not in EDITOR:
            yield Span(a, b, FactKind.COMMAND)
        open_string = (line.count('"') + line.count(QUOTE)) % 2 or line.count("'") % 2
        if stop == end or "<<" in line or open_string:
            return
        start = stop + 1
