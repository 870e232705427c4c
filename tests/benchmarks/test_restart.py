"""What in place and restart are compared by: windows of whole exchanges, forms of equal bytes, shares pair by pair."""

import json
from importlib import import_module
from math import isnan
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import build_pair, small_session
from holdfast.blocks.render import render
from holdfast.eval.probes import Probe
from holdfast.transcript.cuts import check_legal, exchanges
from holdfast.transcript.turn import Role, ToolCall, Transcript, Turn

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    recipe, parts = import_module("restart"), import_module("restart_parts")


def agent(steps):
    turns = [Turn(Role.SYSTEM, "Be brief."), Turn(Role.USER, "Find the port.")]
    for n in range(steps):
        turns.append(Turn(Role.ASSISTANT, f"look {n}", calls=(ToolCall(f"c{n}", "read", f'{{"path": "p{n}"}}'),)))
        turns.append(Turn(Role.TOOL, f"PORT_{n} = {8000 + n}", call_id=f"c{n}"))
    return Transcript(tuple(turns))


def probe(n):
    return Probe(
        transcript="s",
        id=f"p{n}",
        category="recall",
        question="Which?",
        answer=str(8000 + n),
        accept=[str(8000 + n)],
        distractor="80",
        evidence=f"PORT_{n} = {8000 + n}",
    )


@given(st.integers(0, 30), st.integers(60, 400), st.integers(1, 4), st.integers(1, 3), st.data())
def test_windows_are_whole_exchanges_within_their_size_that_end_where_the_assistant_speaks(
    steps, size, keep, count, data
):
    session = agent(steps)
    sizes = [data.draw(st.integers(5, 60)) for _ in session.turns]
    size_of = dict(zip((t.text for t in session.turns), sizes, strict=True))
    found = parts.windows("s", session, sizes, size, keep, (), count)
    assert len(found) <= count
    assert len({w.action.text for w in found}) == len(found)
    for window in found:
        check_legal(window.turns)
        assert window.turns[:2] == session.turns[:2]
        assert session.turns[session.turns.index(window.turns[-1]) + 1] == window.action
        assert window.action.role is Role.ASSISTANT
        assert sum(size_of[turn.text] for turn in window.turns) <= size
        recent = exchanges(Transcript(window.turns))[-keep][0]
        assert sum(size_of[turn.text] for turn in window.turns[2:recent]) >= size // parts.LEAST


def test_a_window_is_chosen_for_the_evidence_in_its_middle_and_no_probe_is_asked_twice():
    session = agent(30)
    first, second = parts.windows("s", session, [20] * len(session.turns), 300, 1, [probe(3), probe(20)], 2)
    assert {p.id for w in (first, second) for p in w.probes} == {"p3", "p20"}
    for window in (first, second):
        (asked,) = window.probes
        assert any(asked.evidence in turn.text for turn in window.turns[2:-2])


def test_long_texts_are_cut_around_a_quote_and_arguments_stay_json():
    long = "a" * 500 + "THE PORT IS 1" + "b" * 500
    call = ToolCall("c", "write", json.dumps({"content": long, "line": 3}))
    turn = parts.shorten(Turn(Role.ASSISTANT, long, long, (call,)), 100, ["THE PORT IS 1"])
    values = json.loads(turn.calls[0].arguments)
    for text in (turn.text, turn.reasoning, values["content"]):
        assert len(text) == 100
        assert "THE PORT IS 1" in text
    assert values["line"] == 3
    assert parts.shorten(Turn(Role.USER, long), 100).text == long[:100]
    broken = replace_arguments("[" + long)
    assert len(parts.shorten(broken, 100).calls[0].arguments) == 100


def replace_arguments(text):
    return Turn(Role.ASSISTANT, calls=(ToolCall("c", "write", text),))


def row(session, form, action, answers=(), keep=1):
    return parts.Row(session, keep, 8.0, form, action, list(answers), 1000, 10, 0.5)


ROWS = [
    row("a", "full", -10.0, [-1.0, -2.0]),
    row("a", "none", -20.0, [-5.0, -6.0]),
    row("b", "full", -10.0),
    row("b", "none", -40.0),
    row("a", "informed in place", -12.0, [-2.0, -3.0]),
    row("b", "informed in place", -14.0),
    row("a", "informed restart", -16.0, [-2.0, -5.0]),
    row("b", "informed restart", -20.0),
]


def test_what_is_retained_is_a_share_of_the_nats_of_all_windows_and_differences_are_pair_by_pair():
    inside, again = ([r for r in ROWS if r.form == f"informed {how}"] for how in ("in place", "restart"))
    assert parts.share(ROWS, inside, "action").value == pytest.approx((8 + 26) / 40)
    assert parts.share(ROWS, again, "action").value == pytest.approx((4 + 20) / 40)
    apart = parts.share(ROWS, inside, "action", again)
    assert apart.value == pytest.approx(10 / 40)
    assert (apart.supplied, apart.n) == (40, 2)
    assert parts.share(ROWS, inside, "action", again[:1]).value == pytest.approx(4 / 10)
    answers = parts.share(ROWS, inside, "answers")
    assert (answers.value, answers.n) == (pytest.approx(6 / 8), 2)
    assert isnan(answers.interval.low)  # one window alone shows no spread
    for form, value in (("full", 1), ("none", 0)):
        assert parts.share(ROWS, [r for r in ROWS if r.form == form], "action").value == value


def test_a_share_of_nothing_is_not_a_number():
    rows = [row("a", "full", -20.0), row("a", "none", -10.0), row("a", "x", -15.0)]
    assert isnan(parts.share(rows, rows[2:], "action").value)
    assert isnan(parts.share(rows, rows[2:], "answers").value)
    assert isnan(parts.share(rows, [row("b", "x", -1.0)], "action").value)


def test_the_table_names_every_form_once_and_the_difference():
    told = parts.table([*ROWS, row("a", "erase in place", -15.0, [-5.0, -5.0]), row("b", "text", -15.0)])
    assert told.count("erase") == told.count("text") == 1
    assert told.count("informed in place |") == told.count("informed restart |") == 1
    assert "| 85.0 [" in told
    assert "| 1 | 8x | informed | 25.0 [" in told


def test_rows_come_back_from_the_file(tmp_path):
    parts.append(tmp_path / "deep" / "rows.jsonl", ROWS[:2])
    parts.append(tmp_path / "deep" / "rows.jsonl", ROWS[2:])
    assert parts.read_rows(tmp_path / "deep" / "rows.jsonl") == ROWS
    assert parts.has_session(tmp_path / "deep" / "rows.jsonl", "b")
    assert not parts.has_session(tmp_path / "deep" / "rows.jsonl", "c")


@pytest.fixture(scope="module")
def bench():
    turns = small_session().turns
    stop = max(at for at, turn in enumerate(turns) if turn.role is Role.ASSISTANT)
    return recipe.open_session(build_pair("llama").engine, parts.Window("s", turns[:stop], turns[stop]), 1, 16)


def test_all_tokens_as_they_were_read_or_again_are_the_live_session(bench):
    full, every = bench.session.cache.live, range(bench.session.cache.tokens)
    expected = bench.row(0, 0, "full", lambda: full).action
    for make in (bench.as_read, bench.reread):
        got = bench.row(1, 0, "x", lambda make=make: make(list(every)))
        assert got.action == pytest.approx(expected, abs=1e-3)
        assert got.bytes == full.nbytes


def test_forms_at_one_ratio_hold_no_more_bytes_than_in_place_and_count_what_they_read(bench):
    rows = {(r.ratio, r.form): r for r in recipe.measure_window(bench, [(1, 8.0)])}
    inside, again = rows[8.0, "informed in place"], rows[8.0, "informed restart"]
    assert again.bytes == inside.bytes
    assert 0 < inside.read < again.read
    assert rows[8.0, "newest in place"].read == rows[0, "full"].read == rows[0, "erase in place"].read == 0
    for form in ("truncated", "newest in place", "newest restart", "drawn to 50%"):
        assert rows[8.0, form].bytes <= inside.bytes
    assert rows[0, "none"].bytes == rows[0, "erase in place"].bytes < inside.bytes < rows[0, "full"].bytes


def test_a_text_takes_the_tokens_that_it_may_or_as_few_as_it_can(bench):
    whole, tokenizer = agent(12), bench.engine.model.tokenizer
    length = len(render(whole, tokenizer).ids)
    assert len(recipe.find_longest_rewrite(whole, "truncate", 1, length, tokenizer)) == length
    assert 0 < len(recipe.find_longest_rewrite(whole, "truncate", 1, length // 2, tokenizer)) <= length // 2
    least = len(recipe.find_longest_rewrite(whole, "truncate", 1, 1, tokenizer))
    assert 1 < least < length // 2
