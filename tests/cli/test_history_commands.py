"""log, diff, undo, expand, show of a session and doctor, as a person and as a script runs them."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from holdfast.cli.main import app
from holdfast.errors import BadInput, BadOption

PLAIN = ["compact", "--text", "truncate", "--ratio", "3", "--no-gate"]


@pytest.fixture
def session(tmp_path):
    path = tmp_path / "session.json"
    texts = ["Fix the parser.", *(f"step {n} " + "word " * 60 for n in range(9))]
    roles = ["user", "assistant"]
    path.write_text(json.dumps([{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)]))
    return path


def run(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.stdout


def as_json(*arguments):
    return json.loads(run(*arguments, "--json"))


@pytest.fixture
def compacted(session):
    run(*PLAIN, session, "-o", session)
    return session


def test_a_compaction_in_place_can_be_listed_and_taken_back(session):
    before = session.read_bytes()
    run(*PLAIN, session, "-o", session)
    assert session.read_bytes() != before
    assert "compact" in run("log", session)
    (event,) = as_json("log", session)
    assert event["stands"]
    assert "taken back" in run("undo", session)
    assert session.read_bytes() == before
    assert [event["stands"] for event in as_json("log", session)] == [False, False]


def test_undo_into_another_file_leaves_the_session(compacted, tmp_path):
    now = compacted.read_bytes()
    found = as_json("undo", compacted, "-o", tmp_path / "was.json")
    assert compacted.read_bytes() == now
    assert len(json.loads((tmp_path / "was.json").read_text())) == 10
    assert found["undone"]["number"] == 1


def test_diff_counts_fates_and_shows_lines_when_asked(compacted):
    assert "verbatim" in run("diff", compacted)
    found = as_json("diff", compacted)
    assert {row["fate"] for row in found["turns"]} == {"verbatim", "dropped"}
    assert sum(row["tokens_before"] for row in found["turns"]) == found["tokens_before"]
    assert "-step 0 word" in run("diff", compacted, "--full")
    with pytest.raises(BadOption, match="did not come from event 7"):
        run("diff", compacted, "--event", 7)


def test_expand_prints_a_dropped_turn_and_puts_it_back(compacted):
    assert run("expand", compacted, 2).startswith("== turn 2, assistant\nstep 0 word")
    assert as_json("expand", compacted, 2)["text"].startswith("step 0")
    assert "step 0" not in compacted.read_text()
    assert as_json("expand", compacted, 2, "--in-place")["event"]["number"] == 2
    assert "step 0" in compacted.read_text()


def test_show_numbers_the_lines_and_says_why_each_is_there(compacted):
    lines = as_json("show", compacted)["lines"]
    last = lines[-1]
    assert last["text"].startswith("step 8")
    assert last["turns"] == [10]
    told = run("show", compacted, "--why", last["line"])
    assert "as it was said, turn 10" in told
    assert as_json("show", compacted, "--why", "step 8")["raw"][0]["turn"] == 10


@pytest.mark.parametrize("why", ["0", "999", "word", "nowhere to be found"])
def test_a_line_that_is_not_one_is_refused_with_how_to_name_one(compacted, why):
    with pytest.raises(BadOption, match="--why takes a number"):
        run("show", compacted, "--why", why)


def test_options_of_stored_contexts_are_refused_for_a_session(session):
    with pytest.raises(BadOption, match="is a session"):
        run("show", session, "--turns")


@pytest.mark.parametrize("command", [["undo"], ["diff"]])
def test_a_session_without_a_past_is_told_so(session, command):
    with pytest.raises(BadInput, match="holds no change"):
        run(*command, session)


def test_doctor_tells_in_few_lines_and_in_full(compacted):
    told = run("doctor", compacted)
    assert len(told.splitlines()) < 40
    assert "can be sent to" in told
    assert "could save at most" in told
    assert "change 1" in told
    assert "\x1b" not in told
    found = as_json("doctor", compacted)
    assert found["logged"][0]["kind"] == "compact"
    assert sum(found["kinds"].values()) == found["tokens"]


def test_doctor_has_colours_where_they_are_asked_for_and_names_stay_harmless(session, monkeypatch):
    evil = session.rename(session.with_name("s\x1b[31m.json"))
    monkeypatch.setenv("FORCE_COLOR", "1")
    told = run("doctor", evil)
    assert "\x1b[32m  can be sent to" in told
    assert "\x1b[31m.json" not in told
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in run("doctor", evil)


def test_what_doctor_says_can_be_saved_is_what_a_method_takes_away(session):
    found = as_json("doctor", session)
    name, left = min(found["savings"].items(), key=lambda pair: pair[1])
    (line,) = [line for line in run("doctor", session).splitlines() if f"--text {name}" in line]
    assert f"{found['tokens'] - left:,}" in line


def test_after_a_compaction_in_place_the_line_names_undo_and_diff(session):
    told = run(*PLAIN, session, "-o", session)
    assert f"holdfast diff {session}" in told
    assert f"holdfast undo {session}" in told
