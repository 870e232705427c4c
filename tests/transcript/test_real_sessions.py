"""Sessions as long as real ones, and recorded ones where there are any, read whole: every role, legal, all found."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from holdfast.transcript.cuts import check_legal, exchanges
from holdfast.transcript.read import parse, read
from holdfast.transcript.turn import Transcript
from long_samples import FACTS, LATER, RECORDED, SAMPLES, TASK, steps

DATA = RECORDED
recorded = pytest.mark.skipif(not (DATA / "transcripts").is_dir(), reason="recorded sessions are not in the repository")

CHAT = {"user", "assistant"}
EXPECTED = {
    "aider-01-2024-08-13.md": ("aider", 118, CHAT | {"tool"}),
    "claude-01-agentcmd-four.jsonl": ("claude_code", 63, CHAT | {"tool"}),
    "claude-02-agentcmd-one.jsonl": ("claude_code", 32, CHAT | {"tool"}),
    "claude-04-entire-pr-comments.jsonl": ("claude_code", 97, CHAT | {"tool"}),
    "cline-01-session.messages.json": ("cline", 33, CHAT | {"system", "tool"}),
    "codex-01-t2012.jsonl": ("codex", 37, CHAT | {"tool"}),
    "gemini-01-agentcmd.json": ("gemini_cli", 31, CHAT | {"tool"}),
    "messages-01-swesmith-pandas-53652.json": ("openai_chat", 75, CHAT | {"system"}),
    "mini-01-sqlfluff-2419.traj.json": ("mini_swe_agent", 87, CHAT | {"system", "tool"}),
    "openhands-02-ponyc-4593.json": ("openhands", 68, CHAT | {"system", "tool"}),
    "openhands-03-ponyc-4588.json": ("openhands", 101, CHAT | {"system", "tool"}),
    "sweagent-01-pydicom-1458.traj": ("swe_agent", 26, CHAT | {"system", "tool"}),
    "sweagent-02-marshmallow-1867-fc.traj": ("swe_agent", 24, CHAT | {"system", "tool"}),
}


def probes(name: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (DATA / "probes.jsonl").read_text("utf-8").splitlines()]
    return [row for row in rows if row["transcript"] == name]


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)


def readable(transcript: Transcript) -> Iterator[str]:
    """Everything that the model said or was told; arguments both as JSON text and decoded."""
    for turn in transcript.turns:
        yield from (turn.text, turn.reasoning)
        for call in turn.calls:
            yield f"[tool_call {call.name}] {call.arguments}"
            yield from strings(json.loads(call.arguments))


@pytest.mark.parametrize("name", SAMPLES)
def test_a_long_session_reads_whole_with_every_fact_of_it(name: str) -> None:
    transcript = parse(SAMPLES[name][1])
    assert transcript.format == name
    check_legal(transcript.turns)
    assert exchanges(transcript)[-1][1] == len(transcript.turns) >= 2 * len(steps())
    found = list(readable(transcript))
    assert [fact for fact in (*FACTS, TASK, LATER) if not any(fact in text for text in found)] == []
    assert all(any(step.command in text for text in found) for step in steps())


@recorded
@pytest.mark.parametrize("name", EXPECTED)
def test_real_session_reads_whole(name: str) -> None:
    transcript = read(DATA / "transcripts" / name)
    format_, count, roles = EXPECTED[name]
    assert (transcript.format, len(transcript.turns)) == (format_, count)
    assert {turn.role.value for turn in transcript.turns} == roles
    check_legal(transcript.turns)
    assert exchanges(transcript)[-1][1] == count


@recorded
@pytest.mark.parametrize("name", EXPECTED)
def test_every_quoted_piece_of_evidence_is_in_some_turn(name: str) -> None:
    found = list(readable(read(DATA / "transcripts" / name)))
    missing = [row["id"] for row in probes(name) if not any(row["evidence"] in text for text in found)]
    assert missing == []
