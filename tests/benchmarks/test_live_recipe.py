"""The recipe of the long session: its script is what the wire carries, and its numbers are what was read and held."""

import math
from argparse import Namespace
from dataclasses import replace
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import build_pair, small_session
from holdfast.errors import BadInput
from holdfast.eval.probes import Probe
from holdfast.server.protocol import GenerateRequest
from holdfast.transcript.turn import Role, Transcript

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    report, recipe = import_module("live_report"), import_module("live")
TURNS = 6
SETTINGS = Namespace(
    latent="kvzip", ratio=4, keep_recent=1, trigger=300, tool_seconds=[0.0], every=3, turns=TURNS, probes=Path("none")
)


@pytest.fixture(scope="module")
def engine():
    return build_pair("llama").engine


@pytest.fixture(scope="module")
def script(engine):
    return recipe.build_script(small_session(), engine, TURNS, 12)


@pytest.fixture(scope="module")
def rows(engine, script):
    return [row for new in recipe.measure_servers(engine, script, SETTINGS) for row in new]


def of(rows, server):
    return [row for row in rows if row.server == server]


def row(turn, first=1.0, server="prefix cache", **more):
    return replace(report.Row(server, 0.0, turn, 100, 10, first, first / 2, 100 * turn, 50, 1000, 0, 0.5), **more)


def test_the_script_opens_as_the_session_does_and_cuts_what_its_tools_said(engine, script):
    session = small_session()
    assert [message["content"] for message in script.opening] == [turn.text for turn in session.turns[:2]]
    said = "\n".join(turn.text for turn in session.turns if turn.role is Role.TOOL)
    assert said.startswith("".join(script.results))
    sizes = [len(engine.model.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in script.results]
    assert {12} <= set(sizes) <= {11, 12}  # a word that is cut in two may be one token less


def test_pieces_are_smaller_where_the_tools_said_too_little_for_the_size_asked_for(engine, script):
    whole = recipe.build_script(small_session(), engine, TURNS, 10**6)
    assert {len(text) > len(script.results[0]) for text in whole.results} == {True}


def test_a_session_without_enough_to_cut_is_refused_with_what_is_there(engine):
    silent = Transcript(tuple(turn for turn in small_session().turns if turn.role is not Role.TOOL))
    with pytest.raises(BadInput, match=r"takes a task and 6 tokens that tools said; 2 and 0"):
        recipe.build_script(silent, engine, TURNS, 12)
    with pytest.raises(BadInput, match="0 and"):
        recipe.build_script(Transcript(small_session().turns[2:]), engine, TURNS, 12)


def test_a_script_longer_than_the_model_reads_is_refused(engine):
    turns = small_session().turns
    long = Transcript((*turns[:5], replace(turns[5], text="word " * 9000), *turns[6:]))
    with pytest.raises(BadInput, match="of the 8192 that the model reads"):
        recipe.build_script(long, engine, TURNS, 10**4)


def test_a_steered_answer_is_the_script_whatever_the_logits_are():
    steered = recipe.SteeredSampling(ids=iter((5, 7)))
    logits, generator = torch.tensor([0.0, math.nan]), torch.Generator()
    assert [steered.choose(logits, generator) for _ in range(2)] == [5, 7]


def test_the_model_says_its_line_of_the_turn_unless_it_is_forced(engine, script):
    host = recipe.SteeredHost.__new__(recipe.SteeredHost)
    host.script, turns = script, small_session().turns
    assert tuple(host.sampling(GenerateRequest(turns[:2])).ids) == script.says[0]
    assert tuple(host.sampling(GenerateRequest(turns[:4])).ids) == script.says[1]
    host.forced = (9,)
    assert tuple(host.sampling(GenerateRequest(turns[:4])).ids) == (9,)


def test_a_session_reads_what_is_new_and_a_stateless_server_reads_all(rows):
    cached, stateless = of(rows, report.CACHE), of(rows, report.STATELESS)
    assert [row.turn for row in cached] == [*range(1, TURNS + 1)]
    assert [row.turn for row in stateless] == [3, 6]
    for before, after in pairwise(cached):
        assert after.prefilled == after.prompt_tokens - before.tokens
    for one in stateless:
        assert one.prefilled == one.prompt_tokens == cached[one.turn - 1].prompt_tokens
    assert all(row.slots == row.tokens and not row.compacted for row in (*cached, *stateless))


def test_an_agent_whose_call_is_always_open_is_compacted_reads_the_same_and_holds_less(rows):
    cached, held = of(rows, report.CACHE), of(rows, report.HOLDFAST)
    assert [row.prefilled for row in held] == [row.prefilled for row in cached]
    assert held[-1].compactions == sum(row.compacted > 0 for row in held[:-1]) >= 1
    assert held[-1].slots < cached[-1].slots
    assert held[-1].bytes < cached[-1].bytes
    after = next(at for at, row in enumerate(held) if row.compacted)
    assert held[after + 1].compactions == held[after].compactions + 1
    assert held[after].compaction_seconds > 0
    assert all(0 < row.first_token < 60 and row.processor > 0 for row in rows)


def test_a_server_whose_rows_are_there_is_not_measured_again(engine, script):
    known = {report.series_of(report.CACHE, 0), report.series_of(report.HOLDFAST, 0), report.STATELESS}
    assert list(recipe.measure_servers(engine, script, SETTINGS, known)) == []
    (new,) = recipe.measure_servers(engine, script, SETTINGS, known - {report.STATELESS})
    assert {row.series for row in new} == {report.STATELESS}


def test_a_forced_choice_is_the_models_own_and_leaves_the_session_alone(engine, script, capsys):
    probe = Probe(
        transcript="s", id="p", category="recall", question="Which port?", answer="8123", accept=["8123"],
        distractor="3000", evidence="PORT = 8123",
    )  # fmt: skip
    plan = recipe.Plan("kvzip", 4)
    with (
        recipe.run_server(engine, plan, recipe.NEVER, script) as (host, url),
        recipe.Client(host, url) as client,
    ):
        _, messages = recipe.session(client, report.CACHE, script, 0.0)
        one, again = (client.logprob(messages, "8123") for _ in range(2))
        assert one == pytest.approx(again, abs=1e-4)
        assert one < 0
        assert {row["id"] for row in client.own.get(url + "/holdfast/sessions").json()} == {client.session}
        recipe.ask_probes(client, [probe], script, messages, report.CACHE)
    shown = capsys.readouterr().out
    assert "prefix cache: " in shown
    assert "no history: " in shown
    assert shown.count("of 1 right") == 2


def test_compactions_are_told_by_the_answer_before_them():
    answered = {"kind": "turns", "told": {"prompt": 9}}
    done = {"kind": "compacted", "told": {"compacted": 40, "seconds": 1.5}}
    told = report.with_compactions(
        [row(1), row(2), row(3)], [{"kind": "opened"}, answered, {"kind": "turns"}, answered, done, answered]
    )
    assert [one.compacted for one in told] == [0, 40, 0]
    assert [one.compaction_seconds for one in told] == [0, 1.5, 0]


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1))
def test_a_quantile_is_the_least_value_that_covers_its_share(values, share):
    found = report.quantile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9
    assert sum(value < found for value in values) < share * len(values) + 1e-9


@pytest.mark.parametrize(("turns", "size"), [(60, 20), (10, 5), (1, 0)])
def test_the_first_turns_are_compared_with_as_many_at_the_end(turns, size):
    early, late = report.ends([row(turn, first=turn) for turn in range(1, turns + 1)])
    assert early == [*range(1, size + 1)]
    assert late == [*range(turns - size + 1, turns + 1)]


def test_turns_left_out_are_not_taken_for_others():
    early, late = report.ends([row(turn, first=turn) for turn in range(6, 61, 6)])
    assert (early, late) == ([6, 12, 18], [42, 48, 54, 60])


def test_the_plot_is_a_picture_of_every_server(rows):
    assert report.plot_rows(rows).startswith(b"\x89PNG")
