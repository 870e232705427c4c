"""`holdfast recompact` and `holdfast join`, in this process, with a tiny model in a folder."""

from __future__ import annotations

import json

import pytest

from conftest import byte_tokenizer, plain_model
from counted_crates import long_session
from holdfast.cli.main import main
from ticker_lines import without_ticker


def call(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    return stop.value.code


@pytest.fixture
def run(capsys):
    """Run a command line; gives exit code, stdout and stderr."""

    def started(*arguments):
        code = call(*arguments)
        out, err = capsys.readouterr()
        return code, out, without_ticker(err)

    return started


@pytest.fixture(scope="module")
def stored(tmp_path_factory, model):
    """Contexts by method."""
    folder = tmp_path_factory.mktemp("stored")
    messages = [{"role": t.role.value, "content": t.text} for t in long_session().turns]
    (folder / "s.json").write_text(json.dumps(messages))
    out = {}
    for latent in ("kvzip", "truncate"):
        out[latent] = folder / f"{latent}.holdfast"
        given = ["compact", folder / "s.json", "-o", out[latent], "--ratio", "4", "--pin", "system", "--latent", latent]
        assert call(*given, "--model", model) == 0
    return out


def test_recompact_writes_a_smaller_context_that_answers(run, stored, model, tmp_path):
    out, before = tmp_path / "r.holdfast", stored["kvzip"]
    code, text, _ = run("recompact", before, "-o", out, "--ratio", "12", "--model", model, "--json")
    facts = json.loads(text)
    assert code == 0
    assert out.stat().st_size < before.stat().st_size
    assert facts["recipe"]["rounds"] == [{"ratio": 12.0, "allocation": "global", "apart": False}]
    assert facts["bytes"] < json.loads(run("show", before, "--json")[1])["evidence"]["bytes"]
    assert run("ask", out, "How many crates?", "--model", model, "--limit", "3")[0] == 0
    code, text, _ = run("show", out)
    assert code == 0
    assert "rounds 1" in text
    assert "compacted" in text


def test_recompact_takes_slots_and_an_allocation(run, stored, model, tmp_path):
    out = tmp_path / "r.holdfast"
    options = ["--slots", "20", "--allocation", "head", "--apart"]
    code, text, _ = run("recompact", stored["kvzip"], "-o", out, *options, "--model", model)
    assert code == 0
    assert "written" in text
    assert "MB" in text


def test_join_writes_one_context_of_two(run, stored, model, tmp_path):
    a, b, out = stored["kvzip"], stored["truncate"], tmp_path / "j.holdfast"
    code, text, _ = run("join", a, b, "-o", out, "--drop-head", "--model", model, "--json")
    facts = json.loads(text)
    assert code == 0
    assert [p["recipe"]["latent"] for p in facts["recipe"]["parts"]] == ["kvzip", "truncate"]
    ends = [json.loads(run("show", f, "--json")[1])["next_position"] for f in (a, b, out)]
    assert ends[0] < ends[2] < ends[0] + ends[1]  # one system prompt fewer
    assert run("ask", out, "How many crates?", "--model", model, "--limit", "3")[0] == 0
    assert "parts 2" in run("show", out)[1]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "--ratio or --slots"),
        (["--ratio", "8", "--slots", "3"], "--ratio or --slots"),
        (["--ratio", "0.5"], "at least 1"),
        (["--ratio", "2"], "cannot come back"),
        (["--slots", "0"], "at least 1"),
        (["--ratio", "8", "--allocation", "even"], "global, layer"),
        (["--ratio", "8", "--allocation", "pyramid"], "global, layer"),
    ],
)
def test_a_senseless_round_is_one_line_on_stderr(run, stored, model, tmp_path, options, says):
    code, out, err = run("recompact", stored["kvzip"], "-o", tmp_path / "x", "--model", model, *options)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert says in err
    assert not (tmp_path / "x").exists()


def test_a_context_without_scores_is_bad_input(run, stored, model, tmp_path):
    code, _, err = run("recompact", stored["truncate"], "-o", tmp_path / "x", "--ratio", "9", "--model", model)
    assert code == 2
    assert "compact the session again" in err


def test_files_are_checked_before_any_work(run, stored, model, tmp_path):
    a = stored["kvzip"]
    assert "is the input" in run("recompact", a, "-o", a, "--ratio", "9", "--model", model)[2]
    assert "is the input" in run("join", stored["truncate"], a, "-o", a, "--model", model)[2]
    assert "at least two" in run("join", a, "-o", tmp_path / "x", "--model", model)[2]
    assert "no such file" in run("join", a, tmp_path / "none", "-o", tmp_path / "x", "--model", model)[2]
    assert "if you trust it" in run("recompact", a, "-o", tmp_path / "x", "--ratio", "9")[2]


def test_contexts_of_another_model_are_not_joined(run, stored, tmp_path):
    plain_model("llama", seed=1).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    code, _, err = run("join", *stored.values(), "-o", tmp_path / "x", "--model", tmp_path)
    assert code == 2
    assert "load the model that it was made with" in err
