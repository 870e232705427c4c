"""The rules by which a provider refuses a session: one function per rule, and the rules of each provider.

Judges turns as they would be written into a request, or the messages of a request as they stand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from holdfast.errors import BadOption
from holdfast.transcript.cuts import find_orphans
from holdfast.transcript.document import Entry, MalformedEntry
from holdfast.transcript.formats import anthropic, openai_chat
from holdfast.transcript.turn import Role, ToolCall, Turn

Violations = Iterator[tuple[int, str]]
"""Index of the turn or message, and the violation in it."""


@dataclass(frozen=True)
class Problem:
    """The reason why a provider would refuse a session."""

    turn: int
    """0-based index of the turn, or of the message where messages were given."""
    rule: str
    message: str


def find_problems(session: Sequence[Turn] | Sequence[Mapping[str, Any]], provider: str) -> tuple[Problem, ...]:
    """Returns what `provider` would refuse, in the order of the session. Raises BadOption for an unknown provider."""
    if provider not in PROVIDERS:
        raise BadOption(f"no provider is called {provider!r}; there are: {', '.join(PROVIDERS)}")
    turns = [item for item in session if isinstance(item, Turn)]
    messages = [item for item in session if not isinstance(item, Turn)]
    at: Sequence[int] = range(len(turns))
    found: list[Problem] = []
    if messages:
        turns, at, found = _read_messages(messages, provider)
        for rule, judge in (_MESSAGE_RULES if provider == "anthropic" else {}).items():
            found += [Problem(where, rule, what) for where, what in judge(messages)]
    for rule, check in PROVIDERS[provider].items():
        found += [Problem(at[where], rule, what) for where, what in check(turns)]
    return tuple(sorted(found, key=lambda problem: (problem.turn, problem.rule)))


def _read_messages(messages: Sequence[Mapping[str, Any]], provider: str) -> tuple[list[Turn], list[int], list[Problem]]:
    """Returns the turns of messages, the index of the message of each, and a problem for each message that is none."""
    turns: list[Turn] = []
    at: list[int] = []
    bad: list[Problem] = []
    for where, message in enumerate(messages):
        try:
            said = _turns_of(message, where, provider)
        except MalformedEntry as error:
            bad.append(Problem(where, "shape", str(error)))
            continue
        turns += said
        at += [where] * len(said)
    return turns, at, bad


def _turns_of(message: Mapping[str, Any], where: int, provider: str) -> tuple[Turn, ...]:
    if provider == "anthropic":
        return anthropic.turns_of(dict(message), where + 1)
    if provider == "openai_responses" and message.get("type", "message") != "message":
        return _turns_of_item(message)
    return (openai_chat.turn_of(Entry(where + 1, dict(message))),)


def _turns_of_item(item: Mapping[str, Any]) -> tuple[Turn, ...]:
    """Returns the turn of an item that is no message; reasoning and other items hold no turn."""
    type_, call_id = str(item.get("type")), str(item.get("call_id") or "")
    if type_.endswith("_call_output"):
        return (Turn(Role.TOOL, str(item.get("output") or ""), call_id=call_id),)
    if type_ in ("function_call", "custom_tool_call"):
        arguments = str(item.get("arguments") or item.get("input") or "")
        return (Turn(Role.ASSISTANT, calls=(ToolCall(call_id, str(item.get("name") or ""), arguments),)),)
    return ()


def _pairing(turns: Sequence[Turn]) -> Violations:
    """Requires a call for every result, and a result for every call but the last turn's."""
    yield from find_orphans(turns)


def _results_follow(turns: Sequence[Turn]) -> Violations:
    """Requires results right behind the assistant's turns that made the calls."""
    made: set[str] = set()
    open_: set[str] = set()
    before = Role.SYSTEM
    for at, turn in enumerate(turns):
        if turn.role is Role.TOOL and turn.call_id in made - open_:
            yield at, f"the result of {turn.call_id[:60]!r} does not stand right behind its call"
        if turn.role is not Role.TOOL or not turn.call_id:
            calls = {call.id for call in turn.calls}
            open_ = open_ | calls if before is turn.role is Role.ASSISTANT else calls
            made |= calls
        before = turn.role


def _not_empty(turns: Sequence[Turn]) -> Violations:
    """Requires text, calls or parts in every turn."""
    for at, turn in enumerate(turns):
        if turn.role is not Role.TOOL and not turn.text.strip() and not turn.calls and not turn.extra.get("parts"):
            yield at, f"the {turn.role.value} turn is empty"


def _unique_ids(turns: Sequence[Turn]) -> Violations:
    """Requires a different id for every call."""
    seen: set[str] = set()
    for at, turn in enumerate(turns):
        for call in turn.calls:
            if call.id in seen:
                yield at, f"the id {call.id[:60]!r} is that of another call"
            seen.add(call.id)


def _ids_of(pattern: str) -> Callable[[Sequence[Turn]], Violations]:
    """Returns a rule that requires call ids of this pattern."""

    def judge(turns: Sequence[Turn]) -> Violations:
        for at, turn in enumerate(turns):
            for call in turn.calls:
                if not re.fullmatch(pattern, call.id):
                    yield at, f"the call id {call.id[:80]!r} does not match {pattern}"

    return judge


def _names(turns: Sequence[Turn]) -> Violations:
    """Requires names of tools that every provider takes."""
    for at, turn in enumerate(turns):
        for call in turn.calls:
            if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", call.name):
                yield at, f"the tool name {call.name[:80]!r} is not 1 to 64 letters, digits, _ and -"


def _object_arguments(turns: Sequence[Turn]) -> Violations:
    """Requires a JSON object as arguments."""
    for at, turn in enumerate(turns):
        for call in turn.calls:
            if not _is_object(call.arguments or "{}"):
                yield at, f"the arguments of {call.name[:60]!r} are no JSON object: {call.arguments[:60]!r}"


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _system_first(turns: Sequence[Turn]) -> Violations:
    """Requires the system prompt at the head only."""
    head = next((at for at, turn in enumerate(turns) if turn.role is not Role.SYSTEM), len(turns))
    for at, turn in enumerate(turns[head:], head):
        if turn.role is Role.SYSTEM:
            yield at, "a system turn stands after the session has begun"


def _user_first(turns: Sequence[Turn]) -> Violations:
    """Requires a user turn as the first one."""
    first = next((at for at, turn in enumerate(turns) if turn.role is not Role.SYSTEM), None)
    if first is not None and turns[first].role is not Role.USER:
        yield first, f"the session begins with the {turns[first].role.value}, not the user"


def _user_last(turns: Sequence[Turn]) -> Violations:
    """Requires the user or a result as the last turn: a last assistant turn would be a beginning to go on from."""
    if turns and turns[-1].role is Role.ASSISTANT:
        yield len(turns) - 1, "the session ends with the assistant; the next request needs a user turn or results"


def _thinking_whole(turns: Sequence[Turn]) -> Violations:
    """Requires the signed thinking of the calls that it led to, whole."""
    for at, turn in _turns_since_user(turns):
        parts = turn.extra.get("parts")
        blocks = [part for part in parts.values() if isinstance(part, dict)] if isinstance(parts, dict) else []
        signed = any(block.get("type") in ("thinking", "redacted_thinking") for block in blocks)
        if turn.calls and signed and not turn.reasoning:
            yield at, "the thinking before these calls was dropped"


def _reasoning_whole(turns: Sequence[Turn]) -> Violations:
    """Requires `reasoning_content` with the calls that it led to, until the user speaks again."""
    if any(turn.reasoning for turn in turns):
        for at, turn in _turns_since_user(turns):
            if turn.calls and not turn.reasoning:
                yield at, "calls without the reasoning_content that led to them"


def _turns_since_user(turns: Sequence[Turn]) -> list[tuple[int, Turn]]:
    """Returns the turns since the user spoke last, each with its index."""
    start = max((at for at, turn in enumerate(turns) if turn.role is Role.USER), default=-1) + 1
    return list(enumerate(turns))[start:]


def _alternate(messages: Sequence[Mapping[str, Any]]) -> Violations:
    """Requires that user and assistant take turns."""
    for at, (one, two) in enumerate(pairwise(messages), 1):
        if one.get("role") == two.get("role"):
            yield at, f"follows a message of the same role, {two.get('role')}"


def _results_first(messages: Sequence[Mapping[str, Any]]) -> Violations:
    """Requires that results stand before the rest of a user message."""
    for at, message in enumerate(messages):
        types = [block.get("type") for block in _blocks(message)]
        rest = next((place for place, type_ in enumerate(types) if type_ != "tool_result"), len(types))
        if "tool_result" in types[rest:]:
            yield at, "a tool_result stands behind other content"


def _no_empty_block(messages: Sequence[Mapping[str, Any]]) -> Violations:
    """Requires content, and text in every text block."""
    for at, message in enumerate(messages):
        texts = [block.get("text") for block in _blocks(message) if block.get("type") == "text"]
        if not message.get("content") or any(not str(text or "").strip() for text in texts):
            yield at, "empty content or an empty text block"


def _signature(messages: Sequence[Mapping[str, Any]]) -> Violations:
    """Requires a signature on thinking."""
    for at, message in enumerate(messages):
        if any(block.get("type") == "thinking" and not block.get("signature") for block in _blocks(message)):
            yield at, "a thinking block without its signature"


def _blocks(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = message.get("content")
    return [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []


_MESSAGE_RULES: dict[str, Callable[[Sequence[Mapping[str, Any]]], Violations]] = {
    "alternation": _alternate,
    "results_first": _results_first,
    "empty_block": _no_empty_block,
    "signature": _signature,
}

_Rules = dict[str, Callable[[Sequence[Turn]], Violations]]
_COMMON: _Rules = {"pairing": _pairing, "results_follow": _results_follow, "empty": _not_empty, "tool_name": _names}
_REASONING: _Rules = {**_COMMON, "reasoning_kept": _reasoning_whole}
PROVIDERS: dict[str, _Rules] = {
    "openai": {**_COMMON, "id": _ids_of(r".{1,40}")},
    "openai_responses": {**_COMMON, "unique_id": _unique_ids, "id": _ids_of(r".{1,64}")},
    "anthropic": {
        **_COMMON,
        "unique_id": _unique_ids,
        "id": _ids_of(r"[A-Za-z0-9_-]+"),
        "arguments": _object_arguments,
        "system_first": _system_first,
        "user_first": _user_first,
        "user_last": _user_last,
        "thinking_kept": _thinking_whole,
    },
    "deepseek": _REASONING,
    "zai": _REASONING,
}
"""Every provider with its rules by name."""
