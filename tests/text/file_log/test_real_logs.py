"""Long sessions, and recorded ones where there are any: compacted three times, every turn still there, and undone."""

from __future__ import annotations

import shutil

import pytest

from holdfast.errors import BadTranscript
from holdfast.text.file_log import compact_file, read_lineage, undo_file
from holdfast.text.rewrite import TextPlan
from holdfast.transcript.formats import FORMATS
from holdfast.transcript.read import read
from long_samples import RECORDED, SAMPLES

DATA = RECORDED / "transcripts"
FILES = sorted(DATA.iterdir()) if DATA.is_dir() else []


@pytest.mark.parametrize("format_", sorted(SAMPLES.keys() - {"aider"}))
def test_three_compactions_of_a_long_session_lose_no_turn_and_can_be_undone(format_, tmp_path):
    (tmp_path / "before").mkdir()
    name, text = SAMPLES[format_]
    (tmp_path / "before" / name).write_text(text, "utf-8")
    compacted_and_undone(tmp_path / "before" / name, tmp_path)


@pytest.mark.skipif(not FILES, reason="recorded sessions are not in the repository")
@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_three_compactions_of_a_recorded_session_lose_no_turn_and_can_be_undone(file, tmp_path):
    compacted_and_undone(file, tmp_path)


def compacted_and_undone(file, tmp_path):
    try:
        transcript = read(file, lenient=True)
    except BadTranscript:
        pytest.skip("its format cannot be read")
    if not next(known for known in FORMATS if known.name == transcript.format).write:
        pytest.skip("its format cannot be written")
    path = tmp_path / file.name
    shutil.copy(file, path)
    for method in ("clamp", "tiered", "truncate"):
        compact_file(path, TextPlan(method, ratio=2), lenient=True)
        assert [turn.text for turn in read_lineage(path).raw] == [turn.text for turn in transcript.turns]
    while read_lineage(path).steps:
        undo_file(path)
    assert path.read_bytes() == file.read_bytes()
