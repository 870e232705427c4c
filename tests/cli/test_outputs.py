"""No command overwrites a file that is not its input: refused without --force, and with it `undo` brings it back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import byte_tokenizer, plain_model
from counted_crates import long_session
from holdfast.bench.keep.rows import KeepRow
from holdfast.cli.main import main
from holdfast.eval.rows import Row
from holdfast.storage.json_lines import append_line

PRECIOUS = b"what the user wrote\n"


ROW = {
    **{"version": "0.1.0", "commit": "abc", "created": "2026-01-02T03:04:05+00:00", "config": {}, "model": "tiny"},
    **{"model_digest": "a", "tokenizer_digest": "b", "seed": 0, "transcript": "a.jsonl", "window": "w", "probe": "p"},
    **{"category": "recall", "question": "Which?", "answer": "8080", "distractor": "3000", "tokens_full": 100},
    **{"tokens_span": 80, "slots": 10, "bytes_full": 1000, "bytes": 300, "bytes_span_full": 800, "bytes_span": 100},
    **{"seconds_prefill": 2.0, "seconds_compact": 0.5, "text": "8080", "keyword": True, "answer_logprob": -2.0},
    **{"answer_tokens": 2, "distractor_logprob": -9.0, "distractor_tokens": 3, "kl": 0.1, "top1": 0.9},
    **{"next_action_logprob": -60.0, "next_action_tokens": 12},
}
KEEP_ROW = KeepRow(
    version="0", created="", model="m", model_digest="d", tokenizer_digest="t", item="a", item_digest="i", seed=0,
    size=4096, family="signature", place="user", depth=0.1, condition="full", kind="full", ratio=1, tokens_full=100,
    tokens=100, bytes_full=800, bytes=800, seconds_prefill=1, seconds_context=0, seconds_answer=1, text="",
    facts={"a": True}, passed=True,
)  # fmt: skip


@dataclass(frozen=True)
class Given:
    """What the commands work on."""

    model: Path
    session: Path
    context: Path
    rows: Path
    keep_rows: Path


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return stop.value.code or 0, out + err


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("given")
    plain_model("llama").save_pretrained(folder / "model")
    byte_tokenizer().save_pretrained(folder / "model")
    messages = [{"role": t.role.value, "content": t.text} for t in long_session().turns[:12]]
    (folder / "s.json").write_text(json.dumps(messages))
    found = Given(folder / "model", folder / "s.json", folder / "c.holdfast", folder / "rows.jsonl", folder / "k.jsonl")
    latent = ["--latent", "knorm", "--no-gate", "--ratio", 2, "--model", found.model]
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in ["compact", found.session, "-o", found.context, *latent]])
    assert not stop.value.code
    with pytest.raises(SystemExit):
        main([str(a) for a in ["compact", found.session, "--text", "truncate", "--ratio", 3, "-o", folder / "t.json"]])
    for method, ratio in (("full", 1.0), ("none", None), ("knorm", 8.0)):
        append_line(found.rows, Row(**ROW, method=method, ratio=ratio))
    append_line(found.keep_rows, KEEP_ROW)
    return found


def commands(given):
    text = given.session.with_name("t.json")
    model = ["--model", given.model]
    return {
        "compact": ["compact", given.session, "--latent", "truncate", "--no-gate", *model, "-o"],
        "compact --text": ["compact", given.session, "--text", "truncate", "--ratio", 3, "--no-gate", "-o"],
        "recompact": ["recompact", given.context, "--ratio", 2, *model, "-o"],
        "join": ["join", given.context, given.context, *model, "-o"],
        "undo": ["undo", text, "-o"],
        "show --html": ["show", given.context, "--session", given.session, *model, "--html"],
        "cost --plot": ["cost", given.session, "--prices", "anthropic/claude-sonnet-4-5", "--plot"],
        "eval report": ["eval", "report", given.rows, "-o"],
        "bench report --plot": ["bench", "report", given.keep_rows, "--plot"],
        "calibrate": ["calibrate", given.session, "--limit", 1, "--window", 128, *model, "-o"],
    }


NAMES = (
    "compact",
    "compact --text",
    "recompact",
    "join",
    "undo",
    "show --html",
    "cost --plot",
    "eval report",
    "bench report --plot",
    "calibrate",
)


@pytest.mark.parametrize("name", NAMES)
def test_an_output_that_stands_there_is_refused_and_with_force_undo_brings_it_back(name, given, tmp_path, capsys):
    out = tmp_path / "out"
    out.write_bytes(PRECIOUS)
    command = commands(given)[name]
    code, told = call(capsys, *command, out)
    assert (code, out.read_bytes()) == (2, PRECIOUS), told
    assert f"{out} stands there already; give another name, or --force" in told
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    code, told = call(capsys, *command, out, "--force")
    assert code == 0, told
    assert out.read_bytes() != PRECIOUS
    code, told = call(capsys, "undo", out)
    assert (code, out.read_bytes()) == (0, PRECIOUS), told


@pytest.mark.parametrize("name", NAMES)
def test_an_output_that_is_a_link_is_refused_with_and_without_force(name, given, tmp_path, capsys):
    (tmp_path / "bashrc").write_bytes(PRECIOUS)
    for target in ("bashrc", "new"):
        (tmp_path / "out").unlink(missing_ok=True)
        (tmp_path / "out").symlink_to(tmp_path / target)
        for more in ([], ["--force"]):
            code, told = call(capsys, *commands(given)[name], tmp_path / "out", *more)
            assert (code, "is a link to" in told) == (2, True), told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bashrc", "out"]
    assert (tmp_path / "bashrc").read_bytes() == PRECIOUS


def test_another_session_is_not_replaced_and_undo_never_brings_back_the_wrong_one(given, tmp_path, capsys):
    other = tmp_path / "other.json"
    other.write_text(json.dumps([{"role": "user", "content": f"another session, {n}"} for n in range(3)]))
    before = other.read_bytes()
    compact = ["compact", given.session, "--text", "truncate", "--ratio", 3, "--no-gate", "-o", other]
    assert call(capsys, *compact)[0] == 2
    assert other.read_bytes() == before
    assert call(capsys, *compact, "--force")[0] == 0
    assert "overwrite" in call(capsys, "log", other)[1]
    assert call(capsys, "show", other)[0] == 0
    assert call(capsys, "undo", other)[0] == 0
    assert other.read_bytes() == before
    assert call(capsys, "undo", other)[0] == 2


def test_a_session_that_was_compacted_before_it_was_overwritten_keeps_its_past(given, tmp_path, capsys):
    other = tmp_path / "other.json"
    other.write_bytes(given.session.read_bytes().replace(b"crate", b"barrel"))
    raw = other.read_bytes()
    assert call(capsys, "compact", other, "--text", "truncate", "--ratio", 2, "--no-gate", "-o", other)[0] == 0
    compacted = other.read_bytes()
    over = ["compact", given.session, "--text", "truncate", "--ratio", 3, "--no-gate", "-o", other, "--force"]
    for _ in range(2):
        assert call(capsys, *over)[0] == 0
        assert call(capsys, "undo", other)[0] == 0
        assert other.read_bytes() == compacted
    assert call(capsys, "undo", other)[0] == 0
    assert other.read_bytes() == raw


@pytest.mark.parametrize("command", ["run", "text"])
def test_rows_are_not_appended_to_what_holds_no_rows(command, given, tmp_path, capsys):
    out = tmp_path / "notes.txt"
    out.write_bytes(PRECIOUS)
    probes = tmp_path / "probes.jsonl"
    probes.write_text("")
    how = {
        "run": ["--transcripts", given.session, "--probes", probes, "--latent", "truncate", "--model", given.model],
        "text": [given.session, "--text", "truncate", "--ratio", "3"],
    }[command]
    code, told = call(capsys, "eval", command, *how, "--out" if command == "run" else "-o", out)
    assert (code, out.read_bytes()) == (2, PRECIOUS), told


def test_many_sessions_overwrite_only_what_holdfast_made_in_the_folder(given, tmp_path, capsys):
    source, folder = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    folder.mkdir()
    for name in ("a.json", "b.json"):
        (source / name).write_bytes(given.session.read_bytes())
    (folder / "a.json").write_bytes(PRECIOUS)
    command = ["compact", source, "--text", "truncate", "--no-gate", "-o", folder, "--ratio"]
    code, told = call(capsys, *command, 2)
    assert (code, (folder / "a.json").read_bytes()) == (1, PRECIOUS), told
    first = (folder / "b.json").read_bytes()
    code, _ = call(capsys, *command, 4)
    assert (code, (folder / "a.json").read_bytes()) == (1, PRECIOUS)
    assert (folder / "b.json").read_bytes() != first
    assert call(capsys, "undo", folder / "b.json")[0] == 0
    assert (folder / "b.json").read_bytes() == first
