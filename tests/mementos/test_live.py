"""Blocks leave a live memory at their memento's end: what stays is bit for bit what was computed beside them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from conftest import build_pair, small_session
from holdfast.blocks.block import Kind
from holdfast.engine.sampling import Sampling
from holdfast.mementos.kv import curve_of_log, replay_curve
from holdfast.mementos.live import MementoAnswer, append_turns, commit_answer
from holdfast.mementos.rules import MementoRules
from holdfast.mementos.tracker import BlockSpan, BlockTracker, find_spans
from holdfast.mementos.training import MementoRow, pack_logits
from holdfast.session.session import Session
from holdfast.storage.store import Store
from holdfast.transcript.turn import Role, Turn
from tolerance import PASS, close

TURNS = small_session().turns[:3]
RULES = MementoRules(block_start="<b>", block_end="</b>", summary_start="<m>", summary_end="</m>")
ONE = "I look.<b>the port is 8001, and much more of it</b> so <m>port 8001</m> then I go on."
TWO = f"{ONE}<b>the second part is longer than that one</b><m>second done</m> The end."


@dataclass(frozen=True)
class Script(Sampling):
    """Chooses the tokens of a text, then ends the turn."""

    ids: tuple[int, ...] = ()
    end: int = 0

    def choose(self, logits, generator):
        at = int(generator.initial_seed()) - self.seed
        generator.manual_seed(self.seed + at + 1)
        return self.ids[at] if at < len(self.ids) else self.end


def script(session, text):
    tokenizer = session.engine.model.tokenizer
    return Script(ids=tuple(tokenizer(text, add_special_tokens=False)["input_ids"]), end=tokenizer.eos_token_id)


def opened(**options):
    session = Session(build_pair("llama").engine, **options)
    session.append(TURNS)
    return session


def answered(text=TWO, rules=RULES, limit=400, **options):
    session = opened(**options)
    answer = MementoAnswer(session, rules, limit, script(session, text))
    commit_answer(session, answer, Turn(Role.ASSISTANT, answer.text()))
    return session, answer


def kept(session):
    """Text of the newest turn that is still in memory."""
    dropped = [span for row in session.events for span in row.get("told", {}).get("dropped", ())]
    blocks = [b for b in session.cache.blocks if list(b.origin.tokens) not in dropped and b.origin.turn == len(TURNS)]
    return "".join(session.engine.model.tokenizer.decode(b.ids) for b in blocks)


def says(session):
    return session.engine.next_logits(session.cache.live, list(range(40, 60)))


def held(session):
    """Slots of the first layer, frontier and tail."""
    layer = session.cache.live.cache.layers[0]
    return (0 if layer.keys is None else layer.keys.shape[2]) + (max(layer.slots.lengths) if layer.slots else 0)


def test_a_block_goes_and_its_memento_keeps_the_states_that_saw_it():
    session, _ = answered(ONE)
    assert "8001, and much more" not in kept(session)
    assert "port 8001" in kept(session)
    dropped = sum(last - first for first, last in session.events[-1]["told"]["dropped"])
    assert held(session) == session.cache.tokens - dropped
    assert session.cache.live.next_position == session.cache.tokens
    full = opened()  # the same turn with nothing evicted: equal states up to the memento's end
    plain = full.answer(400, script(full, ONE))
    plain.text()
    full.commit(plain)
    memento = next(b for b in session.cache.blocks if b.kind is Kind.MEMENTO)
    first = memento.origin.tokens[0]
    at = first - session.cache.blocks[session.cache.tail].origin.tokens[0]
    own = session.cache.live.cache.layers[-1].keys[0, :, at : at + len(memento)]
    assert torch.equal(own, full.cache.live.cache.layers[-1].keys[0, :, first : first + len(memento)])


@pytest.mark.parametrize("evicts", [True, False])
def test_a_live_memory_says_what_the_mask_of_training_lets_it_say(evicts):
    session, _ = answered(rules=RULES if evicts else RULES.model_copy(update={"keep_last_n_blocks": -1}))
    blocks, asked = session.cache.blocks, list(range(40, 60))
    dropped = [tuple(span) for row in session.events for span in row.get("told", {}).get("dropped", ())]
    notes = [block.origin.tokens for block in blocks if block.kind is Kind.MEMENTO]
    assert len(notes) == 2
    spans = tuple(map(BlockSpan, dropped, notes)) if evicts else ()
    row = MementoRow((*(i for block in blocks for i in block.ids), *asked), 1, spans)
    assert close(says(session), pack_logits(session.engine.model, (row,), True)[-len(asked) :].detach(), PASS)


def test_restart_reads_the_memento_again_and_forgets_what_it_knew():
    inplace, _ = answered(ONE)
    again, _ = answered(ONE, RULES.model_copy(update={"restart_mode": True}))
    assert kept(inplace) == kept(again)
    assert held(inplace) == held(again)
    assert not close(says(inplace), says(again), PASS)


@pytest.mark.parametrize(
    ("changes", "there", "gone"),
    [
        ({}, ["port 8001", "second done"], ["much more", "longer than"]),
        ({"keep_last_n_blocks": 1}, ["longer than"], ["much more"]),
        ({"keep_last_n_blocks": -1}, ["much more", "longer than"], []),
        ({"mask_delimiters": True}, ["<m>port"], ["much more", "<b>", "</b>"]),
        ({"keep_last_block_for_answer": True}, ["second done"], ["much more", "longer than"]),
    ],
)
def test_rules_say_what_stays(changes, there, gone):
    session, _ = answered(rules=RULES.model_copy(update=changes))
    text = kept(session)
    assert [word for word in there if word not in text] == []
    assert [word for word in gone if word in text] == []


def test_the_last_block_is_there_while_the_answer_is_written():
    _, answer = answered(rules=RULES.model_copy(update={"keep_last_block_for_answer": True}))
    drops = [x for (x, y), (after, z) in zip(answer.curve, answer.curve[1:], strict=False) if after == x and z < y]
    assert drops[-1] == answer.curve[-1][0]
    assert len(drops) == 2


def test_each_eviction_can_be_undone_rewound_forked_and_resumed(tmp_path):
    store = Store(str(tmp_path))
    session, _ = answered(store=store, name="s")
    assert session.compactions == 2
    again = Session.resume("s", session.engine, store)  # as after a kill: the log is all there is
    assert (again.turns, held(again)) == (session.turns, held(session))
    assert close(says(again), says(session), PASS)
    fork = session.fork()
    fork.append((Turn(Role.USER, "And now?"),))
    fork.rewind(len(session.turns))
    assert held(fork) == held(session)
    session.undo()
    assert "longer than" in kept_after_undo(session, 1)
    session.undo()
    assert held(session) == session.cache.tokens
    session.rewind(len(TURNS))
    assert session.turns == TURNS
    assert held(session) == session.cache.tokens


def kept_after_undo(session, standing):
    rows = [row for row in session.events if "dropped" in row.get("told", {})][:standing]
    dropped = [span for row in rows for span in row["told"]["dropped"]]
    assert held(session) == session.cache.tokens - sum(last - first for first, last in dropped)
    return "".join(session.engine.model.tokenizer.decode(b.ids) for b in session.cache.blocks[-6:])


def test_several_blocks_of_one_prompt_go_once_it_is_read():
    session = opened()
    append_turns(session, (Turn(Role.ASSISTANT, TWO), Turn(Role.USER, f"Why {ONE}")), RULES)
    assert session.compactions == 1
    assert len(session.events[-1]["told"]["dropped"]) == 2
    assert "longer than" not in kept(session)


def test_delimiters_that_a_user_writes_are_text():
    session = opened()
    append_turns(session, (Turn(Role.ASSISTANT, "Yes."), Turn(Role.USER, TWO)), RULES)
    assert session.compactions == 0
    assert held(session) == session.cache.tokens


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("<b>a<b>inner</b><m>x</m>b</b><m>whole</m>", ["a<b>inner</b><m>x</m>b"]),  # the outer one goes as a whole
        ("<b>never closed <m>x</m>", []),
        ("<b>one</b> no memento <b>two</b><m>2</m>", ["two"]),
        ("</b><m>no block</m></m><b>x</b><m>y <b>z</b> </m>", ["x"]),
        ("<b>one</b><m>a memento that never ends", []),
        ("<b></b><m></m>", [""]),
        ("é<b>ü</b><m>ö</m>", ["ü"]),
    ],
)
def test_what_is_nested_or_not_ended_is_defined(text, spans):
    tokenizer = build_pair("llama").engine.model.tokenizer
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    found = find_spans(ids, tokenizer, RULES.delimiters, False)
    assert [tokenizer.decode(ids[slice(*span.block)]) for span in found] == spans


def test_a_delimiter_may_be_cut_into_tokens_in_any_way():
    tokenizer = build_pair("llama").engine.model.tokenizer
    rules = replace(RULES.delimiters, block_start="he", block_end="xx", memento_start="yy", memento_end="zz")
    ids = tokenizer(" the cat xx yy dog zz.", add_special_tokens=False)["input_ids"]  # ` the` is one token
    (span,) = find_spans(ids, tokenizer, rules, True)
    assert tokenizer.decode(ids[slice(*span.block)]) == " cat xx"
    assert tokenizer.decode(ids[slice(*span.memento)]) == "yy dog zz"


@pytest.mark.parametrize("text", ["<b>" + "a b " * 90, "<b>x</b><m>" + "a b " * 90])
def test_what_never_ends_is_closed_by_the_sampler(text):
    capped = RULES.model_copy(update={"max_block_tokens": 20, "max_memento_tokens": 12})
    session = opened()
    answer = MementoAnswer(session, capped, 60, script(session, text))
    assert ("</m>" if "<m>" in text else "</b>") in answer.text()
    before = len(answer.evictions)
    commit_answer(session, answer)
    assert len(answer.evictions) >= before
    assert session.turns[-1].text.startswith("<b>")


def test_a_very_long_block_is_followed_in_linear_time():
    tokenizer = build_pair("llama").engine.model.tokenizer
    one = tokenizer("<b>", add_special_tokens=False)["input_ids"]
    tracker = BlockTracker(tokenizer, RULES.delimiters)
    for token in one:
        tracker.feed(token)
    for _ in range(20_000):
        tracker.feed(ord("a"))
    assert tracker.length == 20_000
    assert len(tracker._recent) < 10


def test_slots_counted_live_are_those_that_a_replay_of_the_log_finds():
    session, answer = answered()
    live, replayed = curve_of_log(session.events), replay_curve(session.events)
    assert live == replayed
    assert live.peak == max(slots for _, slots in answer.curve)
    assert live.peak < session.cache.tokens
    assert live.area < live.full_area
    assert live.points[-1] == (session.cache.tokens, held(session))
