"""Background compactions with and without `serve --accept`, on recorded sessions that are replayed over HTTP.

The official `openai` client sends each recorded history turn by turn to the real server with a real model, which is
made to say what the recorded agent said, read at once in place of token by token; the server notes how probable it was.
Three servers get the same sessions:

    full       never compacts
    every      takes over every background compaction
    checked    takes over those that retain enough of the steps since, at a gentler ratio if need be

Printed are the share that is rejected, what the check costs, and what it buys: nats by which the recorded steps behind
a compaction are less likely than over the full session. Long turns are cut, so that the full session fits the model.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import torch
from live import NEVER, Script, SteeredHost, run_server
from openai import OpenAI

import holdfast
import holdfast.session.session as sessions
from holdfast.cli.serve import TriggerOptions
from holdfast.compaction.plan import Plan, Policy
from holdfast.engine.answer import Answer, Token
from holdfast.engine.local import LocalEngine
from holdfast.engine.sampling import Sampling
from holdfast.model.forward import logits
from holdfast.server.protocol import GenerateRequest
from holdfast.transcript.provider_requests import to_openai_message
from holdfast.transcript.turn import Role, ToolCall, Transcript, Turn

FULL, EVERY, CHECKED = "full", "every", "checked"
DRAWS = 2000
CUT = 200  # characters of an argument of a call


@dataclass(frozen=True)
class Step:
    """One recorded step over one server."""

    session: str
    server: str
    step: int
    tokens: int
    logprob: float
    compactions: int
    """The compactions that stood at that step."""
    seconds: float
    """At the client, for the whole answer."""


@dataclass(frozen=True)
class Replay:
    """One session over one server."""

    steps: tuple[Step, ...]
    tries: tuple[dict[str, Any], ...]
    """Of each compaction that was scored, every ratio with its score."""
    taken: int
    rejected: int
    seconds: float
    """Of all compactions, those that were not taken over included."""


@dataclass(frozen=True)
class RecordedSampling(Sampling):
    """The token ids of a recorded step, without the one that ends it."""

    ids: tuple[int, ...] = ()
    scores: list[float] = field(default_factory=list)
    """Their log-probabilities, once they are said."""


class RecordedAnswer(Answer):
    """An answer whose tokens are known: read at once, each scored by what stands before it."""

    @torch.no_grad()
    def __iter__(self) -> Iterator[Token]:
        assert isinstance(self.sampling, RecordedSampling)
        self.ids, live = list(self.sampling.ids), self.live.fork()
        hidden = live.feed([*self.opening, *self.ids])
        self.live, self.hidden, self.ended = live, [hidden], True
        predicts = logits(self.engine.model, hidden[len(self.opening) - 1 : -1])
        for token, scores in zip(self.ids, predicts, strict=True):
            self.sampling.scores.append(float(scores.log_softmax(-1)[token]))
            yield Token(token, scores)


class RecordedHost(SteeredHost):
    """Says the steps of a script, each whole."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.said: list[RecordedSampling] = []

    def sampling(self, ask: GenerateRequest) -> Sampling:
        number = sum(turn.role is Role.ASSISTANT for turn in ask.turns)
        self.said.append(RecordedSampling(ids=self.script.says[number][:-1]))
        return self.said[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sessions", type=Path, nargs="+")
    parser.add_argument("--steps", type=int, default=24, help="of each session, at most")
    parser.add_argument("--tokens", type=int, default=160, help="at most, of a tool result, a task, a system prompt")
    parser.add_argument("--tool-seconds", type=float, default=1.0, help="how long each tool works")
    parser.add_argument("--trigger", type=int, default=1500)
    parser.add_argument("--accept", type=float, default=0.98)
    parser.add_argument("--latent", default="informed")
    parser.add_argument("--ratio", type=float, default=8)
    parser.add_argument("--restart", action="store_true", help="read again what stays, as `serve --restart`")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--out", type=Path, help="JSON rows, one a line; what is there is not measured again")
    given = parser.parse_args()
    engine = holdfast.load(given.model)
    vars(sessions)["Answer"] = RecordedAnswer  # sessions make their answers themselves
    print(f"{given.model}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}, accept {given.accept:g}")
    rows = read_rows(given.out) if given.out and given.out.exists() else {}
    for path in given.sessions:
        script = build_script(holdfast.read(path), engine, given.steps, given.tokens)
        for server in (FULL, EVERY, CHECKED):
            if (path.stem, server) not in rows:
                rows[path.stem, server] = replay(engine, script, path.stem, server, given)
                if given.out:
                    write_rows(given.out, rows)
        print_session(path.stem, rows)
    print_summary(rows)


# -- the script --------------------------------------------------------------------------------------------------------


def build_script(recorded: Transcript, engine: LocalEngine, steps: int, size: int) -> Script:
    """Builds the words of a recorded session's first steps: what the agent said, and the results that it got."""
    tokenizer, stop = engine.model.tokenizer, min(engine.stop_ids)

    def cut(text: str) -> str:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        return text if len(ids) <= size else str(tokenizer.decode(ids[:size])) + " …"

    turns = [replace(turn, text=cut(turn.text), reasoning="", extra={}) for turn in recorded.turns]
    first = next(at for at, turn in enumerate(turns) if turn.role is Role.ASSISTANT)
    said = [at for at, turn in enumerate(turns) if turn.role is Role.ASSISTANT][: steps + 1]
    words = [_format(turns[at]) for at in said[:-1]]
    says = tuple((*tokenizer(text, add_special_tokens=False)["input_ids"], stop) for text in words)
    opening = tuple(to_openai_message(turn) for turn in turns[:first])
    between = [turns[at + 1 : after] for at, after in pairwise(said)]
    return Script(opening, says, tuple(json.dumps([_plain(turn) for turn in new]) for new in between), ())


def _plain(turn: Turn) -> dict[str, Any]:
    return {"role": turn.role.value, "content": turn.text, "call": turn.call_id}


def _format(turn: Turn) -> str:
    """Writes a step as the model's template does, calls as JSON with short arguments."""
    calls = (json.dumps({"name": call.name, "arguments": _arguments(call)}) for call in turn.calls)
    return "\n".join(filter(None, (turn.text, *(f"<tool_call>\n{call}\n</tool_call>" for call in calls))))


def _arguments(call: ToolCall) -> dict[str, Any]:
    try:
        given = json.loads(call.arguments)
    except ValueError:
        given = {"input": call.arguments}
    given = given if isinstance(given, dict) else {"input": given}
    return {name: value[:CUT] if isinstance(value, str) else value for name, value in given.items()}


# -- replaying ---------------------------------------------------------------------------------------------------------


def replay(engine: LocalEngine, script: Script, session: str, server: str, given: argparse.Namespace) -> Replay:
    """Replays a session over a server of its own."""
    plan = Plan(given.latent, given.ratio, policy=Policy(keep_recent=1))
    accept = given.accept if server == CHECKED else None
    how: dict[str, Any] = {"low": 0.5, "idle": None, "cool_down": 3, "memory": 8, "max_tokens": 1024}
    policy = TriggerOptions(str(given.trigger), **how, restart=given.restart, accept=accept).policy()
    with (
        run_server(engine, plan, NEVER if server == FULL else policy, script, RecordedHost) as (host, url),
        OpenAI(base_url=f"{url}/v1", api_key="agent", max_retries=0, timeout=600) as client,
    ):
        steps = tuple(_steps(client, host, session, server, given.tool_seconds))
        host.compactions._background.submit(lambda: None).result()  # what is prepared now is of this session too
        return _describe(host, url, steps)


def _steps(client: OpenAI, host: SteeredHost, session: str, server: str, seconds: float) -> Iterator[Step]:
    assert isinstance(host, RecordedHost)
    script = host.script
    messages: list[dict[str, Any]] = list(script.opening)
    for number, (words, new) in enumerate(zip(script.says, script.results, strict=True)):
        began = time.perf_counter()
        options: Any = {"max_tokens": len(words), "tools": [_ANY], "messages": messages}
        reply: Any = client.chat.completions.create(model="", **options)
        seconds_of_it, scores = time.perf_counter() - began, host.said[-1].scores
        made = reply.model_extra["holdfast"]["compactions"]
        yield Step(session, server, number, len(scores), sum(scores), made, seconds_of_it)
        said = reply.choices[0].message
        calls = [call.model_dump() for call in said.tool_calls or ()]
        messages.append({"role": "assistant", "content": said.content, **({"tool_calls": calls} if calls else {})})
        messages += _results(json.loads(new), [call["id"] for call in calls])
        time.sleep(seconds)


_ANY = {"type": "function", "function": {"name": "bash", "description": "Run a command."}}


def _results(new: Sequence[dict[str, Any]], ids: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yields what stood between two steps, results under the ids of the calls as the server named them."""
    open_ids = list(ids)
    for turn in new:
        if turn["role"] != "tool":
            yield {"role": "user", "content": turn["content"]}
        elif open_ids:
            yield {"role": "tool", "tool_call_id": open_ids.pop(0), "content": turn["content"]}
    for name in open_ids:  # of a call that the recording left open
        yield {"role": "tool", "tool_call_id": name, "content": ""}


def _describe(host: SteeredHost, url: str, steps: tuple[Step, ...]) -> Replay:
    """Returns a replay with what the log of its session says of compactions."""
    sessions = f"{url}/holdfast/sessions"
    with httpx.Client(headers={"x-api-key": "agent"}, timeout=600) as own:
        (row,) = own.get(sessions).raise_for_status().json()
        events = own.get(f"{sessions}/{row['id']}").raise_for_status().json()["events"]
    tries: list[dict[str, Any]] = []
    for event in events:
        told = event.get("told", {})
        scored = told if event["kind"] == "rejected" else told.get("accept", {})
        tries += [{**one, "taken": event["kind"] == "compacted"} for one in scored.get("tries", ())]
    stats = host.stats()
    return Replay(steps, tuple(tries), stats.compactions, stats.rejected, stats.compaction_seconds)


# -- reporting ---------------------------------------------------------------------------------------------------------

Rows = dict[tuple[str, str], Replay]


def write_rows(path: Path, rows: Rows) -> None:
    """Writes the replays, one a line."""
    lines = (json.dumps({"session": s, "server": server, **asdict(one)}) for (s, server), one in rows.items())
    path.write_text("".join(f"{line}\n" for line in lines))


def read_rows(path: Path) -> Rows:
    """Reads what `write_rows` wrote."""
    rows: Rows = {}
    for line in map(json.loads, path.read_text().splitlines()):
        session, server = line.pop("session"), line.pop("server")
        steps = tuple(Step(**step) for step in line.pop("steps"))
        rows[session, server] = Replay(steps, tuple(line.pop("tries")), **line)
    return rows


def losses(rows: Rows, session: str, server: str) -> list[float]:
    """Returns the nats per token that each step behind the first compaction loses against the full session; the same
    steps for both servers that compact."""
    full, ours, other = (rows[session, name].steps for name in (FULL, server, EVERY))
    pairs = zip(full, ours, other, strict=True)
    return [(a.logprob - b.logprob) / a.tokens for a, b, c in pairs if c.compactions and a.tokens == b.tokens > 0]


def print_session(session: str, rows: Rows) -> None:
    """Prints a session in a line."""
    checked = rows[session, CHECKED]
    lost = {name: losses(rows, session, name) for name in (EVERY, CHECKED)}
    means = ", ".join(f"{name} {statistics.mean(one):.3f}" for name, one in lost.items() if one)
    print(f"{session}: {len(checked.steps)} steps, taken {checked.taken}, rejected {checked.rejected}; lost {means}")


def print_summary(rows: Rows) -> None:
    """Prints what is rejected, what that costs, and what it buys."""
    sessions = sorted({session for session, _ in rows})
    checked, every = ([rows[session, name] for session in sessions] for name in (CHECKED, EVERY))
    taken, rejected = sum(one.taken for one in checked), sum(one.rejected for one in checked)
    tries = [one for replay in checked for one in replay.tries if "retained" in one]
    gentler = sum(1 for one in tries if one["taken"]) - taken
    print(f"\n{len(sessions)} sessions, {sum(len(one.steps) for one in checked)} steps")
    print(f"rejected: {rejected} of {taken + rejected}; {gentler} of the others were taken at a gentler ratio only")
    below = [one for one in tries if one["ratio"] == max(t["ratio"] for t in tries)]
    shares = sorted(one["retained"] for one in below)
    if shares:
        print(f"first tries: {len(shares)}, retained median {statistics.median(shares):.3f}, least {shares[0]:.3f}")
        scoring = [one["seconds"] for one in tries]
        print(f"scoring: {statistics.mean(scoring):.2f} s each, {max(scoring):.2f} s at most")
    for name, replays in ((EVERY, every), (CHECKED, checked)):
        first = sorted(step.seconds for one in replays for step in one.steps)
        print(
            f"{name}: {sum(one.seconds for one in replays):.1f} s of compaction, answer median "
            f"{statistics.median(first):.2f} s, p95 {first[int(0.95 * len(first))]:.2f} s, longest {first[-1]:.2f} s"
        )
        lost = [losses(rows, session, name) for session in sessions]
        print(f"{name}: lost {_interval(lost)} nats per token on steps behind a compaction")
    gains = [[a - b for a, b in zip(losses(rows, s, EVERY), losses(rows, s, CHECKED), strict=True)] for s in sessions]
    print(f"gained by the check: {_interval(gains)} nats per token")


def _interval(groups: Sequence[Sequence[float]]) -> str:
    """Returns the mean with its 95 % interval, sessions drawn with replacement."""
    groups, drawn = [group for group in groups if group], random.Random(0)
    if not groups:
        return "nothing"
    means = []
    for _ in range(DRAWS):
        sample = [value for group in drawn.choices(groups, k=len(groups)) for value in group]
        means.append(statistics.mean(sample))
    means.sort()
    mean = statistics.mean(value for group in groups for value in group)
    n = sum(map(len, groups))
    return f"{mean:.4f} [{means[DRAWS // 40]:.4f}, {means[-DRAWS // 40]:.4f}] (n = {n} in {len(groups)} sessions)"


if __name__ == "__main__":
    main()
