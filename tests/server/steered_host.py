"""The real host with a script in place of the choice of tokens: sessions, KV and compactions are as ever."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any
from uuid import uuid4

from live_server import live
from tokenizers import AddedToken

from conftest import byte_tokenizer, plain_model
from holdfast.compaction.plan import Plan, Policy
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import LocalEngine
from holdfast.engine.sampling import Sampling
from holdfast.model.load import adopt_model
from holdfast.server.protocol import GenerateRequest
from holdfast.server.sessions.host import HostPolicy, SessionHost
from holdfast.session.trigger import CircuitBreaker, Trigger
from holdfast.storage.store import Store

PLAN = Plan(latent="kvzip", ratio=4, policy=Policy(keep_recent=1))
NEVER = HostPolicy(trigger=Trigger(tokens=10**9, window=None))
CLOSING = 2  # tokens with which the template closes an answer: <|im_end|> and a line break
WORDS = (
    '<tool_call>{"name": "bash", "arguments": {"command": "',
    '", "seconds": 5}}</tool_call>',
    "<think>",
    "</think>",
    "Run",
    "echo",
)
Script = Callable[[GenerateRequest], str | None]


@cache
def engine() -> LocalEngine:
    """A model whose answers take little time: two layers, and tokens for what a script often says."""
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in WORDS])
    hf = plain_model("llama", num_hidden_layers=2, vocab_size=len(tokenizer))
    return LocalEngine(adopt_model(copy.deepcopy(hf), tokenizer, name="steered"))


def eager(tokens: int = 300, cool_down: int = 0) -> HostPolicy:
    """Compacts often."""
    return HostPolicy(trigger=Trigger(tokens=tokens, window=None), breaker=CircuitBreaker(cool_down=cool_down))


class Along(Sampling):
    """Chooses some tokens, whatever the model thinks."""

    def __init__(self, ids: Sequence[int]) -> None:
        super().__init__()
        object.__setattr__(self, "_rest", iter(ids))

    def choose(self, _logits: Any, _generator: Any) -> int:
        return int(next(self._rest))  # type: ignore[attr-defined]


class SteeredHost(SessionHost):
    """Answers are what `script` says of the request; where it says None, they are the model's own."""

    def __init__(
        self,
        script: Script,
        policy: HostPolicy = NEVER,
        model: LocalEngine | None = None,
        store: Store | None = None,
    ) -> None:
        super().__init__(model or engine(), PLAN, store or Store(f"memory://{uuid4().hex}"), policy)
        self.script = script

    def sampling(self, request: GenerateRequest) -> Sampling:
        text = self.script(request)
        if text is None:
            return super().sampling(request)
        ids = self.engine.model.tokenizer(text, add_special_tokens=False)["input_ids"]
        return Along([*ids, min(self.engine.stop_ids)])

    def rested(self) -> None:
        """Wait for what is compacted in the background."""
        self.compactions._background.submit(lambda: None).result(60)


@contextmanager
def steered(script: Script, policy: HostPolicy = NEVER, **settings: Any) -> Iterator[tuple[SteeredHost, str]]:
    """Such a host behind the real server, and its address."""
    host = SteeredHost(script, policy)
    with live(host, **settings) as url:
        yield host, url


@contextmanager
def read_by_answers() -> Iterator[list[int]]:
    """Tokens of each pass of the model for answers: prompts that are read, and each token of what is said. Passes of
    compactions, which run elsewhere, are not among them."""
    counts, real = [], KVContext.feed_inputs

    def feed(live: KVContext, inputs: Any, *args: Any, **options: Any) -> Any:
        if threading.current_thread().name.startswith("answer"):
            counts.append(len(inputs))
        return real(live, inputs, *args, **options)

    KVContext.feed_inputs = feed  # type: ignore[method-assign,assignment]
    try:
        yield counts
    finally:
        KVContext.feed_inputs = real  # type: ignore[method-assign]
