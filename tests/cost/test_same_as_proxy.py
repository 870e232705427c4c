"""The simulation of a bill and the proxy decide alike: the same sessions are compacted before the same calls."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from sessions import recorded_sessions, session_of

from holdfast.adapters.messages import message_of
from holdfast.cost.calls import read_session
from holdfast.cost.compaction import Terms
from holdfast.cost.prices import Prices, Rates
from holdfast.cost.replay import Run, replay
from holdfast.cost.strategy import Strategy
from holdfast.proxy.caller import Caller, OutgoingRequest
from holdfast.proxy.options import Options
from holdfast.proxy.wires import WIRES
from holdfast.text.rewrite import TextPlan
from holdfast.transcript.turn import Role, Transcript

CHAT = next(wire for wire in WIRES if wire.name == "openai_chat")
PRICES = Prices("m", Rates(3, 15, 0.3, 3.75, 6))


def simulated(transcript: Transcript, method: str, trigger: int, budget: int) -> Run:
    strategy = Strategy(f"cache+{method}", method, True, "trigger", trigger, budget)
    return replay(read_session(transcript), strategy, Terms(PRICES, keep_recent=3))


def proxied(transcript: Transcript, method: str, trigger: int, budget: int) -> Sequence[OutgoingRequest]:
    """Every request of the session, through one proxy."""
    caller = Caller(CHAT, Options(plan=TextPlan(method, budget, keep_recent=3), trigger=trigger))
    messages: list[dict[str, Any]] = [message_of(turn, None) for turn in transcript.turns]
    bodies = [{"messages": messages[: call.turn]} for call in read_session(transcript).calls]
    return [caller.compact_body(json.dumps(body).encode()) for body in bodies]


def check(transcript: Transcript, method: str, trigger: int, budget: int) -> list[int]:
    run, requests = simulated(transcript, method, trigger, budget), proxied(transcript, method, trigger, budget)
    compacted = [at for at, step in enumerate(run.steps) if step.made and step.made.freed]
    assert [at for at, request in enumerate(requests) if request.compacted] == compacted
    assert [request.after for request in requests] == [step.usage.prompt for step in run.steps]
    return compacted


@pytest.mark.parametrize("method", ["tiered", "mask_observations", "truncate"])
@pytest.mark.parametrize("share", [0.25, 0.9])
def test_a_long_session_is_compacted_before_the_same_calls(method: str, share: float) -> None:
    long = session_of(40, found=120)
    without_system = Transcript(long.turns[1:])  # which the proxy leaves as it stands, and does not count
    assert check(without_system, method, 2000, int(2000 * share))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(recorded_sessions(), st.integers(200, 3000), st.floats(0.05, 0.95))
def test_any_session_is_compacted_before_the_same_calls(recorded: Transcript, trigger: int, share: float) -> None:
    turns = tuple(turn for turn in recorded.turns if turn.role is not Role.SYSTEM)
    assume(len(turns) > 2)
    check(Transcript(turns), "truncate", trigger, max(1, int(trigger * share)))
