"""inspect-ai: a compaction strategy beside its own, for its `react` agent and its bridge for agents as they are.

    react(tools=[bash()], compaction=HoldfastCompaction(threshold=0.7))

inspect decides when it compacts (`threshold`), and goes on from what it was given back.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from holdfast.adapters.compactor import Compactor
from holdfast.adapters.extras import missing_library
from holdfast.text.rewrite import TextPlan
from holdfast.transcript.provider_requests import parse_arguments
from holdfast.transcript.turn import Role, ToolCall, Turn

try:
    import anyio
    from inspect_ai.model import (
        ChatMessage,
        ChatMessageAssistant,
        ChatMessageSystem,
        ChatMessageTool,
        ChatMessageUser,
        CompactionStrategy,
        ContentReasoning,
        ContentText,
        Model,
    )
    from inspect_ai.model import Content as Part
    from inspect_ai.tool import ToolCall as InspectCall
    from inspect_ai.tool import ToolInfo
except ImportError as error:
    raise missing_library("inspect-ai", "inspect") from error


class HoldfastCompaction(CompactionStrategy):  # type: ignore[misc]
    """One may serve many samples. The default halves a history by `tiered`."""

    def __init__(
        self, compactor: Compactor | None = None, *, threshold: float = 0.9, memory: bool = True, **others: Any
    ) -> None:
        """Takes a threshold as inspect's own strategies: a share of the model's window, or tokens if above 1."""
        super().__init__(type="edit", threshold=threshold, memory=memory, **others)
        self.compactor = compactor or Compactor(TextPlan(ratio=2, least_recent=1))

    async def compact(
        self, model: Model, messages: list[ChatMessage], tools: list[ToolInfo]
    ) -> tuple[list[ChatMessage], ChatMessageUser | None]:
        """Returns the messages to send; those that nothing touched are the very objects that were given."""
        return await anyio.to_thread.run_sync(self._compact, messages), None

    def _compact(self, messages: Sequence[ChatMessage]) -> list[ChatMessage]:
        turns = tuple(turn_of(message, at) for at, message in enumerate(messages, 1))
        return self.compactor.view(turns, force=True).build(messages, message_of)


def turn_of(message: ChatMessage, number: int = 0) -> Turn:
    """Returns a message as a turn."""
    text, role = message.text, Role(message.role)
    if role is Role.TOOL:
        failed = message.error.message if message.error else ""
        return Turn(role, text or failed, call_id=message.tool_call_id or "", is_error=bool(failed), source=number)
    if role is not Role.ASSISTANT:
        return Turn(role, text, source=number)
    thoughts = [part.reasoning for part in message.content_list if isinstance(part, ContentReasoning)]
    calls = tuple(ToolCall(call.id, call.function, _dump(call.arguments)) for call in message.tool_calls or ())
    return Turn(role, text, "\n".join(thoughts), calls, source=number)


def message_of(turn: Turn, original: ChatMessage | None = None) -> ChatMessage:
    """Returns a turn as a new message, with all other fields of the message in whose place it stands."""
    if original is not None and original.role == turn.role:
        fields: dict[str, Any] = {"id": None, "content": _fill(original.content, turn)}
        if turn.role is Role.ASSISTANT:
            fields["tool_calls"] = calls_of(turn, original.tool_calls or ()) or None
        return type(original)(**{**dict(original), **fields})
    if turn.role is Role.SYSTEM:
        return ChatMessageSystem(content=turn.text)
    if turn.role is Role.ASSISTANT:
        return ChatMessageAssistant(content=turn.text, tool_calls=calls_of(turn) or None)
    if turn.role is Role.TOOL and turn.call_id:
        return ChatMessageTool(content=turn.text, tool_call_id=turn.call_id)
    return ChatMessageUser(content=turn.text)


def calls_of(turn: Turn, originals: Sequence[InspectCall] = ()) -> list[InspectCall]:
    """Returns the calls of a turn; those whose arguments did not change are the very objects that stood there."""
    same = {(call.id, _dump(call.arguments)): call for call in originals}
    return [
        same.get((call.id, call.arguments))
        or InspectCall(id=call.id, function=call.name, arguments=parse_arguments(call))
        for call in turn.calls
    ]


def _fill(content: str | list[Part], turn: Turn) -> str | list[Part]:
    """Returns content with the text of the turn, without thoughts that it dropped."""
    if isinstance(content, str):
        return turn.text
    rest = [part for part in content if not isinstance(part, ContentText)]
    kept = [part for part in rest if turn.reasoning or not isinstance(part, ContentReasoning)]
    return [*kept, ContentText(text=turn.text)]


def _dump(arguments: dict[str, Any]) -> str:
    return json.dumps(arguments, ensure_ascii=False)
