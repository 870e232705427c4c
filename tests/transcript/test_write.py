"""A rewritten session goes back to its own format: what changed reads as the draft, what did not stays as it stood."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rewriting import changed, said
from sample_sessions import BY_FORMAT, lines

from holdfast.errors import BadTranscript
from holdfast.transcript.cuts import check_legal
from holdfast.transcript.document import decode
from holdfast.transcript.draft import Draft, new_draft
from holdfast.transcript.formats import FORMATS
from holdfast.transcript.read import parse
from holdfast.transcript.write import write
from long_samples import RECORDED, SAMPLES

DATA = RECORDED / "transcripts"
REAL = {
    "openai_chat": ("messages-01-swesmith-pandas-53652.json",),
    "cline": ("cline-01-session.messages.json",),
    "codex": ("codex-01-t2012.jsonl",),
    "gemini_cli": ("gemini-01-agentcmd.json",),
    "swe_agent": ("sweagent-01-pydicom-1458.traj", "sweagent-02-marshmallow-1867-fc.traj"),
    "mini_swe_agent": ("mini-01-sqlfluff-2419.traj.json",),
    "claude_code": (
        "claude-01-agentcmd-four.jsonl",
        "claude-02-agentcmd-one.jsonl",
        "claude-04-entire-pr-comments.jsonl",
    ),
    "openhands": ("openhands-02-ponyc-4593.json", "openhands-03-ponyc-4588.json"),
    "aider": ("aider-01-2024-08-13.md",),
}
NAMES = [name for names in REAL.values() for name in names]
MERGES = ("anthropic", "cline", "claude_code", "aider")


def holds(text: str, held: Draft) -> None:
    """The law of a writer."""
    made = write(text, held)
    back = parse(made)
    merged = held.raw.format in MERGES
    # Without tool calls nothing tells an Anthropic message list from OpenAI's.
    assert back.format == held.raw.format or (held.raw.format, back.format) == ("anthropic", "openai_chat")
    assert said(back.turns, merged) == said(held.turns, merged)
    check_legal(back.turns)


@pytest.mark.parametrize("name", BY_FORMAT)
def test_draft_without_changes_gives_the_file_itself(name: str) -> None:
    text = BY_FORMAT[name]
    form = next(known for known in FORMATS if known.name == name)
    assert form.write is not None
    assert write(text, new_draft(parse(text))) == text
    if "forgotten_events" not in parse(text).meta:  # what was forgotten is not written where anything changes
        assert form.write(decode(text), new_draft(parse(text))) == text


@given(st.sampled_from(sorted(BY_FORMAT)), st.data())
def test_any_change_of_a_sample_reads_back_as_the_draft(name: str, data: st.DataObject) -> None:
    text = BY_FORMAT[name]
    holds(text, data.draw(changed(parse(text))))


@pytest.mark.parametrize("name", SAMPLES)
@given(data=st.data())
def test_any_change_of_a_long_session_reads_back_as_the_draft(name: str, data: st.DataObject) -> None:
    text = SAMPLES[name][1]
    holds(text, data.draw(changed(parse(text))))


@pytest.mark.skipif(not DATA.is_dir(), reason="recorded sessions are not in the repository")
@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_any_change_of_a_real_session_reads_back_as_the_draft(name: str, data: st.DataObject) -> None:
    text = (DATA / name).read_text(encoding="utf-8")
    holds(text, data.draw(changed(parse(text))))


MUTANTS = st.sampled_from([None, 7, "", "x", [], {}, [None], {"type": "tool_result"}, -1])


@given(st.sampled_from([name for name in sorted(BY_FORMAT) if name != "aider"]), st.data())
def test_lenient_reading_of_a_damaged_file_is_written_as_a_sound_one(name: str, data: st.DataObject) -> None:
    rows = rows_of(BY_FORMAT[name])
    for _ in range(data.draw(st.integers(1, 3))):
        container, key = data.draw(st.sampled_from([pair for row in rows for pair in paths_in(row)]))
        container[key] = copy.deepcopy(data.draw(MUTANTS))
    text = lines(*rows) if name == "claude_code" else json.dumps(rows[0])
    try:
        found = parse(text, lenient=True)
    except BadTranscript:
        return
    repaired = parse(write(text, new_draft(found)))
    merged = found.format in MERGES
    assert said(repaired.turns, merged) == said(found.turns, merged)
    assert repaired.skipped == ()


def rows_of(text: str) -> list[Any]:
    try:
        return [json.loads(text)]
    except ValueError:
        return [json.loads(row) for row in text.splitlines()]


def paths_in(value: Any) -> list[tuple[Any, Any]]:
    """Every container of a JSON value with each of its keys."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    return [(value, key) for key in keys] + [pair for key in keys for pair in paths_in(value[key])]
