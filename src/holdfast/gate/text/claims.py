"""Strikes false sentences from a model's summary: the user did not say it, or it is not done.

Only pieces that a model wrote are read; a false sentence is struck out, with the reason. Support for a claim about the
user comes from real user turns alone, so a tool result that poses as the user supports nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

from holdfast.facts.lifts import topic_words
from holdfast.facts.notes import NOTES_WRITER, Notes
from holdfast.facts.prohibitions import is_foreign, negates
from holdfast.facts.user_words import extract_user_words
from holdfast.methods.text.activity_notes import activity_notes
from holdfast.transcript.activity import Activity, Command
from holdfast.transcript.claim_patterns import USER_CLAIM, USER_HEADING
from holdfast.transcript.draft import Draft, Line, Piece
from holdfast.transcript.outcomes import RunCounts
from holdfast.transcript.turn import Turn

CLOSE = 0.75
"""Share of a claim's words that must stand in one passage of the user if nothing is quoted."""


@dataclass(frozen=True)
class StruckSentence:
    """A sentence that was struck out."""

    sentence: str
    reason: str


_HEADING = re.compile(r"^\s*(?:#+\s|\*\*[^*]+\*\*:?\s*$|[^.\n]{1,80}:\s*$)")
_ABOUT = re.compile(r"\b(?:whether|if|about|why|how|what|which|when|where|who|question)\b", re.IGNORECASE)
_POLITE = re.compile(r"\b(?:can|could|would|will) (?:you|we)\b|\bplease\b", re.IGNORECASE)
_NOTHING = re.compile(r"^\W*(?:none|n/a|nothing|no (?:constraints|prohibitions|rules))\b[^.]{0,30}\W*$", re.IGNORECASE)
_FAILED = re.compile(r"\b([1-9]\d*) (?:tests? )?(?:failed|failing|failures?|fail)\b", re.IGNORECASE)
_APPROVES = re.compile(
    r"\b(?:approv|confirm|agree|allow|permi|consent|authori[sz]|accept|sign(?:ed)? off|okay|grant|approuv|permet"
    r"|aprob|acept|aprov|aceit|permess|accett|genehmig|erlaub|best(?:ä|ae)tig|zugestimm|einverstanden|одобр|подтвер|разреш"
    r"|соглас|(?:men|di)?setuju|(?:meng|di)?izin)|批准|同意|[许許]可|允[许許]|授[权權]|[确確][认認]|承認|승인|허가|허락|동의|확인",
    re.IGNORECASE,
)
_YES = re.compile(
    r"\b(?:yes|yep|yeah|ok(?:ay)?|sure|fine|agreed?|approved?|confirm(?:ed)?|go ahead|lgtm|allow(?:ed)?|may|can now"
    r"|do it|right|correct|good|accept(?:ed)?|permit(?:ted)?|authori[sz]ed?|please do)\b"
    r"|^\W*(?:(?:ja|gut|gerne|einverstanden|oui|d['\u2019]accord|vas-y|s[ií]|vale|dale|claro|adelante|sim|pode|beleza|sì"
    r"|va bene|certo|procedi|ya|boleh|silakan|да|хорошо|можно|ладно|давай)\b|好|可以|行|同意|是的|没问题|はい|いいです"
    r"|お願い|了解|네|좋아|그래|괜찮)",
    re.IGNORECASE,
)

_QUOTE = re.compile(
    r"""\"([^\"\n]{3,400})\"|\u201c([^\u201d\n]{3,400})\u201d|`([^`\n]{3,400})`
        |(?<!\w)'([^'\n]{3,400})'(?!\w)|\u00ab([^\u00bb\n]{3,400})\u00bb|\u201e([^\u201c\n]{3,400})\u201c
        |[\u300c\u300e]([^\u300d\u300f\n]{3,400})[\u300d\u300f]""",
    re.VERBOSE,
)
_SENTENCE = re.compile(
    r"(?:[^\n.!?;\"。！？；]|\"[^\"\n]*+\"|\"|[.!?;](?![\s\"')*\u201d]|$))++[.!?;。！？；]*+[\"')*\u201d]*+",
    re.MULTILINE,
)
_WIDE = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]")
_ORDER = re.compile(
    r"^\W*(?:system|developer|user|human)\b\W{0,4}:|\bignore (?:all |any )?(?:previous|prior|earlier|the above)\b"
    r"|\bdisregard (?:all |any )?(?:previous|prior|earlier)\b|\bnew instructions?:",
    re.IGNORECASE,
)
_DONE = re.compile(
    r"\b(?:done|fixed|completed?|finished|passing|pass(?:es|ed)?|verified|succe(?:eds?|eded|ss|ssful(?:ly)?)|resolved"
    r"|solved|green|works|work(?:ing)?(?! (?:on|tree|copy|dir(?:ectory)?)\b)|validated|implemented|deployed)\b"
    r"|[\u2705\u2713\u2714\u2611]|\[x\]",
    re.IGNORECASE,
)
_OPEN = re.compile(
    r"""(?:\b(?:not|never|no[ ]longer|yet[ ]to|still|to|must|should|shall|until|if|once|when|whether|needs?
        |remains?|cannot|will|would|could|can|may|might|so[ ]that|make[ ]sure|ensure|verify|want|before|after|next|todo
        |unless|how
        |let|neither|nothing|none|0|in[ ]progress)|n['\u2019]t)\b[^.;,]{0,60}$|\bbeing[ ](?:\w+ly[ ])?$""",
    re.IGNORECASE | re.VERBOSE,
)
_UNDER_WAY = re.compile(
    r"(?:(?!\b(?:and|but|while|now)\b)[^.;,]){0,60}\b(?:in progress|under ?way|ongoing)\b", re.IGNORECASE
)
_ACTION_DONE = re.compile(
    r"""\b(?:(?P<reads>reads?|reading|views?)|(?P<writes>edits?|editing|writes?|writing|changes)|(?P<runs>runs?|running))
        [ ](?:of|to)[ ](?P<objects>[^;]{1,200}?)[ ](?:was|were|is|are|ha(?:s|ve)[ ]been)[ ](?:all[ ])?
        (?:done|completed|finished)\b(?![ ](?:success|without|clean))""",
    re.IGNORECASE | re.VERBOSE,
)
_BETWEEN = re.compile(r",? and |, ")
_TESTS = re.compile(r"\btests?\b|\bsuite\b|\bspecs?\b|\b\d+ (?:passed|passing)\b|\bci\b", re.IGNORECASE)
_COUNT = re.compile(
    r"\b(\d+)(?: ?/ ?\d+)? (?:of \d+ |of the )?(?:\w+ )?(?:tests? )?(?:passed|passing|pass)\b", re.IGNORECASE
)
_TEST_COMMAND = re.compile(
    r"\b(?:pytest|unittest|tox|nox|jest|vitest|mocha|ctest|phpunit|rspec|gotestsum)\b"
    r"|\b(?:npm|yarn|pnpm|bun|go|cargo|make|node|mvn|gradle|dotnet)\b[^|;&\n]{0,40}\btest",
    re.IGNORECASE,
)


def strike_claims(draft: Draft, activity: Activity) -> tuple[Draft, tuple[StruckSentence, ...]]:
    """Returns the draft without sentences that the raw session does not bear out, and these sentences.

    `activity` is that of the raw session.
    """
    if not any(piece.writer == NOTES_WRITER for piece in draft.pieces):
        return draft, ()
    check = ClaimChecker(draft.raw.turns, activity)
    struck: list[StruckSentence] = []
    pieces = tuple(
        _strike_piece(piece, check, struck) if piece.writer == NOTES_WRITER else piece for piece in draft.pieces
    )
    return (replace(draft, pieces=pieces), tuple(struck)) if struck else (draft, ())


def _strike_piece(piece: Piece, check: ClaimChecker, struck: list[StruckSentence]) -> Piece:
    """Returns a piece without its false sentences; lines that are empty then go, other lines stay as they are."""
    lines = piece.lines or tuple(Line(text, piece.turns) for text in piece.turn.text.split("\n"))
    rest: list[Line] = []
    user, by_code = False, check.lines_of_code(piece.turns)
    for line in lines:
        if line.text in by_code:
            rest.append(line)
            continue
        text, user, found = _strike_line(line.text, check, user)
        struck += found
        if not found:
            rest.append(line)
        elif re.search(r"\w", text):
            rest.append(replace(line, text=text))
    if len(rest) == len(lines) and all(a is b for a, b in zip(rest, lines, strict=True)):
        return piece
    text = "\n".join(line.text for line in rest)
    return replace(piece, turn=replace(piece.turn, text=text), lines=tuple(rest) if piece.lines else ())


def _strike_line(text: str, check: ClaimChecker, user: bool) -> tuple[str, bool, list[StruckSentence]]:
    """Returns the rest of a line, True if the lines after it are the user's words, and the struck sentences."""
    found: list[StruckSentence] = []
    for part in text.split("\n"):
        if _HEADING.match(part):
            user = bool(USER_HEADING.search(part))
            continue
        for match in _SENTENCE.finditer(part):
            if reason := check.find_reason(match[0], user):
                found.append(StruckSentence(match[0].strip(), reason))
                text = text.replace(match[0], "", 1)
    return text, user, found


class ClaimChecker:
    """Judges sentences by what the user said and by how commands ended."""

    def __init__(self, turns: Sequence[Turn], activity: Activity) -> None:
        self._turns = turns
        self._activity = activity
        texts = [text for turn in turns if (text := extract_user_words(turn))]
        self._user_texts = [_normalize(text) for text in texts]
        self._passages = [passage for text in texts for passage in _split_passages(text)]
        self._commands = [command for command in activity.commands if command.result_turn is not None]
        self._actions = {
            "reads": {access.path for access in activity.reads},
            "writes": {access.path for access in activity.writes},
            "runs": {command.text for command in self._commands},
        }

    def lines_of_code(self, turns: Sequence[int]) -> frozenset[str]:
        """Returns the lines of notes on these turns that code wrote and no model."""
        notes = activity_notes(self._turns, turns, self._activity)
        lines = (*Notes({}).render(), *(line for part in notes.lines.values() for line in part))
        return frozenset(line.text for line in lines)

    def find_reason(self, sentence: str, user: bool = False) -> str:
        """Returns the reason to strike a sentence; empty if it may stay. `user`: it stands under a heading for the
        user's words.
        """
        claim = USER_CLAIM.search(sentence)
        if claim or user:
            unsaid = self._refute_claim(sentence, claim[0] if claim else "") or self._refute_order(sentence)
            return unsaid or ("" if user else self._refute_success(_QUOTE.sub("", sentence)))
        return self._refute_order(sentence) or self._refute_success(sentence)

    def _refute_order(self, sentence: str) -> str:
        if _ORDER.search(sentence) and _normalize(sentence) not in " ".join(self._user_texts):
            return "poses as an order that no user turn gives"
        return ""

    def _refute_claim(self, sentence: str, claim: str) -> str:
        if _NOTHING.match(sentence):
            return ""
        quotes = [_normalize(next(filter(None, match))) for match in _QUOTE.findall(sentence)]
        long = [quote for quote in quotes if quote.count(" ") > 1 or len(_WIDE.findall(quote)) > 5]
        positive = not negates(_QUOTE.sub("", sentence))
        for quote in long:
            if not any(quote in text for text in self._user_texts):
                return f"no user turn says {quote[:60]!r}"
            around = [passage for passage in self._passages if quote in _normalize(passage)]
            if positive and around and all(_drops_negation(quote, passage) for passage in around):
                return f"the user says the opposite of {quote[:60]!r}"
        if (long and not _APPROVES.search(claim)) or self._has_support(sentence, claim):
            return ""
        return "no user turn says so"

    def _has_support(self, sentence: str, claim: str) -> bool:
        """Returns True if one passage of the user has nearly all words of the claim, and says yes or no as it does."""
        about = _words_of_claim(sentence.replace(claim, " ") if claim else sentence)
        approves, negative = bool(_APPROVES.search(claim)), negates(sentence)
        if not about and not approves:
            return True  # it claims nothing
        for passage in self._passages:
            if len(about & _words_of_claim(passage)) < CLOSE * len(about) or negative != negates(passage):
                continue
            if passage.rstrip().endswith(("?", "？")) and not (_POLITE.search(passage) or _ABOUT.search(sentence)):
                continue
            if not approves or _YES.search(passage):
                return True
        return False

    def _did_all(self, match: re.Match[str]) -> bool:
        """Returns True if the session has every action of a match of `_ACTION_DONE`, which claims no success."""
        actions = self._actions[next(kind for kind in self._actions if match[kind])]
        names = [name.strip("`'\" ") for name in _BETWEEN.split(match["objects"])]
        return all(any(f"/{action}".endswith(f"/{name}") for action in actions) for name in names)

    def _refute_success(self, sentence: str) -> str:
        """Returns the reason against a sentence that calls something done; empty if there is none."""
        rest = _ACTION_DONE.sub(lambda match: "" if self._did_all(match) else match[0], sentence)
        if rest.rstrip().endswith("?") or not any(map(_is_success(rest), _DONE.finditer(rest))):
            return ""
        return self._find_failure(rest)

    def _find_failure(self, sentence: str) -> str:
        """Returns the failure, or the lack of evidence, that speaks against a success; empty if there is none."""
        named = [command for command in self._commands if _names(sentence, command)]
        if named and named[-1].failed:
            return f"{named[-1].text[:60]!r} failed when it last ran (turn {_turn_from_one(named[-1])})"
        tests = [command for command in self._commands if command.tests or _TEST_COMMAND.search(command.text)]
        if _TESTS.search(sentence):
            return _refute_tests(sentence, tests)
        if not named and tests and tests[-1].failed:
            return f"the last test run failed (turn {_turn_from_one(tests[-1])})"
        if not self._activity.writes and not any(not command.failed for command in self._commands):
            return "nothing in the session bears it out"
        return ""


def _is_success(sentence: str) -> Callable[[re.Match[str]], bool]:
    """Returns a test for a word of success in this sentence: False if the success is yet to come."""
    return lambda word: not (_OPEN.search(sentence[: word.start()]) or _UNDER_WAY.match(sentence, word.end()))


def _refute_tests(sentence: str, runs: Sequence[Command]) -> str:
    """Returns the reason against a claim about tests: no run, a last run that failed, or another count."""
    if not runs:
        return "no test ran"
    last = runs[-1].tests
    if last and [last.failed] == list(map(int, _FAILED.findall(sentence))):
        return ""
    if runs[-1].failed:
        return f"the last test run failed (turn {_turn_from_one(runs[-1])})"
    counted: list[RunCounts] = [run.tests for run in runs if run.tests]
    for number in map(int, _COUNT.findall(sentence)):
        if counted and number not in {tests.passed for tests in counted}:
            return f"no test run passed {number}"
    if not counted and runs[-1].exit_code != 0:
        return "no test run is known to have succeeded"
    return ""


def _turn_from_one(command: Command) -> int:
    """Returns the turn of its result, counted from 1 as `holdfast expand` takes it."""
    return (command.result_turn or command.turn) + 1


def _names(sentence: str, command: Command) -> bool:
    """Returns True if a sentence names a command, in quotes or as it stands."""
    text = _normalize(command.text)
    quotes = [_normalize(next(filter(None, match))) for match in _QUOTE.findall(sentence)]
    return text in _normalize(sentence) or any(len(quote) > 2 and quote in text for quote in quotes)


_FILLERS = topic_words(
    "user said asked wanted requested approved confirmed forbade told would like that this has have had was were been "
    "then to by about explicitly clearly per on as whether also now agent assistant explicit"
)


_STEM = 4  # letters by which words of languages with many endings are compared


@lru_cache(maxsize=1 << 12)
def _words_of_claim(text: str) -> frozenset[str]:
    """Returns the words that a claim is about; outside English their first letters, without short words."""
    words = topic_words(text) - _FILLERS
    if not is_foreign(text):
        return words
    return frozenset(word[:_STEM] for word in words if len(word) >= _STEM or _WIDE.search(word))


def _normalize(text: str) -> str:
    """Returns the text without differences in blanks, case and the form of quotes."""
    return " ".join(text.translate({0x2019: "'", 0x2018: "'", 0x201C: '"', 0x201D: '"'}).casefold().split()).strip(" .")


def _split_passages(text: str) -> Iterator[str]:
    """Yields each sentence of a text, and each two in a row."""
    parts = [match[0].strip() for match in _SENTENCE.finditer(text) if match[0].strip()]
    yield from parts
    yield from (" ".join(two) for two in pairwise(parts))


def _drops_negation(quote: str, passage: str) -> bool:
    """Returns True if a quote leaves out the `not` that stands before it."""
    return negates(_normalize(passage).partition(quote)[0]) and not negates(quote)
