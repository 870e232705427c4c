"""Mementos without training: written at a boundary, the block goes in place, and the client sees nothing of it."""

import pytest

from conftest import build_pair, small_session
from holdfast.blocks.block import Kind
from holdfast.compaction.plan import Plan, Policy
from holdfast.errors import BadInput
from holdfast.mementos.compress import CodeCompressor
from holdfast.mementos.kv import curve_of_log, replay_curve
from holdfast.mementos.strategy import MementoStrategy, OtherWriter, OwnWriter, write_memento
from holdfast.session.session import Session
from holdfast.storage.store import Store
from holdfast.transcript.turn import Role, Turn
from tolerance import PASS, close

TURNS = small_session().turns
LEDGER = MementoStrategy(OtherWriter(CodeCompressor()), least=10)


def opened(**options):
    session = Session(build_pair("llama").engine, Plan(policy=Policy(keep_recent=1)), **options)
    for turn in TURNS:
        session.append((turn,))
    return session


def says(session):
    return session.engine.next_logits(session.cache.live, list(range(40, 60)))


@pytest.mark.parametrize("writer", [LEDGER.writer, OwnWriter()])
def test_the_block_goes_and_every_fact_of_it_is_noted_or_listed(writer):
    session = opened()
    before = session.cache.slots
    told = write_memento(session, MementoStrategy(writer, least=10))["told"]
    text = session.events[-2]["told"]["text"]
    assert session.turns == TURNS
    assert session.cache.slots < before
    assert session.cache.slots == pytest.approx(session.cache.tokens - told["compacted"])
    assert session.cache.blocks[-1].kind is Kind.MEMENTO
    assert text in session.engine.model.tokenizer.decode(session.cache.blocks[-1].ids)
    assert told["facts"]["live"] >= len(told["facts"]["lost"])
    assert all(fact["text"] not in text for fact in told["facts"]["lost"])
    assert "user" not in {b.kind.value for b in session.cache.blocks if list(b.origin.tokens) in told["dropped"]}


def test_it_goes_on_and_is_noted_again_undone_and_resumed(tmp_path):
    store = Store(str(tmp_path))
    session = opened(store=store, name="s")
    write_memento(session, LEDGER)
    session.append((Turn(Role.ASSISTANT, "I read on. " * 30), Turn(Role.USER, "And?"), Turn(Role.ASSISTANT, "Done.")))
    write_memento(session, LEDGER)
    assert session.compactions == 2
    assert sum(b.kind is Kind.MEMENTO for b in session.cache.blocks) == 2
    again = Session.resume("s", session.engine, store)
    assert close(says(again), says(session), PASS)
    assert curve_of_log(again.events) == replay_curve(session.events)
    session.undo()
    session.undo()
    assert session.cache.slots == pytest.approx(session.cache.tokens)
    session.rewind(len(TURNS) - 1)
    assert Kind.MEMENTO not in {b.kind for b in session.cache.blocks}


def test_equal_text_is_read_again_after_a_restart_and_says_something_else():
    inplace, restart = opened(), opened()
    write_memento(inplace, LEDGER)
    write_memento(restart, MementoStrategy(LEDGER.writer, least=10, restart=True))
    assert [b.ids for b in inplace.cache.blocks] == [b.ids for b in restart.cache.blocks]
    assert inplace.cache.slots == restart.cache.slots
    assert not close(says(inplace), says(restart), PASS)


def test_too_little_is_left_alone():
    session = opened()
    events = len(session.events)
    with pytest.raises(BadInput, match="wait for more turns"):
        write_memento(session, MementoStrategy(LEDGER.writer, least=100_000))
    assert len(session.events) == events
