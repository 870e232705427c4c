"""A caller reaches the sessions of its own, and no name leads to another file, folder or key."""

from __future__ import annotations

import json

import pytest

from holdfast.errors import BadInput, HoldfastError
from holdfast.recall.agent_files import AGENT_FOLDERS
from holdfast.recall.sources import JournalFiles, SessionFiles, StoredSessions
from holdfast.recall.tools import Toolbox
from holdfast.storage.store import Store
from holdfast.text.file_log import compact_file, log_path, undo_file
from holdfast.text.rewrite import TextPlan
from long_samples import SAMPLES

PLAN = TextPlan(ratio=2)
ESCAPES = (
    *("../secret.json", "/etc/passwd", "..", ".", "a/../../secret.json", "secret.json", "%2e%2e/secret.json"),
    *("link.json", "folder/secret.json", "session.json/../../secret.json", "session.json\0", "SESSION.JSON"),
)
SECRET = json.dumps([{"role": "user", "content": "the secret of another project is plum-4711"}] * 2)


@pytest.fixture
def files(tmp_path):
    """A folder with one session, a link to a file and one to a folder outside."""
    own, other = tmp_path / "own", tmp_path / "other"
    own.mkdir()
    other.mkdir()
    (tmp_path / "secret.json").write_text(SECRET)
    (other / "secret.json").write_text(SECRET)
    (own / "session.json").write_text(SAMPLES["openai_chat"][1])
    (own / "link.json").symlink_to(tmp_path / "secret.json")
    (own / "folder").symlink_to(other)
    return SessionFiles((own,), PLAN)


def test_a_folder_shows_its_own_files_and_follows_no_link(files):
    assert files.sessions() == ["session.json"]


@pytest.mark.parametrize("name", ESCAPES)
@pytest.mark.parametrize(
    "tool", ["history_search", "history_read", "note_write", "note_list", "context_status", "compact"]
)
def test_no_name_reaches_another_file(files, tmp_path, name, tool):
    given = {"history_search": {"query": "secret"}, "history_read": {"turns": "1"}, "note_write": {"text": "x"}}
    before = sorted(path for path in tmp_path.rglob("*"))
    with pytest.raises(HoldfastError) as caught:
        Toolbox(files).call(tool, {**given.get(tool, {}), "session": name})
    assert "plum" not in str(caught.value)
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_a_file_that_becomes_a_link_is_not_read(files, tmp_path):
    session = tmp_path / "own" / "session.json"
    session.unlink()
    session.symlink_to(tmp_path / "secret.json")
    with pytest.raises(BadInput):
        files.past("session.json")


@pytest.mark.parametrize("what", ["log", "notes"])
def test_a_log_or_notes_that_are_links_are_not_followed(files, tmp_path, what):
    session = tmp_path / "own" / "session.json"
    beside = log_path(session) if what == "log" else session.with_name("session.json.notes.holdfast.jsonl")
    target = tmp_path / "outside.jsonl"
    target.write_text('{"time": "t", "text": "plum-4711"}\n')
    beside.symlink_to(target)
    tool, given = ("history_read", {"turns": "1"}) if what == "log" else ("note_write", {"text": "mine"})
    with pytest.raises(BadInput, match="link"):
        Toolbox(files).call(tool, given)
    assert target.read_text() == '{"time": "t", "text": "plum-4711"}\n'


def test_after_compactions_every_raw_turn_is_found_under_its_first_number(files, tmp_path):
    path = tmp_path / "own" / "session.json"
    box = Toolbox(files)
    before = box.call("history_read", {"turns": "1-50", "tokens": 4_000})
    for budget in (2_500, 1_200):
        compact_file(path, TextPlan(budget=budget))
    assert box.call("history_read", {"turns": "1-50", "tokens": 4_000}) == before
    status = box.call("context_status", {})
    assert "compacted: 2 times" in status
    assert "lost from the window, not from the history" in status
    assert "quarry-17:48213" in box.call("history_search", {"query": "which host?"})
    undo_file(path)
    assert "compacted: 1 times" in box.call("context_status", {})


def test_compact_shrinks_the_file_and_says_how_to_look_things_up(files, tmp_path):
    box = Toolbox(files)
    said = box.call("compact", {"tokens": 1_500})
    assert "history_search" in said
    assert "holdfast undo" in said
    assert files.past("session.json").compactions[-1].tokens <= 1_500
    assert "not here in full" in (tmp_path / "own" / "session.json").read_text()
    assert "history_read with turns=N" in (tmp_path / "own" / "session.json").read_text()
    undo_file(tmp_path / "own" / "session.json")
    assert (tmp_path / "own" / "session.json").read_text() == SAMPLES["openai_chat"][1]


def test_notes_are_kept_beside_the_session_and_come_up_in_a_search(files):
    Toolbox(files).call("note_write", {"text": "The ledger balances since commit 9c41e7b was reverted."})
    later = Toolbox(files)
    assert "1 (20" in later.call("note_list", {})
    assert later.call("history_search", {"query": "ledger balances"}).startswith("[note 1] The ledger balances")
    assert files.sessions() == ["session.json"]


def journal(folder):
    folder.mkdir()
    for name, key in (("mine", "k1"), ("theirs", "k2")):
        rows = [{"role": "user", "content": f"words of {key}"}, {"role": "assistant", "content": f"answer to {key}"}]
        rows[0]["holdfast"] = {"key": key, "wire": "openai_chat"}
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"role": "us')
    (folder / "link.jsonl").symlink_to(folder / "mine.jsonl")
    return folder


def store(folder):
    held = Store(folder)
    for name, key in (("mine", "k1"), ("theirs", "k2")):
        held.append(
            name,
            0,
            {"kind": "opened", "name": "m", "model": "d", "tokenizer": "t", "template": "c", "tools": [], "key": key},
        )
        turns = [{"role": "user", "text": f"words of {key}"}, {"role": "assistant", "text": f"answer to {key}"}]
        held.append(name, 1, {"kind": "turns", "turns": turns, "blocks": [], "at": 1.0})
    return held


@pytest.mark.parametrize("kind", ["journal", "store"])
@pytest.mark.parametrize("name", ["theirs", "link", "../own/session", "theirs/../mine", "theirs.jsonl"])
def test_a_key_reaches_its_own_sessions_and_no_others(tmp_path, kind, name):
    if kind == "journal":
        source = JournalFiles(journal(tmp_path / "journal"), "k1")
    else:
        source = StoredSessions(store(tmp_path / "store"), "k1", tmp_path)
    box = Toolbox(source)
    assert source.sessions() == ["mine"]
    assert "answer to k1" in box.call("history_read", {"turns": "1-2"})
    assert "k2" not in box.call("context_status", {})
    for tool, given in (("history_read", {"turns": "1"}), ("history_search", {"query": "words"}), ("note_list", {})):
        with pytest.raises(HoldfastError, match="no session"):
            box.call(tool, {**given, "session": name})
    box.call("note_write", {"text": "mine alone"})
    assert "mine alone" in box.call("note_list", {})


@pytest.mark.parametrize("agent", AGENT_FOLDERS)
def test_an_agents_own_folder_shows_this_project_and_no_other(tmp_path, agent):
    ours, theirs = tmp_path / "work" / "ours", tmp_path / "work" / "theirs"
    for project in (ours, theirs):
        folder = AGENT_FOLDERS[agent](tmp_path, project).folder / "2026"
        folder.mkdir(parents=True, exist_ok=True)
        head = {"type": "session_meta", "payload": {"cwd": str(project)}}
        (folder / f"{project.name}.jsonl").write_text(json.dumps(head) + "\n")
    own = AGENT_FOLDERS[agent](tmp_path, ours)
    names = SessionFiles((own.folder,), PLAN, own.belongs).sessions()
    assert [name.rpartition("/")[2] for name in names] == ["ours.jsonl"]
