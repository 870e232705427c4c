"""Options do what they say or are refused, and numbers are of what is really held."""

from __future__ import annotations

import json

import pytest
import torch

from conftest import byte_tokenizer, plain_model, small_session
from holdfast.blocks.block import Kind
from holdfast.cli.main import main
from holdfast.compaction.compact import ask, compact
from holdfast.compaction.plan import Plan, Policy
from holdfast.compaction.recompact import join, recompact
from holdfast.compaction.subagents import fork, merge_subagent, own_blocks
from holdfast.context import holdfast_file
from holdfast.context.segments import StateSegment
from holdfast.errors import BadInput, BadOption
from holdfast.transcript.turn import Role, Turn

NOTHING = Policy(pin=(Kind.SYSTEM,), keep_recent=0)


def positions(context):
    return [s.positions.tolist() for segment in context.segments for s in getattr(segment, "layers", ())]


def test_facts_weigh_in_the_newer_part_of_a_span_that_is_split_in_time(tiny, session):
    engine, plan = tiny("llama").engine, "split_by_age:new=informed(facts={})"
    made = [compact(session, engine, Plan(plan.format(facts), ratio=6, policy=NOTHING)) for facts in (1, 1e6)]
    assert positions(made[0]) != positions(made[1])


def test_facts_weigh_in_what_a_sub_agent_brings_back(tiny, session):
    engine = tiny("llama").engine
    parent = compact(session, engine, Plan("kvzip", ratio=6))
    turns = (Turn(Role.ASSISTANT, "I looked at src/app/hosts.txt and then at a lot of other things, on port 48123."),)
    child, own = fork(parent, engine), own_blocks(session, turns, engine)
    plans = [Plan(f"informed:facts={facts}", ratio=6, policy=NOTHING) for facts in (1, 1e6)]
    made = [merge_subagent(parent, child, own, engine, plan) for plan in plans]
    assert positions(made[0]) != positions(made[1])


@pytest.mark.parametrize("storage", ["model", "bfloat16", "int8"])
def test_bytes_after_another_round_are_those_held_whatever_the_dtype_of_the_engine(tiny, session, storage):
    wide, narrow = tiny("llama").engine, tiny("llama", dtype=torch.bfloat16).engine
    made = compact(session, wide, Plan(f"kvzip:storage={storage}", ratio=4))
    for engine in (wide, narrow):
        for again in (recompact(made, engine, ratio=8), join([made, made], engine)):
            assert again.evidence["bytes"] == engine.open(again).nbytes
            assert any(isinstance(segment, StateSegment) for segment in again.segments)


def test_a_total_of_slots_stands_in_the_recipe_and_a_round_keeps_the_session(tiny, session):
    engine = tiny("llama").engine
    made = compact(session, engine, Plan("kvzip", slots=300))
    assert made.recipe["slots"] == 300
    again = recompact(made, engine, ratio=made.recipe["ratio"] * 2)
    assert again.evidence["session_digest"] == made.evidence["session_digest"]


def test_an_answer_of_no_token_is_named_as_the_mistake(tiny, session):
    engine = tiny("llama").engine
    with pytest.raises(BadOption, match="at least 1 token, got 0"):
        list(ask(compact(session, engine, Plan("truncate")), engine, "What?", limit=0))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model in a folder, a session and its context."""
    folder = tmp_path_factory.mktemp("review")
    plain_model("llama").save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    messages = [{"role": t.role.value, "content": t.text or "-"} for t in small_session().turns if not t.call_id]
    (folder / "s.json").write_text(json.dumps(messages))
    given = ["compact", "s.json", "-o", "a.holdfast", "--latent", "kvzip", "--ratio", "4", "--no-gate"]
    assert started(folder, *given, "--pin", "none", "--keep-recent", "0", "--model", ".") == 0
    return folder


def started(folder, *arguments):
    named = [str(folder / a) if a == "." or a.endswith((".json", ".holdfast", ".html")) else a for a in arguments]
    with pytest.raises(SystemExit) as stop:
        main(named)
    return stop.value.code


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["compact", "s.json", "-o", "b.holdfast", "--ratio", "8", "--budget", "200"], "either --ratio or --budget"),
        (["show", "a.holdfast", "--session", "s.json"], "--html"),
        (["show", "a.holdfast", "--html", "x.html", "--turns"], "leave them out"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(made, capsys, arguments, says):
    assert started(made, *arguments) == 2
    assert says in capsys.readouterr().err


def test_a_tightened_context_has_a_page_and_a_joined_one_says_why_it_has_none(made, capsys):
    assert started(made, "recompact", "a.holdfast", "-o", "b.holdfast", "--ratio", "8", "--model", ".") == 0
    assert started(made, "show", "b.holdfast", "--html", "b.html", "--session", "s.json", "--model", ".") == 0
    assert "tightened since" in (made / "b.html").read_text()
    assert started(made, "join", "a.holdfast", "b.holdfast", "-o", "c.holdfast", "--model", ".") == 0
    assert holdfast_file.read_manifest(made / "c.holdfast").evidence["tokens"]
    capsys.readouterr()
    assert started(made, "show", "c.holdfast", "--html", "c.html", "--session", "s.json", "--model", ".") == 2
    assert "joined" in capsys.readouterr().err


def test_the_options_of_every_method_are_in_the_list_for_scripts(capsys):
    with pytest.raises(SystemExit):
        main(["methods", "--json"])
    latent = [m for m in json.loads(capsys.readouterr().out) if m["level"] == "latent"]
    assert latent
    assert all(m["options"]["storage"] == "model" for m in latent)


def test_what_could_not_be_read_again_is_not_written_over_what_can(tiny, session, tmp_path):
    engine, out = tiny("llama").engine, tmp_path / "a.holdfast"
    holdfast_file.save(compact(session, engine, Plan("truncate")), out, engine.model)
    before = out.read_bytes()
    with pytest.raises(BadInput, match="not finite"):
        holdfast_file.save(compact(session, engine, Plan("informed:exponent=1e30")), out, engine.model)
    assert out.read_bytes() == before
