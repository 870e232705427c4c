"""`holdfast proxy`: what it refuses, and that neither its log nor its terminal ever shows a key."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import httpx
import pytest
from proxied import PLAIN, SMALL, TRIGGER, Reply, chat_history, get, post, proxy, stream, upstream

from child import child
from holdfast.adapters import compactor as compacting
from holdfast.proxy.access_log import AccessLog
from holdfast.proxy.app import create_proxy
from holdfast.proxy.options import is_loopback
from ticker_lines import without_ticker
from waiting import PATIENCE

KEY, OWN = "sk-client-5f3a9c", "sk-proxy-77d1e2"
SECRET = "hunter2-of-the-session"
COMMAND = ("-m", "holdfast", "proxy", "--listen", "127.0.0.1:0")


def test_keys_are_in_no_log_and_on_no_terminal(tmp_path):
    log = tmp_path / "log.jsonl"
    with upstream() as up:
        arguments = ("--upstream", up.url, "--trigger", str(TRIGGER), "--log", str(log), "--api-key-env", "OWN_KEY")
        with child(*COMMAND, *arguments, OWN_KEY=OWN) as server:
            url = server.address()
            body = {"messages": chat_history(40, f"The password is {SECRET}.")}
            post(f"{url}/v1/chat/completions?key={KEY}", json=body, headers={"authorization": f"Bearer {KEY}"})
            post(f"{url}/v1/messages", json={"messages": 3}, headers={"x-api-key": KEY})
            post(f"{url}/v1/responses", content=b"{", headers={})
            get(f"{url}/v1/models?key={KEY}")
            status = get(f"{url}/holdfast/proxy").text
            server.end(signal.SIGTERM)
            said = [server.output("stdout"), server.output()]
        told = [*said, log.read_text(), status]
    assert up.seen[2].header("authorization") == [f"Bearer {OWN}"]
    assert all(word not in text for text in told for word in (KEY, OWN, SECRET))
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [row["wire"] for row in rows] == ["openai_chat", "anthropic", "openai_responses"]
    assert [row["status"] for row in rows] == [200, 200, 200]
    assert rows[0]["before"] > 2 * rows[0]["after"] > 0
    assert (rows[0]["compacted"], rows[2]["failure"]) == (True, "JSONDecodeError")
    assert [row["key"] for row in rows] == [sha256(KEY.encode()).hexdigest()[:12]] * 2 + ["none"]
    assert log.stat().st_mode & 0o077 == 0


def test_a_client_that_hangs_up_does_not_end_the_command():
    def endless() -> Iterator[bytes]:
        while not up.hung_up.wait(0.001):
            yield b"data: more\n\n" * 1_000

    with upstream(lambda _: Reply(endless())) as up, child(*COMMAND, "--upstream", up.url) as server:
        url = server.address()
        with stream("POST", f"{url}/v1/chat/completions", content=b"{}") as answer:
            next(answer.iter_raw())
        assert up.hung_up.wait(PATIENCE)
        assert get(f"{url}/health").status_code == 200
        state = Path(f"/proc/{server.process.pid}/status")  # when it writes to a lost connection is a matter of chance
        if state.exists():
            ignored = next(line for line in state.read_text().splitlines() if line.startswith("SigIgn"))
            assert int(ignored.split()[1], 16) & 1 << (signal.SIGPIPE - 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--upstream", "nowhere"), "--upstream must be"),
        (("--upstream", "http://u:p@h"), "give the key by"),
        (("--upstream", "http://h", "--listen", "8000x"), "--listen must be"),
        (("--upstream", "http://h", "--listen", "0.0.0.0:8000"), "--allow-remote means"),
        (("--upstream", "http://h", "--listen", "[::]:8000", "--allow-remote", "--api-key-env", "PATH"), "spend your"),
        (("--upstream", "http://h", "--api-key-env", "NOT_SET_ANYWHERE"), "NOT_SET_ANYWHERE"),
        (("--upstream", "http://h", "--text", "no_such_method"), "no_such_method"),
        (("--upstream", "http://h", "--trigger", "100", "--budget", "100"), "below the trigger"),
        (("--upstream", "http://h", "--log", "/no/such/folder/log"), "folder that exists"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(arguments, words, capsys):
    from holdfast.cli.main import main

    with pytest.raises(SystemExit) as stop:
        main(["proxy", *arguments])
    said = without_ticker(capsys.readouterr().err)
    assert stop.value.code == 2
    assert words in said
    assert said.count("\n") == 1


def test_words_are_in_the_log_only_where_they_are_asked_for(tmp_path, monkeypatch):
    def raising(*_: object, **__: object) -> None:
        raise RuntimeError(f"cannot read {SECRET}")

    monkeypatch.setattr(compacting, "rewrite_again", raising)
    body = {"messages": chat_history(40)}
    for with_text in (False, True):
        log = tmp_path / f"{with_text}.jsonl"
        with upstream() as up, proxy(up, replace(SMALL, log=log, log_text=with_text)) as url:
            post(f"{url}/v1/chat/completions", json=body)
        row = json.loads(log.read_text())
        assert row["failure"] == "RuntimeError"
        assert (SECRET in log.read_text()) == with_text


def test_a_log_that_cannot_be_written_stops_no_request(tmp_path, monkeypatch):
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    options = replace(SMALL, log=tmp_path / "log.jsonl")
    with upstream() as up, proxy(up, options) as url:
        with monkeypatch.context() as patched:
            patched.setattr(os, "write", full)
            journal = AccessLog(tmp_path / "other.jsonl")
            journal.write({})
            journal.close()
        assert post(f"{url}/v1/chat/completions", content=b"{}").status_code == 200
    assert journal.failed == 1


def test_the_status_is_for_this_machine_only():
    async def ask(client: tuple[str, int]) -> int:
        app = create_proxy("http://127.0.0.1:1", SMALL, httpx.AsyncHTTPTransport(verify=PLAIN))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app, client=client), verify=PLAIN) as asking:
            return (await asking.get("http://127.0.0.1/holdfast/proxy")).status_code

    assert asyncio.run(ask(("127.0.0.1", 1))) == 200
    assert asyncio.run(ask(("10.0.0.7", 1))) == 403


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        *((host, True) for host in ("127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost")),
        *((host, False) for host in ("0.0.0.0", "::", "example.com", "", "localhost.example.com")),
    ],
)
def test_what_is_this_machine(host, expected):
    assert is_loopback(host) == expected


def test_the_app_loads_no_model_library():
    code = (
        "import sys, holdfast.proxy.app, holdfast.cli.proxy\n"
        "heavy = {'torch', 'transformers', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_page_shows_the_counts_of_each_conversation_and_no_words(tmp_path):
    with upstream() as up, proxy(up) as url:
        for steps in (2, 40):
            post(f"{url}/v1/chat/completions", json={"messages": chat_history(steps, f"The password is {SECRET}.")})
        post(f"{url}/v1/chat/completions", json={"messages": chat_history(1, "Another task.")})
        page, script = get(f"{url}/holdfast"), get(f"{url}/holdfast/page/proxy.js")
        sheet, missing = get(f"{url}/holdfast/page/page.css"), get(f"{url}/holdfast/page/none.js")
        status = get(f"{url}/holdfast/proxy")
    assert [answer.status_code for answer in (page, script, sheet, missing)] == [200, 200, 200, 404]
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert SECRET not in status.text
    other, first = status.json()["conversations"]
    assert (other["turns"], other["requests"], first["requests"], first["compactions"]) == (3, 1, 2, 1)
    assert first["tokens_before"] > 2 * first["tokens_after"] > 0
    assert first["turns"] == 81
    assert [request.path for request in up.seen] == ["/v1/chat/completions"] * 3


def test_a_conversation_has_a_title_only_if_the_log_has_words():
    with upstream() as up, proxy(up, replace(SMALL, log_text=True)) as url:
        post(f"{url}/v1/chat/completions", json={"messages": chat_history(1, "Mend the build.")})
        (row,) = get(f"{url}/holdfast/proxy").json()["conversations"]
    assert row["title"] == "Mend the build."
