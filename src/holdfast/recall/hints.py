"""Hints in a question to its answer: `how many` asks for a number, `which file` for a path, `the user` for theirs."""

from __future__ import annotations

import re

from holdfast.recall.pages import Page
from holdfast.transcript.turn import Role

_NUMBER = r"(?<![\w.])\d[\d,._:]*"
_FORMS = (
    (r"commit|hash|sha|revision|checksum|digest", r"\b(?=[a-f]*\d)[0-9a-f]{7,64}\b"),
    (r"version|release", r"\bv?\d+\.\d+"),
    (r"url|link|address|host|endpoint|website", r"https?://|\b[\w-]+\.[\w-]+\.\w+|:\d{2,5}\b"),
    (r"error|exception|fail\w*|complain\w*|warning", r"(?i)error|exception|fail|cannot|could not|warning|denied"),
    (r"(?:which|what|at which) lines?|line number|how (?:many|much|long|large|big|often)|number|count", _NUMBER),
    (r"port|size|mean|percent\w*|seconds|milliseconds|timeout|limit|score|tokens|bytes|shape", _NUMBER),
    (r"file|path|folder|director\w+|script|module|where", r"[\w.-]+/[\w.-]+|\b[\w-]+\.[a-z]{1,5}\b"),
    (r"variable|constant|environment|env|flag", r"\b[A-Z][A-Z0-9]*_[A-Z0-9_]+\b|--?\w"),
    (r"key|setting|option", r"[\"'][^\"']+[\"']|=|--?\w"),
    (r"function|method|class|component|type", r"\b\w+\(|\b[a-z]+[A-Z]\w*|\b[A-Z][a-z]+[A-Z]\w*|\w+_\w+"),
    (r"attribute|field|identifier|name", r"\b\w+\(|\b[a-z]+[A-Z]\w*|\b[A-Z][a-z]+[A-Z]\w*|\w+_\w+"),
)
_ASKED_FORMS = [(re.compile(rf"\b(?:{asks})\b", re.IGNORECASE), re.compile(answer)) for asks, answer in _FORMS]
_ASKED_ROLES = (
    (re.compile(r"\bthe user\b|\buser (?:ask|want|say|said|forb|insist|offer)|\bdid I\b", re.IGNORECASE), Role.USER),
    (re.compile(r"\bthe (?:agent|assistant)\b|\bdid (?:you|we)\b", re.IGNORECASE), Role.ASSISTANT),
)
_ASKED_CALL = re.compile(r"\bcommands?\b|\b(?:grep|run|search)(?:ped|ed)? for\b|\bran\b", re.IGNORECASE)


class Hints:
    """The form, the speaker and the place that a question asks for."""

    def __init__(self, query: str) -> None:
        self._query = query
        self._form = next((form for asks, form in _ASKED_FORMS if asks.search(query)), None)
        self._role = next((role for asks, role in _ASKED_ROLES if asks.search(query)), None)
        self._call = _ASKED_CALL.search(query) is not None

    def fits_form(self, line: str) -> bool:
        """Returns True if the line holds something of the form that is asked for, beside what the question names."""
        return self._form is not None and any(match[0] not in self._query for match in self._form.finditer(line))

    def fits_speaker(self, page: Page) -> bool:
        """Returns True if the speaker that is asked for speaks."""
        return self._role is page.role

    def repeats_call(self, page: Page, line: int) -> bool:
        """Returns True for a line of a call, which the head of its result repeats, unless a call is asked for."""
        return page.call_line is not None and line >= page.call_line and not self._call
