"""Shapes of requests that agents send: a summary of their own, a reminder that moves, Gemini's wire, a WebSocket."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from proxied import (
    RULES,
    SMALL,
    TRIGGER,
    Reply,
    Seen,
    anthropic_history,
    chat_history,
    gemini_history,
    get,
    post,
    proxy,
    responses_history,
    upstream,
)

from holdfast.proxy.wires import wire_of
from holdfast.transcript.cuts import check_legal

STEPS = 40
GEMINI = "/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse&key=k"
SUMMARIES = [
    "Your task is to create a detailed summary of the conversation so far, paying close attention to the user.",
    "You are performing a CONTEXT CHECKPOINT COMPACTION. Create a handoff summary for another LLM.",
    "Provide a detailed prompt for continuing our conversation above. Focus on what helps.",
    "Create a new anchored summary from the conversation history above.",
    'Go on.\n<explicit_instructions type="condense">\nThe user has asked you to compact.',
    "First, reason in your scratchpad. Then, generate the <state_snapshot>.",
]


def loop(path: str, field: str, history: Any, asked: str) -> list[dict[str, Any]]:
    """The bodies of a session of an agent that then asks for its own summary."""
    said = {"role": "user", "content": asked}
    return [
        {"model": "m", field: history(STEPS)},
        {"model": "m", field: [*history(STEPS + 1), said]},
    ]


@pytest.mark.parametrize("asked", SUMMARIES)
@pytest.mark.parametrize(
    ("path", "field", "history"),
    [
        ("/v1/chat/completions", "messages", chat_history),
        ("/v1/messages", "messages", anthropic_history),
        ("/v1/responses", "input", responses_history),
    ],
)
def test_an_agents_own_request_for_a_summary_passes_raw(path, field, history, asked):
    plain = replace(SMALL, breakpoints=False)
    bodies = [json.dumps(body).encode() for body in loop(path, field, history, asked)]
    with upstream() as up, proxy(up, plain) as url:
        answers = [post(url + path, content=body) for body in bodies]
        status = get(f"{url}/holdfast/stats").json()
    assert len(up.seen[0].body) < len(bodies[0]) / 2
    assert up.seen[1].body == bodies[1]
    assert answers[1].headers["x-holdfast"].endswith(";passed=summary")
    assert (status["summaries"], status["compactions"]) == (1, 1)


def test_a_summary_of_a_session_that_the_model_cannot_read_whole_is_made_of_what_stands():
    def small_window(seen: Seen) -> Reply:
        return Reply(status=400) if len(seen.body) > 20_000 else Reply()

    with upstream(small_window) as up, proxy(up) as url:
        for body in loop("", "messages", chat_history, SUMMARIES[0]):
            answer = post(f"{url}/v1/chat/completions", json=body)
    assert answer.status_code == 200
    assert [len(seen.body) > 20_000 for seen in up.seen] == [False, True, False]
    assert SUMMARIES[0] in up.seen[2].body.decode()


def test_a_summary_by_a_system_prompt_of_its_own_passes_raw():
    body = {
        "system": "You are a helpful AI assistant tasked with summarizing conversations.",
        "messages": anthropic_history(STEPS),
    }
    with upstream() as up, proxy(up, replace(SMALL, breakpoints=False)) as url:
        post(f"{url}/v1/messages", json=body)
    assert json.loads(up.seen[0].body) == body


def moving(steps: int) -> list[dict[str, Any]]:
    """The messages of Aider: what was said, then files that change, then a reminder, at every request."""
    made = chat_history(0)
    for at in range(steps):
        made.append({"role": "user", "content": f"Now part {at}. " + "Keep the tests green. " * 20})
        made.append(
            {"role": "assistant", "content": f"part {at} is done: " + f"module_{at}.py has {at * 7} lines. " * 20}
        )
    files = f"I added these files to the chat:\nsrc/app.py\nversion {steps // 3}\n" + "x = 1\n" * 30
    now = {"role": "user", "content": f"Now part {steps}. " + "Keep the tests green. " * 20}
    made += [{"role": "user", "content": files}, {"role": "assistant", "content": "Ok."}, now]
    return [*made, {"role": "system", "content": "Reply in SEARCH/REPLACE blocks, and nothing else."}]


def test_a_reminder_that_moves_on_does_not_make_every_request_a_new_history():
    with upstream() as up, proxy(up) as url:
        for steps in range(30):
            post(f"{url}/v1/chat/completions", json={"messages": moving(steps)})
        status = get(f"{url}/holdfast/proxy").json()
    sent = [json.loads(seen.body)["messages"] for seen in up.seen]
    assert all(now[-4:] == moving(at)[-4:] for at, now in enumerate(sent))
    assert 0 < status["compactions"] <= 6
    assert status["failures"] == 0
    stable = [
        next(at for at, (a, b) in enumerate(zip(old, new, strict=False)) if a != b) for old, new in pairwise(sent)
    ]
    assert sum(at < len(old) - 6 for at, old in zip(stable, sent, strict=False)) <= status["compactions"]
    assert status["tokens_saved"] > TRIGGER


def test_geminis_wire_is_compacted_with_its_signatures():
    with upstream() as up, proxy(up, replace(SMALL, planned=False)) as url:
        for steps in range(0, STEPS, 2):
            post(
                url + GEMINI,
                json={"systemInstruction": {"parts": [{"text": "Hi."}]}, "contents": gemini_history(steps)},
            )
        rows = get(f"{url}/holdfast/proxy").json()["keys"]
    assert (rows[0]["wire"], rows[0]["failures"]) == ("gemini", 0)
    assert rows[0]["compactions"] > 1
    for seen in up.seen:
        body = json.loads(seen.body)
        assert list(body) == ["systemInstruction", "contents"]
        assert all(rule in seen.body.decode() for rule in RULES)
        check_legal(wire_of("POST", "/v1beta/models/m:generateContent").read(body).turns)
        parts = [part for content in body["contents"] for part in content["parts"]]
        assert all(part["thoughtSignature"] for part in parts if "functionCall" in part)
        assert body["contents"][0]["role"] == "user"
    assert len(up.seen[-1].body) < 0.8 * len(json.dumps(gemini_history(STEPS - 2)))


def test_a_request_without_its_history_says_that_it_passed():
    with upstream() as up, proxy(up) as url:
        answer = post(f"{url}/v1/responses", json={"input": responses_history(STEPS), "previous_response_id": "r1"})
    assert answer.headers["x-holdfast"].endswith(";passed=no history")
    assert len(json.loads(up.seen[0].body)["input"]) == 2 * STEPS + 1


def test_a_websocket_is_turned_down_so_that_the_agent_falls_back():
    with upstream() as up, proxy(up) as url:
        headers = {"connection": "Upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
        answer = get(f"{url}/v1/responses", headers=headers)
    assert answer.status_code == 426
    assert "plain HTTP" in answer.json()["error"]["message"]
    assert up.seen == []
