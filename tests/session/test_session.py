"""The live session: in place or again, forward and back, in this process and the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import build_pair, small_session
from holdfast.blocks.block import Kind
from holdfast.blocks.render import render
from holdfast.compaction.plan import Plan, Policy
from holdfast.engine.local import LocalEngine
from holdfast.engine.sampling import Sampling
from holdfast.errors import BadContext, BadInput, BadOption, Conflict, Missing, TooLarge, UnsupportedModel
from holdfast.session.events import find_referenced_objects
from holdfast.session.session import Session
from holdfast.storage.store import Store
from holdfast.transcript.turn import Role, Transcript, Turn
from tolerance import PASS, close

TURNS = small_session().turns
PROBE = list(range(40, 60))
PLAN = Plan(latent="kvzip", ratio=4, policy=Policy(keep_recent=1))


def engine(family: str = "llama") -> LocalEngine:
    return build_pair(family).engine


def grown(turns: tuple[Turn, ...] = TURNS, plan: Plan = PLAN, family: str = "llama", **options: Any) -> Session:
    session = Session(engine(family), plan, **options)
    for turn in turns:
        session.append((turn,))
    return session


def says(session: Session) -> torch.Tensor:
    """Logits over a probe: what the memory makes the model say."""
    return session.engine.next_logits(session.cache.live, PROBE)


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "qwen3"])
def test_turns_read_one_by_one_are_the_session_read_at_once(family: str) -> None:
    session = grown(family=family)
    rendered = render(Transcript(TURNS), session.engine.model.tokenizer)
    assert tuple(i for block in session.cache.blocks for i in block.ids) == rendered.ids
    assert [b.kind for b in session.cache.blocks] == [b.kind for b in rendered.blocks]
    whole = Session(session.engine, PLAN)
    whole.append(TURNS)
    assert close(says(session), says(whole), PASS)
    assert session.cache.tokens == session.cache.live.next_position == len(rendered.ids)


def test_a_session_is_read_once_and_its_generated_tokens_are_not_read_again() -> None:
    session, fed = grown(), []
    real = type(session.cache.live).feed

    def feed(live: Any, ids: Any, **options: Any) -> torch.Tensor:
        fed.append(len(ids))
        return real(live, ids, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(session.cache.live), "feed", feed)
        answer = session.answer(limit=6)
        answer.text()
        session.commit(answer)
    assert sum(fed) == session.cache.tokens - sum(len(b) for b in session.cache.blocks[:-1])
    assert session.turns[-1].role is Role.ASSISTANT


def test_an_answer_is_what_the_engine_generates_and_leaves_the_session_alone_until_committed() -> None:
    session = grown()
    before, tokens = says(session), session.cache.tokens
    answer = session.answer(limit=8)
    first = next(iter(answer)).id
    text = answer.text()
    assert answer.ids[0] == first
    assert torch.equal(before, says(session))
    opening = list(answer.opening)
    assert answer.ids == list(session.engine.generate(session.cache.live, opening, 8))
    session.commit(answer)
    assert session.turns[-1].text == text
    assert session.cache.blocks[-1].ids[len(opening) :][: len(answer.ids)] == tuple(answer.ids)
    assert session.cache.tokens > tokens


def test_an_answer_that_was_cut_is_read_as_the_template_writes_it() -> None:
    session = grown()
    answer = session.answer(limit=8)
    answer.text()
    session.commit(answer, Turn(Role.ASSISTANT, "Short."), cut=True)
    text = session.engine.model.tokenizer.decode(session.cache.blocks[-1].ids)
    assert text == "<|im_start|>assistant\nShort.<|im_end|>\n"


def test_sampling_with_one_seed_gives_one_answer() -> None:
    session = grown()
    one, same, other = (session.answer(12, Sampling(temperature=2.0, seed=s)).text() for s in (1, 1, 2))
    assert one == same != other


def test_in_place_what_stays_keeps_its_states_to_the_last_bit() -> None:
    session = grown()
    before, tail = session.cache, sum(map(len, session.cache.blocks[-1:]))
    session.compact()
    layers = zip(before.live.cache.layers, session.cache.live.cache.layers, strict=True)
    for old, new in layers:
        assert torch.equal(old.keys[:, :, -tail:], new.keys[:, :, -tail:])
        assert torch.equal(old.values[:, :, -tail:], new.values[:, :, -tail:])
    assert session.cache.live.next_position == before.live.next_position
    assert session.cache.nbytes < 0.8 * before.nbytes


def test_restart_reads_what_stays_over_the_compact_memory() -> None:
    one, other = grown(), grown()
    one.compact()
    other.compact(restart=True)
    assert not close(says(one), says(other), PASS)
    assert one.cache.nbytes == pytest.approx(other.cache.nbytes, rel=0.05)
    assert other.events[-1]["told"]["restart"]


def test_a_compaction_that_keeps_all_changes_nothing() -> None:
    session, plan = grown(), Plan(latent="kvzip", ratio=1, policy=Policy(keep_recent=1))
    before = says(session)
    session.compact(plan)
    assert close(before, says(session), PASS)


def test_what_is_pinned_is_held_token_for_token() -> None:
    session = grown()
    session.pin(3)
    session.compact()
    pinned = [b for b in session.cache.blocks if b.origin.turn == 3 or b.kind in (Kind.SYSTEM, Kind.TASK, Kind.USER)]
    held = [o.tokens for s in session.cache.segments if not getattr(s, "scores", ()) for o in s.origins]
    assert set(held) == {b.origin.tokens for b in pinned}
    session.pin(3, False)
    assert not session.pinned


def test_what_a_tool_says_in_a_users_message_is_not_pinned_as_the_users() -> None:
    acts = Turn(Role.ASSISTANT, "Look.\n```bash\ncat app.py\n```")
    result = Turn(Role.USER, "<returncode>0</returncode>\n<output>\nPORT = 8123\n</output>")
    session = grown((*TURNS[:2], acts, result, acts, result, Turn(Role.USER, "Never push.")))
    session.compact()
    whole = {o.turn for s in session.cache.segments if not getattr(s, "scores", ()) for o in s.origins}
    assert whole == {0, 1}


def test_a_second_compaction_takes_up_what_came_since_and_leaves_the_first_alone() -> None:
    session = grown(TURNS[:7])
    session.compact()
    first = session.cache.segments
    for turn in TURNS[7:]:
        session.append((turn,))
    session.compact()
    assert session.cache.segments[: len(first)] == first
    assert session.compactions == 2
    assert len(session.cache.segments) > len(first)


def test_nothing_to_compact_is_said_and_changes_nothing() -> None:
    session = grown(TURNS[:2])
    before = says(session)
    with pytest.raises(BadInput, match="nothing may be compacted"):
        session.compact()
    assert torch.equal(before, says(session))
    with pytest.raises(BadInput, match="nothing to undo"):
        session.undo()


def test_a_compaction_that_fails_leaves_the_session_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    session = grown()
    before, events = says(session), len(session.events)
    monkeypatch.setattr(
        "holdfast.session.cache.compact_in_memory", lambda *a, **k: (_ for _ in ()).throw(MemoryError("no room"))
    )
    with pytest.raises(MemoryError):
        session.compact()
    assert torch.equal(before, says(session))
    assert (len(session.events), session.compactions) == (events, 0)


def test_layers_that_forget_by_themselves_are_compacted_by_restart_alone() -> None:
    session = grown(family="gemma3_text")
    with pytest.raises(UnsupportedModel, match=r"layer 0 .* restart"):
        session.compact()
    session.compact(restart=True)
    assert session.compactions == 1
    session.append((Turn(Role.USER, "And now?"),))


def test_a_bound_on_slots_holds_over_many_compactions() -> None:
    bound = 420
    session = Session(engine(), Plan(latent="kvzip", ratio=2, slots=bound, policy=Policy(pin=(), keep_recent=1)))
    for n in range(4):
        for turn in TURNS[2:7]:
            session.append((Turn(turn.role, turn.text, turn.reasoning, turn.calls, turn.call_id),))
        if session.cache.slots > bound:
            session.compact()
            assert session.cache.slots <= bound, n
    assert session.compactions >= 2
    with pytest.raises(BadOption, match="leaves no room"):
        session.compact(Plan(latent="kvzip", ratio=2, slots=2, policy=Policy(pin=(), keep_recent=1)))


def test_the_past_is_drawn_together_where_positions_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    session = grown()
    monkeypatch.setattr(session.engine.model.hf.config, "max_position_embeddings", 600)
    length = session.cache.live.next_position
    assert length > 0.75 * 600
    session.compact()
    assert session.cache.live.next_position <= 300
    assert session.cache.tokens == length
    assert torch.isfinite(says(session)).all()
    positions = torch.cat([layer.positions[0] for layer in session.cache.live.cache.layers[:1]])
    assert int(positions.max()) == session.cache.live.next_position - 1
    session.append((Turn(Role.USER, "And now?"),))
    session.rewind(4)
    assert session.cache.tokens == sum(len(b) for b in session.cache.blocks)


def test_more_than_the_model_reads_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    session = grown(TURNS[:4])
    tokens = session.cache.tokens
    monkeypatch.setattr(session.engine.model.hf.config, "max_position_embeddings", tokens + 20)
    with pytest.raises(TooLarge, match="do not fit"):
        session.append(TURNS[4:7])
    with pytest.raises(TooLarge):
        session.answer(limit=100)
    assert session.cache.tokens == tokens


def test_asking_leaves_no_trace() -> None:
    session = grown()
    before = says(session)
    assert "".join(session.ask("Which port?", limit=4))
    assert torch.equal(before, says(session))
    assert len(session.turns) == len(TURNS)


def test_a_fork_of_the_first_turns_knows_nothing_of_the_others(tmp_path: Any) -> None:
    store = Store(tmp_path)
    session = grown(store=store, name="work")
    session.pin(3)
    session.compact()
    twin = session.fork("other", 5)
    assert twin.turns == TURNS[:5]
    assert TURNS[8].calls[0].arguments not in str(store.events("other"))
    again = Session.resume("other", engine(), Store(tmp_path), PLAN)
    assert (again.turns, again.pinned) == (TURNS[:5], {3})
    assert close(says(twin), says(again), PASS)
    with pytest.raises(BadInput, match="can go back"):
        session.fork("third", 99)


def test_objects_of_compactions_that_were_taken_back_are_not_needed(tmp_path: Any) -> None:
    store = Store(tmp_path)
    session = grown(store=store, name="work")
    session.compact()
    session.undo()
    assert find_referenced_objects(store.events("work")) == set()
    session.compact()
    session.rewind(2)
    assert find_referenced_objects(store.events("work")) == set()
    session.append(TURNS[2:])
    session.compact()
    assert len(find_referenced_objects(store.events("work"))) == 2
    assert Session.resume("work", engine(), Store(tmp_path), PLAN).compactions == 1


@pytest.mark.parametrize("restart", [False, True])
def test_a_session_goes_on_while_it_is_compacted(restart: bool) -> None:
    busy, waits = grown(), grown()
    made = busy.prepare(restart=restart)
    for session in (busy, waits):
        if session is waits:
            session.compact(restart=restart)
        session.append((Turn(Role.USER, "Never push."),))
    tail = busy.cache.live.cache.layers[-1].values[:, :, -8:]
    busy.adopt(made)
    assert busy.compactions == 1
    assert busy.cache.nbytes == waits.cache.nbytes
    assert busy.cache.live.next_position == waits.cache.live.next_position
    assert torch.equal(busy.cache.live.cache.layers[-1].values[:, :, -8:], tail) is not restart
    if restart:
        assert close(says(busy), says(waits), PASS)
    busy.append((Turn(Role.USER, "And now?"),))
    busy.compact()
    busy.undo()
    assert busy.compactions == 1


@pytest.mark.parametrize("change", [lambda s: s.rewind(4), lambda s: s.compact(), lambda s: s.pin(3)])
def test_a_compaction_of_another_past_is_not_taken_over(change: Callable[[Session], Any]) -> None:
    session = grown()
    made = session.prepare()
    change(session)
    before, events = says(session), len(session.events)
    with pytest.raises(Conflict):
        session.adopt(made)
    assert torch.equal(before, says(session))
    assert len(session.events) == events


def test_a_target_is_come_down_to_where_so_much_may_go() -> None:
    reached, missed = (grown(plan=Plan(latent="kvzip", ratio=2, policy=PLAN.policy)) for _ in range(2))
    reached.compact(target=430)
    assert reached.cache.slots <= 430
    missed.compact(target=3)
    assert missed.compactions == 1
    assert reached.cache.footprint > reached.cache.nbytes


def test_a_fork_and_its_origin_go_different_ways() -> None:
    session = grown()
    session.compact()
    before, twin = says(session), session.fork()
    twin.append((Turn(Role.USER, "Something else."),))
    assert torch.equal(before, says(session))
    assert len(twin.turns) == len(session.turns) + 1
    twin.rewind(len(TURNS))
    assert close(before, says(twin), PASS)


@pytest.mark.parametrize("turns", [0, 1, 4, 7, 8, len(TURNS)])  # 7: where the newest turns begin
def test_any_turn_can_be_gone_back_to(turns: int) -> None:
    session = grown()
    session.compact()
    session.rewind(turns)
    assert session.turns == TURNS[:turns]
    fresh = grown(TURNS[:turns])
    assert [b.ids for b in session.cache.blocks] == [b.ids for b in fresh.cache.blocks]
    if turns <= 7:  # before anything that was verbatim at the compaction: all of it is read again
        assert close(says(session), says(fresh), PASS)


@pytest.mark.parametrize("turns", [-1, len(TURNS) + 1])
def test_turns_that_there_are_not_cannot_be_gone_back_to(turns: int) -> None:
    with pytest.raises(BadInput, match="can go back"):
        grown().rewind(turns)


def test_undo_gives_the_text_back() -> None:
    session = grown()
    before = says(session)
    session.compact()
    assert not close(before, says(session), PASS)
    session.undo()
    assert close(before, says(session), PASS)
    assert session.compactions == 0


def test_a_turn_is_there_whatever_became_of_it() -> None:
    session = grown()
    session.compact()
    assert session.turn(3) == TURNS[3]
    with pytest.raises(Missing, match="no turn 40"):
        session.turn(39)
    with pytest.raises(Missing):
        session.pin(-1)


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_another_process_goes_on_with_the_same_logits(family: str, tmp_path: Any) -> None:
    store = Store(tmp_path)
    session = grown(TURNS[:7], family=family, store=store, name="work")
    session.compact(restart=family == "gemma3_text")
    for turn in TURNS[7:]:
        session.append((turn,))
    session.pin(3)
    answer = session.answer(limit=5)
    answer.text()
    session.commit(answer)
    again = Session.resume("work", engine(family), Store(tmp_path), PLAN)
    assert again.turns == session.turns
    assert again.pinned == {3}
    assert [b.ids for b in again.cache.blocks] == [b.ids for b in session.cache.blocks]
    assert close(says(session), says(again), PASS)
    assert says(session).argmax(-1).equal(says(again).argmax(-1))
    again.append((Turn(Role.USER, "Go on."),))


def test_a_saved_memory_is_opened_without_a_pass(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    session = grown(store=Store(tmp_path), name="work")
    session.compact()
    session.append((Turn(Role.USER, "And now?"),))
    session.save()
    live = type(session.cache.live)
    monkeypatch.setattr(live, "feed", lambda *a, **k: pytest.fail("the session was read again"))
    again = Session.resume("work", engine(), Store(tmp_path), PLAN)
    monkeypatch.undo()
    assert close(says(session), says(again), PASS)


def test_only_the_newest_save_and_the_compactions_are_needed(tmp_path: Any) -> None:
    store = Store(tmp_path, grace=0)
    session = grown(store=store, name="work")
    session.compact()
    for text in ("And now?", "And then?"):
        session.append((Turn(Role.USER, text),))
        session.save()
    needed = find_referenced_objects(store.events("work"))
    assert len(needed) == 4
    assert store.collect(needed) > 0
    again = Session.resume("work", engine(), Store(tmp_path), PLAN)
    assert close(says(session), says(again), PASS)
    again.rewind(len(TURNS))
    again.undo()
    assert close(says(again), says(grown()), PASS)


def test_a_resumed_session_can_be_compacted_undone_and_gone_back_in(tmp_path: Any) -> None:
    session = grown(store=Store(tmp_path), name="work")
    before = says(session)
    session.compact()
    again = Session.resume("work", engine(), Store(tmp_path), PLAN)
    again.undo()
    assert close(before, says(again), PASS)
    again.rewind(4)
    third = Session.resume("work", engine(), Store(tmp_path), PLAN)
    assert third.turns == TURNS[:4]
    assert third.compactions == 0


def test_another_model_does_not_take_a_session_up(tmp_path: Any) -> None:
    grown(TURNS[:3], store=Store(tmp_path), name="work")
    with pytest.raises(BadContext, match="start with the model"):
        Session.resume("work", engine("qwen2"), Store(tmp_path))
    with pytest.raises(Missing, match="no session"):
        Session.resume("play", engine(), Store(tmp_path))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 3)),
        st.tuples(st.just("rewind"), st.integers(0, 12)),
        st.tuples(st.sampled_from(["compact", "restart", "undo", "save", "resume", "fork"]), st.just(0)),
    ),
    max_size=10,
)


@given(steps=STEPS)
def test_whatever_happens_a_resumed_session_is_the_one_that_was_left(steps: list[tuple[str, int]]) -> None:
    store = Store("memory://" + str(id(steps)))
    session = grown(TURNS[:4], store=store)
    acts: dict[str, Callable[[Session], Any]] = {
        "compact": Session.compact,
        "restart": lambda held: held.compact(restart=True),
        "undo": Session.undo,
        "save": Session.save,
    }
    for what, number in steps:
        try:
            if what == "append":
                session.append(TURNS[7:8] * number)
            elif what == "rewind":
                session.rewind(min(number, len(session.turns)))
            elif what == "resume":
                session = Session.resume(session.name, engine(), store, PLAN)
            elif what == "fork":
                session = session.fork()
            else:
                acts[what](session)
        except BadInput:
            continue
    again = Session.resume(session.name, engine(), store, PLAN)
    assert (again.turns, again.compactions, again.pinned) == (session.turns, session.compactions, session.pinned)
    assert [b.ids for b in again.cache.blocks] == [b.ids for b in session.cache.blocks]
    assert again.cache.live.next_position == session.cache.live.next_position
    assert close(says(session), says(again), 2 * PASS)


def test_a_compaction_of_its_own_plan_heeds_the_policy_of_that_plan() -> None:
    session = grown()
    session.compact(Plan(latent="kvzip", ratio=4, policy=Policy(pin=(), keep_recent=0)))
    assert session.cache.tail == len(session.cache.blocks)
    assert session.cache.tokens / 3 > session.cache.slots


def test_taking_back_more_than_the_model_reads_is_refused_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    session = grown()
    monkeypatch.setattr(session.engine.model.hf.config, "max_position_embeddings", 600)
    session.compact()
    session.append((Turn(Role.USER, "x" * 200),))
    before, events = says(session), len(session.events)
    with pytest.raises(TooLarge, match="reads 600"):
        session.undo()
    assert (session.compactions, len(session.events)) == (1, events)
    assert torch.equal(before, says(session))


def test_where_too_little_can_be_drawn_together_a_compaction_draws_what_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    session = grown()
    session.append((Turn(Role.USER, "y" * 300), Turn(Role.USER, "z" * 40)))
    for turn in range(1, 6):
        session.pin(turn)
    length, slots = session.cache.live.next_position, session.cache.slots
    monkeypatch.setattr(session.engine.model.hf.config, "max_position_embeddings", int(length / 0.8))
    session.compact()
    assert length / 2 < session.cache.live.next_position < length
    assert session.cache.slots < slots
    session.append((Turn(Role.USER, "And now?"),))
    assert torch.isfinite(says(session)).all()


def test_what_is_compacted_or_taken_back_holds_no_memory_of_what_has_gone() -> None:
    session = grown()
    session.compact()
    twin = session.fork()
    twin.rewind(len(TURNS) - 1)
    whole = grown()
    whole.rewind(4)
    for held in (session.cache, twin.cache, whole.cache):
        tensors = [t for layer in held.live.cache.layers for t in (layer.keys, layer.values) if t is not None]
        assert tensors
        assert all(t.untyped_storage().nbytes() == t.nbytes for t in (*tensors, *held.hidden))


def test_positions_are_made_where_nothing_more_may_be_compacted(monkeypatch: pytest.MonkeyPatch) -> None:
    session = grown()
    session.compact(Plan(latent="kvzip", ratio=8, policy=Policy(pin=(), keep_recent=0)))
    session.append((Turn(Role.USER, "Go on."),))
    end, slots, tail = session.cache.live.next_position, session.cache.slots, session.cache.live.cache.layers[0].values
    monkeypatch.setattr(session.engine.model.hf.config, "max_position_embeddings", end + 20)
    session.compact()
    assert session.cache.live.next_position <= (end + 20) / 2
    assert session.cache.slots == slots
    assert torch.equal(tail, session.cache.live.cache.layers[0].values)
    session.append((Turn(Role.USER, "And now, with more words?"),))
    assert torch.isfinite(says(session)).all()
