"""A growing agent loop through the proxy: flat instead of growing, a prefix that repeats, and rules that survive."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import anthropic
import openai
import pytest
from proxied import (
    RULES,
    SMALL,
    TRIGGER,
    Reply,
    Seen,
    anthropic_history,
    chat_history,
    get,
    post,
    proxy,
    responses_history,
    upstream,
)

from holdfast.proxy.wires import wire_of
from holdfast.transcript.cuts import check_legal
from holdfast.transcript.token_estimate import estimate_tokens
from stub_endpoint import anthropic_answer, openai_answer

STEPS = 60


def answer(seen: Seen) -> Reply:
    made: dict[str, Any] = (
        anthropic_answer("done", "") if seen.path.endswith("/messages") else openai_answer("done", "")
    )
    if seen.path.endswith("/responses"):
        made = RESPONSE
    return Reply(json.dumps(made).encode())


RESPONSE: dict[str, Any] = {
    "id": "r",
    "object": "response",
    "created_at": 1,
    "model": "m",
    "output": [],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
}


@contextmanager
def chat(url: str) -> Iterator[Callable[[int], Any]]:
    with openai.OpenAI(api_key="sk-one", base_url=f"{url}/v1", max_retries=0) as client:
        yield lambda steps: client.chat.completions.create(model="m", messages=chat_history(steps))  # type: ignore[arg-type]


@contextmanager
def messages(url: str) -> Iterator[Callable[[int], Any]]:
    with anthropic.Anthropic(api_key="sk-one", base_url=url, max_retries=0) as client:
        yield lambda steps: client.messages.create(
            model="m",
            max_tokens=9,
            system="You are careful.",
            messages=anthropic_history(steps),  # type: ignore[arg-type]
        )


@contextmanager
def responses(url: str) -> Iterator[Callable[[int], Any]]:
    with openai.OpenAI(api_key="sk-one", base_url=f"{url}/v1", max_retries=0) as client:
        yield lambda steps: client.responses.create(model="m", instructions="Hi.", input=responses_history(steps))  # type: ignore[arg-type]


def bare(value: Any) -> Any:
    """Without cache breakpoints, and a text in place of its only block: neither is part of what is cached."""
    if isinstance(value, list):
        made = [bare(item) for item in value]
        texts = [item for item in made if isinstance(item, dict) and set(item) == {"type", "text"}]
        return made[0]["text"] if len(made) == 1 and texts else made
    if isinstance(value, dict):
        return {key: bare(item) for key, item in value.items() if key != "cache_control"}
    return value


@pytest.mark.parametrize(("make", "key"), [(chat, "messages"), (messages, "messages"), (responses, "input")])
def test_a_loop_of_an_official_client_stays_flat_and_byte_stable(make, key):
    with upstream(answer) as up, proxy(up) as url, make(url) as ask:
        for steps in range(STEPS):
            ask(steps)
        status = get(f"{url}/holdfast/proxy").json()
    sent = [bare(json.loads(seen.body)[key]) for seen in up.seen]
    for seen, request in zip(up.seen, sent, strict=True):
        check_legal(wire_of(seen.method, seen.path).read({key: request}).turns)  # type: ignore[union-attr]
        assert all(rule in seen.body.decode() for rule in RULES)
        assert estimate_tokens(json.dumps(request)) < 3 * TRIGGER  # JSON adds as much again
    breaks = [at for at, (old, new) in enumerate(pairwise(sent)) if new[: len(old)] != old]
    assert status["requests"] == STEPS
    assert status["failures"] == 0
    assert 0 < status["compactions"] == len(breaks) < STEPS / 6
    assert status["tokens_saved"] > 3 * TRIGGER


def test_what_is_sent_begins_with_the_very_bytes_of_the_request_before():
    with upstream(answer) as up, proxy(up) as url:
        for steps in range(STEPS):
            post(f"{url}/v1/chat/completions", json={"model": "m", "messages": chat_history(steps)})
        compactions = get(f"{url}/holdfast/proxy").json()["compactions"]
    bodies = [seen.body.removesuffix(b"]}") for seen in up.seen]
    assert sum(not new.startswith(old) for old, new in pairwise(bodies)) == compactions > 0


def test_a_system_prompt_that_changes_from_request_to_request_is_sent_and_breaks_nothing():
    with upstream(answer) as up, proxy(up) as url:
        for steps in range(STEPS):
            system = [{"type": "text", "text": f"It is {steps} o'clock."}]
            history = anthropic_history(steps)
            if steps:  # a client's own breakpoint moves on with the history
                history[-1]["content"][-1]["cache_control"] = {"type": "ephemeral"}
            post(f"{url}/v1/messages", json={"system": system, "messages": history})
        status = get(f"{url}/holdfast/proxy").json()
    sent = [json.loads(seen.body) for seen in up.seen]
    assert [body["system"][0]["text"] for body in sent] == [f"It is {at} o'clock." for at in range(STEPS)]
    assert 0 < status["compactions"] < STEPS / 6
    assert all(body["messages"][-1]["content"][-1]["cache_control"] for body in sent[1:])


def test_the_answer_says_what_was_done():
    with upstream(answer) as up, proxy(up) as url:
        small = post(f"{url}/v1/chat/completions", json={"messages": chat_history(1)})
        large = post(f"{url}/v1/chat/completions", json={"messages": chat_history(STEPS)})
        other = get(f"{url}/v1/models")
    said = dict(part.split("=") for part in large.headers["x-holdfast"].split(";"))
    assert small.headers["x-holdfast"].endswith(";compactions=0")
    assert int(said["before"]) > 2 * TRIGGER > TRIGGER > int(said["after"]) > 0
    assert said["compactions"] == "1"
    assert "x-holdfast" not in other.headers
    assert len(up.seen) == 3


def test_a_dry_run_measures_and_changes_nothing():
    body = json.dumps({"messages": anthropic_history(STEPS)}).encode()
    with upstream(answer) as up, proxy(up, replace(SMALL, dry_run=True)) as url:
        done = post(f"{url}/v1/messages", content=body)
    said = dict(part.split("=") for part in done.headers["x-holdfast"].split(";"))
    assert int(said["after"]) < int(said["before"])
    assert up.seen[0].body == body


def test_histories_of_two_keys_never_meet():
    with upstream(answer) as up, proxy(up) as url:
        for key in ("sk-one", "sk-two"):
            headers = {"authorization": f"Bearer {key}"}
            post(f"{url}/v1/chat/completions", json={"messages": chat_history(STEPS)}, headers=headers)
        rows = get(f"{url}/holdfast/proxy").json()["keys"]
    assert len({row["key"] for row in rows}) == 2
    assert [row["compactions"] for row in rows] == [1, 1]
    assert [seen.header("authorization") for seen in up.seen] == [["Bearer sk-one"], ["Bearer sk-two"]]
