"""`holdfast serve`."""

from __future__ import annotations

import signal
import socket
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, NoReturn

import typer

from holdfast.cli import console
from holdfast.cli.options import (
    DEFAULT_METHOD,
    DEFAULT_MODEL,
    DEFAULT_PINS,
    DEFAULT_RATIO,
    Device,
    Dtype,
    Model,
    Verbatim,
    check_ratio,
    read_kinds,
)
from holdfast.errors import BadOption, Failed

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

    from holdfast.compaction.plan import Plan
    from holdfast.engine.local import LocalEngine
    from holdfast.server.http.settings import Settings
    from holdfast.server.protocol import Host
    from holdfast.server.sessions.host import HostPolicy, SessionHost

Store = Annotated[
    str, typer.Option("--store", "--dir", help="Folder or fsspec URL where sessions are kept.", show_default="ours")
]
TriggerAt = Annotated[
    str, typer.Option(help="Compact above so many slots, or above a share of the window, as 6000 or 75%.")
]
Idle = Annotated[
    float | None, typer.Option(help="Compact in the background after so many seconds of rest.", show_default="never")
]
Volatile = Annotated[
    list[str] | None,
    typer.Option(help="Regex of lines of a system prompt that change with each request; besides those that are known."),
]
Names = Annotated[
    list[str] | None, typer.Option(help="Another name of this machine that requests may use on loopback.")
]
KeyFile = Annotated[
    Path | None, typer.Option("--api-key-file", help="Keys that are let in, one on each line. Also $HOLDFAST_API_KEYS.")
]


def serve(
    model: Model = DEFAULT_MODEL,
    host: Annotated[str, typer.Option(help="Address. Any but this machine's own needs API keys.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    store: Store = "",
    max_store: Annotated[float, typer.Option(help="GiB of the store; the oldest sessions go first.")] = 20.0,
    max_age: Annotated[
        float | None, typer.Option(help="Days since its last use after which a session goes.", show_default="never")
    ] = None,
    latent: Annotated[str, typer.Option(help="How to compact (see `holdfast methods`).")] = DEFAULT_METHOD,
    ratio: Annotated[float, typer.Option(help="Tokens per slot of what is compacted.")] = DEFAULT_RATIO,
    slots: Annotated[int | None, typer.Option(help="Most slots of a session, whatever the ratio.")] = None,
    keep_recent: Annotated[int, typer.Option(help="Newest exchanges that stay verbatim.")] = 1,
    pin: Annotated[str, typer.Option(help="Kinds of block that stay verbatim: KIND,KIND,… or none.")] = DEFAULT_PINS,
    verbatim: Verbatim = "model",
    trigger: TriggerAt = "75%",
    low: Annotated[float, typer.Option(help="Share of the trigger to compact to.")] = 0.5,
    idle: Idle = None,
    cool_down: Annotated[int, typer.Option(help="Turns after a compaction in which there is none.")] = 3,
    accept: Annotated[
        float | None,
        typer.Option(help="Share of the agent's next step that a background compaction must retain, as 0.98."),
    ] = None,
    gate: Annotated[
        bool, typer.Option("--gate/--no-gate", help="Measure and repair what a compaction loses; slower.")
    ] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Read again what stays, in place of its states.")] = False,
    blocks: Annotated[
        str, typer.Option(help="The model writes blocks and mementos; a block goes: `on`, or rules as JSON.")
    ] = "",
    mementos: Annotated[
        str, typer.Option(help="Compact by a memento, written by: own (the model itself), ledger, or compactor.")
    ] = "",
    volatile: Volatile = None,
    memory_tools: Annotated[
        bool, typer.Option("--memory-tools", help="Give the model tools to search its past, and answer them here.")
    ] = False,
    memory: Annotated[float, typer.Option(help="GiB of KV memory for all sessions; others wait on disk.")] = 8.0,
    dtype: Dtype = "auto",
    device: Device = "cpu",
    api_key_file: KeyFile = None,
    allow_host: Names = None,
    max_body: Annotated[int, typer.Option(help="Bytes of a request.")] = 32 * 2**20,
    max_messages: Annotated[int, typer.Option(help="Messages of a request.")] = 10_000,
    max_requests: Annotated[int, typer.Option(help="Requests under way at once.")] = 32,
    max_per_key: Annotated[
        int | None, typer.Option(help="Requests of a key at once.", show_default="three quarters of all")
    ] = None,
    max_per_minute: Annotated[int | None, typer.Option(help="Requests of a key.", show_default="no limit")] = None,
    max_tokens: Annotated[int, typer.Option(help="Tokens of an answer.")] = 8192,
    max_seconds: Annotated[float, typer.Option(help="Seconds of an answer.")] = 600.0,
    drain: Annotated[float, typer.Option(help="Seconds that running answers get when the server stops.")] = 30.0,
) -> None:
    """Serves sessions to any OpenAI or Anthropic client; what they send again is not read again, and is kept small."""
    try:
        from holdfast.server.http import auth
        from holdfast.server.http.settings import Settings
        from holdfast.server.sessions.prefix_index import VOLATILE, volatile_lines
    except ImportError as error:
        raise Failed(f"the server needs {error.name}; pip install 'holdfast[server]'") from error
    check_ratio(ratio)
    settings = Settings(
        address=host,
        keys=auth.read_keys(api_key_file),
        names=frozenset(name.lower() for name in allow_host or ()),
        body_bytes=max_body,
        messages=max_messages,
        concurrency=max_requests,
        concurrency_per_key=max_per_key,
        per_minute=max_per_minute,
        seconds=max_seconds,
        max_tokens=max_tokens,
        drain_seconds=drain,
    )
    compaction = CompactionOptions(latent, ratio, slots, keep_recent, pin, verbatim, gate)
    trigger_options = TriggerOptions(trigger, low, idle, cool_down, memory, restart, max_tokens, accept)
    compaction.check()
    trigger_options.check()
    policy_of_blocks = _blocks(blocks, mementos)
    lines = (*VOLATILE, *(volatile or ()))
    volatile_lines(lines)
    with bind(host, port) as listener:  # a port that is not free is known before the model is loaded
        from holdfast.session.retention import DAY, StoreLimits

        limits = StoreLimits(round(max_store * 2**30), None if max_age is None else max_age * DAY)
        plan, policy = (
            compaction.plan(),
            replace(trigger_options.policy(), store=limits, volatile=lines, **policy_of_blocks),
        )
        serving = create_host(console.engine(model, dtype, device), plan, policy, store)
        run(_add_memory_tools(serving) if memory_tools else serving, settings, listener)


def _blocks(rules: str, writer: str) -> dict[str, Any]:
    """Returns the fields of the policy on blocks and mementos. Raises BadOption, before anything heavy is loaded."""
    if writer not in ("", "own", "ledger", "compactor"):
        raise BadOption(f"--mementos must be own, ledger or compactor, got {writer!r}")
    fields: dict[str, Any] = {}
    if rules:
        from holdfast.mementos.rules import MementoRules

        fields["blocks"] = MementoRules.from_json(rules)
    if writer:
        from holdfast.mementos.strategy import open_strategy

        fields["mementos"] = open_strategy(writer)
    return fields


def _add_memory_tools(host: Host) -> Host:
    """Returns the host with memory tools, whose notes are in the user's Holdfast folder."""
    from holdfast.config import home
    from holdfast.server.memory_tools import with_memory_tools

    notes = home() / "notes"
    notes.mkdir(parents=True, exist_ok=True)
    return with_memory_tools(host, notes)


def create_host(engine: LocalEngine, plan: Plan, policy: HostPolicy, store: str) -> Host:
    """Opens the store and says which of its sessions cannot be read."""
    from holdfast.server.sessions.host import open_host

    host = open_host(engine, plan, store=store, policy=policy)
    for name, reason in host.registry.unreadable.items():
        console.say(f"session {name} is left alone: {reason}; `holdfast store prune --unreadable` drops it")
    _print_store(host, policy)
    return host


def _print_store(host: SessionHost, policy: HostPolicy) -> None:
    from holdfast.session.retention import DAY

    url, limits = host.registry.store.url, policy.store
    sessions = len(host.registry.list_entries())
    age = "" if limits.age is None else f", {limits.age / DAY:g} days"
    most = "" if limits.nbytes is None else f" (at most {limits.nbytes / 2**30:g} GiB{age}; the oldest go first)"
    console.say(f"{sessions} sessions in {url}{most}; `holdfast store` lists them")


class CompactionOptions(NamedTuple):
    """Options of how sessions are compacted."""

    latent: str
    ratio: float
    slots: int | None
    keep_recent: int
    pin: str
    verbatim: str
    gate: bool

    def check(self) -> None:
        """Raises BadOption, before anything heavy is loaded."""
        read_kinds(self.pin)
        _at_least("--keep-recent", self.keep_recent, 0)
        if self.slots is not None:
            _at_least("--slots", self.slots, 1)

    def plan(self) -> Plan:
        from holdfast.compaction.plan import Plan, Policy
        from holdfast.gate.latent.gate import Gate
        from holdfast.methods.registry import build

        build(self.latent)
        policy = Policy(read_kinds(self.pin), self.keep_recent, verbatim=self.verbatim)
        return Plan(self.latent, self.ratio, policy=policy, gate=Gate() if self.gate else None, slots=self.slots)


class TriggerOptions(NamedTuple):
    """Options of when sessions are compacted, and of the memory that they take."""

    trigger: str
    low: float
    idle: float | None
    cool_down: int
    memory: float
    restart: bool
    max_tokens: int
    accept: float | None = None

    def check(self) -> None:
        """Raises BadOption, before anything heavy is loaded."""
        from holdfast.session.trigger import Trigger

        if not 0 < self.memory < 1 << 20:
            raise BadOption(f"--memory must be more than 0 GiB, got {self.memory:g}")
        if not 0 < self.low < 1:
            raise BadOption(f"--low must be a share of the trigger above 0 and below 1, got {self.low:g}")
        _at_least("--cool-down", self.cool_down, 0)
        if self.accept is not None and not 0 < self.accept <= 1:
            raise BadOption(f"--accept must be a share above 0 and at most 1, got {self.accept:g}")
        if self.idle is not None:
            _at_least("--idle", self.idle, 0)
        tokens, share = _trigger(self.trigger)
        if (tokens is not None and tokens < 1) or (share is not None and not 0 < share <= Trigger.force):
            rule = f"at least 1 slot, or above 0 % and at most {Trigger.force:.0%} of the window"
            raise BadOption(f"--trigger must be {rule}, got {self.trigger}")

    def policy(self) -> HostPolicy:
        from holdfast.server.sessions.host import LIMIT, HostPolicy
        from holdfast.session.trigger import CircuitBreaker, Trigger

        tokens, window = _trigger(self.trigger)
        early = max(0.75, (1 + self.low) / 2)
        trigger = Trigger(tokens=tokens, window=window, low=self.low, early=early, idle=self.idle)
        breaker = CircuitBreaker(cool_down=self.cool_down)
        memory, most = int(self.memory * 2**30), min(LIMIT, self.max_tokens)
        how = {"memory": memory, "accept": self.accept, "restart": self.restart, "max_tokens": most}
        return HostPolicy(trigger, breaker, **how)  # type: ignore[arg-type]


def _at_least(option: str, value: float, least: int) -> None:
    if not value >= least:
        raise BadOption(f"{option} must be at least {least}, got {value:g}")


def _trigger(given: str) -> tuple[int | None, float | None]:
    """Returns slots, or a share of the window. Raises BadOption for anything else."""
    try:
        return (None, float(given[:-1]) / 100) if given.endswith("%") else (int(given), None)
    except ValueError:
        raise BadOption(
            f"--trigger is a number of slots or a share of the window, as 6000 or 75%; got {given!r}"
        ) from None


def bind(host: str, port: int, option: str = "--port") -> socket.socket:
    """Returns a socket that has the address but does not listen yet: nobody waits for a model that is being loaded."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise Failed(f"{host} port {port} cannot be taken: {error.strerror}; choose another with {option}") from error
    return listener


def run(host: Host, settings: Settings, listener: socket.socket) -> None:
    """Serves until SIGINT or SIGTERM; then answers that are under way get their time and every session is kept."""
    from holdfast.server.http.app import create_app

    console.ticker.stop()
    running = build_server(create_app(host, settings), settings)
    print_addresses(host.model, settings, listener.getsockname()[1])
    if hasattr(signal, "SIGPIPE"):  # a client that hangs up ends its request, not the server
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _interrupt)  # uvicorn raises the signal again when it has ended
    try:
        running.run(sockets=[listener])
    except KeyboardInterrupt:
        console.say("stopped")


def build_server(app: FastAPI, settings: Settings) -> uvicorn.Server:
    """Returns a server that tells the app when it stops."""
    import uvicorn

    from holdfast.web.listener import configure

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            app.state.stopping = True  # who follows the sessions would keep the server up to the end of its patience
            await super().shutdown(sockets)

    config = configure(
        app,
        settings.idle_seconds,
        timeout_graceful_shutdown=round(settings.drain_seconds),
        log_config=None,
        proxy_headers=False,
    )
    return Server(config)


def _interrupt(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def print_addresses(model: str, settings: Settings, port: int) -> None:
    """Prints where the server is and how an agent gets there."""
    name = "127.0.0.1" if settings.address in ("0.0.0.0", "::") else settings.address
    url = f"http://{f'[{name}]' if ':' in name else name}:{port}"
    key = "one of the keys" if settings.keys else "anything"
    console.say(f"{model} on {url}")
    console.say(f"  OpenAI clients     OPENAI_BASE_URL={url}/v1 OPENAI_API_KEY={key!r}")
    console.say(f"  Anthropic clients  ANTHROPIC_BASE_URL={url} ANTHROPIC_API_KEY={key!r}")
    console.say(f"  sessions {url}/  API {url}/docs  metrics {url}/metrics")
