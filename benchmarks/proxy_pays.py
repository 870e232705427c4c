"""Money of the proxy on recorded sessions: passing through, compacting at every trigger, and compacting where it pays.

    python benchmarks/proxy_pays.py FILE_OR_FOLDER... [--trigger 8000,12000] [--model claude-sonnet-4-5,gpt-5.2]

Each session's calls go through the proxy's own decision code (`Caller`), at the times that the file has, and what it
would send is billed on a simulated prompt cache: explicit breakpoints for Anthropic, automatic prefixes for OpenAI.
Exit code 1 if the planned way costs more than passing through on any session.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.adapters.messages import message_of
from holdfast.cost.cache import Cache, Rules
from holdfast.cost.calls import Session, read_session
from holdfast.cost.prices import Prices, read_prices
from holdfast.errors import HoldfastError
from holdfast.proxy.caller import Caller, IncomingRequest
from holdfast.proxy.options import Options
from holdfast.proxy.tariffs import Tariffs
from holdfast.proxy.wires import WIRES, Wire
from holdfast.text.rewrite import TextPlan
from holdfast.transcript.provider_requests import merge_messages, to_anthropic_message
from holdfast.transcript.read import read
from holdfast.transcript.turn import Role, Transcript, Turn

ROUNDING = 1e-9  # USD


@dataclass
class Sum:
    """Tokens and money of one way."""

    tokens: int = 0
    money: float = 0.0
    compactions: int = 0
    slowest: float = 0.0
    """Seconds of the slowest decision."""


def sessions(places: list[str]) -> Iterator[tuple[str, Session]]:
    """Yields the sessions that can be read, without system turns, which the proxy does not touch."""
    files = (file for place in map(Path, places) for file in (sorted(place.iterdir()) if place.is_dir() else [place]))
    for file in files:
        try:
            turns = read(file, lenient=True).turns
        except HoldfastError as error:
            print(f"{file.name}: not read: {error}", file=sys.stderr)
            continue
        session = read_session(Transcript(tuple(turn for turn in turns if turn.role is not Role.SYSTEM)))
        if len(session.calls) > 1:
            yield file.name, session


def body_of(wire: Wire, turns: tuple[Turn, ...], model: str) -> bytes:
    """Returns the request of an agent with this history."""
    messages: list[Any] = []
    for turn in turns:
        message = to_anthropic_message(turn) if wire.name == "anthropic" else message_of(turn, None)
        if wire.name == "anthropic" and messages and messages[-1]["role"] == message["role"]:
            messages[-1] = merge_messages(messages[-1], message)
        else:
            messages.append(message)
    return json.dumps({"model": model, wire.field: messages}).encode()


def run(session: Session, prices: Prices, trigger: int, planned: bool | None) -> Sum:
    """Sends every call of a session; `planned` None passes all through."""
    wire = WIRES[1 if prices.caching == "explicit" else 0]
    plan = TextPlan(budget=max(1, trigger // 2), least_recent=1)
    options = Options(plan=plan, trigger=trigger, planned=bool(planned), dry_run=planned is None)
    caller = Caller(wire, options, tariffs=Tariffs(options))
    cache, made = Cache(Rules(prices.caching)), Sum()
    for call in session.calls:
        turns = session.transcript.turns[: call.turn]
        began = time.perf_counter()
        request = IncomingRequest(body_of(wire, turns, prices.model), at=call.at + 1, lookup="read {}/N".format)
        outgoing = caller.compact_request(request)
        made.slowest = max(made.slowest, time.perf_counter() - began)
        caller.charge(outgoing)
        sent = outgoing.turns if planned is None else outgoing.sent
        cache, usage = cache.call(session.prompt(sent), call.at + 1)
        made.tokens += usage.prompt
        made.money += prices.money(usage)
        made.compactions += outgoing.compacted and planned is not None
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", nargs="+")
    parser.add_argument("--trigger", default="8000,12000")
    parser.add_argument("--model", default="claude-sonnet-4-5,gpt-5.2")
    given = parser.parse_args()
    held = list(sessions(given.places))
    worse = 0
    for model in given.model.split(","):
        prices = read_prices(model)
        for trigger in map(int, given.trigger.split(",")):
            print(f"\n{model}, trigger {trigger:,}: USD of the prompts (tokens); compactions\n{'':40s} passing through")
            totals = [Sum(), Sum(), Sum()]
            for name, session in held:
                ways = [run(session, prices, trigger, planned) for planned in (None, False, True)]
                for total, way in zip(totals, ways, strict=True):
                    total.tokens, total.money = total.tokens + way.tokens, total.money + way.money
                    total.compactions += way.compactions
                    total.slowest = max(total.slowest, way.slowest)
                worse += ways[2].money > ways[0].money + ROUNDING
                print(row(name, ways), flush=True)
            print(row(f"all {len(held)}", totals), f"slowest decision {totals[2].slowest:.2f} s")
    print(f"\n{worse} of {len(held)} sessions x settings cost more with the plan than passing through")
    sys.exit(worse > 0)


def row(name: str, ways: list[Sum]) -> str:
    raw, *others = ways
    cells = (
        f"{word} {way.money:8.4f} ({way.tokens:9,}) {way.money / raw.money - 1:+6.1%} {way.compactions:3d}"
        for word, way in zip(("trigger", "plan"), others, strict=True)
    )
    return f"{name[:38]:38s} {raw.money:8.4f} ({raw.tokens:9,}) | {' | '.join(cells)}"


if __name__ == "__main__":
    main()
