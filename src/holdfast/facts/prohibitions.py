"""The rules of a user: what the user asks for and what the user forbids. No other module decides this.

To add a wording of a prohibition, add a row to `FORBIDDING`, or in another language to its row of `rule_wordings`;
`NEGATING` has the words that turn a sentence round. `find_rules` reads a view of `masks`, of the same length as the
text. Every pattern is linear, as in `literals`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from holdfast.facts.fact import FactKind, Span
from holdfast.facts.passages import SENTENCE, trim_span
from holdfast.facts.rule_wordings import LANGUAGES, Language
from holdfast.facts.word_lists import IMPERATIVES

RULE_KINDS = (FactKind.PROHIBITION, FactKind.INSTRUCTION)
"""The kinds of facts that are rules of the user."""
LIFTABLE_KINDS = (*RULE_KINDS, FactKind.PROJECT_RULE)
"""The kinds of facts that only the user can lift."""
STANDING_KINDS = (*LIFTABLE_KINDS, FactKind.HANDLE)
"""The kinds of facts that come back whatever the budget is."""

LONGEST_RULE = 1200
"""Characters of a rule: half a rule is none."""

FORBIDDING = (
    r"(?:do|ca|wo|must|should)(?: not|n['\u2019]?t)",
    r"never",
    r"(?:may|shall) not",
    r"can ?not",
    r"not (?:allowed|permitted)",
    r"forbidden",
    r"avoid",
    r"no longer",
    r"no new",
    r"refuse",
    r"nothing may",
    r"without (?:asking|touching|changing)",
    r"rather than",
    r"stop \w+ing",
    r"leave \w+ (?:alone|untouched|as)",
)
"""The wordings of a prohibition, whole words, in any case."""

NEGATING = (
    *("not", "never", "no", "nothing", "neither", "nor", "cannot", "dont", "without"),
    *("avoid", r"forbid\w*", "forbade", r"prohibit\w*", r"refus\w+", "stop"),
)
"""The words that say no, whole words, in any case; `n't` counts too."""

_FORBIDS = re.compile(rf"\b(?:{'|'.join(FORBIDDING)})\b", re.IGNORECASE)
_NEGATES = re.compile(rf"\b(?:{'|'.join(NEGATING)})\b|n['\u2019]t\b", re.IGNORECASE)
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
_REFERS_BACK = re.compile(
    r"""(?:\b(?:never|(?:do|ca|wo|must|should|may|shall)(?:[ ]not|n['\u2019]?t)|can ?not|avoid|stop)
            [ ](?:ever[ ]|even[ ])?[a-z]+(?:[ ](?:it|that|this|them|those|these))?
          |^(?:(?:please|also|always|then|just|so),?[ ])*[a-z]+[ ](?:it|that|this|them|those|these))
        (?:[ ](?:again|anymore|yet|either|too|ever|directly|at[ ]all))*
        (?=\W*$|[ ]?[,;(]
            |[ ](?:without|unless|until|before|after|if|except|when|while|and|or|but|because|since|as)\b)""",
    re.IGNORECASE | re.VERBOSE,
)
"""A rule that does not say what it is about, as in `Never exceed without approval`."""
_SHORT_RULE = re.compile(r"(?:never(?! ?mind)|don['\u2019]?t|avoid) [a-z]+\W*$", re.IGNORECASE)
_WIDE = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]")
"""A character of a script that puts a word into one or two of them."""
_REQUEST = re.compile(r"(?:can|could|would|will) (?:you|we)\b|please\b", re.IGNORECASE)
_OPENING = re.compile(
    r"(?:(?:and|also|then|now|first|so|just|ok(?:ay)?|on [A-Z]\w+),? )?(\w+)\b(?! ?[=(.\[])", re.IGNORECASE
)
_CODE = re.compile(r"[}{\])@/<|+]|(?:import|from|def|class|const|let|var|return|if|for)\b.*[;:{}(\\]$|.*[;{}(\\]$")


def forbids(text: str) -> bool:
    """Returns True if a wording of a prohibition stands in the text, in any of the languages."""
    return _FORBIDS.search(text) is not None or any(
        language.forbids.search(part) for part in _sentences(text) for language in _languages_of(part)
    )


def negates(text: str) -> bool:
    """Returns True if a word that says no stands in the text, in any of the languages."""
    return _NEGATES.search(text) is not None or any(
        language.negates.search(part) or language.forbids.search(part)
        for part in _sentences(text)
        for language in _languages_of(part)
    )


def find_rules(text: str) -> Iterator[Span]:
    """Yields the sentences of a user that ask, forbid or prefer, outside fenced code. A question is one only if it is
    a request.

    A rule that does not say what it is about takes the sentence before it along: on another line, as a rule of its own.
    """
    fenced, before = False, (0, 0)
    for match in SENTENCE.finditer(text):
        if "```" in match[0]:
            fenced, before = fenced != bool(match[0].count("```") % 2), (0, 0)
            continue
        start, end = trim_span(*match.span(), text, LONGEST_RULE)
        start += len(text[start:end]) - len(text[start:end].lstrip("-*#>\u20220123456789.) \t"))
        sentence = text[start:end]
        if fenced or _CODE.match(sentence):
            before = (0, 0)
        elif kind := classify_sentence(sentence):
            if _REFERS_BACK.search(sentence) and _is_beside(text, before, start):
                if end - before[0] <= LONGEST_RULE and "\n" not in text[before[1] : start]:
                    start = before[0]
                else:
                    yield Span(*before, kind)
            yield Span(start, end, kind)
            before = (0, 0)
        elif sentence:
            before = start, end


def classify_sentence(sentence: str) -> FactKind | None:
    """Returns the kind of rule that a sentence of the user is; None if it asks for nothing."""
    others = _languages_of(sentence)
    requests = _REQUEST.search(sentence) or any(language.requests.search(sentence) for language in others)
    idle = sentence.endswith(("?", "？")) and not requests
    if idle or not (_has_words(sentence, bool(others)) or _SHORT_RULE.match(sentence)):
        return None
    if forbids(sentence):
        return FactKind.PROHIBITION
    asks = _ASKS.search(sentence) or _PREFERS.search(sentence) or _is_imperative(sentence)
    if asks or any(language.asks.search(sentence) for language in others):
        return FactKind.INSTRUCTION
    return None


def is_foreign(text: str) -> bool:
    """Returns True if the text may be in a language other than English."""
    return any(_languages_of(part) for part in _sentences(text))


def _sentences(text: str) -> Iterator[str]:
    return (match[0] for match in SENTENCE.finditer(text))


@lru_cache(maxsize=1 << 12)
def _languages_of(sentence: str) -> tuple[Language, ...]:
    """Returns the languages other than English that a sentence may be in."""
    shown = sentence[:LONGEST_RULE]
    return tuple(language for language in LANGUAGES if language.speaks(shown))


def _has_words(sentence: str, foreign: bool) -> bool:
    """Returns True if a sentence has three words or more; two are enough for languages that say `not` by an ending."""
    return sentence.count(" ") >= (1 if foreign else 2) or len(_WIDE.findall(sentence)) > 4


def _is_beside(text: str, before: tuple[int, int], start: int) -> bool:
    """Returns True if the sentence `before` has three words or more and ends at most one line above `start`."""
    return text.count(" ", *before) > 1 and text.count("\n", before[1], start) < 2


def _is_imperative(sentence: str) -> bool:
    opening = _OPENING.match(sentence)
    return bool(opening and opening[1].casefold() in IMPERATIVES)
