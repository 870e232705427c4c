"""A rewritten session goes back to its own format: what changed reads as the draft, what did not stays as it stood."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rewriting import changed, said
from sample_sessions import BY_FORMAT, FIXED

from holdfast.transcript.cuts import check_legal
from holdfast.transcript.document import decode
from holdfast.transcript.draft import Draft, draft
from holdfast.transcript.formats import FORMATS
from holdfast.transcript.read import parse
from holdfast.transcript.write import write

DATA = Path(__file__).parents[3] / "shared" / "data" / "transcripts"
REAL = {
    "openai_chat": ("messages-01-swesmith-pandas-53652.json",),
    "anthropic": ("cline-01-session.messages.json",),
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
MERGES = ("anthropic", "claude_code", "aider")


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
    assert write(text, draft(parse(text))) == text
    assert form.write(decode(text), draft(parse(text))) == text


@FIXED
@given(st.sampled_from(sorted(BY_FORMAT)), st.data())
def test_any_change_of_a_sample_reads_back_as_the_draft(name: str, data: st.DataObject) -> None:
    text = BY_FORMAT[name]
    holds(text, data.draw(changed(parse(text))))


@pytest.mark.skipif(not DATA.is_dir(), reason="the real sessions are not here")
@pytest.mark.parametrize("name", NAMES)
@settings(FIXED, max_examples=15)
@given(data=st.data())
def test_any_change_of_a_real_session_reads_back_as_the_draft(name: str, data: st.DataObject) -> None:
    text = (DATA / name).read_text(encoding="utf-8")
    holds(text, data.draw(changed(parse(text))))
