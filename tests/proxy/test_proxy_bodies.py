"""Whatever bytes come in, either the same bytes or legal JSON with a legal history goes out."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from proxied import SMALL, anthropic_history, chat_history, gemini_history, responses_history

from holdfast.proxy.caller import Caller, loads
from holdfast.proxy.wires import WIRES
from holdfast.text.rewrite import TextPlan
from holdfast.transcript.cuts import find_orphans

TINY = replace(SMALL, plan=TextPlan(budget=60, keep_recent=1), trigger=120)
HISTORIES = {
    "openai_chat": chat_history,
    "anthropic": anthropic_history,
    "openai_responses": responses_history,
    "gemini": gemini_history,
}
FIELDS = [
    "type",
    "role",
    "content",
    "text",
    "id",
    "call_id",
    "tool_calls",
    "tool_use_id",
    "cache_control",
    "input",
    "parts",
]
WORDS = st.text(max_size=200) | st.sampled_from(["\ud83d", "\udc00\ud83d", "Never push.", "x = 1\n" * 60, "`a/b.py:7`"])
SOMETHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=4), inner),
    max_leaves=8,
)


def check(wire: Any, data: bytes) -> None:
    made = Caller(wire, TINY).compact_body(data)
    if made.body is None:
        return
    body = json.loads(made.body.decode(), parse_constant=refused)
    history = wire.read(body)
    before = wire.read(loads(data))
    assert not find_orphans(history.turns) or find_orphans(before.turns)
    rest = {key: value for key, value in loads(data).items() if key not in (wire.field, "system", "tools")}
    assert {key: body[key] for key in rest} == rest
    assert list(body) == list(loads(data))


def refused(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.name)
@given(data=st.binary(max_size=200))
def test_property_any_bytes(wire, data):
    check(wire, data)


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.name)
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_property_histories_with_anything_in_them(wire, data):
    history = HISTORIES[wire.name](data.draw(st.integers(0, 6)))
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(history)))
        what = data.draw(st.sampled_from(["put", "drop", "field", "words"]))
        if what == "put" or at == len(history) or not isinstance(history[at], dict):
            history.insert(at, data.draw(SOMETHING))
        elif what == "drop":
            del history[at]
        elif what == "field":
            history[at][data.draw(st.sampled_from(FIELDS))] = data.draw(SOMETHING)
        else:
            history[at] = {"role": data.draw(st.sampled_from(["user", "assistant"])), "content": data.draw(WORDS)}
    check(wire, json.dumps({"model": "m", wire.field: history, "vendor": data.draw(SOMETHING)}).encode())
