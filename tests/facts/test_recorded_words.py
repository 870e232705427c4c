"""Recorded sessions say in fields of their own what a human typed: all of it, and nothing else, is the user's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from holdfast.transcript.read import read
from holdfast.transcript.speaker import extract_own_words
from holdfast.transcript.turn import Role
from long_samples import RECORDED

FILES = sorted([*RECORDED.glob("transcripts/c*.jsonl"), *RECORDED.glob("set2/transcripts/c*.jsonl")])


def list_typed_words(path: Path) -> list[str]:
    """What the record says was typed: `promptSource` and `origin` of Claude Code, `user_message` events of Codex."""
    typed = []
    for line in path.read_text("utf-8").splitlines():
        fields = json.loads(line)
        message, payload = fields.get("message"), fields.get("payload")
        human = fields.get("promptSource") == "typed" or (fields.get("origin") or {}).get("kind") == "human"
        if human and isinstance(message, dict) and isinstance(message.get("content"), str):
            typed.append(message["content"])
        elif isinstance(payload, dict) and payload.get("type") == "user_message":
            typed.append(payload["message"])
    return typed


@pytest.mark.skipif(not FILES, reason="no recorded sessions beside the repository")
def test_every_word_that_was_typed_is_the_users() -> None:
    found = 0
    for path in FILES:
        turns = [turn for turn in read(path, lenient=True).turns if turn.role is Role.USER]
        own = " ".join(" ".join(extract_own_words(turn).split()) for turn in turns)
        for words in list_typed_words(path):
            request = words.rpartition("## My request for Codex:")[2]
            found += 1
            assert " ".join(request.split()) in own, (path.name, request[:80])
    assert found > 30
