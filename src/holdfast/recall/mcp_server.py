"""The tools over MCP, by the official SDK: on stdio for one agent, or over streamable HTTP for each key apart."""

from __future__ import annotations

import asyncio
import hmac
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from holdfast import __version__
from holdfast.errors import Failed, HoldfastError
from holdfast.recall.tools import LOOKUP, TOOLS, Indexes, Source, Toolbox

if TYPE_CHECKING:
    from mcp.server.lowlevel import Server
    from starlette.applications import Starlette

INSTRUCTIONS = (
    f"The memory of this session, which outlives every compaction. {LOOKUP} Look there before you ask the user "
    "again or read a file a second time. note_write keeps what you decided."
)
_CALLERS = 256  # keys whose toolboxes are held at once; the one used longest ago goes first


@dataclass
class Toolboxes:
    """The toolbox of each caller, by the digest of its key."""

    source: Callable[[str], Source]
    """Returns the sessions of a key by its digest, empty for no key."""
    indexes: Indexes = field(default_factory=Indexes)
    _held: OrderedDict[str, Toolbox] = field(default_factory=OrderedDict)

    def of(self, key: str) -> Toolbox:
        """Returns the toolbox of a caller."""
        box = self._held.pop(key, None) or Toolbox(self.source(key), self.indexes)
        self._held[key] = box
        if len(self._held) > _CALLERS:
            self._held.popitem(last=False)
        return box


def create_server(boxes: Toolboxes, own_key: str = "") -> Server[Any]:
    """Returns the MCP server. Calls over HTTP are answered for the key that they carry, others for `own_key`."""
    try:
        import mcp_types as types
        from mcp.server.lowlevel import Server
    except ImportError as error:
        raise Failed(f"the MCP server needs the extra `mcp`: pip install 'holdfast[mcp]' ({error})") from error

    async def list_tools(_: Any, __: Any) -> Any:
        return types.ListToolsResult(tools=[_describe(types, tool.name) for tool in TOOLS])

    async def call_tool(context: Any, params: Any) -> Any:
        key = own_key if context.request is None else digest(bearer(context.request.headers.get("authorization", "")))
        try:
            box = boxes.of(key)
            text, failed = await asyncio.to_thread(box.call, params.name, params.arguments or {}), False
        except HoldfastError as error:
            text, failed = str(error), True
        return types.CallToolResult(content=[types.TextContent(type="text", text=text)], is_error=failed)

    return Server(
        "holdfast",
        version=__version__,
        title="Holdfast: the memory of this session",
        instructions=INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


def _describe(types: Any, name: str) -> Any:
    tool = next(tool for tool in TOOLS if tool.name == name)
    reads = tool.name not in ("note_write", "compact")
    return types.Tool(
        name=tool.name,
        description=tool.description,
        input_schema=tool.schema(with_session=True),
        annotations=types.ToolAnnotations(read_only_hint=reads, destructive_hint=False, open_world_hint=False),
    )


async def serve_stdio(server: Server[Any]) -> None:
    """Serves one client on stdin and stdout until it closes them."""
    from mcp.server.stdio import stdio_server

    async with stdio_server() as (reading, writing):
        await server.run(reading, writing, server.create_initialization_options())


def create_app(server: Server[Any], host: str, key: str = "") -> Starlette:
    """Returns the ASGI application, with MCP at `/mcp`.

    With `key`, requests that do not carry it get 401. On loopback the SDK turns down requests under other names.
    """
    app = server.streamable_http_app(stateless_http=True, json_response=True, host=host)
    if key:
        app.add_middleware(KeyCheck, key=digest(key))
    return app


class KeyCheck:
    """ASGI middleware that lets requests with one key pass."""

    def __init__(self, app: Any, key: str) -> None:
        """Takes the digest of the key."""
        self.app, self._key = app, key

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            from starlette.datastructures import Headers
            from starlette.responses import PlainTextResponse

            sent = digest(bearer(Headers(scope=scope).get("authorization", "")))
            if not hmac.compare_digest(sent, self._key):
                refusal = PlainTextResponse("send the key of this server, as 'Authorization: Bearer KEY'\n", 401)
                await refusal(scope, receive, send)
                return
        await self.app(scope, receive, send)


def bearer(header: str) -> str:
    """Returns the key in an Authorization header, with or without the word Bearer."""
    scheme, _, token = header.strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else header.strip()


def digest(key: str) -> str:
    """Returns the sha256 that stands for a key, empty for no key."""
    return sha256(key.encode("utf-8", "surrogatepass")).hexdigest() if key else ""
