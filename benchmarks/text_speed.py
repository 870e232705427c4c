"""Processor seconds of each deterministic strategy over one long session, its parts and the share of `count` in it.

    python benchmarks/text_speed.py [SESSION...] [--tokens 200000]

Sessions are joined, and repeated under new call ids, until they have so many tokens; each strategy then halves the
result, once in a fresh cache of `count` (cold) and once more (warm). Default session: the example.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count as numbers
from pathlib import Path

from holdfast.methods.registry import TEXT, build_text
from holdfast.methods.text.base import Room
from holdfast.transcript.activity import find_activity
from holdfast.transcript.draft import new_draft, turn_size
from holdfast.transcript.read import read
from holdfast.transcript.shell import find_shell_access
from holdfast.transcript.token_estimate import estimate_tokens
from holdfast.transcript.turn import Role, Transcript, Turn

EXAMPLE = Path(__file__).parents[1] / "examples" / "taskdeck" / "session.json"
MODELS = ("prune_tokens", "summarize")
RATIO = 2.0


def long_session(paths: list[Path], tokens: int) -> Transcript:
    """Returns a session of at least `tokens`; the texts of each copy are numbered, because a cache would know them
    again.
    """
    turns: list[Turn] = []
    size = 0
    sources = [read(path, lenient=True).turns for path in paths]
    for copy in numbers():
        for turn in (turn for source in sources for turn in source):
            if size >= tokens and turn.role is not Role.TOOL:
                return Transcript(tuple(turns))
            calls = tuple(replace(call, id=f"{copy}:{call.id}") for call in turn.calls)
            call_id = f"{copy}:{turn.call_id}" if turn.call_id else ""
            text = f"{turn.text} {copy}" if turn.text else ""
            turns.append(replace(turn, text=text, calls=calls, call_id=call_id))
            size += turn_size(turns[-1], estimate_tokens)
    raise AssertionError


def seconds(work: Callable[[], object]) -> float:
    """Returns the processor seconds of this process alone, so that a busy machine does not count."""
    began = time.process_time()
    work()
    return time.process_time() - began


def forget() -> None:
    estimate_tokens.cache_clear()
    find_shell_access.cache_clear()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("sessions", nargs="*", type=Path, default=[EXAMPLE])
    parser.add_argument("--tokens", type=int, default=200_000)
    given = parser.parse_args()
    build_text("retrieve:scorer=bm25").rewrite(new_draft(read(EXAMPLE)), Room(1))  # imports its library
    transcript = long_session(given.sessions, given.tokens)
    held = new_draft(transcript)
    size = held.size(estimate_tokens)
    room = Room(int(size / RATIO), estimate_tokens)
    print(f"{size:,} tokens, {len(transcript.turns):,} turns; budget {room.budget:,}\n")
    forget()
    print(f"counting alone {seconds(lambda: held.size(estimate_tokens)):.3f} s")
    print(f"observed {seconds(lambda: find_activity(transcript.turns)):.3f} s\n")
    print("| strategy | cold s | warm s | tokens |\n|---|--:|--:|--:|")
    specs = [name for name in TEXT if name not in MODELS and name != "retrieve"]
    for spec in [*specs, "retrieve:scorer=bm25"]:
        method = build_text(spec)
        forget()
        cold = seconds(partial(method.rewrite, held, room))
        made = method.rewrite(held, room)
        warm = seconds(partial(method.rewrite, held, room))
        print(f"| {spec} | {cold:.3f} | {warm:.3f} | {made.size(estimate_tokens):,} |")


if __name__ == "__main__":
    main()
