"""What an agent's requests must hold, whatever library sent them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise

from holdfast.transcript.cuts import check_legal
from holdfast.transcript.token_estimate import estimate_tokens
from holdfast.transcript.turn import Turn

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it asks the network when imported

TRIGGER = 3_000
TASK = "Find why `tests/test_pay.py` fails. Never edit src/legacy/pay.py. Do not push to the main branch."
RULES = ("Never edit src/legacy/pay.py", "Do not push to the main branch")
STEPS = 36


def observation(step: int) -> str:
    """What the tool of a loop says: about 150 tokens, different every time."""
    lines = [f"src/module_{step}/part_{line}.py:{step * 7 + line}: def handler_{line}(request)" for line in range(6)]
    return "\n".join([f"result {step}", *lines, "ok"])


def check_requests(requests: Sequence[Sequence[Turn]], shown: Sequence[Sequence[str]], compactions: int) -> None:
    """`shown` are the same requests, each message as the bytes of the library."""
    assert len(requests) == len(shown) > 30
    for request in requests:
        check_legal(request)
        said = "\n".join(turn.text for turn in request if turn.role in ("user", "system"))
        assert all(rule in said for rule in RULES)
        assert sum(estimate_tokens(turn.text) for turn in request) <= TRIGGER
    breaks = sum(list(after[: len(before)]) != list(before) for before, after in pairwise(shown))
    assert 0 < compactions < len(requests) / 4
    assert breaks == compactions
