"""`holdfast init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli import console
from holdfast.cli.agent_settings import AGENTS, CONTEXT, Agent, Setting, Target
from holdfast.cli.options import AsJson
from holdfast.errors import BadInput, BadOption

NAMES = ", ".join(AGENTS)
DEFAULT_URL = "http://127.0.0.1:8000"
SERVED_MODEL = "qwen2.5-coder-0.5b"
"""Reads 32,768 tokens and is shown tools: the system prompt of an agent alone may have 15,000."""
PROVIDER_MODELS = {"claude-code": "claude-sonnet-4-5", "gemini-cli": "gemini-2.5-flash"}


def init(
    agent: Annotated[str, typer.Argument(help=f"One of {NAMES}.")],
    serve: Annotated[
        bool, typer.Option("--serve/--proxy", help="For `holdfast serve`, or for `holdfast proxy` before an API.")
    ] = False,
    url: Annotated[str, typer.Option(help="Where the proxy or the server listens.")] = DEFAULT_URL,
    model: Annotated[
        str, typer.Option(help="Model that the agent asks for.", show_default="the provider's, or the server's")
    ] = "",
    upstream: Annotated[str, typer.Option(help="API behind the proxy.", show_default="the agent's usual one")] = "",
    write: Annotated[bool, typer.Option("--write", help="Write the file; one that exists is never changed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Prints, or with --write writes, the settings by which an agent goes through Holdfast."""
    if agent not in AGENTS:
        raise BadOption(f"no agent is called {agent!r}; there are: {NAMES}")
    chosen = AGENTS[agent]
    to = _target(agent, serve, url, model)
    setting = chosen.setting(to)
    start = _start_line(chosen, serve, to, upstream)
    path = _path(setting)
    if write:
        _write(agent, path, setting.content)
    if as_json:
        console.emit(
            {
                "agent": agent,
                "start": start,
                "file": str(path) if path else None,
                "content": setting.content,
                "variables": dict(setting.variables),
                "command": setting.command,
                "written": write,
            }
        )
        return
    _print(agent, setting, path, start, write)


def _target(agent: str, serve: bool, url: str, model: str) -> Target:
    from holdfast.model.bundled_models import BUNDLES

    if not url.startswith(("http://", "https://")):
        raise BadOption(f"--url must be an address such as {DEFAULT_URL}, got {url!r}")
    name = model or (SERVED_MODEL if serve else PROVIDER_MODELS.get(agent, "gpt-5"))
    context = BUNDLES[name].positions if name in BUNDLES else CONTEXT
    return Target(url.rstrip("/").removesuffix("/v1"), serve, name, context)


def _start_line(agent: Agent, serve: bool, to: Target, upstream: str) -> str:
    """Returns the command that starts Holdfast at the address that the agent is sent to."""
    host, _, port = to.url.partition("://")[2].rpartition(":")
    if serve:
        return f"holdfast serve --model {to.model}" + (f" --port {port}" if port.isdecimal() and port != "8000" else "")
    return f"holdfast proxy --upstream {upstream or agent.upstream} --listen {host or '127.0.0.1'}:{port}"


def _path(setting: Setting) -> Path | None:
    return Path(setting.file).expanduser() if setting.file else None


def _write(agent: str, path: Path | None, content: str) -> None:
    """Writes a file that does not exist yet. Raises BadInput if it does, or if the agent keeps no file of settings."""
    from holdfast.storage.files import create

    if path is None:
        raise BadInput(f"{agent} has no file of settings to write; run the command that `holdfast init {agent}` prints")
    if path.exists() or path.is_symlink():
        raise BadInput(f"{path} stands there already and is not changed; add what `holdfast init {agent}` prints to it")
    path.parent.mkdir(parents=True, exist_ok=True)
    create(path, content.encode())


def _print(agent: str, setting: Setting, path: Path | None, start: str, written: bool) -> None:
    console.line(f"1. Start Holdfast:\n   {start}")
    number = 2
    if path and written:
        console.line(f"2. {path} is written")
        number += 1
    elif path:
        console.line(
            f"2. Put this into {path} (`holdfast init {agent} --write` does it, if the file is not there yet):"
        )
        console.line("".join(f"   {line}\n" for line in setting.content.splitlines()).rstrip("\n"))
        number += 1
    for name, value in setting.variables:
        console.line(f"{number}. Set the variable:\n   export {name}={value}")
        number += 1
    console.line(f"{number}. Start the agent as usual:\n   {setting.command}")
