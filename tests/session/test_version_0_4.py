"""Files that version 0.4 wrote are read as before: a session's log with every kind of event, and contexts."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from holdfast.context import holdfast_file
from holdfast.session.events import read_event, replay_log
from holdfast.session.session import Session
from holdfast.storage.store import Store
from tolerance import PASS, close

FILES = Path(__file__).parent / "stored_by_0_4"
sys.path.append(str(FILES))

from model_of_0_4 import TURNS, engine  # noqa: E402

SEEN = json.loads((FILES / "seen.json").read_text())
"""The session and its logits as version 0.4 saw them."""
NAME = "written-by-0-4"


@pytest.fixture
def store(tmp_path):
    shutil.copytree(FILES / "store", tmp_path / "store")
    return Store(tmp_path / "store")


def test_a_stored_session_goes_on_where_it_was(store):
    session = Session.resume(NAME, engine(), store)
    assert session.turns == TURNS[: SEEN["turns"]]
    assert sorted(session.pinned) == SEEN["pinned"]
    assert (session.cache.tokens, session.cache.slots) == (SEEN["tokens"], SEEN["slots"])
    assert (session.compactions, session.cache.live.next_position) == (SEEN["compactions"], SEEN["next_position"])
    logits = session.engine.next_logits(session.cache.live, [5, 6, 7])[-1]
    assert close(logits, torch.tensor(SEEN["logits"]), PASS)
    session.append(TURNS[8:])
    assert Session.resume(NAME, session.engine, store).turns == TURNS


def test_every_event_of_its_log_is_written_as_it_was_read(store):
    rows = store.events(NAME)
    assert [row["kind"] for row in rows] == SEEN["kinds"]
    for row in rows:
        again = read_event(row, NAME).row()
        assert json.loads(json.dumps(again)) == {key: row[key] for key in row if key not in ("told", "at")}
    assert len(replay_log(rows, NAME).turns) == SEEN["turns"]


@pytest.mark.parametrize("name", ["plain", "int8"])
def test_a_context_is_read_and_written_byte_for_byte(name):
    own, file = engine(), FILES / f"{name}.holdfast"
    context = holdfast_file.load(file, own.model)
    assert context.next_position == SEEN["next_position"]
    assert holdfast_file.to_bytes(context, own.model) == file.read_bytes()


def test_its_plain_context_gives_the_logits_that_it_gave():
    own = engine()
    live = own.open(holdfast_file.load(FILES / "plain.holdfast", own.model))
    assert close(own.next_logits(live, [5, 6, 7])[-1], torch.tensor(SEEN["logits"]), PASS)
