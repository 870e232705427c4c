"""A long system prompt with its tools, over HTTP: seconds to the first token of the sessions that share it.

Four requests of one key and one of another, each with the same prompt and tools and a task of its own:

    first       reads everything
    second      begins behind the prompt
    restarted   the same after a restart of the server: the prompt's states are on disk
    other key   shares nothing
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from openai import OpenAI

import holdfast
from holdfast.cli.serve import bind, build_server
from holdfast.compaction.plan import Plan
from holdfast.engine.local import LocalEngine
from holdfast.server.http.app import create_app
from holdfast.server.http.settings import Settings
from holdfast.server.sessions.host import HostPolicy, SessionHost
from holdfast.storage.store import Store

RULE = "Rule {n}: before you change module_{n}.py, read tests/test_module_{n}.py and keep its {n} cases green. "
TASKS = (("first", "agent"), ("second", "agent"), ("restarted", "agent"), ("other key", "nobody"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tokens", type=int, default=6000, help="of the system prompt, its tools included")
    parser.add_argument("--tools", type=int, default=60)
    given = parser.parse_args()
    engine = holdfast.load(given.model)
    tools = [build_tool(number) for number in range(given.tools)]
    prompt = build_prompt(engine, given.tokens, tools)
    print(f"{given.model}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}, {given.tools} tools")
    with tempfile.TemporaryDirectory() as folder:
        for names in (TASKS[:2], TASKS[2:]):
            with run_server(engine, folder) as url:
                for name, key in names:
                    print(f"{name:10} {describe(url, key, prompt, tools, f'Do what is {name}.')}", flush=True)


def build_tool(number: int) -> dict[str, Any]:
    """Returns one tool of a harness with many."""
    fields = {"path": {"type": "string", "description": "A path of the project."}, "count": {"type": "integer"}}
    function = {"name": f"tool_{number}", "description": f"Does thing {number} to a file of the project."}
    return {"type": "function", "function": {**function, "parameters": {"type": "object", "properties": fields}}}


def build_prompt(engine: LocalEngine, tokens: int, tools: list[dict[str, Any]]) -> str:
    """Returns a system prompt that has, with the tools, about so many tokens."""
    template = engine.model.tokenizer.apply_chat_template
    asked = [{"role": "system", "content": "x"}, {"role": "user", "content": "x"}]
    left = tokens - len(engine.model.tokenizer(template(asked, tools=tools, tokenize=False))["input_ids"])
    each = len(engine.model.tokenizer(RULE.format(n=100))["input_ids"])
    return "".join(RULE.format(n=number) for number in range(max(1, left // each)))


@contextmanager
def run_server(engine: LocalEngine, folder: str) -> Iterator[str]:
    """Runs a server over a store on a free port."""
    with bind("127.0.0.1", 0) as listener:
        settings = Settings(seconds=3600)
        running = build_server(create_app(SessionHost(engine, Plan(), Store(folder), HostPolicy()), settings), settings)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not running.started and thread.is_alive():
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            running.should_exit = True
            thread.join()


def describe(url: str, key: str, prompt: str, tools: list[dict[str, Any]], task: str) -> str:
    """Asks for a few tokens; returns the seconds to the first, the tokens of the prompt, and those that were read."""
    messages: Any = [{"role": "system", "content": prompt}, {"role": "user", "content": task}]
    began, first = time.perf_counter(), 0.0
    last: Any = None
    with OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=3600) as client:
        options: Any = {"tools": tools, "max_tokens": 2, "stream": True, "stream_options": {"include_usage": True}}
        for last in client.chat.completions.create(model="", messages=messages, **options):
            if last.choices and last.choices[0].delta.content:
                first = first or time.perf_counter() - began
    assert last is not None
    used = last.usage
    new = used.prompt_tokens - used.prompt_tokens_details.cached_tokens
    return f"first token {first:7.2f} s, prompt {used.prompt_tokens}, read {new}"


if __name__ == "__main__":
    main()
