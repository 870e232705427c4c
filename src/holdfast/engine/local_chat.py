"""A model of this process as a Chat: no endpoint, no key, no price. Loads it at the first call."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from holdfast.engine.chat import ChatAnswer
from holdfast.errors import Failed

if TYPE_CHECKING:
    from holdfast.engine.local import LocalEngine


@dataclass(frozen=True)
class LocalChat:
    """Greedy answers of a bundled model, a local folder or a Hugging Face id."""

    model: str = "smollm2-135m"
    dtype: str = "auto"
    device: str = "cpu"
    max_input: int | None = 6000
    """Tokens of a prompt: what the bundled model reads beside an answer."""
    max_output: int | None = 1024

    @property
    def name(self) -> str:
        return self.model

    def __call__(self, system: str, prompt: str, max_tokens: int, timeout: float) -> ChatAnswer:
        """Raises Failed where the prompt is too long for the model or the time is over."""
        began = time.perf_counter()
        engine = _engine(self.model, self.dtype, self.device)
        ids = _prompt_ids(engine.model.tokenizer, system, prompt)
        limit = min(max_tokens, self.max_output or max_tokens)
        if len(ids) + limit > engine.model.max_tokens:
            raise Failed(
                f"{self.model} reads and writes at most {engine.model.max_tokens} tokens, this needs "
                f"{len(ids) + limit}; lower max_input, or choose a model with a longer window"
            )
        return self._answer(engine, ids, limit, began, timeout)

    def _answer(self, engine: LocalEngine, ids: list[int], limit: int, began: float, timeout: float) -> ChatAnswer:
        from holdfast.engine.kv_context import KVContext

        def check(done: int = 0, total: int = 0) -> None:
            if time.perf_counter() - began > timeout:
                raise Failed(f"{self.model}: no answer within {timeout:g} s; raise timeout, or choose a faster model")

        live, said = KVContext(engine.model), list[int]()
        if ids[:-1]:
            live.feed(ids[:-1], report=check)
        for token in engine.generate(live, ids[-1:], limit):
            said.append(token)
            check()
        text = engine.model.tokenizer.decode(said, skip_special_tokens=True)
        stopped = "length" if len(said) == limit else "stop"
        return ChatAnswer(text, len(ids), len(said), time.perf_counter() - began, stopped)


@lru_cache(maxsize=1)
def _engine(model: str, dtype: str, device: str) -> LocalEngine:
    from holdfast.engine.local import LocalEngine
    from holdfast.model.load import load

    return LocalEngine(load(model, dtype=dtype, device=device))


def _prompt_ids(tokenizer: Any, system: str, prompt: str) -> list[int]:
    """Returns the ids of one user message, because not every template knows a system turn."""
    messages = [{"role": "user", "content": f"{system}\n\n{prompt}"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return [int(token) for token in tokenizer(text, add_special_tokens=False)["input_ids"]]
