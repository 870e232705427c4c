"""Greedy answers along a draft: guessed tokens are checked in one pass of the model (speculative decoding,
https://arxiv.org/abs/2211.17192).

The tokens are those of plain greedy decoding, whatever the draft says; only the number of passes depends on it. A
compact context is asked along what the full context said.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import LocalEngine
from holdfast.model.forward import logits


@torch.no_grad()
def answer_along(
    engine: LocalEngine, live: KVContext, prompt: Sequence[int], draft: Sequence[int], limit: int, passes: int = 0
) -> list[int]:
    """Returns the greedy answer to `prompt`, at most `limit` tokens without the end of turn; `live` is not changed.

    With `passes` it ends after so many of them: after one, behind the first token that is not the draft's.
    """
    live, stop = live.fork(), engine.stop_ids
    out: list[int] = []
    pending, at = list(prompt), 0
    done = 0
    while len(out) < limit and (not passes or done < passes):
        done += 1
        guess = list(draft[at : at + limit - len(out) - 1])
        hidden = live.feed([*pending, *guess])
        best = logits(engine.model, hidden[len(pending) - 1 :]).argmax(-1).tolist()
        agreed = next((i for i, token in enumerate(guess) if token != best[i]), len(guess))
        live.rewind(len(guess) - agreed)
        for token in best[: agreed + 1]:
            if token in stop:
                return out
            out.append(token)
        pending, at = out[-1:], _place(draft, out, at + agreed + 1)
    return out


def _place(draft: Sequence[int], said: Sequence[int], at: int) -> int:
    """Returns where the draft goes on: behind its pair of tokens nearest to `at` that was said last, else at `at`."""
    pair = tuple(said[-2:])
    places = (i for i in range(2, len(draft) + 1) if tuple(draft[i - 2 : i]) == pair)
    return min(places, key=lambda i: abs(i - at), default=at)
