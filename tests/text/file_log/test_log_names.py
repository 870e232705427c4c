"""Where the log of a session is, when the agent deletes what it does not know beside its sessions."""

from __future__ import annotations

import pytest

from file_log.chat_files import exchange, opening, save
from holdfast.recall.sources.session_files import SessionFiles
from holdfast.text.file_log import compact_file, log_path, read_log, undo_file
from holdfast.text.rewrite import TextPlan

FOLD = TextPlan("test_fold", ratio=5, keep_recent=1, gate=False)
MASK = TextPlan("test_mask", ratio=5, keep_recent=1, gate=False)
NAME = "session-2026-01-02T03-04-1a2b3c4d.json"


@pytest.fixture
def path(tmp_path):
    """A session where Gemini CLI has its own."""
    path = tmp_path / "tmp" / "project" / "chats" / NAME
    path.parent.mkdir(parents=True)
    save(path, [*opening(), *(m for n in range(1, 5) for m in exchange(n, f"result {n} " + "word " * 50))])
    return path


def sweep_chats(session):
    """Deletes as Gemini CLI 0.61.0 does at its start: `session-*` that ends as a session does and is none."""
    for file in session.parent.glob("session-*"):
        if file.name.endswith((".json", ".jsonl")) and file != session:
            file.unlink()


def test_after_a_sweep_of_gemini_cli_compactions_are_undone_and_notes_are_there(path):
    before = path.read_bytes()
    files = SessionFiles((path.parent,), FOLD)
    for plan in (MASK, FOLD):
        compact_file(path, plan)
        files.notes(NAME).write(f"by {plan.method}")
        sweep_chats(path)
    assert [event.kind for event in read_log(path)] == ["compact", "compact"]
    assert [note.text for note in files.notes(NAME).list()] == ["by test_mask", "by test_fold"]
    assert list(files.sessions()) == [NAME]
    undo_file(path)
    sweep_chats(path)
    undo_file(path)
    assert path.read_bytes() == before


def test_a_log_under_its_old_name_is_found_and_the_next_change_takes_it_out_of_the_sweep(path):
    before = path.read_bytes()
    compact_file(path, FOLD)
    old = path.with_name(f"{NAME}.holdfast.jsonl")
    log_path(path).rename(old)
    assert len(read_log(path)) == 1
    undo_file(path)
    sweep_chats(path)
    assert [event.kind for event in read_log(path)] == ["compact", "undo"]
    assert (path.read_bytes(), old.exists()) == (before, False)


def test_elsewhere_the_log_has_the_name_of_the_session_and_a_hidden_one_is_found(path, tmp_path):
    compact_file(path, FOLD)
    copy = tmp_path / NAME
    assert log_path(copy).name == f"{NAME}.holdfast.jsonl"
    path.rename(copy)
    log_path(path).rename(tmp_path / log_path(path).name)
    assert undo_file(copy).kind == "compact"
    assert len(read_log(copy)) == 2
