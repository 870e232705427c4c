"""Many sessions into one folder: what is done is not done again, and no file takes the place of another."""

import json
from pathlib import Path

import pytest

from holdfast import batch
from holdfast.cli.main import main
from holdfast.storage.json_lines import read_lines

EXAMPLE = Path("examples/taskdeck/session.json").absolute()
TEXT = ("--text", "truncate", "--ratio=2", "--no-gate")


@pytest.fixture
def sessions(tmp_path):
    folder = tmp_path / "sessions"
    folder.mkdir()
    story = json.loads(EXAMPLE.read_text())
    for name, turns in (("a.json", 20), ("b.json", 24), ("c.json", 28)):
        (folder / name).write_text(json.dumps({**story, "messages": story["messages"][:turns]}))
    return folder


@pytest.fixture
def compact(tmp_path, capsys):
    """`compact(*arguments)` into a folder `out`: the exit code, what it says as JSON, and its messages."""

    def call(*arguments, into="out"):
        with pytest.raises(SystemExit) as stop:
            main(["compact", *map(str, arguments), "-o", str(tmp_path / into), "--json"])
        out, err = capsys.readouterr()
        return stop.value.code, json.loads(out) if out else {}, err

    return call


def log(folder):
    return read_lines(folder / batch.LOG, batch.BatchEntry, print)


def test_a_folder_is_compacted_and_what_is_done_is_not_done_again(compact, sessions, tmp_path):
    code, told, _ = compact(sessions, *TEXT)
    assert (code, told["sessions"], told["written"], told["before"]) == (0, 3, 3, 0)
    lines = log(tmp_path / "out")
    assert [line.output for line in lines] == ["a.json", "b.json", "c.json"]
    assert all(line.evidence["tokens"] < line.evidence["tokens_before"] for line in lines)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    code, told, _ = compact(sessions, *TEXT)
    assert (code, told["written"], told["before"]) == (0, 0, 3)
    assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}


@pytest.mark.parametrize("what", ["session", "output", "options", "log"])
def test_what_changed_is_compacted_again(compact, sessions, tmp_path, what):
    compact(sessions, *TEXT)
    options = TEXT
    if what == "session":
        (sessions / "b.json").write_bytes((sessions / "b.json").read_bytes() + b" ")
    elif what == "output":
        (tmp_path / "out" / "b.json").unlink()
    elif what == "options":
        options = ("--text", "truncate", "--ratio=3", "--no-gate")
    else:  # killed while it wrote the last line
        path = tmp_path / "out" / batch.LOG
        path.write_bytes(path.read_bytes()[:-20])
    expected = 3 if what == "options" else 1
    assert compact(sessions, *options)[1]["written"] == expected
    assert compact(sessions, *options)[1]["written"] == 0
    if what == "options":
        assert compact(sessions, *TEXT)[1]["written"] == 3, "the outputs are of the other options now"


def test_an_interrupted_run_keeps_what_is_done_and_goes_on(compact, sessions, tmp_path, monkeypatch):
    whole, begun = batch._execute, []

    def stops(compact, order):
        begun.append(order.file.name)
        if len(begun) == 3:
            raise KeyboardInterrupt
        return whole(compact, order)

    with monkeypatch.context() as patch:
        patch.setattr(batch, "_execute", stops)
        assert compact(sessions, *TEXT)[0] == 130
    assert [line.output for line in log(tmp_path / "out")] == ["a.json", "b.json"]
    assert compact(sessions, *TEXT)[1] | {"output": ""} == {
        "output": "",
        "sessions": 3,
        "before": 2,
        "written": 1,
        "failed": {},
        "skipped": {},
    }


def test_a_session_that_cannot_be_compacted_is_named_and_the_others_are_done(compact, sessions, tmp_path):
    (sessions / "aa.json").write_text("{")
    code, told, err = compact(sessions, *TEXT)
    assert (code, told["written"]) == (1, 3)
    assert list(told["failed"]) == [str(sessions / "aa.json")]
    assert "aa.json: left out" in err
    assert "1 of 4 sessions were left out" in err


def test_files_and_patterns_are_taken_together_and_each_session_once(compact, sessions):
    code, told, _ = compact(sessions / "a.json", sessions / "[ab].json", sessions / "*.json", *TEXT)
    assert (code, told["sessions"]) == (0, 3)


def test_what_holdfast_wrote_is_no_session(compact, sessions):
    compact(sessions, *TEXT)
    for name in ("a.json.holdfast", "a.json.holdfast.jsonl", batch.LOG, ".a.json.1.tmp"):
        (sessions / name).write_text("x")
    assert compact(sessions, *TEXT)[1]["sessions"] == 3


def test_names_that_would_become_one_file_are_refused_before_any_work(compact, sessions, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.json").write_bytes(EXAMPLE.read_bytes())
    code, _, err = compact(sessions, other, *TEXT)
    assert code == 2
    assert "would both become" in err
    assert not list((tmp_path / "out").iterdir())


def test_no_session_is_overwritten(compact, sessions):
    before = (sessions / "a.json").read_bytes()
    code, _, err = compact(sessions, *TEXT, into="sessions")
    assert code == 2
    assert "is an input" in err
    assert (sessions / "a.json").read_bytes() == before


@pytest.mark.parametrize(
    ("given", "into", "says"),
    [
        (["sessions/a.json", "sessions/none.json"], "out", "no sessions there"),
        (["sessions/*.md"], "out", "no sessions there"),
        (["sessions"], "file", "need a folder"),
        (["sessions"], "missing/out", "need a folder"),
    ],
)
def test_a_mistake_is_told_before_any_work(compact, sessions, tmp_path, given, into, says):
    (tmp_path / "file").write_text("x")
    code, _, err = compact(*(tmp_path / name for name in given), *TEXT, into=into)
    assert code == 2
    assert says in err
    assert (tmp_path / "file").read_text() == "x"


def test_a_model_is_loaded_once_for_all_sessions(compact, model, tmp_path, monkeypatch):
    from holdfast.cli import console
    from holdfast.compaction.compact import load

    loaded = []
    monkeypatch.setattr(console, "engine", lambda *model: loaded.append(model) or load(model[0]))
    for name in ("a.json", "b.json"):
        told = [{"role": "user", "content": f"{name}: count the crates {'of hall nine ' * 30}"}]
        (tmp_path / name).write_text(json.dumps([*told, {"role": "assistant", "content": "None."}] * 4))
    options = ("--latent", "truncate", "--ratio=4", "--pin=none", "--no-gate", "--model", model)
    code, told, err = compact(tmp_path / "*.json", *options)
    assert (code, told["written"], len(loaded)) == (0, 2, 1), err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "a.json.holdfast",
        "b.json.holdfast",
        batch.LOG,
    }
    assert all(line.evidence["bytes"] < line.evidence["bytes_full"] for line in log(tmp_path / "out"))


def test_a_folder_is_compacted_without_the_files_that_are_no_sessions(compact, sessions):
    (sessions / "README.md").write_text("# How these came about\n")
    (sessions / "picture.png").write_bytes(b"\x89PNG\0\1")
    code, told, err = compact(sessions, *TEXT)
    assert (code, told["written"], told["failed"]) == (0, 3, {})
    assert {Path(name).name for name in told["skipped"]} == {"README.md", "picture.png"}
    assert [line for line in err.splitlines() if "no session" in line] == [
        "README.md: skipped, no session",
        "picture.png: skipped, no session",
    ]


def test_a_file_that_was_named_and_is_no_session_is_not_passed_over(compact, sessions):
    (sessions / "README.md").write_text("# How these came about\n")
    code, told, err = compact(sessions / "README.md", sessions / "a.json", *TEXT)
    assert (code, told["written"]) == (1, 1)
    assert "no known session format" in err
