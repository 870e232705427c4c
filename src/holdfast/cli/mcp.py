"""`holdfast mcp`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli import console
from holdfast.errors import BadOption, Failed

if TYPE_CHECKING:
    from holdfast.recall.index import Similarity
    from holdfast.recall.tools import Source


def mcp(
    sessions: Annotated[
        list[Path] | None, typer.Argument(help="Session files, or folders of them; the newest is the session.")
    ] = None,
    agent: Annotated[
        str | None, typer.Option(help="Or the sessions of an agent in this folder: claude-code, codex or pi.")
    ] = None,
    journal: Annotated[Path | None, typer.Option(help="Or the journal folder of `holdfast proxy`.")] = None,
    store: Annotated[str | None, typer.Option(help="Or the store of `holdfast serve`, a folder or URL.")] = None,
    key_env: Annotated[
        str | None, typer.Option(help="Variable that holds the key whose sessions these are; over HTTP, that lets in.")
    ] = None,
    listen: Annotated[str | None, typer.Option(help="Serve over HTTP at HOST:PORT/mcp instead of on stdio.")] = None,
    text: Annotated[str, typer.Option(help="Text method of the tool `compact`.")] = "tiered",
    meaning: Annotated[
        bool, typer.Option("--meaning", help="Rank by meaning too, with a sentence model (extra `retrieve`).")
    ] = False,
) -> None:
    """Serves a session's memory to its agent over MCP: search and read what was said, notes, status, compact."""
    from holdfast.recall.mcp_server import Toolboxes, create_app, create_server, digest, serve_stdio
    from holdfast.recall.tools import Indexes

    key = _key(key_env)
    chosen = [name for name, given in _CHOICES if given(sessions, agent, journal, store)]
    if len(chosen) != 1:
        raise BadOption(
            f"give one of session files, --agent, --journal and --store, got {' and '.join(chosen) or 'none'}"
        )
    source = (
        _file_source(sessions or (), agent, text)
        if chosen[0] in ("files", "--agent")
        else _sources_by_key(journal, store)
    )
    boxes = Toolboxes(source, Indexes(_similarity() if meaning else None))
    console.ticker.stop()
    if listen is None:
        server = create_server(boxes, digest(key))
        with suppress(KeyboardInterrupt):
            asyncio.run(serve_stdio(server))
        return
    if chosen[0] in ("files", "--agent") and not key:
        raise BadOption("--listen needs --key-env: whoever reaches the port could read these files; set a key")
    _serve_http(create_app(create_server(boxes), listen.rpartition(":")[0], key), listen)


_CHOICES: tuple[tuple[str, Callable[..., bool]], ...] = (
    ("files", lambda sessions, *_: bool(sessions)),
    ("--agent", lambda _, agent, *__: agent is not None),
    ("--journal", lambda _, __, journal, ___: journal is not None),
    ("--store", lambda *given: given[3] is not None),
)


def _file_source(paths: list[Path] | tuple[Path, ...], agent: str | None, text: str) -> Callable[[str], Source]:
    from holdfast.recall.agent_files import AGENT_FOLDERS, AgentFolder
    from holdfast.recall.sources import SessionFiles
    from holdfast.text.rewrite import TextPlan

    plan = TextPlan(text, ratio=2)
    if agent is None:
        absent = [path for path in paths if not path.exists()]
        if absent:
            raise BadOption(f"{absent[0]}: no such file or folder; give a session file or a folder of them")
        files = SessionFiles(tuple(path.absolute() for path in paths), plan)
        return lambda _: files
    if agent not in AGENT_FOLDERS:
        raise BadOption(f"--agent is one of {', '.join(AGENT_FOLDERS)}, got {agent!r}; or give session files")
    own: AgentFolder = AGENT_FOLDERS[agent](Path.home(), Path.cwd())
    found = SessionFiles((own.folder,), plan, own.belongs)
    return lambda _: found


def _sources_by_key(journal: Path | None, store: str | None) -> Callable[[str], Source]:
    """Returns the sessions of a key by its digest."""
    from holdfast.recall.sources import JournalFiles, StoredSessions
    from holdfast.storage.store import Store

    if journal is not None:
        if not journal.is_dir():
            raise BadOption(f"{journal}: no such folder; give the --journal of `holdfast proxy`")
        return lambda key: JournalFiles(journal, key or "none")
    from holdfast.config import home

    folder = home() / "notes"
    folder.mkdir(parents=True, exist_ok=True)
    held = Store(store or "")
    return lambda key: StoredSessions(held, key, folder)


def _similarity() -> Similarity:
    from holdfast.recall.meaning import Meaning

    return Meaning()


def _key(variable: str | None) -> str:
    """Returns the key. Raises BadOption if the variable is not set."""
    from holdfast import config

    key = config.read_secret(variable).strip() if variable else ""
    if variable and not key:
        raise BadOption(f"--key-env: set the environment variable {variable} to a key")
    return key


def _serve_http(app: object, listen: str) -> None:
    from holdfast.cli.proxy import address
    from holdfast.cli.serve import bind
    from holdfast.proxy.options import is_loopback

    host, port = address(listen)
    if not is_loopback(host):
        raise BadOption(
            f"{host} can be reached from other machines, unencrypted; listen on 127.0.0.1, behind TLS of yours"
        )
    try:
        import uvicorn
    except ImportError as error:
        raise Failed(f"--listen needs the extra `server`: pip install 'holdfast[server]' ({error})") from error
    listener = bind(host, port, "--listen")
    console.say(f"MCP on http://{host}:{listener.getsockname()[1]}/mcp")
    with suppress(KeyboardInterrupt):
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])  # type: ignore[arg-type]
