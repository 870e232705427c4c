"""Raw generated text to what it says: text, reasoning and tool calls, piece by piece as it is generated.

Two written forms of a call are known:

    <tool_call>{"name": "f", "arguments": {...}}</tool_call>          Hermes, Qwen, SmolLM; or a list of such objects
    <function=f><parameter=k>text</parameter></function>              Qwen3-Coder, with or without <tool_call> around it

A marker that no call follows is text. White space beside a marker belongs to it: what a client sends back and a
template renders again is then the same turn.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from holdfast.server.protocol import GenerateOutput, ReasoningDelta, TextDelta, ToolCallDelta
from holdfast.transcript.turn import Role, ToolCall, Turn


def _partly(literal: str) -> str:
    """A pattern for every beginning of a literal, the empty one and the whole of it among them."""
    pattern = ""
    for character in reversed(literal):
        pattern = f"(?:{re.escape(character)}{pattern})?"
    return pattern


_THINK, _THOUGHT = "<think>", "</think>"
_OPENING = re.compile("<tool_call>|<function=")
_HEAD = re.compile(r'(?:<tool_call>\s*)?(?:(?=(?:\[\s*)?\{\s*")|<function=([^<>\n]+)>\s*(?=<parameter=|</function>))')
_HEAD_SO_FAR = re.compile(
    rf"(?:<tool_call>\s*)?(?:(?:\[\s*)?(?:\{{\s*)?|{_partly('<function=')}|<function=[^<>\n]+"
    rf"(?:>\s*(?:{_partly('<parameter=')}|{_partly('</function>')}))?)"
)
# Possessive, so that an object that does not close costs one pass. A closing marker inside a string closes nothing.
_OBJECT = re.compile(r'((?:[^"<]++|"(?:[^"\\]|\\.)*+"|<(?!/tool_call>))*+)</tool_call>', re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([^<>\n]+)>(.*?)</parameter>\s*(?=<parameter=|</function>)", re.DOTALL)
_CLOSE, _END = "</tool_call>", "</function>"


class _NotACall(Exception):
    """What follows the marker is none of the forms of a call."""


class _Unfinished(Exception):
    """More text decides whether it is a call."""


class ToolParser:
    """Splits one answer. However its text is cut into pieces, what comes out is the same when joined."""

    def __init__(
        self, tools: bool, *, thinking: bool = False, definitions: Sequence[Mapping[str, Any]] = (), place: str = ""
    ) -> None:
        """`tools`: whether calls are looked for. `thinking`: the template has already opened the reasoning.
        `definitions` (OpenAI functions) say where a bare `3` is a text. `place` keeps the ids of two answers apart.
        """
        self._tools, self._place, self._texts = tools, place, _texts(definitions)
        self._phase: Literal["start", "thought", "text"] = "thought" if thinking else "start"
        self._buffer = ""
        self._held = ""  # white space, said once more words follow
        self._beside = thinking  # whether what is held stands beside a marker
        self._spoken = False
        self._closing = False  # whether a call has just ended that a closing marker may follow
        self._tried = 0  # how much of the buffer was known when the call at its start was not yet whole
        self._calls = 0

    def feed(self, text: str) -> list[TextDelta | ReasoningDelta | ToolCallDelta]:
        """What this piece settles. Text that cannot be part of a marker goes out at once."""
        self._buffer += text
        return list(self._read(last=False))

    def end(self) -> list[TextDelta | ReasoningDelta | ToolCallDelta]:
        """The rest. A call that is not whole is text; a thought that nothing closed stays a thought."""
        rest = list(self._read(last=True))
        return rest if self._beside or not self._held else [*rest, self._piece(self._held)]

    def _read(self, *, last: bool) -> Iterator[TextDelta | ReasoningDelta | ToolCallDelta]:
        if self._phase == "start":
            self._begin(last)
        if self._phase == "thought":
            yield from self._think(last)
        if self._phase == "text":
            yield from self._talk(last)

    def _begin(self, last: bool) -> None:
        """Reasoning stands first or nowhere: later on, an answer that names the marker is about it."""
        start = self._buffer.lstrip()
        if start.startswith(_THINK):
            self._buffer, self._phase, self._beside = start[len(_THINK) :], "thought", True
        elif last or not _THINK.startswith(start):
            self._phase = "text"

    def _think(self, last: bool) -> Iterator[TextDelta | ReasoningDelta]:
        end = self._buffer.find(_THOUGHT)
        if end < 0:
            yield from self._say(len(self._buffer) - (0 if last else _begun(self._buffer, _THOUGHT)))
            return
        yield from self._say(end)
        self._take(len(_THOUGHT))
        self._phase, self._held, self._beside, self._spoken = "text", "", True, False

    def _talk(self, last: bool) -> Iterator[TextDelta | ReasoningDelta | ToolCallDelta]:
        if not self._tools:
            yield from self._say(len(self._buffer))
        while self._buffer and not (self._closing and self._awaits_close(last)):
            opening = _OPENING.search(self._buffer)
            if not opening:
                kept = 0 if last else max(_begun(self._buffer, "<tool_call>"), _begun(self._buffer, "<function="))
                yield from self._say(len(self._buffer) - kept)
                return
            yield from self._say(opening.start())
            try:
                yield from self._called(last)
            except _NotACall:
                yield from self._say(1)
            except _Unfinished:
                return

    def _awaits_close(self, last: bool) -> bool:
        """Take the marker that may close a function, which nothing needs to have opened."""
        rest = self._buffer.lstrip()
        if not last and rest != _CLOSE and _CLOSE.startswith(rest):
            return True
        self._closing = False
        if rest.startswith(_CLOSE):
            self._buffer = rest[len(_CLOSE) :]
        return False

    def _called(self, last: bool) -> list[ToolCallDelta]:
        """The calls at the start of the buffer, taken from it."""
        try:
            calls, size = self._written()
        except _Unfinished:
            if last:
                raise _NotACall from None
            raise
        self._closing = self._buffer.startswith(_END, size - len(_END))
        self._take(size)
        self._beside = True
        return [ToolCallDelta(ToolCall(self._id(name, arguments), name, arguments)) for name, arguments in calls]

    def _id(self, name: str, arguments: str) -> str:
        seed = "\0".join((self._place, str(self._calls), name, arguments)).encode(errors="replace")
        self._calls += 1
        return f"call_{hashlib.sha256(seed).hexdigest()[:24]}"

    def _written(self) -> tuple[list[tuple[str, str]], int]:
        """The calls at the start of the buffer, each by name and arguments, and how much of it they are."""
        head = _HEAD.match(self._buffer)
        if not head:
            raise _Unfinished if _HEAD_SO_FAR.fullmatch(self._buffer) else _NotACall
        close = _END if head[1] else _CLOSE
        known, self._tried = max(head.end(), self._tried - len(close)), len(self._buffer)
        if self._buffer.find(close, known) < 0:
            raise _Unfinished
        if head[1]:
            values, size = _values(self._buffer, head.end(), self._texts.get(head[1], frozenset()))
            return [(head[1], _canonical(values))], size
        held = _OBJECT.match(self._buffer, head.end())
        if not held:
            raise _Unfinished
        return _objects(held[1]), held.end()

    def _say(self, size: int) -> Iterator[TextDelta | ReasoningDelta]:
        """Take that much of the buffer and say it, but for the white space that a marker may follow."""
        text = self._held + self._take(size)
        words = text.rstrip() if self._tools or self._phase == "thought" else text
        self._held = text[len(words) :]
        if not words:
            return
        if self._beside and not self._spoken:
            words = words.lstrip()
        if words:
            self._beside, self._spoken = False, True
            yield self._piece(words)

    def _piece(self, words: str) -> TextDelta | ReasoningDelta:
        return ReasoningDelta(words) if self._phase == "thought" else TextDelta(words)

    def _take(self, size: int) -> str:
        taken, self._buffer, self._tried = self._buffer[:size], self._buffer[size:], 0
        return taken


def turn_of(events: Iterable[GenerateOutput]) -> Turn:
    """The turn of the assistant that the pieces of an answer make."""
    pieces = list(events)
    return Turn(
        Role.ASSISTANT,
        "".join(piece.text for piece in pieces if isinstance(piece, TextDelta)),
        "".join(piece.text for piece in pieces if isinstance(piece, ReasoningDelta)),
        tuple(piece.call for piece in pieces if isinstance(piece, ToolCallDelta)),
    )


def _begun(text: str, marker: str) -> int:
    """How many characters at the end of a text may begin a marker."""
    return next((n for n in range(min(len(marker) - 1, len(text)), 0, -1) if marker.startswith(text[-n:])), 0)


def _objects(text: str) -> list[tuple[str, str]]:
    """Names and arguments of calls that are written as an object, or as a list of them."""
    try:
        value = _json(text)
        return [_object(call) for call in (value if isinstance(value, list) else [value])]
    except ValueError:
        raise _NotACall from None


def _object(call: Any) -> tuple[str, str]:
    """Raises ValueError for what is no call."""
    name, arguments = _mapping(call).get("name"), _mapping(call).get("arguments", {})
    if isinstance(arguments, str):
        arguments = _json(arguments)
    if not (isinstance(name, str) and name and isinstance(arguments, dict)):
        raise ValueError("no call")
    return _whole(name), _canonical(arguments)


def _values(text: str, at: int, texts: frozenset[str]) -> tuple[dict[str, Any], int]:
    """The parameters that stand from `at`, and where the function ends."""
    values: dict[str, Any] = {}
    while not text.startswith(_END, at):
        parameter = _PARAMETER.match(text, at)
        if not parameter:
            raise _Unfinished
        value = parameter[2].removeprefix("\n").removesuffix("\n")
        values[parameter[1]] = value if parameter[1] in texts else _bare(value)
        at = parameter.end()
    return values, at + len(_END)


def _bare(text: str) -> Any:
    """A parameter of unknown type: JSON where it is any but a string, which is written without its quotes."""
    try:
        value = _json(text)
    except ValueError:
        return text
    return text if isinstance(value, str) else value


def _json(text: str) -> Any:
    """JSON, with line breaks inside its strings as models write them. Raises ValueError."""
    try:
        value = json.loads(text, strict=False)
        json.dumps(value, allow_nan=False)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def _canonical(arguments: Mapping[str, Any]) -> str:
    """The text that every wire gives back, whether it carries arguments as text or as an object."""
    return _whole(json.dumps(arguments, ensure_ascii=False))


def _whole(text: str) -> str:
    """Half of a UTF-16 pair, which no wire can carry, is U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _texts(definitions: Iterable[Mapping[str, Any]]) -> dict[str, frozenset[str]]:
    """For each function its parameters that are declared as strings."""
    found = {}
    for definition in definitions:
        function = _mapping(definition.get("function"))
        properties = _mapping(_mapping(function.get("parameters")).get("properties"))
        types = {name: _mapping(schema).get("type") for name, schema in properties.items()}
        found[str(function.get("name"))] = frozenset(
            name
            for name, type_ in types.items()
            if type_ == "string" or (isinstance(type_, list) and "string" in type_)
        )
    return found


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
