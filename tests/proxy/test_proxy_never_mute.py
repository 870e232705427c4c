"""A trigger that is too small for a session: fewer exchanges stay, and what went is always named, with its facts."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from proxied import (
    RULES,
    SMALL,
    TASK,
    anthropic_history,
    chat_history,
    gemini_history,
    post,
    proxy,
    responses_history,
    upstream,
)

from holdfast.facts.section import SECTION_TITLE
from holdfast.proxy.caller import Caller, IncomingRequest
from holdfast.proxy.wires import WIRES
from holdfast.text.rewrite import TextPlan
from holdfast.transcript.token_estimate import estimate_tokens

BUDGET = 1_000
TIGHT = replace(SMALL, plan=TextPlan(budget=BUDGET, least_recent=1), trigger=2 * BUDGET, planned=False)
LONG_TASK = TASK + "".join(f" Look at part {at} of the parser first." for at in range(70))
HISTORIES = {
    "openai_chat": chat_history,
    "anthropic": anthropic_history,
    "openai_responses": responses_history,
    "gemini": gemini_history,
}
INJECTED = "<environment_context>\n  <cwd>/srv/app</cwd>\n  <shell>bash</shell>\n</environment_context>"


def long(history: list[dict[str, Any]], words: int = 300) -> list[dict[str, Any]]:
    """The history with longer results, so that three exchanges are over any budget here."""
    filler = " ".join(f"line{at}" for at in range(words))
    return json.loads(json.dumps(history).replace("\\nok", f"\\n{filler}\\nok"))


def look(session: str) -> str:
    return f"Turn N in full: read {session}/N"


def requests(wire: Any, steps: range, task: str = LONG_TASK) -> list[Any]:
    caller = Caller(wire, TIGHT)
    bodies = ({"model": "m", wire.field: long(HISTORIES[wire.name](at, task))} for at in steps)
    return [caller.compact_request(IncomingRequest(json.dumps(body).encode(), lookup=look)) for body in bodies]


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.name)
def test_no_compaction_is_mute_and_none_removes_the_section_that_stood(wire):
    made = requests(wire, range(4, 22, 2))
    compacted = [at for at, one in enumerate(made) if one.compacted]
    assert len(compacted) >= 3
    assert any(one.over for one in made)
    for one in made[compacted[0] :]:
        text = one.body.decode()
        assert one.failure is None
        assert SECTION_TITLE in text
        assert re.search(r"- not here in full: [^\n]*\d+[^\n]*. Turn N in full: read \w+/N", text)
        assert all(rule in text for rule in RULES)
    last = made[-1].body.decode()
    assert "result 19" in last


def test_what_is_over_is_said_in_the_header_and_first_in_the_log(tmp_path):
    options = replace(TIGHT, log=tmp_path / "log.jsonl", log_text=True)
    with upstream() as up, proxy(up, options) as url:
        answer = post(f"{url}/v1/chat/completions", json={"messages": long(chat_history(12, LONG_TASK))})
    over = dict(part.split("=") for part in answer.headers["x-holdfast"].split(";"))["over"]
    row = json.loads((tmp_path / "log.jsonl").read_text())
    assert int(over) == row["over"] == row["after"] - BUDGET > 0
    assert list(row)[:5] == ["time", "key", "wire", "status", "seconds"]
    assert "over the budget" in " ".join(row["notes"])
    assert up.seen


def test_the_task_behind_injected_context_is_kept():
    wire = WIRES[2]
    caller = Caller(wire, TIGHT)
    for steps in range(4, 22, 3):
        history = long(responses_history(steps, LONG_TASK))
        body = {"model": "m", "input": [{"role": "user", "content": INJECTED}, *history]}
        made = caller.compact_request(IncomingRequest(json.dumps(body).encode()))
        sent = (made.body or json.dumps(body).encode()).decode()
        assert TASK in sent


def test_a_budget_with_room_keeps_the_exchanges_that_it_says():
    wide = replace(TIGHT, plan=TextPlan(budget=BUDGET, keep_recent=3, least_recent=1))
    made = Caller(WIRES[0], wide).compact_body(json.dumps({"messages": chat_history(40)}).encode())
    sent = made.body.decode()
    assert all(f"result {at}\\n" in sent for at in (37, 38, 39))
    assert made.over == 0
    assert made.after <= BUDGET + estimate_tokens("system")


@pytest.mark.parametrize("method", ["tiered", "truncate", "keep_recent", "mask_observations"])
@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.name)
def test_the_newest_exchange_goes_up_whole_whatever_the_plan_says(wire, method):
    plan = TextPlan(method, budget=BUDGET, keep_recent=0, least_recent=0)
    history = HISTORIES[wire.name](12)
    newest = " ".join(f"line{at}" for at in range(1_500))
    history[-1] = json.loads(json.dumps(history[-1]).replace("\\nok", f"\\n{newest}\\nok"))
    made = Caller(wire, replace(TIGHT, plan=plan, breakpoints=False)).compact_request(
        IncomingRequest(json.dumps({"model": "m", wire.field: history}).encode())
    )
    sent = json.loads(made.body)[wire.field]
    assert made.compacted
    assert sent[-1] == history[-1]
    assert made.over > 0
