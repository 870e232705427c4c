"""Windows around probes: what is compacted holds the answer, what stays does not, and the session goes on."""

import pytest

from conftest import byte_tokenizer, small_session
from counted_crates import crates, long_session, probe
from holdfast.blocks.render import render
from holdfast.errors import BadInput, BadOption
from holdfast.eval.probes import check_static_rules, check_unknown, read_probes
from holdfast.eval.windows import locate, turn_windows, windows
from holdfast.transcript.turn import Role, Transcript, Turn


@pytest.fixture(scope="module")
def rendered():
    return render(long_session(), byte_tokenizer())


def texts(window, tokenizer, compact):
    return "".join(tokenizer.decode(b.ids) for p in window.parts if p.compact is compact for b in p.blocks)


@pytest.mark.parametrize("size", [300, 600, 1500])
def test_every_answer_stands_in_the_compacted_part_alone(rendered, size):
    tokenizer = byte_tokenizer()
    located, missing = locate([crates(n) for n in range(2, 26)], rendered)
    cut, dropped = windows(long_session(), rendered, located, size)
    assert not missing
    assert not dropped
    assert {p.id for w in cut for p in w.probes} == {f"p{n}" for n in range(2, 26)}
    for window in cut:
        assert window.tokens <= size
        for p in window.probes:
            assert p.evidence in texts(window, tokenizer, True)
            assert p.answer not in texts(window, tokenizer, False)


def test_a_window_is_prefix_middle_and_last_exchange_at_consecutive_positions(rendered):
    located, _ = locate([crates(12)], rendered)
    (window,), _ = windows(long_session(), rendered, located, 500)
    assert [p.compact for p in window.parts] == [False, True, False]
    assert [p.start for p in window.parts] == [0, len(window.parts[0]), len(window.parts[0]) + len(window.parts[1])]
    assert window.parts[0].blocks[0].kind == "system"


def test_the_next_action_is_the_assistant_turn_that_really_followed(rendered):
    located, _ = locate([crates(12)], rendered)
    (window,), _ = windows(long_session(), rendered, located, 500)
    last_seen = window.parts[-1].blocks[-1].origin.turn
    follows = next(b for b in rendered.blocks if b.origin.turn == last_seen + 1)
    assert long_session().turns[last_seen + 1].role is Role.ASSISTANT
    assert window.next_ids[: window.action] == follows.ids


def test_neighbouring_probes_share_a_window(rendered):
    located, _ = locate([crates(10), crates(11)], rendered)
    cut, _ = windows(long_session(), rendered, located, 800)
    assert [len(w.probes) for w in cut] == [2]


def test_evidence_inside_a_tool_result_longer_than_the_window_is_still_reached():
    filler = "\n".join(f"line {n} of a long log" for n in range(120))
    log = f"{filler}\nthe port is 58123\n{filler}"
    session = Transcript(
        (
            Turn(Role.SYSTEM, "S."),
            Turn(Role.USER, "Read the log."),
            Turn(Role.ASSISTANT, "Reading."),
            Turn(Role.USER, log),
            Turn(Role.ASSISTANT, "Read."),
            Turn(Role.USER, "Go on."),
            Turn(Role.ASSISTANT, "On."),
        )
    )
    rendered = render(session, byte_tokenizer())
    located, _ = locate([probe("58123", "the port is 58123")], rendered)
    cut, dropped = windows(session, rendered, located, 400)
    assert not dropped
    assert "the port is 58123" in texts(cut[0], byte_tokenizer(), True)


def test_a_turn_window_compacts_the_turn_of_the_evidence_and_nothing_else():
    rendered = render(small_session(), byte_tokenizer())
    located, _ = locate([probe()], rendered)
    (window,), _ = turn_windows(small_session(), rendered, located, 4000)
    assert {b.origin.turn for p in window.parts if p.compact for b in p.blocks} == {9}


def test_a_probe_whose_answer_stays_verbatim_is_left_out_with_its_rule():
    rendered = render(small_session(), byte_tokenizer())
    located, _ = locate([probe("You edit", "def main(): start(PORT)")], rendered)
    cut, dropped = windows(small_session(), rendered, located, 2000)
    assert not cut
    assert "rule (a)" in dropped[0][1]


def test_evidence_that_is_not_there_is_reported(rendered):
    assert "evidence" in locate([probe(evidence="nowhere")], rendered)[1][0][1]


def test_a_window_too_small_to_hold_anything_is_refused(rendered):
    with pytest.raises(BadOption, match="64"):
        windows(long_session(), rendered, [], 10)


def test_the_three_rules():
    assert (
        check_static_rules(probe(), "the host is 10.0.0.9") == "rule (a): '10.0.0.9' also stands in what stays verbatim"
    )
    assert check_static_rules(probe(distractor="10.0.0.9"), "").startswith("rule (c)")
    assert check_static_rules(probe(distractor=" "), "").startswith("rule (c)")
    assert check_static_rules(probe(accept=["zzz"], distractor="10.0.0.9"), "").startswith("rule (c)")
    assert check_static_rules(probe("purple elephant"), "").startswith("rule (a)")
    assert check_static_rules(probe(question="Is it 10.0.0.9?"), "").startswith("rule (a)")
    assert check_static_rules(probe(accept=["10.0.0.9", "db-9"]), "on db-9").startswith("rule (a)")
    assert check_static_rules(probe("a b", "x a b"), "A\n  b").startswith("rule (a)")
    assert check_static_rules(probe(), "nothing of it") == ""
    assert check_unknown(probe(), "It is 10.0.0.9.").startswith("rule (b)")
    assert check_unknown(probe(), "It is 127.0.0.1.") == ""


@pytest.mark.parametrize("text", ["{", '{"id": "x"}', "[]", "\x00", "[" * 5000])
def test_a_malformed_probe_is_named_by_its_line(tmp_path, text):
    path = tmp_path / "probes.jsonl"
    path.write_text(probe().model_dump_json() + "\n" + text + "\n")
    with pytest.raises(BadInput, match=r"probes.jsonl:2"):
        read_probes(path)


def test_two_probes_of_one_name_are_bad_input(tmp_path):
    (tmp_path / "p.jsonl").write_text("\n".join([probe().model_dump_json()] * 2))
    with pytest.raises(BadInput, match="an id of its own"):
        read_probes(tmp_path / "p.jsonl")


def test_a_turn_that_no_assistant_follows_has_no_next_action():
    rendered = render(small_session(), byte_tokenizer())
    located, _ = locate([probe("Reading.", "Reading.")], rendered)
    (window,), _ = turn_windows(small_session(), rendered, located, 4000)
    assert window.action == 0


def test_a_late_system_turn_does_not_stretch_the_prefix():
    turns = list(long_session().turns)
    session = Transcript((*turns[:20], Turn(Role.SYSTEM, "Reminder."), *turns[20:]))
    rendered = render(session, byte_tokenizer())
    located, _ = locate([crates(12)], rendered)
    (window,), _ = windows(session, rendered, located, 500)
    assert {b.origin.turn for b in window.parts[0].blocks} == {0}


def test_an_empty_or_missing_probe_file_is_bad_input(tmp_path):
    with pytest.raises(BadInput, match="cannot read"):
        read_probes(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(BadInput, match="no probes"):
        read_probes(tmp_path / "empty.jsonl")
