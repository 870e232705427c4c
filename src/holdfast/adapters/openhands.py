"""OpenHands: a condenser whose views are compacted; the conversation's event log stays whole.

    agent = Agent(llm=llm, tools=tools, condenser=HoldfastCondenser(trigger=30_000))

Where the agent asks for a condensation (its window was exceeded, or the user asked), it gets one as an event, for
which the library has one summary in one place: what would have been rewritten in place is told there instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from holdfast.adapters.compactor import Compactor, View
from holdfast.adapters.extras import missing_library
from holdfast.session.trigger import TRIGGER
from holdfast.text.rewrite import TextPlan
from holdfast.transcript.cuts import exchanges
from holdfast.transcript.turn import Role, ToolCall, Transcript, Turn

try:
    from openhands.sdk.context.condenser.base import CondenserBase, NoCondensationAvailableException
    from openhands.sdk.context.view import View as EventView
    from openhands.sdk.event import ActionEvent, Condensation, MessageEvent
    from openhands.sdk.event.base import LLMConvertibleEvent
    from openhands.sdk.llm import LLM, Message, TextContent
    from pydantic import Field, PrivateAttr
except ImportError as error:
    raise missing_library("openhands-sdk 1.x (Python 3.12 or newer)", "openhands") from error


class HoldfastCondenser(CondenserBase):  # type: ignore[misc]
    """Its fields are stored with the conversation; give `with_compactor` what cannot be."""

    method: str = "tiered"
    """`NAME` or `NAME:key=value,…`."""
    trigger: int = Field(default=TRIGGER, ge=2)
    """Tokens above which a view is compacted."""
    budget: int | None = None
    """Tokens of the result; half of the trigger where None."""
    keep_recent: int = Field(default=3, ge=0)
    """Newest exchanges that stay verbatim."""
    _compactor: Compactor = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        super().model_post_init(context)
        plan = TextPlan(self.method, budget=self.budget or self.trigger // 2, keep_recent=self.keep_recent)
        self._compactor = Compactor(plan, self.trigger)

    def with_compactor(self, compactor: Compactor) -> HoldfastCondenser:
        """Returns the same condenser with a compactor of your own: with a model for summaries, or with callbacks."""
        self._compactor = compactor
        return self

    def handles_condensation_requests(self) -> bool:
        return True

    def condense(self, view: EventView, agent_llm: LLM | None = None) -> EventView | Condensation:
        if view.unhandled_condensation_request:
            return _condensation(view.events, self._compactor)
        return EventView(events=self._compactor.apply(view.events, turns_of, event_of))


def turns_of(events: Sequence[LLMConvertibleEvent]) -> list[Turn]:
    """Returns one turn for each event, from what the model is shown of it."""
    return [_turn(event.to_llm_message(), number) for number, event in enumerate(events, 1)]


def event_of(turn: Turn, original: LLMConvertibleEvent | None) -> LLMConvertibleEvent:
    """Returns a rewritten turn as an event: an action stays one, anything else is a message in the same place."""
    text = [TextContent(text=turn.text)]
    if isinstance(original, ActionEvent) and [call.id for call in turn.calls] == [original.tool_call_id]:
        thoughts: dict[str, Any] = {} if turn.reasoning else {"reasoning_content": None, "thinking_blocks": []}
        call = original.tool_call.model_copy(update={"arguments": turn.calls[0].arguments})
        return original.model_copy(update={"thought": text if turn.text else [], "tool_call": call, **thoughts})
    message = Message(role=_role(turn), content=text)
    if original is not None and turn.role is Role.TOOL:
        told = original.to_llm_message()
        message = message.model_copy(update={"tool_call_id": told.tool_call_id, "name": told.name})
    return MessageEvent(source="agent" if turn.role is Role.ASSISTANT else "user", llm_message=message)


def _role(turn: Turn) -> Any:
    return "user" if turn.role is Role.TOOL and not turn.call_id else turn.role.value


def _turn(message: Message, number: int) -> Turn:
    texts = [part.text if isinstance(part, TextContent) else f"[{part.type}]" for part in message.content]
    thoughts = [getattr(block, "thinking", "") for block in message.thinking_blocks]
    return Turn(
        role=Role(message.role),
        text="\n".join(filter(None, texts)),
        reasoning=message.reasoning_content or "\n".join(filter(None, thoughts)),
        calls=tuple(ToolCall(call.id, call.name, call.arguments) for call in message.tool_calls or ()),
        call_id=message.tool_call_id or "" if message.role == "tool" else "",
        source=number,
    )


def _condensation(events: Sequence[LLMConvertibleEvent], compactor: Compactor) -> Condensation:
    """Returns a compaction as the library's own event. Raises NoCondensationAvailableException if nothing can go."""
    turns = turns_of(events)
    view = compactor.view(turns, force=True)
    whole = _whole_exchanges(turns, view)
    gone = [event for at, event in enumerate(events) if at not in whole]
    if not gone:
        raise NoCondensationAvailableException("nothing in this view can be compacted; see the compactor's warnings")
    return Condensation(
        forgotten_event_ids={event.id for event in gone},
        summary="\n\n".join(
            _model_messages(piece.turn) for piece in view.pieces if piece.writer or view.place(piece) not in whole
        ),
        summary_offset=min(at for at in range(len(events)) if at not in whole),
        llm_response_id="holdfast",
    )


def _whole_exchanges(turns: Sequence[Turn], view: View) -> set[int]:
    """Returns the events of exchanges that nothing touched: a result and its call are forgotten
    together or not at all.
    """
    kept = {view.place(piece) for piece in view.pieces if not piece.writer}
    spans = [range(start, stop) for start, stop in exchanges(Transcript(tuple(turns)))]
    return {at for span in spans if kept.issuperset(span) for at in span}


def _model_messages(turn: Turn) -> str:
    calls = [f"{call.name} {call.arguments}" for call in turn.calls]
    return "\n".join([f"[{turn.role.value}]", *filter(None, [turn.text, *calls])])
