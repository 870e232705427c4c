"""The weight of a token by its surprisal: what the model would have guessed anyway counts little.

Three uses: `informed` weighs the queries of a repeat, query batches weigh the queries that a fit is judged by, and
pooling (`pool`, `virtual_tokens`) weighs the tokens of a block.
"""

from __future__ import annotations

from torch import Tensor

SCALE = 3.0  # nats at which a query has full weight
LEAST = 0.02  # weight of a query that learns nothing
CERTAIN = 1e-3  # nats added to every token of a block, so that a block of certainties still has a mean


def query_weight(nats: Tensor, scale: float = SCALE, least: float = LEAST) -> Tensor:
    """Returns the weight `[Q]`, `least` to 1 + `least`, of queries that are worth `nats [Q]`."""
    return (nats / scale).clamp(0, 1) + least


def pooling_weight(surprisal: Tensor) -> Tensor:
    """Returns what each token counts in the mean of its block, from its `surprisal [T]` in nats."""
    return surprisal + CERTAIN
