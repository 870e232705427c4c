"""`holdfast proxy`."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli import console
from holdfast.cli.compact import compactor_for
from holdfast.cli.options import Config
from holdfast.cli.serve import bind
from holdfast.errors import BadOption, Failed

if TYPE_CHECKING:
    from holdfast.proxy.options import Options

MEBIBYTE = 1 << 20
DEFAULT_TRIGGER = 12_000
REMOTE = (
    "{host} can be reached from other machines. --allow-remote means: whoever reaches it can use the upstream with the "
    "keys that they send, keys and sessions travel unencrypted (put TLS in front of it), and the status page stays on "
    "this machine"
)


def proxy(
    upstream: Annotated[str, typer.Option(help="Where requests go, e.g. https://api.openai.com/v1.")],
    listen: Annotated[str, typer.Option(help="HOST:PORT.")] = "127.0.0.1:8000",
    text: Annotated[str, typer.Option(help="Text method that compacts (see `holdfast methods`).")] = "tiered",
    trigger: Annotated[int, typer.Option(help="Tokens of a history above which it is compacted.")] = DEFAULT_TRIGGER,
    budget: Annotated[
        int | None, typer.Option(help="Tokens that it is compacted to.", show_default="half of the trigger")
    ] = None,
    keep_recent: Annotated[int, typer.Option(help="Newest exchanges that stay verbatim.")] = 3,
    window: Annotated[
        int | None, typer.Option(help="Tokens that the model reads; nothing is compacted below a fifth of them.")
    ] = None,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan/--no-plan",
            help="Where the model's price is known, compact only where that pays or the window demands it.",
        ),
    ] = True,
    price_file: Annotated[
        Path | None, typer.Option(help="TOML or JSON with prices of models, as `holdfast cost` takes it.")
    ] = None,
    journal: Annotated[
        Path | None, typer.Option(help="Folder for the raw turns of every session; else they stay in memory.")
    ] = None,
    breakpoints: Annotated[
        bool, typer.Option("--breakpoints/--no-breakpoints", help="Place cache breakpoints in Anthropic requests.")
    ] = True,
    api_key_env: Annotated[
        str | None, typer.Option(help="Variable that holds the key for requests that come without one.")
    ] = None,
    memory_tools: Annotated[
        bool, typer.Option("--memory-tools", help="Give the model tools to search its past, and answer them here.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure, and change no request.")] = False,
    log: Annotated[Path | None, typer.Option(help="Append a JSON line for each request with a history.")] = None,
    log_text: Annotated[bool, typer.Option("--log-text", help="With the words that were lost.")] = False,
    patience: Annotated[float, typer.Option(help="Seconds that a compaction may take.")] = 20.0,
    timeout: Annotated[float, typer.Option(help="Seconds that the upstream may be silent.")] = 600.0,
    max_body: Annotated[int, typer.Option(help="MiB of a request above which it goes up unread.")] = 32,
    allow_remote: Annotated[bool, typer.Option("--allow-remote", help="Listen beyond this machine.")] = False,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Another name of this machine that requests may use on loopback.")
    ] = None,
    config: Config = None,
) -> None:
    """Stands in front of an API of OpenAI's, Anthropic's or Gemini's wire and keeps the histories that go up small;
    answers come back byte for byte.
    """
    host, port = address(listen)
    _check_reach(host, allow_remote, api_key_env)
    from holdfast.proxy.options import Options
    from holdfast.session.trigger import history_trigger
    from holdfast.text.rewrite import TextPlan

    half = (history_trigger(trigger, window).tokens or trigger) // 2
    options = Options(
        plan=TextPlan(text, max(1, half) if budget is None else budget, keep_recent=keep_recent, least_recent=1),
        trigger=trigger,
        window=window,
        chat=compactor_for(text, config),
        planned=plan,
        price_file=price_file,
        journal=journal,
        breakpoints=breakpoints,
        key=_key(api_key_env),
        memory_tools=memory_tools,
        dry_run=dry_run,
        log=log,
        log_text=log_text,
        patience=patience,
        timeout=timeout,
        max_body=max_body * MEBIBYTE,
        address=host,
        names=frozenset(name.lower() for name in allow_host or ()),
    )
    serve(upstream, options, host, port)


def address(listen: str) -> tuple[str, int]:
    """Returns host and port of `HOST:PORT`, or of a port of this machine alone. Raises BadOption."""
    host, _, port = listen.rpartition(":")
    if not port.isdecimal() or not 0 <= int(port) < 1 << 16:
        raise BadOption(f"--listen must be HOST:PORT such as 127.0.0.1:8000, got {listen!r}")
    return host.strip("[]") or "127.0.0.1", int(port)


def _check_reach(host: str, allow_remote: bool, api_key_env: str | None) -> None:
    """Raises BadOption for an address beyond this machine that was not asked for, or that would give a key away."""
    from holdfast.proxy.options import is_loopback

    if is_loopback(host):
        return
    if not allow_remote:
        raise BadOption(f"{REMOTE.format(host=host)}. Give it, or listen on 127.0.0.1")
    if api_key_env:
        raise BadOption(
            f"--api-key-env on {host} would let anyone who reaches it spend your key; leave it out, so that clients "
            "send their own, or listen on 127.0.0.1"
        )
    console.say(REMOTE.format(host=host))


def _key(variable: str | None) -> str:
    """Returns the key. Raises BadOption if the variable is not set, or holds what no header can."""
    if variable is None:
        return ""
    from holdfast import config

    key = config.read_secret(variable).strip()
    if not key or not key.isascii() or not key.isprintable():
        raise BadOption(f"--api-key-env: set the environment variable {variable} to a key")
    return key


def serve(upstream: str, options: Options, host: str, port: int) -> None:
    """Serves until interrupted."""
    try:
        import uvicorn

        from holdfast.proxy.app import create_proxy
        from holdfast.web.listener import configure
    except ImportError as error:
        raise Failed(f"the proxy needs the extra `server`: pip install 'holdfast[server]' ({error})") from error
    # Said by the application as it ends: uvicorn raises the signal again, and nothing runs behind that.
    app = create_proxy(upstream, options, at_end=lambda totals: console.say(describe_totals(totals, options.dry_run)))
    if hasattr(signal, "SIGPIPE"):  # a client that hangs up ends its request, not the server
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    listener = bind(host, port, "--listen")
    own = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"  # a free one where it was 0
    console.say(f"proxy of {upstream} on {own}; page {own}/holdfast, counts on /holdfast/proxy")
    console.ticker.stop()
    # No access log: paths and queries of some APIs hold keys. The upstream's own date and server are passed on.
    config = configure(app, log_level="warning", date_header=False, timeout_graceful_shutdown=10)
    with suppress(KeyboardInterrupt):  # which uvicorn raises again when it has ended
        uvicorn.Server(config).run(sockets=[listener])


def describe_totals(totals: Mapping[str, float], dry_run: bool) -> str:
    """Returns the sum of what a proxy did, in a line."""
    saved, before = totals["tokens_saved"], totals["tokens_before"]
    parts = [
        f"{totals['requests']:,} requests with a history, {totals['compactions']:,} compactions",
        f"{saved:,} of {before:,} tokens saved" + (", had this not been a dry run" if dry_run else ""),
    ]
    if totals["money_passing"]:
        money = totals["money_saved"]
        what = "saved" if money >= 0 else "spent more"
        parts.append(f"about ${abs(money):.4f} {what} than the ${totals['money_passing']:.4f} of passing through")
    return "; ".join(parts)
