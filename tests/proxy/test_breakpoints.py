"""Cache breakpoints: never more than four, the client's respected, and moving on with the history only."""

from __future__ import annotations

import copy
import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proxied import SMALL, anthropic_history

from holdfast.proxy.breakpoints import KEY, MOST, lift, place, put_back
from holdfast.proxy.caller import Caller, OutgoingRequest
from holdfast.proxy.wires import WIRES

PLAIN = {"type": "ephemeral"}
HOUR = {"type": "ephemeral", "ttl": "1h"}


def caller() -> Caller:
    return Caller(WIRES[1], SMALL)


def marked(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], Any]]:
    """Every breakpoint in a body, and where."""
    if isinstance(value, list):
        return [found for at, item in enumerate(value) for found in marked(item, (*path, at))]
    if not isinstance(value, dict):
        return []
    own = [(path, value[KEY])] if KEY in value else []
    return own + [found for key, item in value.items() if key != KEY for found in marked(item, (*path, key))]


def body_of(steps: int, **fields: Any) -> dict[str, Any]:
    tools = [{"name": "bash", "input_schema": {"type": "object"}}]
    return {"system": "Be careful.", "tools": tools, "messages": anthropic_history(steps), **fields}


def test_they_stand_at_the_newest_messages_the_system_prompt_and_the_tools():
    body = body_of(2)
    before = copy.deepcopy(body)
    made = place(body)
    assert body == before
    assert [path for path, _ in marked(made)] == [
        ("system", 0),
        ("tools", 0),
        ("messages", 2, "content", 0),
        ("messages", 4, "content", 0),
    ]
    assert made["system"] == [{"type": "text", "text": "Be careful.", KEY: PLAIN}]


def test_those_of_the_client_are_kept_and_counted():
    body = body_of(4)
    for at in (2, 4):
        body["messages"][at]["content"][0][KEY] = PLAIN
    body["system"] = [{"type": "text", "text": "a", KEY: PLAIN}, {"type": "text", "text": "b", KEY: PLAIN}]
    assert place(body) is body
    del body["messages"][2]["content"][0][KEY]
    found = marked(place(body))
    assert len(found) == MOST
    assert ("messages", 8, "content", 0) in [path for path, _ in found]


def test_one_in_a_result_counts_and_is_not_doubled():
    body = body_of(2)
    inner = [{"type": "text", "text": "x", KEY: PLAIN}]
    body["messages"][-1]["content"][0]["content"] = inner
    found = marked(place(body))
    assert len(found) == MOST
    assert ("messages", 4, "content", 0) not in [path for path, _ in found]


def test_the_provider_s_automatic_one_takes_a_place():
    found = [path for path, _ in marked(place(body_of(2, cache_control=PLAIN))) if path]
    assert found == [("system", 0), ("tools", 0), ("messages", 2, "content", 0)]


def test_one_before_a_longer_one_lives_as_long():
    body = body_of(2)
    body["messages"][-1]["content"][0][KEY] = HOUR
    assert {path[0]: mark for path, mark in marked(place(body))} == {
        "system": HOUR,
        "tools": HOUR,
        "messages": HOUR,
    }


@pytest.mark.parametrize("content", ["", "  ", [], [{"type": "text", "text": ""}], [{"type": "thinking"}], None, 3])
def test_what_cannot_be_marked_is_not(content):
    body = {"messages": [{"role": "user", "content": content}], "system": content, "tools": [{"defer_loading": True}]}
    assert place(body) is body


def test_they_never_move_backwards_between_compactions():
    held, bodies = caller(), []
    compactions = []
    for steps in range(60):
        made = held.compact_body(json.dumps(body_of(steps)).encode())
        assert made.body is not None
        bodies.append(json.loads(made.body))
        compactions.append(made.compacted)
    newest = [[path[1] for path, _ in marked(body) if path[0] == "messages"] for body in bodies]
    for (old, new), compacted in zip(pairwise(newest), compactions[1:], strict=True):
        assert compacted or new[0] == old[-1] < new[-1]
    assert all(len(marked(body)) <= MOST for body in bodies)
    assert 0 < sum(compactions) < 8


def test_a_client_that_moves_its_breakpoints_has_one_history():
    held, done = caller(), []
    for steps in range(1, 40):
        history = anthropic_history(steps)
        history[-1]["content"][0][KEY] = PLAIN
        history[-3 if steps > 1 else 0]["content"] = history[-3 if steps > 1 else 0]["content"]
        made: OutgoingRequest = held.compact_body(json.dumps({"messages": history}).encode())
        done.append(made)
        assert made.body is not None
        assert json.loads(made.body)["messages"][-1]["content"][0][KEY] == PLAIN
    assert 0 < sum(made.compacted for made in done) < 6


def test_without_breakpoints_a_short_history_goes_as_it_came():
    from dataclasses import replace

    held = Caller(WIRES[1], replace(SMALL, breakpoints=False))
    assert held.compact_body(json.dumps(body_of(2)).encode()).body is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from([KEY, "content", "type", "role", "text"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(JSON)
def test_property_what_is_lifted_comes_back(value):
    marks: dict[int, Any] = {}
    bare = lift(value, marks)
    back = put_back(bare, marks)
    assert without_null(back) == without_null(value)


def without_null(value: Any) -> Any:
    """A breakpoint of null is none."""
    if isinstance(value, list):
        return [without_null(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {key: item for key, item in value.items() if (key, item) != (KEY, None)}
    return kept | ({"content": without_null(kept["content"])} if isinstance(kept.get("content"), list) else {})


@given(st.fixed_dictionaries({}, optional={"messages": JSON, "system": JSON, "tools": JSON, KEY: JSON}))
def test_property_any_body_is_marked_at_most_four_times_and_else_unchanged(body):
    made = place(body)
    had = len(list(client_marks(body))) + (body.get(KEY) is not None)
    assert len(list(client_marks(made))) + (made.get(KEY) is not None) <= max(MOST, had)


def client_marks(body: dict[str, Any]) -> list[Any]:
    from holdfast.proxy.breakpoints import _standing

    return list(_standing(body))
