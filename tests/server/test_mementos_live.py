"""A scripted model writes blocks and mementos over HTTP: slots rise and fall, nothing is lost, undo gives back."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import httpx
import pytest
from steered_host import NEVER, eager, engine, steered

from holdfast.errors import BadOption
from holdfast.mementos.compress import CodeCompressor
from holdfast.mementos.rules import MementoRules
from holdfast.mementos.strategy import MementoStrategy, OtherWriter
from holdfast.server.sessions.host import SessionHost

RULES = MementoRules(block_start="<b>", block_end="</b>", summary_start="<m>", summary_end="</m>")
BLOCKS = replace(NEVER, blocks=RULES)
SAID = "".join(f"<b>part {n}: {'I read and think. ' * 6}</b><m>part {n} done</m>" for n in range(3)) + "It is 4."
ASKED = [{"role": "user", "content": "How many? <b>my own words</b><m>stay</m>"}]


def post(url, messages, **more):
    body = {"model": "steered", "messages": messages, "max_tokens": 900, **more}
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).json()


def test_slots_over_tokens_are_a_sawtooth_and_every_block_comes_back():
    with steered(lambda request: SAID, BLOCKS) as (_, url):
        answer = post(url, ASKED)
        assert answer["choices"][0]["message"]["content"] == SAID
        name = answer["holdfast"]["session"]
        detail = httpx.get(f"{url}/holdfast/sessions/{name}").json()
        curve = detail["curve"]
        drops = [b for a, b in pairwise(curve) if b[0] == a[0] and b[1] < a[1]]
        assert len(drops) == detail["compactions"] == 3
        assert max(slots for _, slots in curve) < detail["tokens"]
        assert any("my own words" in block["text"] and block["fate"] == "verbatim" for block in detail["blocks"])
        assert sum("part 1:" in block["text"] and block["slots"] == 0 for block in detail["blocks"]) == 1
        for left in (2, 1, 0):
            row = httpx.post(f"{url}/holdfast/sessions/{name}/undo", timeout=60).json()
            assert row["compactions"] == left
        assert row["slots"] == row["tokens"]
        # the client goes on as ever: what it sends again is not read again
        messages = [*ASKED, {"role": "assistant", "content": SAID}, {"role": "user", "content": "And why?"}]
        again = post(url, messages)
        assert again["holdfast"]["session"] == name
        assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


def test_after_a_kill_the_log_gives_the_session_back_as_it_was():
    with steered(lambda request: SAID, BLOCKS) as (host, url):
        name = post(url, ASKED)["holdfast"]["session"]
        before = httpx.get(f"{url}/holdfast/sessions/{name}").json()
        store = host.registry.store  # another host on what is durable: nothing was closed or saved
        again = SessionHost(engine(), host.plan, store, BLOCKS)
        after = again.session(name, "")
        assert (after["slots"], after["tokens"], after["compactions"]) == (
            before["slots"],
            before["tokens"],
            before["compactions"],
        )


def test_a_block_of_100_000_tokens_is_refused_in_words_and_the_session_goes_on():
    with steered(lambda request: "Yes.", BLOCKS) as (_, url):
        name = post(url, ASKED)["holdfast"]["session"]
        asked = [*ASKED, {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "Sure?"}]
        long = {"role": "assistant", "content": f"<b>{'much of it ' * 10_000}</b><m>much</m>"}
        error = post(url, [*asked, long, {"role": "user", "content": "And?"}])["error"]
        assert error["code"] == "context_length_exceeded"
        assert "maximum context length is 8192" in error["message"]
        assert post(url, asked)["holdfast"]["session"] == name


def test_a_history_with_blocks_is_evicted_once_it_is_read():
    with steered(lambda request: "Yes.", BLOCKS) as (_, url):
        messages = [*ASKED, {"role": "assistant", "content": SAID}, {"role": "user", "content": "Sure?"}]
        told = post(url, messages)["holdfast"]
        assert told["compactions"] == 1
        assert told["slots"] < told["tokens"] / 2


def test_a_session_is_compacted_by_mementos_and_its_client_does_not_notice():
    how = MementoStrategy(OtherWriter(CodeCompressor()), least=50)
    policy = replace(eager(250), mementos=how)
    with steered(lambda request: f"I look at `src/part_{len(request.turns)}.py`. " * 8, policy) as (host, url):
        messages = list(ASKED)
        for n in range(4):
            answer = post(url, messages)
            messages += [answer["choices"][0]["message"], {"role": "user", "content": f"Go on, {n}."}]
            host.rested()
        told = answer["holdfast"]
        detail = httpx.get(f"{url}/holdfast/sessions/{told['session']}").json()
        assert detail["compactions"] >= 1
        assert detail["turns"] == 8
        assert any(block["kind"] == "memento" and "src/part_1.py" in block["text"] for block in detail["blocks"])
        assert detail["curve"]


@pytest.mark.parametrize("text", ["{", '{"keep": 1}', '{"max_block_tokens": -1}', '{"block_start": ""}'])
def test_rules_are_refused_by_the_field(text):
    with pytest.raises(BadOption, match=r"keep_last_n_blocks|delimiters"):
        MementoRules.from_json(text)
