"""A long agent session over HTTP, with Holdfast and without: tokens read, seconds to first token, memory, per turn.

The official `openai` client talks to the real server with a real model. Only the choice of tokens is steered: the model
is made to call a shell each turn, and the client answers with the next piece of what the tools of a recorded session
said. Three servers get the same history:

    holdfast        one live session, compacted in the background as `holdfast serve --trigger` does
    prefix cache    one live session that is never compacted
    stateless       each request under an API key of its own, so that its whole prompt is read; every sixth turn only

The table counts what each server read for prompts, and what compaction read on top, at the model's own door.
"""

from __future__ import annotations

import argparse
import json
import operator
import os
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import cycle, islice, takewhile
from pathlib import Path
from typing import Any, cast

import httpx
import torch
from live_report import CACHE, HOLDFAST, STATELESS, Row, plot_rows, print_summary, series_of, with_compactions
from openai import OpenAI

import holdfast
from holdfast.blocks.render import render
from holdfast.cli.serve import TriggerOptions, bind, build_server
from holdfast.compaction.plan import Plan, Policy
from holdfast.engine.local import LocalEngine
from holdfast.engine.sampling import Sampling
from holdfast.errors import BadInput
from holdfast.eval.probes import Probe, check_static_rules, read_probes
from holdfast.server.http.app import create_app
from holdfast.server.http.settings import Settings
from holdfast.server.protocol import GenerateRequest
from holdfast.server.sessions.host import HostPolicy, SessionHost
from holdfast.session.trigger import Trigger
from holdfast.storage.store import Store
from holdfast.transcript.provider_requests import to_openai_message
from holdfast.transcript.turn import Role, ToolCall, Transcript, Turn

SESSION = Path(__file__).parents[1] / "examples" / "taskdeck" / "session.json"
COMMANDS = ("npm test", "ls", "git diff", "git log", "cat README.md", "git status", "node seed.js", "cat notes.md")
SHELL = {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]}
TOOLS = [{"type": "function", "function": {"name": "bash", "description": "Run a command.", "parameters": SHELL}}]
NEVER = HostPolicy(Trigger(tokens=10**9, window=None, force=1.0))
ROOM = 128  # tokens behind the session for a question and its answer


@dataclass(frozen=True)
class Script:
    """The words of client and model, the same for every server."""

    opening: tuple[dict[str, Any], ...]
    """System prompt and task, as messages."""
    says: tuple[tuple[int, ...], ...]
    """Token ids of each answer, the one that ends it included."""
    results: tuple[str, ...]
    """Results of the tool, turn by turn."""
    history: tuple[dict[str, Any], ...]
    """All of it, the opening first, as messages."""


@dataclass(frozen=True)
class SteeredSampling(Sampling):
    """Chooses the token ids that it is given; the model's own choice is computed and dropped."""

    ids: Iterator[int] = field(default_factory=lambda: iter(()))

    def choose(self, logits: torch.Tensor, generator: torch.Generator) -> int:
        return next(self.ids)


class SteeredHost(SessionHost):
    """Answers by a script, or with `forced` where that is set."""

    script: Script
    forced: tuple[int, ...] = ()

    def sampling(self, ask: GenerateRequest) -> Sampling:
        said = sum(turn.role is Role.ASSISTANT for turn in ask.turns)
        return SteeredSampling(ids=iter(self.forced or self.script.says[said]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transcript", type=Path, default=SESSION, help="recorded session whose tool results are used")
    parser.add_argument("--probes", type=Path, default=SESSION.with_name("probes.jsonl"), help="questions about it")
    parser.add_argument("--turns", type=int, default=60)
    parser.add_argument("--tokens", type=int, default=85, help="at most, of a tool result")
    parser.add_argument("--tool-seconds", type=float, nargs="+", default=[0, 3], help="how long the tool works")
    parser.add_argument("--trigger", type=int, default=2500, help="slots above which the session is compacted")
    parser.add_argument("--every", type=int, default=6, help="measure the stateless server on every so many turns")
    parser.add_argument("--latent", default="informed")
    parser.add_argument("--ratio", type=float, default=8)
    parser.add_argument("--keep-recent", type=int, default=2)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--out", type=Path, help="JSON rows, one a line; a server that is there is done")
    parser.add_argument("--plot", type=Path, help="PNG")
    given = parser.parse_args()
    engine = holdfast.load(given.model)
    script = build_script(holdfast.read(given.transcript), engine, given.turns, given.tokens)
    print(f"{given.model}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}, {given.turns} turns")
    known = given.out.read_text().splitlines() if given.out and given.out.exists() else []
    rows = [Row(**json.loads(line)) for line in known]
    for new in measure_servers(engine, script, given, {row.series for row in rows}):
        rows += new
        if given.out:
            given.out.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    prompts = sum(row.prompt_tokens for row in rows if row.server == CACHE)
    print(f"\nall prompts have {prompts} tokens, {prompts / rows[-1].tokens:.3f} of the session's {rows[-1].tokens}")
    if given.plot:
        given.plot.write_bytes(plot_rows(rows))


# -- the script --------------------------------------------------------------------------------------------------------


def build_script(recorded: Transcript, engine: LocalEngine, turns: int, size: int) -> Script:
    """Builds a script from the start of a recorded session and `turns` pieces of its tool results, each of at most
    `size` tokens.

    Raises BadInput if the tool results are too short, or if the script does not fit the model.
    """
    tokenizer, most = engine.model.tokenizer, engine.model.max_tokens
    start = list(takewhile(lambda turn: turn.role in (Role.SYSTEM, Role.USER), recorded.turns))
    said = "\n".join(turn.text for turn in recorded.turns if turn.role is Role.TOOL)
    ids = tokenizer(said, add_special_tokens=False)["input_ids"]
    size = min(size, len(ids) // turns)
    if not start or not size:
        raise BadInput(f"this takes a task and {turns} tokens that tools said; {len(start)} and {len(ids)} are there")
    results = tuple(tokenizer.decode(ids[at * size : (at + 1) * size]) for at in range(turns))
    commands = tuple(islice(cycle(COMMANDS), turns))
    whole = list(start)
    for at, (command, text) in enumerate(zip(commands, results, strict=True)):
        whole += [_call(command, f"call_{at}"), Turn(Role.TOOL, text, call_id=f"call_{at}")]
    if (length := len(render(Transcript(tuple(whole)), tokenizer).ids) + ROOM) > most:
        raise BadInput(f"{turns} turns of {size} tokens and more take {length} of the {most} that the model reads")
    history, stop = tuple(map(to_openai_message, whole)), min(engine.stop_ids)
    says = (tokenizer(_format_call(command), add_special_tokens=False)["input_ids"] for command in commands)
    return Script(history[: len(start)], tuple((*ids, stop) for ids in says), results, history)


def _call(command: str, name: str) -> Turn:
    return Turn(Role.ASSISTANT, "Next.", calls=(ToolCall(name, "bash", json.dumps({"command": command})),))


def _format_call(command: str) -> str:
    """Returns a call as the model's template writes it, so that a server that reads it again reads the same tokens."""
    return f"Next.\n<function=bash>\n<parameter=command>\n{command}\n</parameter>\n</function>"


# -- serving and asking ------------------------------------------------------------------------------------------------


def measure_servers(
    engine: LocalEngine, script: Script, given: argparse.Namespace, known: Collection[str] = ()
) -> Iterator[list[Row]]:
    """Measures every server in turn, except those whose series is known; yields its rows and prints its summary."""
    plan = Plan(given.latent, given.ratio, policy=Policy(keep_recent=given.keep_recent))
    small = TriggerOptions(
        str(given.trigger), low=0.5, idle=None, cool_down=3, memory=8, restart=False, max_tokens=1024
    ).policy()
    probes = read_probes(given.probes) if given.probes.exists() else []
    for name, policy, seconds in [(CACHE, NEVER, 0.0), *((HOLDFAST, small, s) for s in given.tool_seconds)]:
        if (series := series_of(name, seconds)) in known:
            continue
        with (
            run_server(engine, plan, policy, script) as (host, url),
            count_reads(engine) as read,
            Client(host, url) as client,
        ):
            new, messages = session(client, name, script, seconds)
            print_summary(new, read)
            yield new
            ask_probes(client, probes, script, messages, series)
    if STATELESS in known:
        return
    with run_server(engine, plan, NEVER, script) as (host, url), count_reads(engine) as read:
        turns = range(given.every, given.turns + 1, given.every)
        new = [stateless(host, url, turn, script.history[: len(script.opening) + 2 * turn - 2]) for turn in turns]
        print_summary(new, read)
        yield new


@contextmanager
def run_server(
    engine: LocalEngine, plan: Plan, policy: HostPolicy, script: Script, kind: type[SteeredHost] | None = None
) -> Iterator[tuple[SteeredHost, str]]:
    """Runs a server on a free port, with a store that is deleted when it ends."""
    with tempfile.TemporaryDirectory() as folder, bind("127.0.0.1", 0) as taken:
        host = (kind or SteeredHost)(engine, plan, Store(folder), policy)
        host.script, settings = script, Settings()
        running = build_server(create_app(host, settings), settings)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [taken]})
        thread.start()
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        try:
            while not running.started and thread.is_alive():
                time.sleep(0.01)
            httpx.post(f"{url}/v1/completions", json={"prompt": "So", "max_tokens": 1}, timeout=60).raise_for_status()
            yield host, url
        finally:
            running.should_exit = True
            thread.join()


@contextmanager
def count_reads(engine: LocalEngine) -> Iterator[Counter[str]]:
    """Counts the tokens that the model reads, by who has it do so: `answer` or `compact`."""
    counts: Counter[str] = Counter()

    def count(_module: Any, _args: Any, named: dict[str, Any]) -> None:
        ids = named["input_ids"] if named.get("input_ids") is not None else named["inputs_embeds"]
        counts[threading.current_thread().name.partition("_")[0]] += ids.shape[0] * ids.shape[1]

    hook = engine.model.hf.get_decoder().register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield counts
    finally:
        hook.remove()


class Client:
    """An agent's side of the wire."""

    def __init__(self, host: SteeredHost, url: str, key: str = "agent") -> None:
        self.host, self.session = host, ""
        self.openai = OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)
        head = {"Authorization": f"Bearer {key}"}
        self.own = httpx.Client(
            base_url=f"{url}/holdfast/sessions/", headers=head, timeout=600
        )  # a session that is being compacted answers when that is done

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.openai.close()
        self.own.close()

    def turn(
        self, name: str, turn: int, messages: Sequence[dict[str, Any]], seconds: float = 0.0
    ) -> tuple[Row, dict[str, Any]]:
        """Sends the history; returns the row of its cost, and the answer as a message."""
        began, worked, text = time.perf_counter(), time.process_time(), ""
        first: tuple[float, float] | None = None
        calls: list[dict[str, Any]] = []
        last: Any = None
        limit = max(map(len, self.host.script.says))
        options: Any = {"tools": TOOLS, "max_tokens": limit, "stream": True, "stream_options": {"include_usage": True}}
        for last in self.openai.chat.completions.create(model="", messages=cast(Any, messages), **options):
            delta = last.choices[0].delta if last.choices else None
            if delta and (delta.content or delta.tool_calls):
                first = first or (time.perf_counter() - began, time.process_time() - worked)
                text += delta.content or ""
                calls += [call.model_dump(exclude={"index"}) for call in delta.tool_calls or ()]
        assert last is not None
        assert first is not None
        used, held = last.usage, last.model_extra["holdfast"]
        self.session = held["session"]
        sizes: tuple[int, int, int, int] = (held["tokens"], held["slots"], held["bytes"], held["compactions"])
        new = used.prompt_tokens - used.prompt_tokens_details.cached_tokens
        row = Row(name, seconds, turn, used.prompt_tokens, new, *first, *sizes, load=os.getloadavg()[0])
        return row, {"role": "assistant", "content": text, "tool_calls": calls}

    def logprob(self, messages: Sequence[dict[str, Any]], answer: str) -> float:
        """Returns the log-probability of an answer to a history. The session stays as it is: this goes into a fork."""
        model = self.host.engine.model
        ids = model.tokenizer(answer, add_special_tokens=False)["input_ids"]
        self.host.forced = (*ids, min(self.host.engine.stop_ids))
        options: Any = {"tools": TOOLS, "max_tokens": len(ids), "logprobs": True}
        got = self.openai.chat.completions.create(model="", messages=cast(Any, messages), **options)
        self.host.forced = ()
        if (fork := got.model_extra["holdfast"]["session"]) != self.session:
            self.own.delete(fork).raise_for_status()
        return float(sum(token.logprob for token in got.choices[0].logprobs.content))

    def events(self) -> list[dict[str, Any]]:
        """Returns the session's past."""
        reply = self.own.get(self.session, params={"texts": False}).raise_for_status()
        return list(reply.json()["events"])


def session(client: Client, name: str, script: Script, seconds: float) -> tuple[list[Row], list[dict[str, Any]]]:
    """Runs the whole session as an agent's loop: ask, run the tool, ask again. Returns its rows and
    its final history.
    """
    rows, messages = [], list(script.opening)
    for turn, result in enumerate(script.results, 1):
        row, said = client.turn(name, turn, messages, seconds)
        rows.append(row)
        messages += [said, {"role": "tool", "tool_call_id": said["tool_calls"][0]["id"], "content": result}]
        time.sleep(seconds)
    return with_compactions(rows, client.events()), messages


def stateless(host: SteeredHost, url: str, turn: int, messages: Sequence[dict[str, Any]]) -> Row:
    """Sends a request that shares nothing with any other and returns its row."""
    with Client(host, url, f"turn {turn}") as client:
        row, _ = client.turn(STATELESS, turn, messages)
        client.own.delete(client.session).raise_for_status()
    return row


def ask_probes(
    client: Client, probes: Sequence[Probe], script: Script, history: list[dict[str, Any]], name: str
) -> None:
    """Asks forced choices over the wire about the first half of the session and prints the scores, with those of
    guessing without it.
    """
    half = len(script.results) // 2
    early, late = "".join(script.results[:half]), "".join(script.results[half:])
    fair = [probe for probe in probes if probe.evidence in early and not check_static_rules(probe, late)]
    nothing = {"no history": list(script.opening)} if name == CACHE else {}
    for context, messages in ({name: history} | nothing).items() if fair else ():
        asks = [[*messages, {"role": "user", "content": probe.question}] for probe in fair]
        right = [client.logprob(ask, probe.answer) for ask, probe in zip(asks, fair, strict=True)]
        near = [client.logprob(ask, probe.distractor) for ask, probe in zip(asks, fair, strict=True)]
        won, means = sum(map(operator.gt, right, near)), (statistics.mean(right), statistics.mean(near))
        print(f"  {context}: {won} of {len(fair)} right; right answers {means[0]:.2f} nats, near misses {means[1]:.2f}")


if __name__ == "__main__":
    main()
