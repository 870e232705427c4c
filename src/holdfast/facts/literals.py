"""Literals inside a line: paths, identifiers, versions, numbers, dates, hashes, URLs. One row of `LITERALS` finds each.

To find another kind of literal, or to change dates, edit a row. A pattern begins only where a run of its characters
begins and never gives back what it took (possessive quantifiers), or is bounded: so it takes linear time. It may take
too much; the rule of its row then says which kind the match is, if any.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from holdfast.facts.fact import FactKind, Span
from holdfast.facts.word_lists import DIRS, DOMAINS, EXTENSIONS, NOT_NAMES


class Row(NamedTuple):
    """One literal to look for. The group `literal` of the pattern is the literal; without it the whole match is."""

    name: str

    needs: frozenset[str]
    """Characters that a line must have to be searched: 0 stands for any digit, A for any ASCII capital."""
    pattern: re.Pattern[str]
    rule: Callable[[str], FactKind | None]
    """Maps the text of a match to its kind, or to None if it is no literal."""


LONGEST = 400
"""Characters; a longer run is data, not a name."""

_HEAD = r"\w.@+~$\u0300-\u036f\U0001f300-\U0001faff-"
_SEG = rf"(?:[{_HEAD}]|\*(?=\*?[/.])|\[[\w.]{{1,40}}\](?=[./]))"
_WHERE = r"(?:::\w[\w.]*+(?:\[[^\]\n]{0,200}\])?+|:\d{1,7}(?!\w)|\#L\d{1,7}|\(\d{1,6},\d{1,6}\))*+"
_UNIT = (
    r"(?:[ ]?(?:%|ms|µs|ns|secs?|seconds?|mins?|minutes?|hours?|days?|weeks?|months?|years?|[kKMGT]i?B|[kKMG]bps|bytes?"
    r"|px|rem|em|rows?|lines?|files?(?:[ ]changed)?|tokens?|chars?|characters?|percent|tests?|passed|failed|skipped"
    r"|errors?|warnings?|users?|requests?|insertions?\(\+\)|deletions?\(-\))(?!\w)|[smhdkxKMGB](?!\w))"
)


def _accept(kind: FactKind) -> Callable[[str], FactKind | None]:
    return lambda text: None if text.casefold() in NOT_NAMES or len(text) > LONGEST else kind


def _path(text: str) -> FactKind | None:
    """Judges a run with a slash: prose such as `and/or` or `read/write` is no path."""
    name = re.split(r"::|:\d|#L|\(", text, maxsplit=1)[0]
    parts = [part for part in name.split("/") if part]
    long = [part for part in parts if sum(map(str.isalnum, part)) > 1]
    if not long or len(text) > LONGEST or name.startswith("//") or not any(map(str.isalpha, name)):
        return None
    rooted = name.startswith(("/", "./", "../", "~/", "@", "$", "**/")) or (name.endswith("/") and name.islower())
    marked = any(re.search(r"[_.]|[a-z][A-Z]|[^\W\d]-?\d", part) for part in parts)
    if rooted or marked or len(long) > 2 or (len(parts) > 1 and parts[0] in DIRS):
        return FactKind.PATH
    return None


def _dots(text: str) -> FactKind | None:
    """Judges a run with dots: a file name, a host, or a chain of attributes with a name of its own in it."""
    name = re.split(r"::|:\d|#L|\(", text, maxsplit=1)[0]
    parts = name.split(".")
    if text.casefold() in NOT_NAMES or len(text) > LONGEST or not any(map(str.isalpha, name)):
        return None
    last = parts[-1].casefold()
    if (
        last in EXTENSIONS
        and parts[0] not in ("self", "this", "console", "logger")
        and (len(last) > 1 or len(parts[0]) > 1)
    ):
        return FactKind.PATH
    if not all(re.fullmatch(r"[^\W\d]\w+", part) for part in parts):
        return None
    if len(parts) < 4 and last in DOMAINS and name == name.casefold():
        return FactKind.URL
    if any(re.search(r"\w_\w|[a-z][A-Z]|\w\d", part) for part in parts) or len(parts) > 2:
        return FactKind.IDENTIFIER
    return FactKind.IDENTIFIER if parts[0][:1].isupper() and parts[1].islower() and len(parts[1]) > 3 else None


def _name(text: str) -> FactKind | None:
    if len(text) > 80 or text[0].isdigit() or not any(map(str.isalpha, text)) or text.casefold() in NOT_NAMES:
        return None
    return FactKind.IDENTIFIER


def _kebab(text: str) -> FactKind | None:
    """Accepts a hyphenated word with a digit in it, or a header; `flex-1` and `mid-1990s` are none."""
    digits = any(map(str.isdigit, text)) and not re.fullmatch(
        r"[a-z]+(?:-[a-z]+)*-(?:\d{1,2}(?:\.\d+)?|\d{3,4}s)", text
    )
    return _accept(FactKind.IDENTIFIER)(text) if digits or text.startswith("x-") else None


def _hash(text: str) -> FactKind | None:
    mixed = any(map(str.isdigit, text)) and any(map(str.isalpha, text))
    return FactKind.HASH if mixed and not re.fullmatch(r"\d+e\d+", text) else None


def _number(text: str) -> FactKind | None:
    """Accepts two digits, or one with a unit or a label; a tuple needs a number of two digits."""
    if text[0] in "([" or re.search(r"\d-\d", text):
        return FactKind.NUMBER if re.search(r"\d\d", text) else None
    alone = re.sub(r"\W|_", "", text)
    return FactKind.NUMBER if len(alone) > 1 and len(text) <= 40 and alone.strip("0") else None


def _address(text: str) -> FactKind:
    """Tells a mail address such as `dev@host.org` from a package at a version."""
    return FactKind.VERSION if text.partition("@")[2][0].isdigit() else FactKind.URL


def _url(text: str) -> FactKind | None:
    return FactKind.URL if len(text.partition("://")[2]) > 2 else None


def _row(name: str, needs: str, pattern: str, rule: Callable[[str], FactKind | None]) -> Row:
    return Row(name, frozenset(needs), re.compile(pattern, re.VERBOSE), rule)


_DIGITS = frozenset("0123456789")
_CAPITALS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ")


LITERALS = (
    _row(
        "URL",
        "/:",
        r"""\b(?:https?|ftp|ssh|git|wss?|file|postgres(?:ql)?|mysql|redis|mongodb(?:\+srv)?|sqlite|s3|gs|amqp)
            ://[^\s"'`<>\\^{}|\x1e]++""",
        _url,
    ),
    _row(
        "IP address",
        ".0",
        r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?!\.?\d)(?::\d{2,5})?(?![\w/])",
        _accept(FactKind.URL),
    ),
    _row("localhost", ":0", r"(?<![\w.])localhost:\d{2,5}(?![\w/])", _accept(FactKind.URL)),
    _row(
        "mail address or package", "@.", r"(?<![\w.+-])[\w.+-]{1,64}+@[\w-]++(?:\.[\w-]++)++(?::[\w./~-]++)?+", _address
    ),
    _row(
        "UUID",
        "-0",
        r"(?<![\w-])[\da-fA-F]{8}-[\da-fA-F]{4}-[\da-fA-F]{4}-[\da-fA-F]{4}-[\da-fA-F]{12}(?![\w-])",
        _accept(FactKind.HASH),
    ),
    _row("SHA digest", "sha", r"(?<![\w-])(?:sha(?:1|256|384|512))[-:][\w+/=]{20,200}", _accept(FactKind.HASH)),
    _row("hex hash", "0", r"(?<![\w.-])[\da-f]{7,64}+(?![\w-])", _hash),
    _row("path", "/", rf"(?<![{_HEAD}/<*\\]){_SEG}*+/(?:{_SEG}|/)*+{_WHERE}", _path),
    _row(
        "Windows path",
        "\\:",
        r"(?<![\w\\])[A-Za-z]:\\{1,2}[^\s\"'<>|*?:;,()\\\x1e]++(?:\\{1,2}[^\s\"'<>|*?:;,()\\\x1e]++)*+",
        _accept(FactKind.PATH),
    ),
    _row(
        "relative Windows path",
        "\\.",
        r"(?<![\w\\.-])[\w.-]++(?:\\{1,2}[\w.-]++)++(?<=[\w\\]\.\w\w)\w{0,8}+(?::\d+)?",
        _accept(FactKind.PATH),
    ),
    _row(
        "UNC path",
        "\\",
        r"(?<![\w\\])\\{2,4}[\w.-]{2,80}\\{1,2}[\w.$-]{2,80}(?:\\{1,2}[\w.$-]++)*+",
        _accept(FactKind.PATH),
    ),
    _row(
        "name with dots",
        ".",
        rf"(?<![{_HEAD}/\\])[^\W_][\w@+~$-]*+(?:\.[\w@+~$-]++)++{_WHERE}|(?<![{_HEAD}/\\])_[\w]*+(?:\.\w++)++",
        _dots,
    ),
    _row("dot file", ".", r"(?<![^\s\"'`])\.[a-z][\w-]{2,30}+(?:\.[\w-]{1,30}+)*+(?![\w(./])", _accept(FactKind.PATH)),
    _row(
        "build file",
        "A",
        r"(?<![\w/.])(?:Makefile|Dockerfile|Procfile|Gemfile|Rakefile|Justfile)(?::\d+)?(?!\w)",
        _accept(FactKind.PATH),
    ),
    _row(
        "version",
        ".0",
        r"(?<![\w.:-])(?:\d{1,3}:)?+v?\d{1,9}+(?:\.\d++){2,5}+(?:[-+~.]?+[A-Za-z][\w.+~-]*+|[-+~]\d[\w.+~-]*+)?+(?!\w)",
        _accept(FactKind.VERSION),
    ),
    _row("v-version", "v0", r"(?<![\w.])v\d++(?:\.\d++)*+(?:-[\w.]++)?+(?![\w/])", _accept(FactKind.VERSION)),
    _row(
        "version after its name",
        ".0",
        r"""(?:[=<>~^!]=?|\b(?:[Vv]ersion|[Pp]ython|[Nn]ode(?:\.js)?|Go|Rust|Ruby|Java|PHP|Ubuntu|Debian)[ ])
            (?P<literal>\d{1,4}(?:\.\d++){1,4}+)(?![\w.]?\w)""",
        lambda text: FactKind.VERSION,
    ),
    _row("ticket", "-A0", r"(?<![\w-])[A-Z]{2,10}-\d{1,7}(?![\w-])", _accept(FactKind.IDENTIFIER)),
    _row("issue number", "#0", r"(?<![\w#&/])[A-Za-z]{0,10}+\#\d{2,7}(?!\w)", _accept(FactKind.IDENTIFIER)),
    _row("kebab name", "-", r"(?<![\w./@-])[a-z][a-z\d]{0,40}+(?:-[a-z\d][a-z\d.]*+)++(?![\w/])", _kebab),
    _row("node module", ":", r"(?<![\w:])node:\w++(?:/\w++)*+", _accept(FactKind.IDENTIFIER)),
    _row("call", "()", r"(?<![\w.])\w++\(\)", _name),
    _row("snake name", "_", r"(?<!\w)(?:_++[^\W\d_]\w\w|[^\W_]++_++[^\W_])\w*+", _name),
    _row("camel name", "A", r"(?<!\w)(?:[^\W\d_][^\W_A-Z]*+(?<=[^\W_A-Z])[A-Z]|[A-Z]{2,80}+[a-z]{3})\w*+", _name),
    _row("constant", "A=", r"(?<![\w.$])[A-Z][A-Z\d]{2,40}+(?=[ ]{0,4}=(?!=))", _accept(FactKind.IDENTIFIER)),
    _row(
        "definition",
        " ",
        r"""\b(?:def|class|function|func|fn|struct|interface|enum|trait|type|fun)[ ]{1,4}(?P<literal>[^\W\d]\w{2,80}+)
            (?=[ ]{0,4}(?:[({<\[:=]|extends\b|implements\b))""",
        _name,
    ),
    _row(
        "date",
        "-0",
        r"""(?<![\w.:/-])\d{4}-\d\d-\d\d
            (?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d{1,9})?)?(?:Z|[+-]\d\d:?\d\d)?)?(?![\w-])""",
        _accept(FactKind.NUMBER),
    ),
    _row(
        "time",
        ":0",
        r"""(?<![\w.:/-])(?:(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)days?[ ](?:at[ ])?)?
            \d{1,2}:\d\d(?::\d\d(?:[.,]\d{1,9})?)?(?![\w:])""",
        _accept(FactKind.NUMBER),
    ),
    _row(
        "tuple",
        ",0",
        r"(?<![\w\])])[(\[]-?\d{1,12}(?:\.\d{1,12})?(?:,[ ]?-?\d{1,12}(?:\.\d{1,12})?){1,7},?[)\]]",
        _number,
    ),
    _row("range", "-0", r"(?<![\w.,:/-])\d{1,9}+[ ]?-[ ]?\d{1,9}+(?![\w./:-]|,\d)", _number),
    _row(
        "range or label",
        " 0",
        r"""(?<![\w.,:/-])\d{1,9}+[ ]to[ ]\d{1,9}+(?![\w./:-]|,\d)
            |\b(?:[Ii]tem|[Ss]tep|[Rr]ule|[Tt]ask|[Ii]ssue|[Pp]hase|[Ll]evel|[Ss]tatus|[Cc]ode|PR)[ ]\d(?![\w.]?\w)""",
        _number,
    ),
    _row("hex number", "x0", r"(?<!\w)0x[\da-fA-F]{2,32}(?!\w)", _accept(FactKind.NUMBER)),
    _row(
        "number",
        "0",
        rf"(?<![\w.,])(?<![A-Za-z]-)[$€£]?\d++(?:[,_]\d{{3}}(?!\d))*+(?:\.\d++)?+(?:{_UNIT}|(?![\w.]?\w)|(?=\.(?!\w)))",
        _number,
    ),
)


_LINE = re.compile(r"[^\n]{1,500}+[^\s]*+")


def line_spans(text: str) -> Iterator[tuple[int, int]]:
    """Yields the begin and the end of each line; a line of over 500 characters is cut at a blank."""
    return (match.span() for match in _LINE.finditer(text))


def find_literals(text: str) -> Iterator[Span]:
    """Yields every literal that any row finds, overlapping ones too, line by line; an earlier row is more specific."""
    for start, end in line_spans(text):
        present = set(text[start:end])
        if not _DIGITS.isdisjoint(present):
            present.add("0")
        if not _CAPITALS.isdisjoint(present):
            present.add("A")
        for row in LITERALS:
            if row.needs <= present:
                yield from _match_row(row, text, start, end)


def _match_row(row: Row, text: str, first: int, last: int) -> Iterator[Span]:
    group = "literal" if row.pattern.groups else 0
    for match in row.pattern.finditer(text, first, last):
        start, end = match.span(group)
        if end - start > LONGEST:
            continue
        end = _trim_end(text, start, end)
        if end > start and (kind := row.rule(text[start:end])):
            yield Span(start, end, kind)


_BRACKETS = {")": "(", "]": "["}


def _trim_end(text: str, start: int, end: int) -> int:
    """Returns the end of the literal without the punctuation of the sentence around it."""
    while end > start:
        last = text[end - 1]
        stray = last in _BRACKETS and text.find(_BRACKETS[last], start, end) < 0
        if not stray and last not in ".,;:!?$'*~-\u2026":
            break
        end -= 1
    return end
