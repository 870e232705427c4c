"""Undo, expand, the log itself, and what other programs do to a session in between."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from datetime import UTC, datetime

import pytest

from file_log.chat_files import exchange, grow, load, opening, save, user
from holdfast.errors import BadInput, BadOption, Failed
from holdfast.storage.files import Disk
from holdfast.text.file_log import compact_file, expand_file, log_path, read_lineage, read_log, undo_file
from holdfast.text.file_log.change_file import raw_turn
from holdfast.text.file_log.describe import describe_session, turn_fates
from holdfast.text.file_log.three_way_merge import continues, three_way_merge, without_record
from holdfast.text.rewrite import TextPlan

FOLD = TextPlan("test_fold", ratio=5, keep_recent=1, gate=False)
MASK = TextPlan("test_mask", ratio=5, keep_recent=1, gate=False)


@pytest.fixture(params=[".jsonl", ".json"])
def path(request, tmp_path):
    path = tmp_path / f"session{request.param}"
    save(path, [*opening(), *(m for n in range(1, 5) for m in exchange(n, f"result {n} " + "word " * 50))])
    return path


def test_an_event_tells_when_what_and_how_much(path):
    done = compact_file(path, FOLD, clock=lambda: datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    (event,) = read_log(path)
    assert event == done.event
    assert (event.number, event.kind, event.time) == (1, "compact", "2026-01-02T03:04:05+00:00")
    assert event.plan["method"] == "test_fold"
    assert event.tokens < event.tokens_before
    assert event.after == path.read_bytes()


def test_a_session_that_fits_is_left_alone_and_not_logged(path):
    before = path.read_bytes()
    assert compact_file(path, TextPlan("test_fold", ratio=1)).event is None
    assert path.read_bytes() == before
    assert not log_path(path).exists()


def test_undo_gives_the_bytes_back(path):
    before = path.read_bytes()
    compact_file(path, FOLD)
    assert path.read_bytes() != before
    undo_file(path)
    assert path.read_bytes() == before
    with pytest.raises(BadInput, match="nothing to undo"):
        undo_file(path)


def test_undo_keeps_what_was_appended_since(path):
    before = load(path)
    compact_file(path, FOLD)
    grow(path, [user("and now the docs")])
    undo_file(path)
    assert load(path) == [*before, user("and now the docs")]


def test_undo_refuses_where_a_turn_was_edited_since_and_says_what_to_do(path):
    before = path.read_bytes()
    compact_file(path, FOLD)
    path.write_bytes(path.read_bytes().replace(b"Never touch", b"Please touch"))
    edited = path.read_bytes()
    with pytest.raises(BadInput, match=r"more than appending.*-o OTHER"):
        undo_file(path)
    assert path.read_bytes() == edited
    other = path.with_name("other")
    undo_file(path, other)
    assert other.read_bytes() == before


def test_raw_turns_are_found_after_an_edit_by_somebody_else(path):
    said = [message["content"] for message in load(path)]
    compact_file(path, FOLD)
    path.write_bytes(path.read_bytes().replace(b"Never touch", b"Please touch"))
    assert [turn.text for turn in read_lineage(path).raw] == [*said, said[1].replace("Never", "Please")]


def test_a_file_that_was_exchanged_for_another_session_has_no_past(path):
    compact_file(path, FOLD)
    save(path, [*opening()[:1], user("Something else."), user("And more.")])
    assert read_lineage(path).steps == ()


def test_expand_gives_the_raw_turn_after_several_compactions(path):
    said = [message["content"] for message in load(path)]
    compact_file(path, MASK)
    grow(path, exchange(5, "later " + "word " * 50))
    compact_file(path, FOLD)
    assert [turn.text for turn in read_lineage(path).raw][: len(said)] == said
    assert read_lineage(path).raw[-1].text.startswith("later")


def test_expand_in_place_puts_a_masked_result_where_it_was(path):
    said = load(path)
    compact_file(path, MASK)
    assert load(path)[3]["content"] != said[3]["content"]
    assert expand_file(path, 4).kind == "expand"
    assert load(path)[3] == said[3]
    assert expand_file(path, 4) is None
    undo_file(path)
    assert load(path)[3]["content"] != said[3]["content"]


def test_masked_arguments_are_told_by_diff_and_come_back_by_expand_and_undo(path):
    call = {
        "id": "w",
        "type": "function",
        "function": {"name": "Write", "arguments": json.dumps({"text": "word " * 300})},
    }
    answer = {"role": "tool", "tool_call_id": "w", "content": "ok"}
    save(path, [*opening(), {"role": "assistant", "content": None, "tool_calls": [call]}, answer, user("Go on")])
    before, number = path.read_bytes(), len(opening()) + 1
    event = compact_file(path, TextPlan("mask_calls", budget=1, keep_recent=1, gate=False)).event
    past = read_lineage(path)
    assert "[holdfast: 1 lines" in load(path)[number - 1]["tool_calls"][0]["function"]["arguments"]
    (step,) = past.steps
    found = turn_fates(event, step[1].transcript.turns, step[1].origins, past.now.transcript.turns)
    assert [(fate.turns, fate.by) for fate in found if fate.fate == "rewritten"] == [((number - 1,), "mask_calls")]
    (line,) = [
        line for line in describe_session(past.now.transcript.turns, past.now.origins) if "[holdfast: " in line.text
    ]
    assert past.sources(line) == (number - 1,)
    assert past.raw[number - 1].calls[0].arguments == call["function"]["arguments"]
    expand_file(path, number)
    assert load(path)[number - 1]["tool_calls"] == [call]
    undo_file(path)
    undo_file(path)
    assert path.read_bytes() == before


def test_expand_in_place_puts_a_folded_turn_behind_its_summary(path):
    said = load(path)
    compact_file(path, FOLD)
    expand_file(path, 4)
    texts = [message["content"] for message in load(path)]
    at = next(at for at, text in enumerate(texts) if text.startswith("Summary:"))
    assert texts[at + 1].startswith("[holdfast: turn 4, tool")
    assert said[3]["content"] in texts[at + 1]
    assert expand_file(path, 4) is None


@pytest.mark.parametrize("number", [0, -1, 11])
def test_a_turn_that_there_is_not_is_refused_with_the_range(path, number):
    with pytest.raises(BadOption, match="1 to 10"):
        expand_file(path, number)


def test_every_line_of_a_summary_names_its_raw_turns_also_through_the_next_summary(path):
    compact_file(path, FOLD)
    grow(path, [m for n in (5, 6) for m in exchange(n, f"result {n} " + "word " * 50)])
    compact_file(path, FOLD)
    past = read_lineage(path)
    lines = describe_session(past.now.transcript.turns, past.now.origins)
    found = {line.text: past.sources(line) for line in lines if line.text.startswith("- ")}
    assert found["- result"] == (past.now.origins[2].turns[-1],)
    texts = [line for line in lines if line.text.startswith("- step")]
    assert [past.sources(line) for line in texts] == [(2,), (4,), (6,), (8,), (10,)]


def test_what_a_placeholder_names_is_the_turn_that_expand_gives_also_after_a_second_compaction(path):
    compact_file(path, FOLD)
    grow(path, [m for n in (5, 6, 7) for m in exchange(n, f"result {n} " + "word " * 50)])
    compact_file(path, TextPlan("mask_observations", ratio=5, keep_recent=1, gate=False))
    text = next(message["content"] for message in load(path) if "holdfast expand" in message["content"])
    number = int(text.partition("holdfast expand ")[2].rstrip("]"))
    assert raw_turn(read_lineage(path), number, path).text.startswith("result 4 ")
    assert number == 10


def test_a_rule_of_a_turn_that_went_two_compactions_ago_is_put_back(path):
    grow(path, [user("Never push to main."), *exchange(5, "word " * 50), *exchange(6, "word " * 50)])
    compact_file(path, TextPlan("truncate", ratio=3, keep_recent=1, gate=False))
    assert "Never push to main." not in path.read_text()
    grow(path, exchange(7, "word " * 200))
    grow(path, exchange(8, "word " * 20))
    compact_file(path, TextPlan("mask_observations", ratio=1.5, keep_recent=1))
    assert "Never push to main." in path.read_text()


def test_each_turn_is_told_verbatim_rewritten_or_dropped(path):
    compact_file(path, MASK)
    past = read_lineage(path)
    event, state = past.steps[0]
    found = turn_fates(event, state.transcript.turns, state.origins, past.now.transcript.turns)
    assert [fate.fate for fate in found] == ["verbatim"] * 3 + ["rewritten", "verbatim"] * 3 + ["verbatim"]
    compact_file(path, TextPlan("truncate", ratio=3, keep_recent=1, gate=False))
    event, state = read_lineage(path).steps[1]
    found = turn_fates(event, state.transcript.turns, state.origins, read_lineage(path).now.transcript.turns)
    assert {fate.fate for fate in found if fate.turns[0] in range(2, 6)} == {"dropped"}


def test_a_copy_takes_its_past_along(path):
    before = path.read_bytes()
    compact_file(path, MASK)
    masked = path.read_bytes()
    other = path.with_name(f"other{path.suffix}")
    compact_file(path, FOLD, other)
    assert path.read_bytes() == masked
    undo_file(other)
    assert other.read_bytes() == masked
    undo_file(other)
    assert other.read_bytes() == before


@pytest.mark.skipif(sys.platform == "win32", reason="locks of another kind")
def test_a_second_writer_is_told_to_run_again(path):
    import fcntl

    with log_path(path).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(Failed, match="run the command again"):
            compact_file(path, FOLD)
    assert compact_file(path, FOLD).event


def test_the_log_is_as_private_as_the_session(path):
    path.chmod(0o600)
    compact_file(path, FOLD)
    assert oct(log_path(path).stat().st_mode)[-3:] == "600"
    assert oct(path.stat().st_mode)[-3:] == "600"


def test_a_link_is_read_and_never_written(path, tmp_path):
    link = tmp_path / "link.jsonl"
    link.symlink_to(path)
    before = path.read_bytes()
    with pytest.raises(BadInput, match=r"is a link to .*give the file itself"):
        compact_file(link, FOLD)
    assert (link.is_symlink(), path.read_bytes(), log_path(path).exists()) == (True, before, False)
    compact_file(link, FOLD, tmp_path / f"copy{path.suffix}")
    compact_file(path, MASK)
    for change in (undo_file, lambda file: expand_file(file, 4)):
        with pytest.raises(BadInput, match="is a link"):
            change(link)


def test_a_log_that_is_a_link_is_not_written(path, tmp_path):
    (tmp_path / "bashrc").write_bytes(b"export PRECIOUS=1\n")
    before = path.read_bytes()
    for session, output in ((path, None), (path.with_name("other"), path.with_name("other"))):
        log_path(session).symlink_to(tmp_path / "bashrc")
        with pytest.raises(BadInput, match="is a link"):
            compact_file(path, FOLD, output)
    assert (path.read_bytes(), (tmp_path / "bashrc").read_bytes()) == (before, b"export PRECIOUS=1\n")


def test_a_link_under_the_old_spare_name_is_left_alone(path, tmp_path):
    """A repository can carry such a link through a clone; it was followed."""
    (tmp_path / "bashrc").write_bytes(b"export PRECIOUS=1\n")
    path.with_name(f".{path.name}.holdfast.tmp").symlink_to(tmp_path / "bashrc")
    compact_file(path, FOLD)
    undo_file(path)
    assert (tmp_path / "bashrc").read_bytes() == b"export PRECIOUS=1\n"
    assert not path.is_symlink()


def test_a_byte_order_mark_stays(tmp_path):
    path = tmp_path / "session.jsonl"
    save(path, [*opening(), *exchange(1, "word " * 90), *exchange(2, "ok")])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    before = path.read_bytes()
    compact_file(path, MASK)
    assert path.read_bytes().startswith(b"\xef\xbb\xbf{")
    undo_file(path)
    assert path.read_bytes() == before


def test_a_damaged_log_is_named_with_its_line(path):
    compact_file(path, FOLD)
    fields = json.loads(log_path(path).read_text())
    fields["before"]["sha256"] = "0" * 64
    log_path(path).write_text(json.dumps(fields) + "\n")
    with pytest.raises(BadInput, match=r"holdfast\.jsonl:1: not an event"):
        undo_file(path)


@pytest.mark.parametrize("line", ["{}", "[]", "3", '{"event": 1, "kind": "compact"}', "null"])
def test_a_line_that_is_no_event_is_refused(path, line):
    log_path(path).write_text(line + "\n")
    with pytest.raises(BadInput, match="not an event"):
        read_lineage(path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"event": math.inf},
        {"tokens": -math.inf},
        {"gate": {"lost": 5}},
        {"kind": "undo", "plan": {}},
        {"kind": "undo", "plan": {"of": None}},
        {"kind": "undo", "plan": {"of": [1]}},
    ],
)
def test_an_event_that_was_edited_by_hand_is_refused(path, wrong):
    compact_file(path, FOLD)
    event = json.loads(log_path(path).read_text())
    log_path(path).write_text(json.dumps({**event, **wrong}) + "\n")
    with pytest.raises(BadInput, match=":1: not an event"):
        read_lineage(path)


def test_a_line_that_is_nested_without_end_is_passed_over(path):
    compact_file(path, FOLD)
    with log_path(path).open("a") as file:
        file.write("[" * 100_000 + "\n")
    assert len(read_log(path)) == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_refused_at_once(path, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for change in (lambda: compact_file(pipe, FOLD, path), lambda: undo_file(pipe), lambda: expand_file(pipe, 1)):
        with pytest.raises(BadInput, match="a pipe or a device"):
            change()


def test_an_event_of_another_session_is_refused(path):
    compact_file(path, FOLD)
    fields = json.loads(log_path(path).read_text())
    fields["origins"].append([[99], "", []])
    log_path(path).write_text(json.dumps(fields) + "\n")
    with pytest.raises(BadInput, match="does not fit"):
        read_lineage(path)


def test_the_event_is_on_the_disk_before_the_session_is_touched(path):
    whole, order = path.read_bytes(), []

    class Watched(Disk):
        def sync(self, descriptor):
            order.append((log_path(path).read_bytes().count(b"\n"), path.read_bytes() == whole))
            super().sync(descriptor)

    compact_file(path, FOLD, disk=Watched())
    assert order == [(1, True), (1, True)]  # the log's line, then the spare file


def test_a_full_disk_is_told_with_the_file_that_found_no_room(path):
    class Full(Disk):
        def sync(self, descriptor):
            raise OSError(28, "No space left on device")

    whole = path.read_bytes()
    with pytest.raises(OSError, match=re.escape(str(log_path(path)))):
        compact_file(path, FOLD, disk=Full())
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("before", "after", "now", "expected"),
    [
        (b"a\nb\n", b"s\n", b"s\nc\n", b"a\nb\nc\n"),
        (b"a\nb", b"s", b"s\nc", b"a\nb\nc"),
        (b"a\nb", b"s\n", b"s\nc\n", b"a\nb\nc\n"),
        (b"a\n", b"s", b"sc", None),
        (b"a\n", b"s\n", b"t\nc\n", None),
        (b"[1, 2]", b"[3]", b"[3, 4]", b"[1, 2, 4]"),
        (b"[1,2]\n", b"[3]\n", b"[ 3 ]\n", b"[1,2]\n"),
        (b"[1, 2]", b"[3]", b"[4, 3]", None),
        (b'{"m": [1, 2], "n": 2}', b'{"m": [3], "n": 2}', b'{"m": [3, 4], "n": 5}', b'{"m": [1, 2, 4], "n": 5}'),
        (b'{"m": [1]}', b'{"m": [2]}', b'{"m": [2], "x": 1}', b'{"m": [1], "x": 1}'),
        (b'{"m": [1]}', b'{"m": [2]}', b'{"x": 1}', None),
        (b'{"m": [1]}', b'{"m": [2]}', b"[2]", None),
        (b"\xff", b"\xfe", b"\xfd", None),
    ],
)
def test_what_was_appended_goes_behind_what_was_before(before, after, now, expected):
    assert three_way_merge(before, after, now) == expected
    assert continues(after, now) == (expected is not None)


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (b"a\nR\n", b"a\n"),
        (b"a\nx\nR\n", b"a\nx\n"),
        (b"a\nx\nR\ny\n", b"a\nx\ny\n"),
        (b"a\nx\nR\nx\ny\n", b"a\nx\ny\n"),
        (b"a\nx\nz\nR\nx\ny\nz\n", b"a\nx\nz\ny\n"),
        (b"a\nx\n", None),
        (b"b\nR\n", None),
    ],
)
def test_an_appended_record_goes_with_what_was_said_again_behind_it(now, expected):
    assert without_record(b"a\n", b"a\nR\n", now) == expected
