"""A recorded session as its calls: usage of every dialect, times, and how its tokens are counted."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sessions import exchange, session_of, words

from holdfast.cost import Prices, session_cost
from holdfast.cost.calls import read_session
from holdfast.cost.prices import Rates
from holdfast.cost.usage import Usage, read_recorded_usage
from holdfast.transcript.read import read
from holdfast.transcript.turn import Role, Transcript, Turn
from long_samples import RECORDED

DATA = RECORDED / "transcripts"
LISTED = Prices("m", Rates(3, 15, 0.3, 3.75, 6))
ANTHROPIC = {"input_tokens": 3, "cache_read_input_tokens": 50, "cache_creation_input_tokens": 7, "output_tokens": 9}
HOUR = {**ANTHROPIC, "cache_creation": {"ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 5}}
OPENAI = {"prompt_tokens": 60, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": 50}}
RESPONSES = {"input_tokens": 60, "output_tokens": 9, "input_tokens_details": {"cached_tokens": 50}}
OPENCODE = {"input": 3, "output": 7, "reasoning": 2, "cache": {"read": 50, "write": 7}}
CLINE = {"inputTokens": 3, "outputTokens": 9, "cacheReadTokens": 50, "cacheWriteTokens": 7}


def said(**extra: object) -> Turn:
    return Turn(Role.ASSISTANT, "yes", extra=extra)


@pytest.mark.parametrize(
    ("extra", "usage"),
    [
        ({"usage": ANTHROPIC}, Usage(3, 50, 7, 0, 9)),
        ({"usage": HOUR}, Usage(3, 50, 2, 5, 9)),
        ({"usage": OPENAI}, Usage(10, 50, 0, 0, 9)),
        ({"usage": RESPONSES}, Usage(10, 50, 0, 0, 9)),
        ({"usage": {"input": 3, "output": 9, "cacheRead": 50, "cacheWrite": 7}}, Usage(3, 50, 7, 0, 9)),
        ({"tokens": OPENCODE}, Usage(3, 50, 7, 0, 9)),
        ({"tokens": {"input": 60, "output": 7, "cached": 50, "thoughts": 2, "tool": 0}}, Usage(10, 50, 0, 0, 9)),
        ({"metrics": CLINE}, Usage(3, 50, 7, 0, 9)),
        ({"extra": {"response": {"usage": OPENAI}}}, Usage(10, 50, 0, 0, 9)),
        ({"tool_call_metadata": {"model_response": {"usage": OPENAI}}}, Usage(10, 50, 0, 0, 9)),
    ],
)
def test_usage_is_read_from_every_dialect(extra, usage):
    assert read_recorded_usage(said(**extra)) == usage


@pytest.mark.parametrize(
    "usage",
    [None, [], "x", {}, {"input_tokens": "3"}, {"input_tokens": -1}, {"input_tokens": True}, {"input_tokens": 0}],
)
def test_usage_that_cannot_be_used_is_as_if_it_were_not_there(usage):
    assert read_recorded_usage(said(usage=usage)) is None
    assert session_cost(Transcript((said(usage=usage),)), LISTED).basis == "simulated"


def test_every_assistant_turn_is_a_call_with_all_before_it():
    transcript = session_of(3)
    held = read_session(transcript)
    assert [call.turn for call in held.calls] == [2, 4, 6]
    sizes = [held.prompt(transcript.turns[: call.turn]).tokens for call in held.calls]
    assert sizes == sorted(sizes)
    assert not held.measured


def test_times_are_as_recorded_and_never_run_backwards():
    turns = [turn for at, when in enumerate((100, 160, 130, 500)) for turn in exchange(at, 1, 1, None)]
    stamps = iter(["2026-01-01T00:01:40Z", "2026-01-01T00:02:40+00:00", "2026-01-01T00:02:10", "2026-01-01T00:08:20Z"])
    turns = [replace(t, extra={"timestamp": next(stamps)}) if t.role is Role.ASSISTANT else t for t in turns]
    held = read_session(Transcript(tuple(turns)))
    assert held.timed
    assert [call.at for call in held.calls] == [0, 60, 60, 400]


def test_without_times_calls_are_a_stated_time_apart():
    turns = tuple(turn for at in range(3) for turn in exchange(at, 1, 1, None))
    held = read_session(Transcript(turns), seconds_per_turn=7)
    assert [call.at for call in held.calls] == [0, 7, 14]
    assert not held.timed


@pytest.mark.parametrize("stamp", ["soon", "", None, [], True, -5, float("inf"), 1e300, "9999-99-99"])
def test_a_time_that_is_none_is_not_used(stamp):
    turns = (said(timestamp=stamp), Turn(Role.USER, "go"), said(timestamp=stamp))
    assert [call.at for call in read_session(Transcript(turns)).calls] == [0, 15]


def test_recorded_prompts_say_what_stands_outside_the_file_and_how_long_a_token_is():
    plain = session_of(8)
    ours = read_session(plain)
    told = iter(call.turn for call in ours.calls)
    turns = [
        replace(
            turn, extra={"usage": {"input_tokens": round(5000 + 1.25 * ours.prompt(plain.turns[: next(told)]).tokens)}}
        )
        if turn.role is Role.ASSISTANT
        else turn
        for turn in plain.turns
    ]
    held = read_session(Transcript(tuple(turns)))
    assert held.scale == pytest.approx(1.25, abs=0.01)
    assert held.overhead == pytest.approx(5000, abs=5)
    assert held.count(words(100)) == pytest.approx(1.25 * ours.count(words(100)), abs=1)


def test_a_recorded_output_counts_unless_the_turn_holds_more():
    long = Turn(Role.ASSISTANT, words(500), extra={"usage": {**ANTHROPIC, "output_tokens": 2}})
    thinking = Turn(Role.ASSISTANT, "x", extra={"usage": {**ANTHROPIC, "output_tokens": 900}})
    outputs = [call.output for call in read_session(Transcript((long, thinking))).calls]
    assert outputs[0] >= 500
    assert outputs[1] == 900


def test_a_session_cost_is_as_recorded_where_the_cache_was_told_of():
    turn = said(usage=ANTHROPIC)
    found = session_cost(Transcript((Turn(Role.USER, "go"), turn)), LISTED)
    assert found.basis == "recorded"
    assert found.money == pytest.approx((3 * 3 + 50 * 0.3 + 7 * 3.75 + 9 * 15) / 1e6)
    assert found.uncached == pytest.approx((60 * 3 + 9 * 15) / 1e6)


def test_a_simulated_session_cost_says_so_and_is_less_than_without_a_cache():
    found = session_cost(session_of(12), LISTED)
    assert found.basis == "simulated"
    assert found.money < found.uncached
    assert session_cost(session_of(12), LISTED, "1h").usage.written == 0


def test_a_session_of_no_calls_costs_nothing():
    assert session_cost(Transcript((Turn(Role.USER, "go"),)), LISTED).money == 0


@pytest.mark.skipif(not DATA.is_dir(), reason="recorded sessions, which tell what was paid, are not in the repository")
@pytest.mark.parametrize(
    "name", ["mini-01-sqlfluff-2419.traj.json", "openhands-03-ponyc-4588.json", "claude-02-agentcmd-one.jsonl"]
)
def test_a_line_through_recorded_prompts_fits_real_sessions(name):
    transcript = read(DATA / name)
    held = read_session(transcript)
    for call in held.calls:
        assert call.recorded is not None
        ours = held.prompt(transcript.turns[: call.turn]).tokens
        assert ours == pytest.approx(call.recorded.prompt, rel=0.07)
