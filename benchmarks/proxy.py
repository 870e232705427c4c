"""Cost of the proxy for a request, and its savings over a loop.

    python benchmarks/proxy.py [--requests 40] [--steps 60]

Overhead: milliseconds of a request through `holdfast proxy` (a process of its own) and direct, to an endpoint on this
machine that answers at once, at 10 and at 500 turns, once the history has been compacted. Tokens: what an agent's loop
sends with and without, on both wires, by Holdfast's own estimate.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from statistics import quantiles
from typing import Any

import httpx

ANSWER = b'{"choices": []}'
PATHS = {"openai_chat": "/v1/chat/completions", "anthropic": "/v1/messages"}


class Endpoint(BaseHTTPRequestHandler):
    """Reads the request and answers."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    sent: list[int] = []  # noqa: RUF012  (bytes of every request, for all handlers)

    def do_POST(self) -> None:
        Endpoint.sent.append(len(self.rfile.read(int(self.headers["content-length"]))))
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(ANSWER)
        self.wfile.write(head + ANSWER)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@contextmanager
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@contextmanager
def proxy(upstream: str, *options: str) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "holdfast", "proxy", "--upstream", upstream, "--listen", address, *options]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ)
    try:
        for _ in range(300):
            try:
                httpx.get(f"http://{address}/health", trust_env=False)
                break
            except httpx.TransportError:
                time.sleep(0.1)
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait()


def observation(step: int) -> str:
    lines = [f"src/module_{step}/part_{line}.py:{step * 7 + line}: def handler_{line}(request)" for line in range(6)]
    return "\n".join([f"result {step}", *lines, "ok"])


def history(wire: str, steps: int) -> list[dict[str, Any]]:
    """Returns a loop after `steps` calls: two messages a call."""
    made: list[dict[str, Any]] = [{"role": "user", "content": "Fix tests/test_pay.py. Never edit src/legacy/pay.py."}]
    for at in range(steps):
        if wire == "anthropic":
            call: dict[str, Any] = {"type": "tool_use", "id": f"c{at}", "name": "bash", "input": {"command": "make"}}
            result = {"type": "tool_result", "tool_use_id": f"c{at}", "content": observation(at)}
            made += [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
        else:
            function = {"name": "bash", "arguments": '{"command": "make"}'}
            call = {"id": f"c{at}", "type": "function", "function": function}
            made.append({"role": "assistant", "content": None, "tool_calls": [call]})
            made.append({"role": "tool", "tool_call_id": f"c{at}", "content": observation(at)})
    return made


def milliseconds(client: httpx.Client, url: str, body: bytes, requests: int) -> tuple[float, float]:
    """Returns p50 and p95 of the requests in milliseconds."""
    took = []
    for _ in range(requests):
        began = time.perf_counter()
        client.post(url, content=body).raise_for_status()
        took.append(1000 * (time.perf_counter() - began))
    cuts = quantiles(took, n=20)
    return cuts[9], cuts[18]


def overhead(client: httpx.Client, direct: str, through: str, requests: int) -> None:
    print("ms a request (p50 / p95)              direct          proxy      added at p50   body")
    for wire, path in PATHS.items():
        for turns in (10, 500):
            body = json.dumps({"model": "m", "messages": history(wire, turns // 2)}).encode()
            client.post(through + path, content=body)  # compacts
            one, two = (milliseconds(client, url + path, body, requests) for url in (direct, through))
            cells = f"{one[0]:6.1f} / {one[1]:6.1f}  {two[0]:6.1f} / {two[1]:6.1f}  {two[0] - one[0]:10.1f}"
            print(f"{wire:12s} {turns:4d} turns            {cells}  {len(body) / 1000:7.0f} kB")


def loop(client: httpx.Client, through: str, steps: int) -> None:
    print(f"\ntokens of the histories sent over {steps} turns of a loop")
    for wire, path in PATHS.items():
        before = after = largest = compactions = 0
        for step in range(steps):
            answer = client.post(through + path, json={"model": "m", "messages": history(wire, step)})
            told = dict(part.split("=") for part in answer.headers["x-holdfast"].split(";"))
            before, after = before + int(told["before"]), after + int(told["after"])
            largest, compactions = max(largest, int(told["after"])), int(told["compactions"])
        print(
            f"{wire:12s} {before:9,} without, {after:9,} with ({before / after:.1f}x fewer); the largest request "
            f"{int(told['before']):,} without, {largest:,} with; {compactions} compactions"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=40)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--trigger", type=int, default=3_000, help="tokens, of the loop")
    given = parser.parse_args()
    with endpoint() as direct, httpx.Client(trust_env=False, timeout=120) as client:
        with proxy(direct) as through:
            overhead(client, direct, through, given.requests)
        with proxy(direct, "--trigger", str(given.trigger)) as through:
            loop(client, through, given.steps)


if __name__ == "__main__":
    main()
