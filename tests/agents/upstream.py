"""A scripted provider on 127.0.0.1 that plays a fixed task with an agent's own shell tool and records every request."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from answers import Answer, Events, Reply, render

SIDE = Answer("A short title")
"""What every request without tools gets: titles, topic checks, health checks."""


@dataclass(frozen=True)
class Request:
    """One request of the agent for its main conversation."""

    path: str
    body: dict[str, Any]


Step = Answer | Callable[[dict[str, Any]], Answer]
"""An answer, or what makes one of the request's body."""


@dataclass
class Upstream:
    """What it answers, and what it was asked."""

    url: str
    script: list[Step] = field(default_factory=list)
    """The answers to come; the last one is given again."""
    requests: list[Request] = field(default_factory=list)
    toolless: bool = False
    """True for an agent without tools: every request is then one of its conversation."""
    others: list[str] = field(default_factory=list)
    """Method and path of every other request."""
    count: int = 0
    """Answers so far, over all scripts: an agent takes two answers with one id for parts of one."""

    def play(self, script: Sequence[Step]) -> None:
        """Sets the answers to come and forgets what was asked before."""
        self.script = list(script)
        self.requests.clear()
        self.others.clear()

    def answer(self, path: str, body: dict[str, Any]) -> Reply:
        """Returns the next answer of the script for a request of the conversation, which has tools, and words for any
        other.
        """
        self.count += 1
        if not (body.get("tools") or self.toolless):
            self.others.append(path)
            return render(path, body, SIDE, self.count)
        self.requests.append(Request(path, body))
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        return render(path, body, step if isinstance(step, Answer) else step(body), self.count)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    upstream: Upstream
    lock: threading.Lock

    def log_message(self, *_: object) -> None:
        """Says nothing: the requests themselves are the log."""

    def do_GET(self) -> None:
        with self.lock:
            self.upstream.others.append(f"{self.command} {self.path}")
        if self.headers.get("upgrade", "").lower() == "websocket":
            self._send(426, {"error": {"message": "no websocket here"}})
        elif self.path.split("?")[0].endswith("/models"):
            self._send(200, {"object": "list", "data": [{"id": "scripted", "object": "model"}]})
        else:
            self._send(404, {"error": {"message": "not here"}})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_CONNECT(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        data = self._read_body()
        data = gzip.decompress(data) if self.headers.get("content-encoding") == "gzip" else data
        body = json.loads(data or b"{}")
        with self.lock:
            reply = self.upstream.answer(self.path.split("?")[0], body)
        if isinstance(reply, list):
            self._stream(reply)
        else:
            self._send(200, reply)

    def _read_body(self) -> bytes:
        if self.headers.get("transfer-encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("content-length") or 0))
        whole = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return whole

    def _send(self, status: int, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _stream(self, events: Events) -> None:
        lines = [
            (f"event: {name}\n" if name else "") + f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n"
            for name, data in events
        ]
        data = "".join(lines).encode()
        self.send_response(200)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing: a program that ends leaves its connections."""


@contextmanager
def serve() -> Iterator[Upstream]:
    """Runs a provider for as long as the block lasts."""
    server = _Server(("127.0.0.1", 0), _Handler)
    upstream = Upstream(f"http://127.0.0.1:{server.server_address[1]}")
    _Handler.upstream, _Handler.lock = upstream, threading.Lock()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield upstream
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
