"""`holdfast read`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from holdfast.cli import console
from holdfast.cli.options import AsJson, OneOf


def read(
    file: Annotated[Path, typer.Argument(help="A session: OpenAI, Anthropic, Claude Code, mini-swe-agent, …")],
    lenient: Annotated[bool, typer.Option("--lenient", help="Skip malformed lines instead of failing.")] = False,
    session: OneOf = 0,
    as_json: AsJson = False,
) -> None:
    """Says what is in a session."""
    from holdfast.transcript.read import read as read_transcript

    transcript = read_transcript(file, lenient=lenient, session=session)
    roles = Counter(t.role.value for t in transcript.turns)
    tools = Counter(c.name for t in transcript.turns for c in t.calls)
    characters = sum(len(t.text) + len(t.reasoning) + sum(len(c.arguments) for c in t.calls) for t in transcript.turns)
    facts: dict[str, Any] = {
        "file": str(file),
        "format": transcript.format,
        "turns": len(transcript.turns),
        "roles": dict(roles),
        "tool_calls": dict(tools.most_common()),
        "characters": characters,
        "skipped": list(transcript.skipped),
    }
    if as_json:
        console.emit(facts)
        return
    console.line(f"{file}: {transcript.format}, {len(transcript.turns)} turns, {characters:,} characters")
    console.line(f"  roles  {console.count(roles)}\n  tools  {console.count(tools) or 'none'}")
    for line in transcript.skipped:
        console.say(f"skipped {line}")
