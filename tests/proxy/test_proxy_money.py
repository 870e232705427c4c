"""The proxy must pay: it compacts where that saves money or the window demands it, and says what was saved."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from typing import Any

import pytest
from proxied import SMALL, TRIGGER, Reply, anthropic_history, chat_history, gemini_history, get, post, proxy, upstream

from child import child
from holdfast.cli.proxy import describe_totals
from holdfast.proxy.caller import Caller, IncomingRequest, OutgoingRequest
from holdfast.proxy.gateway import count_all
from holdfast.proxy.options import Options
from holdfast.proxy.tariffs import Tariffs
from holdfast.proxy.wires import WIRES, Wire, instructions_of, model_of

WARM, COLD = 20.0, 400.0
"""Seconds between two requests: less and more than a provider's cache lives."""
STEPS = 44
CHAT, ANTHROPIC = WIRES[0], WIRES[1]
CASES = [(CHAT, "gpt-5.2", chat_history), (ANTHROPIC, "claude-sonnet-4-5", anthropic_history)]


def send(caller: Caller, steps: range, model: str, history: Any, gap: float) -> list[OutgoingRequest]:
    """Sends a growing loop; the upstream takes all of it."""
    made = []
    for at in steps:
        body = json.dumps({"model": model, caller.wire.field: history(at)}).encode()
        made.append(caller.compact_request(IncomingRequest(body, at=1_000 + gap * at, lookup="read {}/N".format)))
        caller.counts.add(made[-1])
        caller.charge(made[-1])
    return made


def caller(wire: Wire, options: Options = SMALL) -> Caller:
    return Caller(wire, options, tariffs=Tariffs(options))


@pytest.mark.parametrize("gap", [WARM, COLD])
@pytest.mark.parametrize(("wire", "model", "history"), CASES)
def test_the_plan_never_costs_more_than_passing_through_wherever_the_session_ends(wire, model, history, gap):
    held = caller(wire)
    for at in range(0, STEPS, 4):
        send(held, range(at, at + 1), model, history, gap)
        assert held.counts.money <= held.counts.money_passing + 1e-12
    assert held.counts.money_passing > 0
    if gap == COLD:
        assert held.counts.compactions > 0
        assert held.counts.money_saved > 0.1 * held.counts.money_passing


def test_compacting_at_every_trigger_may_cost_more_and_the_bill_says_so():
    tight = replace(SMALL, planned=False, plan=replace(SMALL.plan, budget=int(0.85 * TRIGGER)))
    held = caller(ANTHROPIC, tight)
    send(held, range(0, STEPS, 2), "claude-sonnet-4-5", anthropic_history, WARM)
    assert held.counts.compactions > 2
    assert held.counts.saved > 0 > held.counts.money_saved
    assert "spent more than" in describe_totals(count_all(held.counts), False)


def test_what_the_window_demands_is_compacted_whatever_it_costs():
    window = 2 * TRIGGER
    held = caller(ANTHROPIC, replace(SMALL, window=window))
    made = send(held, range(2, STEPS, 6), "claude-sonnet-4-5", anthropic_history, WARM)
    assert held.counts.compactions > 0
    assert max(one.before for one in made) > window > 0.75 * window >= max(one.after for one in made)


def test_a_model_without_a_price_is_compacted_at_the_trigger():
    held = caller(CHAT)
    made = send(held, range(0, STEPS, 4), "nobody-knows-this-model", chat_history, WARM)
    assert held.counts.compactions > 0
    assert all(one.tariff is None for one in made)
    assert held.counts.money_passing == 0
    assert "$" not in describe_totals(count_all(held.counts), False)


def test_a_file_of_prices_names_models_of_ones_own(tmp_path):
    prices = tmp_path / "prices.toml"
    prices.write_text('[models."my-model"]\ninput = 3\noutput = 15\ncache_read = 0.3\ncaching = "automatic"\n')
    held = caller(CHAT, replace(SMALL, price_file=prices))
    send(held, range(0, 12, 4), "my-model", chat_history, WARM)
    assert held.counts.money_passing > 0


@pytest.mark.parametrize(
    ("wire", "path", "body", "model", "text"),
    [
        (ANTHROPIC, "/v1/messages", {"model": "a", "system": "Hi.", "messages": []}, "a", "Hi."),
        (CHAT, "/v1/chat/completions", {"model": "b", "messages": chat_history(1)}, "b", "You are careful."),
        (
            WIRES[3],
            "/v1beta/models/gemini-2.5-pro:generateContent",
            {"systemInstruction": {"parts": [{"text": "Hello."}]}, "contents": gemini_history(1)},
            "gemini-2.5-pro",
            "Hello.",
        ),
    ],
)
def test_the_model_and_what_stands_before_a_history_are_read_on_every_wire(wire, path, body, model, text):
    assert model_of(body, path) == model
    assert text in instructions_of(wire, body)


def test_money_is_on_the_page_in_the_stats_and_at_the_end():
    command = ("-m", "holdfast", "proxy", "--listen", "127.0.0.1:0", "--trigger", str(TRIGGER))
    with upstream() as up, child(*command, "--upstream", up.url) as server:
        url = server.address()
        for steps in (30, 31):
            post(f"{url}/v1/messages", json={"model": "claude-sonnet-4-5", "messages": anthropic_history(steps)})
        status = get(f"{url}/holdfast/stats").json()
        (row,) = status["conversations"]
        server.end(signal.SIGTERM)
        said = server.output()
    assert status["money_passing"] >= status["money"] > 0
    assert (row["money"], row["money_passing"]) == (status["money"], status["money_passing"])
    assert "2 requests with a history" in said
    assert f"than the ${status['money_passing']:.4f} of passing through" in said


def test_a_request_that_the_upstream_did_not_take_is_on_no_bill():

    with upstream(lambda _: Reply(status=529)) as up, proxy(up) as url:
        post(f"{url}/v1/messages", json={"model": "claude-sonnet-4-5", "messages": anthropic_history(9)})
        assert get(f"{url}/holdfast/stats").json()["money_passing"] == 0
