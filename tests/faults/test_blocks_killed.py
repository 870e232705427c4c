"""A server that is killed while its model writes blocks: what was acknowledged is there, block for block."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import killing
from steered_host import NEVER, SteeredHost

from holdfast.mementos.rules import MementoRules
from holdfast.server.protocol import GenerateRequest
from holdfast.storage.store import Store

RULES = MementoRules(block_start="<b>", block_end="</b>", summary_start="<m>", summary_end="</m>")
SAID = "".join(f"<b>part {n}: {'I read and think. ' * 5}</b><m>part {n} done</m>" for n in range(2)) + "It is 4."
ENDLESS = f"{SAID}<b>{'I read and think. ' * 200}"
FIRST = [{"role": "user", "content": "How many?"}]
LATER = [*FIRST, {"role": "assistant", "content": SAID}, {"role": "user", "content": "Go on."}]


def script(request: GenerateRequest) -> str:
    return SAID if request.turns[-1].text == "How many?" else ENDLESS


def open_host(store: Store) -> SteeredHost:
    return SteeredHost(script, replace(NEVER, blocks=RULES), store=store)


def post(url: str, messages: list[dict[str, str]], most: int = 900) -> Any:
    body = {"model": "steered", "messages": messages, "max_tokens": most}
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).json()


def read_until(url: str, messages: list[dict[str, str]], words: str) -> None:
    """Reads a streamed answer until it has said these words."""
    body = {"model": "steered", "messages": messages, "max_tokens": 5000, "stream": True}
    text = ""
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                text += json.loads(line[6:])["choices"][0]["delta"].get("content") or ""
            if words in text:
                return
    raise AssertionError(f"the answer ended without {words!r}: {text[-200:]}")


def test_a_kill_while_blocks_are_written_loses_nothing_and_undo_brings_a_block_back(tmp_path: Path) -> None:
    with killing.server(tmp_path, open_host) as (url, process):
        name = post(url, FIRST)["holdfast"]["session"]
        before = httpx.get(f"{url}/holdfast/sessions/{name}").json()
        read_until(url, LATER, "It is 4.<b>I read")
        os.kill(process.pid, signal.SIGKILL)  # two blocks of this answer have gone, a third is open
        process.join(60)
    with killing.server(tmp_path, open_host) as (url, _):
        after = httpx.get(f"{url}/holdfast/sessions/{name}").json()
        assert after["curve"][:-1] == before["curve"][:-1]  # the question is durable too, half an answer is not
        assert after["tokens"] - after["slots"] == before["tokens"] - before["slots"]
        assert (after["turns"], after["compactions"]) == (3, 2)
        row = httpx.post(f"{url}/holdfast/sessions/{name}/undo", timeout=60).json()
        blocks = httpx.get(f"{url}/holdfast/sessions/{name}").json()["blocks"]
        there = [block["slots"] > 0 for block in blocks if ": I read" in block["text"]]
        assert (row["compactions"], there) == (1, [False, True])
        told = post(url, LATER, 9)  # the client asks the same again
        assert told["holdfast"]["session"] == name
        assert told["usage"]["prompt_tokens_details"]["cached_tokens"] == after["tokens"]
