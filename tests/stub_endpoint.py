"""An endpoint on this machine that speaks both wires and misbehaves as it is told to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Stub:
    """What it answers, and what it was asked."""

    text: str | Callable[[str], str] = "hello"
    """The model's words, or a function of the prompt."""
    status: int = 200
    failures: int = 0
    """So many requests get `status`, the rest succeed; 0 for all."""
    stopped: str = ""
    body: bytes | None = None
    """Sent instead of a well-formed answer."""
    drip: float = 0.0
    """Seconds between the bytes of an answer that never ends."""
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    url: str = ""
    closing: threading.Event = field(default_factory=threading.Event)

    @property
    def prompt(self) -> str:
        return str(self.requests[-1]["messages"][-1]["content"])

    def answer(self, path: str, request: dict[str, Any]) -> tuple[int, bytes]:
        self.requests.append(request)
        failing = self.status != 200 and (not self.failures or len(self.requests) <= self.failures)
        if failing:
            return self.status, json.dumps({"error": {"type": "stub", "message": "stub trouble"}}).encode()
        if self.body is not None:
            return 200, self.body
        text = self.text(request["messages"][-1]["content"]) if callable(self.text) else self.text
        wire = anthropic_answer if path.endswith("/messages") else openai_answer
        return 200, json.dumps(wire(text, self.stopped)).encode()


def openai_answer(text: str, stopped: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "stub",
        "choices": [{"index": 0, "message": message, "finish_reason": stopped or "stop"}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
    }


def anthropic_answer(text: str, stopped: str) -> dict[str, Any]:
    reason = {"length": "max_tokens"}.get(stopped, stopped or "end_turn")
    usage = {"input_tokens": 4, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 2, "output_tokens": 7}
    return {
        "id": "1",
        "type": "message",
        "role": "assistant",
        "model": "stub",
        "content": [{"type": "text", "text": text}],
        "stop_reason": reason,
        "usage": usage,
    }


@contextmanager
def serving(stub: Stub) -> Iterator[Stub]:
    """The stub at `stub.url` for as long as the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            stub.headers.append({key.lower(): value for key, value in self.headers.items()})
            status, body = stub.answer(self.path, request)
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("retry-after-ms", "1")
            if not stub.drip:
                self.send_header("content-length", str(len(body)))
            self.end_headers()
            try:
                self._dripped() if stub.drip else self.wfile.write(body)
            except OSError:
                self.close_connection = True  # the caller hung up

        def _dripped(self) -> None:
            self.close_connection = True
            while not stub.closing.is_set():
                self.wfile.write(b" ")
                self.wfile.flush()
                stub.closing.wait(stub.drip)

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    stub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield stub
    finally:
        stub.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
