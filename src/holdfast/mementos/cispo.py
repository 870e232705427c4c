"""The loss of the published reinforcement stage (CISPO): clipped importance weights, never clipped gradients.

A recipe for a GPU: 8 rollouts of a prompt, 240 prompts a step, rate 1e-6, clip 0.2 / 0.2, KL 0.001. It was not run.
"""

from __future__ import annotations

import torch
from torch import Tensor


def advantages(rewards: Tensor) -> Tensor:
    """Returns the rewards `[prompts, rollouts]` less their prompt's mean, over its deviation; 0 where all are equal."""
    centred = rewards - rewards.mean(-1, keepdim=True)
    spread = rewards.std(-1, keepdim=True, unbiased=False)
    return torch.where(spread > 0, centred / spread.clamp_min(1e-6), torch.zeros_like(centred))


def cispo_loss(
    now: Tensor,
    then: Tensor,
    reference: Tensor,
    advantage: Tensor,
    scored: Tensor,
    clip: tuple[float, float] = (0.2, 0.2),
    kl: float = 0.001,
) -> Tensor:
    """Returns the loss of rollouts, a scalar.

    `now`, `then` and `reference` are log-probabilities of the tokens `[n, T]` by the model, by the one that wrote them,
    and by the one before the stage; `advantage [n]`; `scored [n, T]` bool. The weight of a token is `exp(now - then)`,
    clipped and without a gradient: every token keeps one, which is what a clipped objective (PPO) takes away.
    """
    weight = (now.detach() - then).exp().clamp(1 - clip[0], 1 + clip[1])
    gain = weight * advantage[:, None] * now
    apart = reference - now
    drift = apart.exp() - apart - 1  # an unbiased estimate of the divergence that is never negative
    total = torch.where(scored, kl * drift - gain, torch.zeros_like(gain)).sum()
    return total / scored.sum().clamp_min(1)
