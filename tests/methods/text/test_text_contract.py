"""The laws that hold for every text method in the registry."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from text_sessions import BriefChat, invented_surprisals, sessions, words_in_common

from holdfast.errors import Failed
from holdfast.methods.registry import TEXT, build_text
from holdfast.methods.text import prune_tokens, similarity
from holdfast.methods.text.base import Room
from holdfast.transcript.cuts import check_legal
from holdfast.transcript.draft import new_draft, units
from holdfast.transcript.read import parse, read
from holdfast.transcript.token_estimate import estimate_tokens
from long_samples import RECORDED, SAMPLES

DATA = RECORDED / "transcripts"
READABLE = ("aider-01", "claude-01", "claude-04", "cline-01", "messages-01", "mini-01", "openhands-03")
REAL = sorted(path for path in DATA.glob("*") if path.name.startswith(READABLE))
EXAMPLE = Path("examples/taskdeck/session.json")
REACHES = ("truncate", "tiered", "random_delete", "keep_recent", "retrieve")
"""Methods that get as small as what is protected."""
STABLE = sorted(TEXT.keys() - {"retrieve", "prune_tokens", "summarize"})
"""Methods that have nothing to do where they have been; the others look at what is left anew."""

FAILS = ("summarize",)
"""Methods that may have no room for what they write; the rewrite then falls back."""

ratios = st.sampled_from((1.0, 1.3, 2.0, 5.0, 50.0))
recents = st.integers(0, 4)


@pytest.fixture(params=TEXT, scope="module")
def method(request):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(similarity.SCORERS, "embedding", words_in_common)
        patch.setattr(prune_tokens, "token_surprisals", invented_surprisals)
        yield build_text(request.param)


def room_for(held, ratio, keep_recent):
    return Room(max(1, int(held.size(estimate_tokens) / ratio)), estimate_tokens, keep_recent, BriefChat())


def check(method, transcript, ratio, keep_recent):
    """Every law at once, over one session."""
    before = copy.deepcopy(transcript)
    held = new_draft(transcript)
    room = room_for(held, ratio, keep_recent)
    try:
        made = method.rewrite(held, room)
    except Failed:
        assert method.name in FAILS
        assert transcript == before
        return
    assert transcript == before
    check_arguments(held, made)
    if room.fits(held):
        assert made is held
    check_legal(made.turns)
    assert made.size(estimate_tokens) <= held.size(estimate_tokens)
    assert made.raw is transcript
    assert made.turns == build_text(method.name).rewrite(held, room).turns
    check_pieces(held, made, room)
    floor = held.keep(set(range(len(held.pieces))) - set(room.free(held)))
    if method.name in REACHES and floor.size(estimate_tokens) <= room.budget and not splits_an_exchange(held, room):
        assert room.fits(made)
    if method.name in STABLE:
        assert method.rewrite(made, room).turns == made.turns


def check_pieces(held, made, room):
    protected = set(range(len(held.pieces))) - set(room.free(held))
    stands_for = [piece.turns for piece in made.pieces]
    assert all(turns and set(turns) <= set(range(len(held.pieces))) for turns in stands_for)
    unchanged = {piece.at for piece in made.pieces if not piece.writer}
    assert protected <= unchanged
    for piece in made.pieces:
        if not piece.writer:
            assert piece.turn is held.pieces[piece.at].turn
        else:
            assert piece.turn.text or piece.turn.calls
            assert all(line.turns for line in piece.lines)


def check_arguments(held, made):
    """Every call keeps its name and its keys, each with a value of its kind; text that is no object stays text."""
    calls = {call.id: call for piece in held.pieces for call in piece.turn.calls}
    for call in (call for piece in made.pieces for call in piece.turn.calls):
        assert call.name == calls[call.id].name
        assert shape(call.arguments) == shape(calls[call.id].arguments)


def shape(arguments):
    def kinds(value):
        if isinstance(value, dict):
            return {key: kinds(item) for key, item in value.items()}
        return [kinds(item) for item in value] if isinstance(value, list) else type(value)

    try:
        return kinds(json.loads(arguments))
    except ValueError:
        return "text"


def splits_an_exchange(held, room):
    """A protected turn may stand between a call and its result; then that exchange has to stay as well."""
    free = set(room.free(held))
    return any(free & set(range(*span)) and not free >= set(range(*span)) for span in units(held))


@given(sessions(), ratios, recents)
def test_the_laws_hold_on_any_session(method, transcript, ratio, keep_recent):
    check(method, transcript, ratio, keep_recent)


@pytest.mark.parametrize("ratio", [1.5, 4, 20])
def test_the_laws_hold_on_the_example(method, ratio):
    check(method, read(EXAMPLE), ratio, 3)


@pytest.mark.parametrize("name", ["aider", "claude_code", "mini_swe_agent"])
def test_the_laws_hold_on_long_sessions(method, name):
    check(method, parse(SAMPLES[name][1]), 3, 3)


@pytest.mark.skipif(not REAL, reason="recorded sessions are not in the repository")
@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name[:14])
def test_the_laws_hold_on_real_sessions(method, path):
    check(method, read(path), 3, 3)


@pytest.mark.parametrize("name", TEXT)
def test_every_row_builds_and_has_a_line_of_help(name):
    assert build_text(name).name in TEXT
    assert TEXT[name].summary


def test_deterministic_strategies_load_no_model_library():
    code = (
        "import sys\n"
        "from holdfast.text.rewrite import TextPlan, rewrite\n"
        "from holdfast.transcript.read import read\n"
        f"rewrite(read({str(EXAMPLE)!r}), TextPlan('tiered', ratio=4))\n"
        "heavy = {'torch', 'transformers', 'numpy', 'bm25s'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
