"""A real upstream and a real proxy on loopback: what the one was sent, byte for byte, and how it answers."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import uvicorn

from holdfast.proxy.app import create_proxy
from holdfast.proxy.options import Options
from holdfast.text.rewrite import TextPlan
from holdfast.web.listener import IDLE_SECONDS, configure
from waiting import PATIENCE

PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # reading the world's certificates takes longer than most tests
post = partial(httpx.post, verify=PLAIN, trust_env=False, timeout=PATIENCE)
get = partial(httpx.get, verify=PLAIN, trust_env=False, timeout=PATIENCE)
stream = partial(httpx.stream, verify=PLAIN, trust_env=False, timeout=PATIENCE)
request = partial(httpx.request, verify=PLAIN, trust_env=False, timeout=PATIENCE)

TRIGGER = 3_000
SMALL = Options(plan=TextPlan(budget=TRIGGER // 2), trigger=TRIGGER, patience=30)
TASK = "Find why `tests/test_pay.py` fails. Never edit src/legacy/pay.py. Do not push to the main branch."
RULES = ("Never edit src/legacy/pay.py", "Do not push to the main branch")


@dataclass
class Seen:
    """One request as the upstream got it."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name]


@dataclass
class Reply:
    """How the upstream answers: with a length where `pieces` is bytes, else in chunks as they come."""

    pieces: bytes | Iterable[bytes] = b'{"ok": true}'
    status: int = 200
    headers: tuple[tuple[str, str], ...] = (("content-type", "application/json"),)
    broken: bool = False
    """Hang up in place of the last chunk."""


@dataclass
class Up:
    """The upstream."""

    reply: Callable[[Seen], Reply] = lambda _: Reply()
    seen: list[Seen] = field(default_factory=list)
    hung_up: threading.Event = field(default_factory=threading.Event)
    """Set where whoever asked went away in the middle of an answer."""
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    """Answers every method as its server's `up` says."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("do_"):
            raise AttributeError(name)
        return self._answer

    @property
    def up(self) -> Up:
        return self.server.up  # type: ignore[attr-defined,no-any-return]

    def _answer(self) -> None:
        seen = Seen(self.command, self.path, list(self.headers.items()), self._body())
        self.up.seen.append(seen)
        self._say(self.up.reply(seen))

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("transfer-encoding", ""):
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _say(self, reply: Reply) -> None:
        self.send_response_only(reply.status)
        for name, value in reply.headers:
            self.send_header(name, value)
        whole = reply.pieces if isinstance(reply.pieces, bytes) else None
        self.send_header(*("transfer-encoding", "chunked") if whole is None else ("content-length", str(len(whole))))
        self.end_headers()
        try:
            if whole is None:
                self._chunks(reply)
            elif self.command != "HEAD":
                self.wfile.write(whole)
        except OSError:
            self.up.hung_up.set()
            self.close_connection = True

    def _chunks(self, reply: Reply) -> None:
        for piece in reply.pieces:
            assert isinstance(piece, bytes)
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        if reply.broken:
            self.close_connection = True
        else:
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


class Quiet(ThreadingHTTPServer):
    daemon_threads = True
    up: Up

    def handle_error(self, *_: Any) -> None:
        """A caller that hangs up is part of the tests."""


@contextmanager
def upstream(reply: Callable[[Seen], Reply] | None = None) -> Iterator[Up]:
    server = Quiet(("127.0.0.1", 0), Handler)
    server.up = up = Up(reply) if reply else Up()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    up.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield up
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def proxy(up: Up | str, options: Options = SMALL, path: str = "", idle_seconds: float = IDLE_SECONDS) -> Iterator[str]:
    """The address of a proxy in front of an upstream."""
    address = (up if isinstance(up, str) else up.url) + path
    app = create_proxy(address, options, httpx.AsyncHTTPTransport(verify=PLAIN))
    config = configure(app, idle_seconds, port=0, log_level="critical", date_header=False, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="loop", daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        thread.join(0.005)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def observation(step: int) -> str:
    """What the tool of a loop says: about 150 tokens, different every time."""
    lines = [f"src/module_{step}/part_{line}.py:{step * 7 + line}: def handler_{line}(request)" for line in range(6)]
    return "\n".join([f"result {step}", *lines, "ok"])


def chat_history(steps: int, task: str = TASK) -> list[dict[str, Any]]:
    """Messages of a loop after so many calls."""
    made: list[dict[str, Any]] = [{"role": "system", "content": "You are careful."}, {"role": "user", "content": task}]
    for at in range(steps):
        call = {"id": f"c{at}", "type": "function", "function": {"name": "bash", "arguments": '{"command": "make"}'}}
        made.append({"role": "assistant", "content": None, "tool_calls": [call]})
        made.append({"role": "tool", "tool_call_id": f"c{at}", "content": observation(at)})
    return made


def anthropic_history(steps: int, task: str = TASK) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = [{"role": "user", "content": task}]
    for at in range(steps):
        call = {"type": "tool_use", "id": f"c{at}", "name": "bash", "input": {"command": "make"}}
        made.append({"role": "assistant", "content": [{"type": "text", "text": f"Step {at}."}, call]})
        result = {"type": "tool_result", "tool_use_id": f"c{at}", "content": observation(at)}
        made.append({"role": "user", "content": [result]})
    return made


def gemini_history(steps: int, task: str = TASK) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = [{"role": "user", "parts": [{"text": task}]}]
    for at in range(steps):
        call = {"id": f"c{at}", "name": "run_shell_command", "args": {"command": "make"}}
        made.append({"role": "model", "parts": [{"functionCall": call, "thoughtSignature": f"c2ln{at}"}]})
        answer = {"id": f"c{at}", "name": "run_shell_command", "response": {"output": observation(at)}}
        made.append({"role": "user", "parts": [{"functionResponse": answer}]})
    return made


def responses_history(steps: int, task: str = TASK) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = [{"role": "user", "content": task}]
    for at in range(steps):
        made.append({"type": "function_call", "call_id": f"c{at}", "name": "bash", "arguments": '{"command": "make"}'})
        made.append({"type": "function_call_output", "call_id": f"c{at}", "output": observation(at)})
    return made
