"""The parser of one answer: splits its text into text, reasoning and tool calls.

A marker that no call follows is text. White space beside a marker belongs to it, so that what a client sends back and a
template renders again is the same turn.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from holdfast.transcript.tool_parser.base import NotACallError, ParsedCall, ToolSyntax, UnfinishedError, as_mapping
from holdfast.transcript.tool_parser.deltas import Delta, ReasoningDelta, TextDelta, ToolCallDelta
from holdfast.transcript.tool_parser.overlap import count_overlap
from holdfast.transcript.tool_parser.registry import SYNTAXES
from holdfast.transcript.turn import Role, ToolCall, Turn

_THINK, _END_THINK = "<think>", "</think>"
_MARKERS = sorted({marker for syntax in SYNTAXES for marker in syntax.markers})
_OPENING = re.compile("|".join(map(re.escape, _MARKERS)))


class ToolParser:
    """Splits one answer. The pieces joined are the same, however its text is cut."""

    def __init__(
        self,
        tools: bool,
        *,
        thinking: bool = False,
        definitions: Sequence[Mapping[str, Any]] = (),
        call_prefix: str = "",
    ) -> None:
        """Takes `tools`: look for calls. `thinking`: the template has already opened the reasoning.

        `definitions` (OpenAI functions) say which parameters are texts. `call_prefix` goes into the ids of calls.
        """
        self._tools, self._call_prefix, self._texts = tools, call_prefix, _text_parameters(definitions)
        self._phase: Literal["start", "reasoning", "text"] = "reasoning" if thinking else "start"
        self._buffer = ""
        self._space = ""  # white space that goes out once more words follow
        self._beside_marker = thinking  # whether that white space stands beside a marker
        self._has_words = False
        self._trailing = ""  # a marker that may follow the call that has just ended
        self._searched = 0  # how much of the buffer was there when the call at its start was not yet whole
        self._calls = 0

    def feed(self, text: str) -> list[Delta]:
        """Returns the pieces that are settled by more text. Text that cannot be part of a marker goes out at once."""
        self._buffer += text
        return list(self._parse(last=False))

    def end(self) -> list[Delta]:
        """Returns the rest. A call that is not whole is text; reasoning that nothing closed stays reasoning."""
        rest = list(self._parse(last=True))
        return rest if self._beside_marker or not self._space else [*rest, self._delta(self._space)]

    def _parse(self, *, last: bool) -> Iterator[Delta]:
        if self._phase == "start":
            self._start(last)
        if self._phase == "reasoning":
            yield from self._parse_reasoning(last)
        if self._phase == "text":
            yield from self._parse_text(last)

    def _start(self, last: bool) -> None:
        """Decides whether the answer begins with reasoning: a later marker is only words about it."""
        start = self._buffer.lstrip()
        if start.startswith(_THINK):
            self._buffer, self._phase, self._beside_marker = start[len(_THINK) :], "reasoning", True
        elif last or not _THINK.startswith(start):
            self._phase = "text"

    def _parse_reasoning(self, last: bool) -> Iterator[Delta]:
        end = self._buffer.find(_END_THINK)
        if end < 0:
            yield from self._emit(len(self._buffer) - (0 if last else count_overlap(self._buffer, _END_THINK)))
            return
        yield from self._emit(end)
        self._consume(len(_END_THINK))
        self._phase, self._space, self._beside_marker, self._has_words = "text", "", True, False

    def _parse_text(self, last: bool) -> Iterator[Delta]:
        if not self._tools:
            yield from self._emit(len(self._buffer))
        while self._buffer and not (self._trailing and self._awaits_trailing(last)):
            opening = _OPENING.search(self._buffer)
            if not opening:
                overlap = 0 if last else max(count_overlap(self._buffer, marker) for marker in _MARKERS)
                yield from self._emit(len(self._buffer) - overlap)
                return
            yield from self._emit(opening.start())
            try:
                yield from self._parse_calls(last)
            except NotACallError:
                yield from self._emit(1)
            except UnfinishedError:
                return

    def _awaits_trailing(self, last: bool) -> bool:
        """Consumes the marker that may follow a call. Returns true if more text must tell whether it is there."""
        rest = self._buffer.lstrip()
        if not last and rest != self._trailing and self._trailing.startswith(rest):
            return True
        if rest.startswith(self._trailing):
            self._buffer = rest[len(self._trailing) :]
        self._trailing = ""
        return False

    def _parse_calls(self, last: bool) -> list[Delta]:
        """Consumes the calls at the start of the buffer. Raises NotACallError, and UnfinishedError unless `last`."""
        try:
            syntax, calls, size = self._read_calls()
        except UnfinishedError:
            if last:
                raise NotACallError from None
            raise
        self._consume(size)
        self._trailing, self._beside_marker = syntax.trailing, True
        return [ToolCallDelta(ToolCall(self._call_id(*call), *call)) for call in calls]

    def _call_id(self, name: str, arguments: str) -> str:
        seed = "\0".join((self._call_prefix, str(self._calls), name, arguments)).encode(errors="replace")
        self._calls += 1
        return f"call_{hashlib.sha256(seed).hexdigest()[:24]}"

    def _read_calls(self) -> tuple[ToolSyntax, list[ParsedCall], int]:
        """Returns the calls at the start of the buffer, their syntax and how many characters they take."""
        for syntax in SYNTAXES:
            if head := syntax.head.match(self._buffer):
                searched = max(head.end(), self._searched - len(syntax.close))
                self._searched = len(self._buffer)
                if self._buffer.find(syntax.close, searched) < 0:
                    raise UnfinishedError
                return syntax, *syntax.read(self._buffer, head, self._texts)
        if any(syntax.partial_head.fullmatch(self._buffer) for syntax in SYNTAXES):
            raise UnfinishedError
        raise NotACallError

    def _emit(self, size: int) -> Iterator[Delta]:
        """Consumes that much of the buffer and yields it, but for the white space that a marker may follow."""
        text = self._space + self._consume(size)
        words = text.rstrip() if self._tools or self._phase == "reasoning" else text
        self._space = text[len(words) :]
        if not words:
            return
        if self._beside_marker and not self._has_words:
            words = words.lstrip()
        if words:
            self._beside_marker, self._has_words = False, True
            yield self._delta(words)

    def _delta(self, words: str) -> Delta:
        return ReasoningDelta(words) if self._phase == "reasoning" else TextDelta(words)

    def _consume(self, size: int) -> str:
        text, self._buffer, self._searched = self._buffer[:size], self._buffer[size:], 0
        return text


def join_deltas(outputs: Iterable[object]) -> Turn:
    """Returns the assistant's turn that the pieces of an answer make."""
    deltas = list(outputs)
    return Turn(
        Role.ASSISTANT,
        "".join(delta.text for delta in deltas if isinstance(delta, TextDelta)),
        "".join(delta.text for delta in deltas if isinstance(delta, ReasoningDelta)),
        tuple(delta.call for delta in deltas if isinstance(delta, ToolCallDelta)),
    )


def _text_parameters(definitions: Iterable[Mapping[str, Any]]) -> dict[str, frozenset[str]]:
    """Returns for each function its parameters that are declared as strings."""
    texts = {}
    for definition in definitions:
        function = as_mapping(definition.get("function"))
        properties = as_mapping(as_mapping(function.get("parameters")).get("properties"))
        types = {name: as_mapping(schema).get("type") for name, schema in properties.items()}
        texts[str(function.get("name"))] = frozenset(
            name
            for name, type_ in types.items()
            if type_ == "string" or (isinstance(type_, list) and "string" in type_)
        )
    return texts
