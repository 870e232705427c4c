"""Sub-agents: they read on shared memory, change nobody's, and bring back what they added at the right place."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from holdfast.blocks.block import Kind
from holdfast.blocks.render import render
from holdfast.compaction.compact import compact
from holdfast.compaction.plan import Plan, Policy
from holdfast.compaction.subagents import fork, merge_subagent, own_blocks, system_prompt
from holdfast.context import holdfast_file
from holdfast.context.segment_tensors import name_tensors
from holdfast.context.segments import CompactContext, SoftSegment, StateSegment, TokenSegment
from holdfast.errors import BadInput, BadOption, Lost
from holdfast.gate.latent.gate import Gate
from holdfast.transcript.turn import Role, ToolCall, Transcript, Turn
from tolerance import PASS, close

PROBE = [20, 30, 40, 50, 60]
TASK = (
    Turn(Role.USER, "Count the hosts and say which one answers on port 8123."),
    Turn(Role.ASSISTANT, "Looking.", calls=(ToolCall("k1", "read_file", '{"path": "hosts.txt"}'),)),
    Turn(Role.TOOL, "db-7 10.0.0.9\ndb-8 10.0.0.10\ndb-9 10.0.0.11 answers on 8123", call_id="k1"),
    Turn(Role.ASSISTANT, "Three hosts; db-9 answers."),
)
LAST = Policy(pin=(Kind.USER,), keep_recent=1)


def tensors(context):
    return [t for _, t in name_tensors(context)]


def logits(pair, context):
    return pair.engine.next_logits(pair.engine.open(context), PROBE)


def positions(segment):
    layers = segment.layers if isinstance(segment, StateSegment) else (segment,)
    return [s.positions for s in layers if s.positions.numel()]


@pytest.fixture
def parent(two, session):
    return compact(session, two.engine, Plan("kvzip", 4))


def ids_of(blocks):
    return [i for block in blocks for i in block.ids]


def test_a_compact_fork_is_the_parent_itself_and_its_memory_the_same_tensors(two, session, parent):
    live = two.engine.open(parent)
    child = fork(parent, two.engine, live=live)
    assert child.start is parent
    for a, b in zip(live.cache.layers, child.live().cache.layers, strict=True):
        assert a.keys is b.keys
        assert a.slots is b.slots
    assert child.live().next_position == parent.next_position


def test_two_sub_agents_and_the_parent_do_not_see_each_other(two, session, parent):
    live = two.engine.open(parent)
    before = tensors(parent), [t.clone() for t in tensors(parent)]
    want = two.engine.next_logits(live, PROBE)
    child = fork(parent, two.engine, live=live)
    one, other = child.live(), child.live()
    with torch.no_grad():
        one.feed([40, 41, 42])
        other.feed([50])
    assert (one.next_position, other.next_position) == (parent.next_position + 3, parent.next_position + 1)
    assert torch.equal(two.engine.next_logits(live, PROBE), want)
    assert torch.equal(two.engine.next_logits(child.live(), PROBE), want)
    merge_subagent(parent, child, own_blocks(session, TASK, two.engine), two.engine)
    assert all(torch.equal(a, b) for a, b in zip(*before, strict=True))
    assert torch.equal(two.engine.next_logits(live, PROBE), want)


def test_a_verbatim_fork_reads_the_session_token_by_token(two, session, parent):
    child = fork(parent, two.engine, "verbatim", session=session)
    ids = render(session, two.model.tokenizer).ids
    assert child.start.segments[0].ids.tolist() == list(ids)
    with torch.no_grad():
        want = two.plain(torch.tensor([[*ids, *PROBE]])).logits[0, -len(PROBE) :]
    assert close(two.engine.next_logits(child.live(), PROBE), want, PASS)
    assert child.live().next_position == parent.next_position  # the logical length was kept


def test_a_fork_of_nothing_has_the_system_prompt_alone(two, session, parent):
    child = fork(parent, two.engine, "none")
    system = [b for b in render(session, two.model.tokenizer).blocks if b.kind is Kind.SYSTEM]
    (kept,) = child.start.segments
    assert kept.ids.tolist() == ids_of(system)
    assert child.live().next_position == len(ids_of(system))


def test_without_a_system_prompt_a_fork_of_nothing_is_empty(two, session):
    bare = compact(session, two.engine, Plan("kvzip", 4, policy=Policy(pin=())))
    assert system_prompt(bare) == system_prompt(CompactContext((), 0)) == CompactContext((), 0)
    child = fork(bare, two.engine, "none")
    assert child.live().next_position == 0


def test_own_blocks_are_the_sub_agents_turns_as_the_model_reads_them(two, session):
    own = own_blocks(session, TASK, two.engine)
    whole = render(replace(session, turns=(*session.turns, *TASK)), two.model.tokenizer)
    assert ids_of(own) == list(whole.ids[-len(ids_of(own)) :])
    assert {b.origin.turn - len(session.turns) for b in own} == {0, 1, 2, 3}
    assert ids_of(own_blocks(Transcript(()), TASK, two.engine))


@pytest.mark.parametrize("how", ["compact", "verbatim", "none"])
def test_what_is_brought_back_stands_behind_the_parents_end(two, session, parent, how):
    child = fork(parent, two.engine, how, session=session)
    own = own_blocks(session, TASK, two.engine)
    made = merge_subagent(parent, child, own, two.engine, Plan("kvzip", 4, policy=LAST))
    added = made.segments[len(parent.segments) :]
    assert made.segments[: len(parent.segments)] == parent.segments
    assert all(a is b for a, b in zip(made.segments, parent.segments, strict=False))
    assert [type(s) for s in added] == [TokenSegment, StateSegment, TokenSegment]
    assert made.next_position == parent.next_position + len(ids_of(own))
    at = parent.next_position
    for segment in added:
        n = sum(last - first for first, last in (o.tokens for o in segment.origins))
        assert all(at <= p.min() and p.max() < at + n for p in positions(segment))
        at += n
    assert {o.turn for s in added for o in s.origins} == set(range(len(session.turns), len(session.turns) + 4))
    assert [part["segments"] for part in made.recipe["parts"]] == [len(parent.segments), len(added)]
    assert made.recipe["parts"][1]["recipe"]["subagent"] == how
    live = two.engine.open(made)
    assert made.evidence["bytes"] == live.nbytes
    assert made.evidence["tokens"] == live.next_position


def test_after_a_compact_fork_it_is_the_session_compacted_in_one_go(two, session):
    """The sub-agent went on with the parent's memory, so that nothing tells the two apart."""
    policy = Policy(pin=(Kind.SYSTEM, Kind.TASK, Kind.USER), keep_recent=0)
    plan = Plan("kvzip", 4, policy=policy)
    parent = compact(session, two.engine, plan)
    own = own_blocks(session, TASK, two.engine)
    made = merge_subagent(parent, fork(parent, two.engine), own, two.engine, plan)
    whole = compact(replace(session, turns=(*session.turns, *TASK)), two.engine, plan)
    got, want = logits(two, made), logits(two, whole)
    assert made.next_position == whole.next_position
    assert [type(s) for s in made.segments] == [type(s) for s in whole.segments]
    assert close(got, want, PASS)


def test_several_sub_agents_are_brought_back_one_after_another(two, session, parent):
    own, plan = own_blocks(session, TASK, two.engine), Plan("kvzip", 4, policy=LAST)
    children = [fork(parent, two.engine, how) for how in ("compact", "none")]
    made = parent
    for child in children:
        made = merge_subagent(made, child, own, two.engine, plan)
    assert made.next_position == parent.next_position + 2 * len(ids_of(own))
    assert [p["recipe"].get("subagent") for p in made.recipe["parts"]] == [None, "compact", "none"]
    assert len(made.evidence["parts"]) == 3
    assert made.evidence["bytes"] == two.engine.open(made).nbytes


@pytest.mark.parametrize("latent", ["kvzip", "virtual_tokens:steps=1", "truncate"])
@pytest.mark.parametrize("by_turn", [False, True])
def test_saved_and_loaded_gives_the_same_logits(two, session, parent, tmp_path, latent, by_turn):
    plan = Plan(latent, 4, by_turn=by_turn, policy=LAST)
    own = own_blocks(session, TASK, two.engine)
    made = merge_subagent(parent, fork(parent, two.engine, "none"), own, two.engine, plan)
    loaded = holdfast_file.load(holdfast_file.save(made, tmp_path / "a.holdfast", two.model), two.model)
    assert torch.equal(logits(two, loaded), logits(two, made))
    assert [part["segments"] for part in loaded.recipe["parts"]] == [part["segments"] for part in made.recipe["parts"]]
    assert any(isinstance(s, SoftSegment) for s in made.segments) == ("virtual" in latent)


def test_it_is_smaller_than_the_transcript_that_it_replaces(two, session, parent):
    own = own_blocks(session, TASK, two.engine)
    made = merge_subagent(parent, fork(parent, two.engine), own, two.engine, Plan("kvzip", 8, policy=LAST))
    live = two.engine.open(parent)
    with torch.no_grad():
        live.feed(ids_of(own))
    live.settle(live.next_position)
    assert made.evidence["bytes"] < live.nbytes


def test_mistakes_say_what_to_do(two, session, parent):
    own = own_blocks(session, TASK, two.engine)
    with pytest.raises(BadOption, match="compact, verbatim, none"):
        fork(parent, two.engine, "all")
    with pytest.raises(BadOption, match="pass session"):
        fork(parent, two.engine, "verbatim")
    live = two.engine.open(parent)
    with torch.no_grad():
        live.feed([5])
    with pytest.raises(BadInput, match="the memory given"):
        fork(parent, two.engine, live=live)
    with pytest.raises(BadInput, match="added nothing"):
        merge_subagent(parent, fork(parent, two.engine), (), two.engine)
    with pytest.raises(BadOption, match="at least 1"):
        merge_subagent(parent, fork(parent, two.engine), own, two.engine, Plan(ratio=0.5))
    with pytest.raises(BadOption, match="a budget of 3 slots"):
        merge_subagent(parent, fork(parent, two.engine), own, two.engine, Plan(slots=3))


def test_a_gate_measures_what_the_sub_agent_adds(two, session, parent):
    child, own = fork(parent, two.engine), own_blocks(session, TASK, two.engine)
    plan = Plan("knorm", 16, policy=LAST, gate=Gate(repair=False, ask="repeat"))
    made = merge_subagent(parent, child, own, two.engine, plan)
    gate = made.evidence["parts"][-1]["gate"]
    assert gate["tokens"] == made.evidence["parts"][-1]["tokens_compacted"]
    assert {fact["turn"] - len(session.turns) for fact in gate["lost"]} == {1, 2}  # the call and its result
    bare = merge_subagent(parent, child, own, two.engine, replace(plan, gate=None))
    assert all(torch.equal(a, b) for a, b in zip(tensors(made), tensors(bare), strict=True))
    with pytest.raises(Lost):
        merge_subagent(
            parent, child, own, two.engine, replace(plan, gate=Gate(repair=False, ask="repeat", strict=True))
        )


@pytest.mark.parametrize("slots", [120, 90])
def test_slots_bound_what_the_sub_agent_adds(two, session, parent, slots):
    own = own_blocks(session, TASK, two.engine)
    made = merge_subagent(parent, fork(parent, two.engine), own, two.engine, Plan("knorm", policy=LAST, slots=slots))
    added = made.segments[len(parent.segments) :]
    full = two.model.family.full
    pairs = [s.layers[layer].lengths for s in added if isinstance(s, StateSegment) for layer in full]
    verbatim = sum(len(s) for s in added if isinstance(s, TokenSegment))
    held = verbatim + sum(map(sum, pairs)) / (len(full) * two.model.family.kv_heads)
    assert 0.8 * slots <= held <= slots
    assert made.recipe["parts"][-1]["recipe"]["slots"] == slots
