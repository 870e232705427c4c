"""LangChain: a middleware that compacts what the model is sent; the agent's own state stays whole.

agent = create_agent(model, tools, middleware=[HoldfastMiddleware(Compactor(trigger=30_000))])
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from holdfast.adapters.compactor import Compactor
from holdfast.adapters.extras import missing_library
from holdfast.adapters.messages import as_object, content_of
from holdfast.transcript.content import read_content
from holdfast.transcript.document import MalformedEntry
from holdfast.transcript.turn import Role, ToolCall, Turn

try:
    from langchain.agents.middleware import AgentMiddleware
    from langchain.agents.middleware.types import ModelRequest
    from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
except ImportError as error:
    raise missing_library("langchain 1.x", "langchain") from error

_KINDS: tuple[tuple[type[BaseMessage], Role], ...] = (
    (SystemMessage, Role.SYSTEM),
    (HumanMessage, Role.USER),
    (AIMessage, Role.ASSISTANT),
    (ToolMessage, Role.TOOL),
)


class HoldfastMiddleware(AgentMiddleware[Any, Any, Any]):
    """Compacts the messages of every model call that are too many. One may serve many agents and threads."""

    def __init__(self, compactor: Compactor | None = None) -> None:
        super().__init__()
        self.compactor = compactor or Compactor()

    def wrap_model_call(self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Any]) -> Any:
        return handler(self._compact_request(request))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[Any]]
    ) -> Any:
        return await handler(await asyncio.to_thread(self._compact_request, request))

    def _compact_request(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        """Compacts the request's messages. The system message counts towards the trigger, and is never touched."""
        head: list[BaseMessage] = [request.system_message] if request.system_message else []
        made = self.compactor.apply([*head, *request.messages], turns_of, message_of)
        return request.override(messages=made[len(head) :])  # type: ignore[arg-type]


def turns_of(messages: Sequence[BaseMessage]) -> list[Turn]:
    """Returns one turn for each message. Raises MalformedEntry for a kind that no model is sent."""
    return [_turn(message, number) for number, message in enumerate(messages, 1)]


def message_of(turn: Turn, original: BaseMessage | None) -> BaseMessage:
    """Returns a rewritten turn as a message that keeps all other fields of the message in whose place it stands."""
    if original is None or _role(original) is not turn.role:
        return _new(turn)
    content = content_of(original.content, turn)
    if not isinstance(original, AIMessage):
        return original.model_copy(update={"content": content})
    calls = {call.id: call for call in turn.calls}
    gone = ("tool_calls",) if turn.reasoning else ("tool_calls", "reasoning_content")
    return original.model_copy(
        update={
            "content": content or "",
            "tool_calls": [
                _put_arguments(old, calls[old["id"] or ""]) for old in original.tool_calls if old["id"] in calls
            ],
            "invalid_tool_calls": [call for call in original.invalid_tool_calls if call["id"] in calls],
            "additional_kwargs": {key: value for key, value in original.additional_kwargs.items() if key not in gone},
        }
    )


def _turn(message: BaseMessage, number: int) -> Turn:
    folded = read_content(message.content)
    reasoning = message.additional_kwargs.get("reasoning_content")
    return Turn(
        role=_role(message),
        text=folded.text,
        reasoning=folded.reasoning or (reasoning if isinstance(reasoning, str) else ""),
        calls=_calls(message) if isinstance(message, AIMessage) else (),
        call_id=message.tool_call_id if isinstance(message, ToolMessage) else "",
        is_error=isinstance(message, ToolMessage) and message.status == "error",
        source=number,
        opaque=folded.opaque,
    )


def _role(message: BaseMessage) -> Role:
    for kind, role in _KINDS:
        if isinstance(message, kind):
            return role
    raise MalformedEntry(f"expected a system, human, AI or tool message, got {type(message).__name__}")


def _calls(message: AIMessage) -> tuple[ToolCall, ...]:
    """Returns the calls of a message. Calls that the library could not parse count too, because results answer them."""
    parsed = [ToolCall(call["id"] or "", call["name"], json.dumps(call["args"])) for call in message.tool_calls]
    broken = [ToolCall(c["id"] or "", c["name"] or "", c["args"] or "") for c in message.invalid_tool_calls]
    return (*parsed, *broken)


def _put_arguments(old: Any, call: ToolCall) -> Any:
    """Returns the library's call with the arguments of `call`."""
    args = as_object(call.arguments)
    return old if args == old["args"] or not isinstance(args, dict) else {**old, "args": args}


def _new(turn: Turn) -> BaseMessage:
    if turn.role is Role.TOOL and turn.call_id:
        return ToolMessage(turn.text, tool_call_id=turn.call_id, status="error" if turn.is_error else "success")
    if turn.role is Role.ASSISTANT:
        calls = [{"id": call.id, "name": call.name, "args": json.loads(call.arguments or "{}")} for call in turn.calls]
        return AIMessage(turn.text, tool_calls=calls)
    return SystemMessage(turn.text) if turn.role is Role.SYSTEM else HumanMessage(turn.text)
