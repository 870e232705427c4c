"""MCP by the official SDK: a real client on stdio and over HTTP gets the tools, and each key its own sessions."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

pytest.importorskip("mcp")

import httpx2
import uvicorn
from mcp import ClientSession
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

from holdfast.recall.mcp_server import Toolboxes, create_app, create_server, digest
from holdfast.recall.sources import JournalFiles, SessionFiles
from holdfast.recall.tools import TOOL_NAMES
from holdfast.text.rewrite import TextPlan
from long_samples import SAMPLES

SRC = str(Path(__file__).parents[2] / "src")


async def call(client, name, **arguments):
    result = await client.call_tool(name, arguments)
    return result.content[0].text, result.is_error


def test_an_agent_on_stdio_searches_reads_notes_and_compacts(tmp_path):
    (tmp_path / "billing.jsonl").write_text(SAMPLES["claude_code"][1])
    command = ["-m", "holdfast", "mcp", str(tmp_path)]
    started = StdioServerParameters(command=sys.executable, args=command, env={**os.environ, "PYTHONPATH": SRC})

    async def talk():
        async with stdio_client(started) as streams, ClientSession(*streams) as session:
            ready = await session.initialize()
            assert "history_search" in ready.instructions
            tools = (await session.list_tools()).tools
            assert {tool.name for tool in tools} == TOOL_NAMES
            assert "finished sub-task" in next(tool.description for tool in tools if tool.name == "compact")
            assert "quarry-17:48213" in (await call(session, "history_search", query="which host?"))[0]
            assert "== 3" not in (await call(session, "history_read", turns="3"))[0]
            assert await call(session, "note_write", text="The host is quarry-17.") == ("note 1 is written", False)
            said, failed = await call(session, "compact", tokens=1_500)
            assert not failed
            assert "history_read" in said
            assert "compacted: 1 times" in (await call(session, "context_status"))[0]
            said, failed = await call(session, "history_read", turns="999")
            assert failed
            assert "turns 1 to" in said

    asyncio.run(talk())


@asynccontextmanager
async def served(app):
    """Yields the address of the app on a free port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        task = asyncio.ensure_future(server.serve(sockets=[listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
        finally:
            server.should_exit = True
            await task


@pytest.mark.parametrize("key", ["key-one", "key-two"])
def test_over_http_each_key_has_the_sessions_of_its_own(tmp_path, key):
    for name in ("key-one", "key-two"):
        head = {"role": "user", "content": f"plum of {name}", "holdfast": {"key": digest(name), "wire": "openai_chat"}}
        rows = (head, {"role": "assistant", "content": "noted"})
        (tmp_path / f"{name}-session.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    async def talk():
        app = create_app(create_server(Toolboxes(lambda one: JournalFiles(tmp_path, one))), "127.0.0.1")
        headers = {"authorization": f"Bearer {key}"}
        async with (
            served(app) as url,
            httpx2.AsyncClient(headers=headers, trust_env=False) as client,
            streamable_http_client(url, http_client=client) as streams,
            ClientSession(*streams[:2]) as session,
        ):
            await session.initialize()
            other = {"key-one": "key-two", "key-two": "key-one"}[key]
            assert f"plum of {key}" in (await call(session, "history_search", query="plum"))[0]
            said, failed = await call(session, "history_read", turns="1", session=f"{other}-session")
            assert failed
            assert "plum" not in said
            assert other not in (await call(session, "context_status"))[0]

    asyncio.run(talk())


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": "Bearer right", "host": "evil.example"}, 421),
        ({"authorization": "Bearer right", "origin": "https://evil.example"}, 403),
    ],
)
def test_files_over_http_want_the_key_and_no_page_of_another_site_reaches_them(tmp_path, headers, status):
    (tmp_path / "billing.json").write_text(SAMPLES["openai_chat"][1])
    files = SessionFiles((tmp_path,), TextPlan(ratio=2))

    async def ask():
        app = create_app(create_server(Toolboxes(lambda _: files)), "127.0.0.1", "right")
        async with served(app) as url, httpx2.AsyncClient(trust_env=False) as client:
            body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
            given = {"accept": "application/json, text/event-stream", **headers}
            return (await client.post(url, json=body, headers=given)).status_code

    assert asyncio.run(ask()) == status
