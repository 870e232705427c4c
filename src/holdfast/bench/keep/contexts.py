"""The contexts of one item in a model's memory: one prefill of the session, which every condition starts from."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import takewhile

from holdfast.bench.keep.conditions import FULL, NONE, Condition
from holdfast.bench.keep.item import Item
from holdfast.blocks.block import Kind
from holdfast.blocks.render import answer_ids, question_ids, render
from holdfast.compaction.plan import Plan, Policy
from holdfast.context.segments import TokenSegment, token_segment
from holdfast.engine.greedy_answer import answer_along
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import LocalEngine
from holdfast.mementos.strategy import open_strategy, write_memento
from holdfast.model.load import BASE_ITEMSIZE, full_bytes
from holdfast.session.session import Session
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


@dataclass(frozen=True)
class OpenItem:
    """An item that was read once, as a live session."""

    item: Item
    engine: FencedEngine
    session: Session
    """The session up to the task, every token of it as it was read."""
    prompt: tuple[int, ...]
    """The task and the opening of its answer, which every context reads."""
    draft: tuple[int, ...]
    """The text along which answers are decoded, which saves passes and changes no token: the right answer."""
    seconds: float
    """Of reading the session."""

    @classmethod
    def read(cls, item: Item, engine: LocalEngine) -> OpenItem:
        """Reads the session up to the task."""
        began = time.perf_counter()
        session = Session(engine)
        session.append(item.transcript.turns[:-1])
        seconds = time.perf_counter() - began
        asked = question_ids(engine.model.tokenizer, item.transcript.turns[-1].text)
        prompt = (*asked, *_ids(_opening(item), engine))
        draft = _ids(_right_answer(item), engine)
        return cls(item, FencedEngine(engine.model), session, prompt, draft, seconds)

    @property
    def tokens(self) -> int:
        """Tokens of the session without the task."""
        return self.session.cache.tokens

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
            return self.session.cache.live, self.prompt, 0.0
        if condition.kind == NONE:
            return KVContext(self.engine.model).extend([self._head()], self.tokens), self.prompt, 0.0
        if condition.kind == "text":
            return self._text_context(condition)
        policy = condition.pin or Policy(pin=(Kind.SYSTEM,), keep_recent=0)
        if condition.kind == "mementos":
            return self._memento_context(condition, policy), self.prompt, None
        made = self.session.prepare(Plan(condition.method, condition.ratio or 1.0, policy=policy))
        return made.after.live, self.prompt, None

    def _memento_context(self, condition: Condition, policy: Policy) -> KVContext:
        """Has one memento written of all that may go, and evicts that in place. Raises Failed for an empty memento."""
        own = self.session.fork()
        own.plan = Plan(policy=policy)
        write_memento(own, open_strategy(condition.method, 1 / (condition.ratio or 1.0)))
        return own.cache.live

    def _head(self) -> TokenSegment:
        """Returns the system prompt."""
        head = takewhile(lambda block: block.kind is Kind.SYSTEM, self.session.cache.blocks)
        return token_segment([i for block in head for i in block.ids], 0)

    def _text_context(self, condition: Condition) -> tuple[KVContext, tuple[int, ...], None]:
        """Rewrites the session to the tokens that a latent context of this ratio has slots, and reads the result."""
        ratio, head = condition.ratio or 1.0, len(self._head())
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
