"""Wider spans: quoted strings, error messages, shell commands, and what a user asks for or forbids.

These read the views of `masks`, of the same length as the text, and give spans. Every pattern is linear, as in
`literals`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain

from holdfast.facts.literals import FactKind, Span, line_spans
from holdfast.facts.masks import QUOTE
from holdfast.facts.word_lists import EDITOR, IMPERATIVES, STRUCTURE

LONGEST_QUOTE = 80
LONGEST_LINE = 300
"""Characters of an error or a command that are kept: a longer one is cut."""
LONGEST_SENTENCE = 1200
"""Characters of what a user asks or forbids: half a rule is none."""
MOST_LINES = 20
"""Lines of one script that are commands."""


def _cut(start: int, end: int, text: str, longest: int = LONGEST_LINE) -> tuple[int, int]:
    """The span without the blanks around it, at most `longest` long; empty where nothing is left."""
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
    """Short strings in quotes, backticks or Markdown bold, without them."""
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
    """Whether the quoted string is a key of an object or the value of one."""
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
    """Error messages, each from its first word to the end of its line."""
    for first, last in line_spans(text):
        line = text[first:last]
        if not any(hint in line for hint in _HINTS):
            continue
        for pattern in _ERRORS:
            for match in pattern.finditer(text, first, last):
                start, end = _cut(*match.span(), text)
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
    """The lines of shell scripts: a call's `command`, a fenced script, a line after a prompt."""
    for match in _SCRIPT.finditer(text):
        group = next(name for name in "abcd" if match[name] is not None)
        yield from _script(text, *match.span(group))


def _script(text: str, start: int, end: int) -> Iterator[Span]:
    """Line by line, up to where a here-document or a string of several lines begins."""
    for _ in range(MOST_LINES):
        stop = text.find("\n", start, end)
        stop = end if stop < 0 else stop
        a, b = _cut(start, stop, text)
        line = text[a:b]
        if line.startswith("$ "):
            a, line = a + 2, line[2:]
        if re.search(r"[^\W\d]{2}", line) and line[0] != "#" and line not in EDITOR:
            yield Span(a, b, FactKind.COMMAND)
        open_string = (line.count('"') + line.count(QUOTE)) % 2 or line.count("'") % 2
        if stop == end or "<<" in line or open_string:
            return
        start = stop + 1


_SENTENCE = re.compile(r"```|[^\n.!?]++(?:[.!?](?![\s\"')*]|$)[^\n.!?]*+)*+[.!?]*+")
_FORBIDS = re.compile(
    r"\b(?:(?:do|ca|wo|must|should)(?: not|n['\u2019]?t)|never|(?:may|shall) not|can ?not|not (?:allowed|permitted)"
    r"|forbidden|avoid|no longer|no new|refuse|nothing may|without (?:asking|touching|changing)|rather than|stop \w+ing"
    r"|leave \w+ (?:alone|untouched|as))\b",
    re.IGNORECASE,
)
_ASKS = re.compile(
    r"\b(?:must|always|only|make sure|ensure|should|shall|please|needs? to|ha(?:s|ve) to|required?|at (?:most|least)"
    r"|instead|call it|keep|use|pin|mandatory|exactly)\b",
    re.IGNORECASE,
)
_PREFERS = re.compile(
    r"""\b(?:I|we|my[ ]team|(?:the[ ])?(?:user|team|client|customer))(?:['\u2019]d)?
        (?:[ ](?:would|do|really|also|still|much|generally|usually|strongly))*
        [ ](?:prefers?|rather|hates?|dislikes?|likes?(?![ ]to[ ]be[ ]able)|wants?[ ]you)\b
        |\bmy[ ](?:\w+[ ])?preference\b|^(?:user[ ])?preferences?:
        |\b(?:the[ ])?user[ ](?:wants|needs|expects|insists)\b""",
    re.IGNORECASE | re.VERBOSE,
)
_REFERS = re.compile(
    r"""(?:\b(?:never|(?:do|ca|wo|must|should|may|shall)(?:[ ]not|n['\u2019]?t)|can ?not|avoid|stop)
            [ ](?:ever[ ]|even[ ])?[a-z]+(?:[ ](?:it|that|this|them|those|these))?
          |^(?:(?:please|also|always|then|just|so),?[ ])*[a-z]+[ ](?:it|that|this|them|those|these))
        (?:[ ](?:again|anymore|yet|either|too|ever|directly|at[ ]all))*
        (?=\W*$|[ ]?[,;(]
            |[ ](?:without|unless|until|before|after|if|except|when|while|and|or|but|because|since|as)\b)""",
    re.IGNORECASE | re.VERBOSE,
)
"""A rule that does not say what it is about, as in `Never exceed without approval`."""
_SHORT = re.compile(r"(?:never(?! ?mind)|don['\u2019]?t|avoid) [a-z]+\W*$", re.IGNORECASE)
_REQUEST = re.compile(r"(?:can|could|would|will) (?:you|we)\b|please\b", re.IGNORECASE)
_OPENING = re.compile(
    r"(?:(?:and|also|then|now|first|so|just|ok(?:ay)?|on [A-Z]\w+),? )?(\w+)\b(?! ?[=(.\[])", re.IGNORECASE
)
_CODE = re.compile(r"[}{\])@/<|+]|(?:import|from|def|class|const|let|var|return|if|for)\b.*[;:{}(\\]$|.*[;{}(\\]$")


def find_rules(text: str) -> Iterator[Span]:
    """Sentences of a user that ask, forbid or prefer, outside fenced code. A question asks only where it is a request.

    One that does not say what it is about takes the sentence before it along: on another line, as a rule of its own.
    """
    fenced, before = False, (0, 0)
    for match in _SENTENCE.finditer(text):
        if "```" in match[0]:
            fenced, before = fenced != bool(match[0].count("```") % 2), (0, 0)
            continue
        start, end = _cut(*match.span(), text, LONGEST_SENTENCE)
        start += len(text[start:end]) - len(text[start:end].lstrip("-*#>\u20220123456789.) \t"))
        sentence = text[start:end]
        if fenced or _CODE.match(sentence):
            before = (0, 0)
        elif kind := _rule(sentence):
            if _REFERS.search(sentence) and _beside(text, before, start):
                if end - before[0] <= LONGEST_SENTENCE and "\n" not in text[before[1] : start]:
                    start = before[0]
                else:
                    yield Span(*before, kind)
            yield Span(start, end, kind)
            before = (0, 0)
        elif sentence:
            before = start, end


def _rule(sentence: str) -> FactKind | None:
    """What a sentence is to the agent; None where it asks for nothing."""
    idle = sentence.endswith("?") and not _REQUEST.search(sentence)
    if idle or (sentence.count(" ") < 2 and not _SHORT.match(sentence)):
        return None
    if _FORBIDS.search(sentence):
        return FactKind.PROHIBITION
    if _ASKS.search(sentence) or _PREFERS.search(sentence) or _imperative(sentence):
        return FactKind.INSTRUCTION
    return None


def _beside(text: str, before: tuple[int, int], start: int) -> bool:
    """Whether a sentence stands right before this place, and says something."""
    return text.count(" ", *before) > 1 and text.count("\n", before[1], start) < 2


def _imperative(sentence: str) -> bool:
    opening = _OPENING.match(sentence)
    return bool(opening and opening[1].casefold() in IMPERATIVES)
