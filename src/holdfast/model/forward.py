"""The only calls into the network: hidden states over a cache, and logits from hidden states."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from holdfast.model.attention import Observer, Pass
from holdfast.model.load import Model

LOGIT_ROWS = 512  # rows of the vocabulary-sized matrix that exist at one time


def hidden_states(
    model: Model, inputs: Tensor, positions: Tensor, cache: Any, observer: Observer | None = None
) -> Tensor:
    """Runs `inputs` (ids `[B, Q]` or embeddings `[B, Q, d]`) at `positions [B, Q]` over `cache`, which grows by Q.

    Returns the last hidden states `[B, Q, d]`, after the final norm. This is one step of the model: other threads that
    use the model take turns between two of them.
    """
    named = {"inputs_embeds": inputs} if inputs.is_floating_point() else {"input_ids": inputs}
    with model.steps:
        out = model.hf.get_decoder()(
            **named,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            # a ready 4-d mask is passed through untouched: our attention masks by positions
            attention_mask=torch.zeros(1, 1, 1, 1, device=model.device),
            holdfast=Pass(cache.layers, observer),
        )
    return out.last_hidden_state  # type: ignore[no-any-return]


def hidden_states_two_ways(model: Model, inputs: Tensor, positions: Tensor, cache: Any) -> Tensor:
    """Runs embeddings `[1, Q, d]` at `positions [1, Q]`, each of which sees all the others; `cache` takes their states.

    For models without sliding layers. Returns the last hidden states `[1, Q, d]`.
    """
    with model.steps:
        out = model.hf.get_decoder()(
            inputs_embeds=inputs,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            attention_mask=torch.ones(1, 1, inputs.shape[1], inputs.shape[1], dtype=torch.bool, device=model.device),
        )
    return out.last_hidden_state  # type: ignore[no-any-return]


def logits(model: Model, hidden: Tensor) -> Tensor:
    """Returns vocabulary logits of `hidden [..., d]`, float32."""
    out: Tensor = model.hf.get_output_embeddings()(hidden).float()
    cap = getattr(model.hf.config, "final_logit_softcapping", None)
    return torch.tanh(out / cap) * cap if cap else out


def log_probs(model: Model, hidden: Tensor, targets: Tensor) -> Tensor:
    """Returns `log p(targets[i] | hidden[i])` for `hidden [N, d]` and `targets [N]`, `[N]` float32, in
    bounded memory.
    """
    parts = [logits(model, h).log_softmax(-1).gather(-1, y[:, None])[:, 0] for h, y in _rows(hidden, targets)]
    return torch.cat(parts) if parts else hidden.new_zeros(0, dtype=torch.float32)


def embed(model: Model, ids: Tensor) -> Tensor:
    """Returns input embeddings of `ids [...]`, `[..., d]`, with the scale that the model applies to them."""
    return model.hf.get_input_embeddings()(ids)  # type: ignore[no-any-return]


def _rows(hidden: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    yield from zip(torch.split(hidden, LOGIT_ROWS), torch.split(targets, LOGIT_ROWS), strict=True)
