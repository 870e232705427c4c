"""The contexts of one item in a model's memory: one prefill of the session, which every condition starts from."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import takewhile

from holdfast.bench.keep.conditions import FULL, NONE, Condition
from holdfast.bench.keep.item import Item
from holdfast.blocks.block import Kind
from holdfast.blocks.render import RenderedSession, answer_ids, question_ids, render
from holdfast.compaction.compact import compact
from holdfast.compaction.partition import Part
from holdfast.compaction.plan import Plan, Policy
from holdfast.compaction.walk import SharedStudy
from holdfast.engine.greedy_answer import answer_along
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import LocalEngine
from holdfast.eval.open_window import OpenWindow
from holdfast.eval.windows import Window
from holdfast.model.load import BASE_ITEMSIZE, full_bytes
from holdfast.progress import quiet
from holdfast.text.rewrite import TextPlan, rewrite
from holdfast.transcript.turn import Transcript

ANSWER_TOKENS = 72
_FENCE, _FENCE_START = "```", "``"


@dataclass(frozen=True)
class Answer:
    """A greedy answer over one context, and what the context cost."""

    ids: tuple[int, ...]
    text: str
    seconds_context: float
    """Of making the context, on top of the prefill that all share."""
    seconds_answer: float
    tokens: float
    """Slots of the context without the task: the mean over layers and heads."""
    bytes: int


class FencedEngine(LocalEngine):
    """An engine whose answers end at the fence that closes their code block."""

    @property
    def stop_ids(self) -> frozenset[int]:
        """Token ids that end an answer, those that begin with a fence among them."""
        vocabulary = self.model.tokenizer.get_vocab()
        return super().stop_ids | {at for piece, at in vocabulary.items() if piece.startswith(_FENCE_START)}


@dataclass
class OpenItem:
    """An item that was read once."""

    item: Item
    engine: FencedEngine
    opened: OpenWindow
    prompt: tuple[int, ...]
    """The task and the opening of its answer, which every context reads."""
    draft: tuple[int, ...]
    """The text along which answers are decoded, which saves passes and changes no token: the right answer."""
    studies: dict[str, SharedStudy] = field(default_factory=dict)

    @classmethod
    def read(cls, item: Item, engine: LocalEngine) -> OpenItem:
        """Reads the session up to the task."""
        before = Transcript(item.transcript.turns[:-1])
        rendered = render(before, engine.model.tokenizer)
        opened = OpenWindow.read(_window(rendered), engine)
        asked = question_ids(engine.model.tokenizer, item.transcript.turns[-1].text)
        prompt = (*asked, *_ids(_opening(item), engine))
        return cls(item, FencedEngine(engine.model), opened, prompt, _ids(_right_answer(item), engine))

    @property
    def tokens(self) -> int:
        """Tokens of the session without the task."""
        return self.opened.window.tokens

    def answer(self, condition: Condition) -> Answer:
        """Answers the task under a condition.

        Raises BadOption or Failed where the condition cannot be met.
        """
        began = time.perf_counter()
        live, prompt, seconds = self._context(condition)
        spent = time.perf_counter() - began if seconds is None else seconds
        began = time.perf_counter()
        said = answer_along(self.engine, live, prompt, self.draft, ANSWER_TOKENS)
        text = self.engine.model.tokenizer.decode(said, skip_special_tokens=True)
        block = f"{_opening(self.item)}{text}\n{_FENCE}"
        return Answer(tuple(said), block, spent, time.perf_counter() - began, *self._size(live))

    def _context(self, condition: Condition) -> tuple[KVContext, tuple[int, ...], float | None]:
        """Returns the memory, what is read behind it, and the seconds that it took where they are not those passed."""
        if condition.kind == FULL:
            return self.opened.full, self.prompt, 0.0
        if condition.kind == NONE:
            return self.opened.none, self.prompt, 0.0
        if condition.kind == "text":
            return self._text_context(condition)
        if condition.pin:  # reads the session again, because what stays word for word lies between the spans
            plan = Plan(condition.method, condition.ratio or 1.0)
            whole = compact(Transcript(self.item.transcript.turns[:-1]), self.engine, plan)
            return self.engine.open(whole), self.prompt, float(whole.evidence["seconds_compact"])
        plan = Plan(condition.method, condition.ratio or 1.0, policy=Policy(pin=(), keep_recent=0))
        shared = self.studies.setdefault(condition.method, SharedStudy())
        made, live = self.opened.compact(plan, quiet, shared)
        return live, self.prompt, float(made.evidence["seconds_compact"])

    def _text_context(self, condition: Condition) -> tuple[KVContext, tuple[int, ...], None]:
        """Rewrites the session to the tokens that a latent context of this ratio has slots, and reads the result."""
        ratio, head = condition.ratio or 1.0, len(self.opened.window.parts[0])
        budget = head + (self.tokens - head) / ratio + len(self.prompt)
        scale = _scale(self.item.transcript, self.tokens + len(self.prompt))
        plan = TextPlan(condition.method, budget=max(1, int(budget / scale)), keep_recent=1, gate=condition.gate)
        turns = rewrite(self.item.transcript, plan).draft.turns
        tokenizer = self.engine.model.tokenizer
        asked = question_ids(tokenizer, self.item.transcript.turns[-1].text)
        ids = render(Transcript(tuple(turns)), tokenizer).ids
        opening = (*answer_ids(tokenizer)[0], *_ids(_opening(self.item), self.engine))
        cut = len(ids) - len(asked) + len(answer_ids(tokenizer)[0])
        live = KVContext(self.engine.model)
        live.feed(list(ids[:cut]))
        return live, (*ids[cut:], *opening), None

    def _size(self, live: KVContext) -> tuple[float, int]:
        held, one = live.cache.nbytes_at(BASE_ITEMSIZE), full_bytes(self.engine.model, 1, BASE_ITEMSIZE)
        return round(held / one, 1), held


def _window(rendered: RenderedSession) -> Window:
    head = tuple(takewhile(lambda block: block.kind is Kind.SYSTEM, rendered.blocks))
    start = sum(map(len, head))
    parts = (Part(head, 0, False), Part(rendered.blocks[len(head) :], start, True))
    return Window("session", parts, (), (), (), 0)


def _opening(item: Item) -> str:
    return f"{_FENCE}{item.assignment.language}\n{item.assignment.opening}"


def _right_answer(item: Item) -> str:
    """Returns what is right behind the opening."""
    return item.assignment.solution.partition(item.assignment.opening.splitlines()[-1])[2]


def _ids(text: str, engine: LocalEngine) -> tuple[int, ...]:
    return tuple(engine.model.tokenizer(text, add_special_tokens=False)["input_ids"])


def _scale(transcript: Transcript, tokens: int) -> float:
    """Returns the model's tokens for each token of the estimate that text methods count with."""
    from holdfast.transcript.draft import new_draft
    from holdfast.transcript.token_estimate import estimate_tokens

    return tokens / new_draft(transcript).size(estimate_tokens)
