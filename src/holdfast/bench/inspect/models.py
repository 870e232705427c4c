"""Models across the border: ours as a provider of inspect's (`holdfast/NAME`), and inspect's as a model of our agent.

inspect eval holdfast/eight_tasks --model holdfast/scripted
inspect eval my_task.py --model holdfast/qwen2.5-coder-1.5b -M context=merge@8
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import anyio
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    GenerateConfig,
    Model,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    get_model_info,
    modelapi,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from holdfast.adapters.inspect_ai import message_of, turn_of
from holdfast.agent.contexts import Context, open_context
from holdfast.agent.limits import Limits
from holdfast.agent.models import AgentModel, ModelAnswer, ScriptedModel
from holdfast.agent.open_model import is_local, open_model
from holdfast.bench.tasks.catalog import read_tasks
from holdfast.bench.tasks.conditions import PRICES
from holdfast.bench.tasks.script import make_script
from holdfast.cost.prices import Prices
from holdfast.cost.usage import Usage
from holdfast.errors import BadInput, PromptTooLong, TooLarge
from holdfast.transcript.token_estimate import estimate_tokens
from holdfast.transcript.turn import Role, Turn

SCRIPTED = "scripted"
"""The provider's name of the scripted agent of the eight tasks."""
_HELD = 8  # conversations whose model is kept open


@dataclass
class _Conversation:
    """One conversation with its own model, so that what a live session has read is not read again."""

    model: AgentModel
    context: Context
    lock: Lock = field(default_factory=Lock)

    def answer(self, turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]], limits: Limits) -> ModelAnswer:
        """Answers; a history that the model cannot read is compacted once more. Raises TooLarge, Failed."""
        with self.lock:
            for force in (False, True):
                sent = self.context.prepare(turns, force).turns
                try:
                    return self.model.answer(sent, tools, limits.answer_tokens, limits.answer_seconds)
                except TooLarge as error:
                    refused = error
            raise refused


@modelapi(name="holdfast")
class HoldfastAPI(ModelAPI):  # type: ignore[misc]
    """Any model that `holdfast agent --model` opens, with any of its ways of keeping context."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 (as inspect declares it)
        context: str = "none",
        trigger: int | None = None,
    ) -> None:
        """Takes `context` and `trigger` as `holdfast agent` does. Raises BadOption for an unknown model."""
        super().__init__(model_name, base_url, api_key, [], config)
        self.context, self.trigger = context, trigger
        self._open = _find_opener(model_name)
        self._held: OrderedDict[str, _Conversation] = OrderedDict()
        self._lock = Lock()

    async def generate(
        self,
        input: list[ChatMessage],  # noqa: A002 (inspect's name)
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput:
        """Answers once. A conversation that is too long is told as inspect's `model_length`."""
        turns = tuple(turn_of(message, at) for at, message in enumerate(input, 1))
        definitions = [_define(tool) for tool in tools] if tool_choice != "none" else []
        limits = Limits(answer_tokens=config.max_tokens or Limits().answer_tokens)
        talk = self._conversation(input, turns, definitions)
        try:
            given = await anyio.to_thread.run_sync(talk.answer, turns, definitions, limits)
        except TooLarge as error:
            return ModelOutput.from_content(self.model_name, str(error), "model_length")
        stop = "max_tokens" if given.cut else "tool_calls" if given.turn.calls else "stop"
        choice = ChatCompletionChoice(message=message_of(given.turn), stop_reason=stop)
        money = talk.model.prices.money(given.usage) if talk.model.prices else None
        return ModelOutput(
            model=self.model_name, choices=[choice], usage=_write_usage(given.usage, money), time=given.seconds
        )

    async def count_text_tokens(self, text: str) -> int:
        """Estimates without a tokenizer, which would have to be downloaded."""
        return estimate_tokens(text)

    def _conversation(
        self, messages: Sequence[ChatMessage], turns: Sequence[Turn], tools: list[dict[str, Any]]
    ) -> _Conversation:
        """Returns what answers the conversation that begins with the same user message."""
        first = next((message for message in messages if message.role == "user"), messages[0])
        key = f"{first.id} {[tool['function']['name'] for tool in tools]}"
        with self._lock:
            if key not in self._held:
                model = self._open(first.text)
                context = open_context(self.context, model, trigger=self.trigger)
                model.begin(sum(turn.role is Role.ASSISTANT for turn in turns), tools)
                self._held[key] = _Conversation(model, context)
            self._held.move_to_end(key)
            while len(self._held) > _HELD:
                self._held.popitem(last=False)
            return self._held[key]


def _find_opener(name: str) -> Callable[[str], AgentModel]:
    """Returns what opens the model of a conversation, given its first words. Raises BadOption for an unknown name."""
    if name == SCRIPTED:
        return _open_scripted
    if not is_local(name):
        open_model(name)
        return lambda first: open_model(name)
    from holdfast.agent.local import LocalModel
    from holdfast.compaction.compact import load

    engine = load(name)
    return lambda first: LocalModel(engine)


def _open_scripted(first: str) -> ScriptedModel:
    """Returns the scripted agent of the tasks whose instructions stand in the first message."""
    tasks = [task for task in read_tasks() if task.instruction.strip() in first]
    if not tasks:
        raise BadInput(f"holdfast/{SCRIPTED} can do the tasks of `holdfast bench run` only, got {first[:80]!r}")
    return ScriptedModel(make_script(tasks), SCRIPTED, prices=PRICES)


def _define(tool: ToolInfo) -> dict[str, Any]:
    parameters = tool.parameters.model_dump(exclude_none=True)
    return {
        "type": "function",
        "function": {"name": tool.name, "description": tool.description, "parameters": parameters},
    }


def _write_usage(usage: Usage, money: float | None) -> ModelUsage:
    written = usage.written + usage.written_1h
    return ModelUsage(
        input_tokens=usage.input,
        output_tokens=usage.output,
        total_tokens=usage.prompt + usage.output,
        input_tokens_cache_write=written,
        input_tokens_cache_read=usage.cached,
        total_cost=money,
    )


class InspectModel:
    """A model of inspect's as our agent asks one; called from a thread that inspect's loop has started."""

    prices: Prices | None = None
    """None: inspect keeps the account of money."""

    def __init__(self, model: Model) -> None:
        about = get_model_info(model)
        self.model, self.name = model, str(model)
        self.window: int | None = about.context_length if about else None
        self._said: dict[int, tuple[Turn, ChatMessage]] = {}
        """The message of each turn by its identity: one that is sent again is the same message."""

    def begin(self, steps: int, tools: Sequence[Mapping[str, Any]], folder: Path | None = None) -> None:
        """Does nothing: inspect's model is sent the whole conversation."""

    def answer(
        self, turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]], max_tokens: int, seconds: float
    ) -> ModelAnswer:
        """Answers a conversation. Raises PromptTooLong, and inspect's own errors, which end the sample."""
        messages = [self._message(turn) for turn in turns]
        infos = [ToolInfo(**tool["function"]) for tool in tools]
        config = GenerateConfig(max_tokens=max_tokens)
        output: ModelOutput = anyio.from_thread.run(self._generate, messages, infos, config)
        if output.stop_reason == "model_length":
            raise PromptTooLong(output.completion, tokens=0, most=self.window or 0)
        turn = turn_of(output.message)
        self._said[id(turn)] = turn, output.message
        used = output.usage or ModelUsage()
        written, cached = used.input_tokens_cache_write or 0, used.input_tokens_cache_read or 0
        usage = Usage(used.input_tokens, cached, written, output=used.output_tokens)
        return ModelAnswer(turn, usage, output.time or 0.0, output.stop_reason == "max_tokens")

    async def _generate(self, messages: list[ChatMessage], tools: list[ToolInfo], config: GenerateConfig) -> Any:
        return await self.model.generate(messages, tools, config=config)

    def messages(self, turns: Sequence[Turn]) -> list[ChatMessage]:
        """Returns the messages of turns that were sent."""
        return [self._message(turn) for turn in turns]

    def _message(self, turn: Turn) -> ChatMessage:
        if id(turn) not in self._said:
            self._said[id(turn)] = turn, message_of(turn)
        return self._said[id(turn)][1]
