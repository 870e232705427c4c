"""Every command, in this process, with a tiny model in a folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import byte_tokenizer, plain_model
from counted_crates import crates, long_session
from holdfast.cli.main import main
from ticker_lines import without_ticker

TASKDECK = Path(__file__).parents[2] / "examples" / "taskdeck" / "session.json"


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    path = tmp_path_factory.mktemp("session") / "s.json"
    messages = [{"role": t.role.value, "content": t.text} for t in long_session().turns]
    path.write_text(json.dumps(messages))
    return path


@pytest.fixture
def run(capsys):
    """Run a command line; gives exit code, stdout and stderr."""

    def call(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return stop.value.code, out, without_ticker(err)

    return call


@pytest.fixture(scope="module")
def stored(tmp_path_factory, model, session):
    out = tmp_path_factory.mktemp("stored") / "s.holdfast"
    with pytest.raises(SystemExit) as stop:
        main(["compact", str(session), "-o", str(out), "--ratio", "4", "--model", model])
    assert stop.value.code == 0
    return out


def test_read_says_what_is_in_a_session(run):
    code, out, _ = run("read", TASKDECK, "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["turns"] >= 57
    assert set(facts["tool_calls"]) == {"read_file", "write_file", "run_command"}


def test_compact_writes_a_context_and_its_sizes(run, model, session, tmp_path):
    out = tmp_path / "s.holdfast"
    code, text, _ = run("compact", session, "-o", out, "--ratio", "4", "--model", model, "--json", "--no-gate")
    facts = json.loads(text)
    assert code == 0
    assert out.exists()
    assert facts["bytes"] < facts["bytes_full"]
    assert facts["recipe"]["ratio"] == 4


def test_compact_of_a_window_takes_the_newest_turns(run, model, session, tmp_path):
    code, text, _ = run(
        "compact", session, "-o", tmp_path / "w", "--window", "400", "--model", model, "--json", "--latent", "truncate"
    )
    assert code == 0
    assert json.loads(text)["tokens"] <= 400


def test_before_a_compaction_it_says_what_is_in_it_and_what_to_do_with_the_rest(run, model, session, tmp_path):
    code, text, said = run(
        "compact", session, "-o", tmp_path / "w", "--window", "400", "--model", model, "--json", "--latent", "truncate"
    )
    facts = json.loads(text)
    assert code == 0
    first = said.replace(",", "").splitlines()[0]
    whole = facts["tokens"] + facts["tokens_left_out"]
    assert f"{whole} tokens: {facts['tokens_compacted']} are compacted" in first
    assert f"{facts['tokens'] - facts['tokens_compacted']} stay word for word" in first
    assert f"{facts['tokens_left_out']} are left out" in first
    assert "on this machine" in first
    assert "--text tiered" in said
    whole_session = run("compact", session, "-o", tmp_path / "all", "--model", model, "--latent", "truncate")[2]
    assert "0 are left out" in whole_session
    assert "--text tiered" not in whole_session


def test_show_lists_segments_and_turns(run, stored):
    code, out, _ = run("show", stored, "--turns")
    assert code == 0
    assert "latent surrogate:otherwise=informed" in out
    assert "facts found" in out
    assert "action" in out
    assert json.loads(run("show", stored, "--json")[1])["model_digest"]


def test_ask_answers_over_a_stored_context(run, stored, model):
    assert "if you trust it" in run("ask", stored, "How many crates?")[2]
    code, out, _ = run("ask", stored, "How many crates?", "--model", model, "--limit", "5", "--json")
    assert code == 0
    assert json.loads(out)["question"] == "How many crates?"


def test_ask_refuses_another_model(run, stored, tmp_path):
    plain_model("llama", seed=1).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    code, _, err = run("ask", stored, "x", "--model", tmp_path)
    assert code == 2
    assert "load the model that it was made with" in err


def test_eval_run_score_and_report_pass_files_to_each_other(run, model, session, tmp_path):
    probes, rows, page = tmp_path / "probes.jsonl", tmp_path / "rows.jsonl", tmp_path / "report.html"
    probes.write_text("\n".join(crates(n).model_dump_json() for n in (3, 20)))
    measured = ["eval", "run", "--transcripts", session, "--probes", probes, "--latent", "kvzip", "--latent", "full"]
    code, out, _ = run(*measured, "--ratio", "2", "--window", "400", "--out", rows, "--model", model, "--json")
    assert code == 0
    assert json.loads(out)["rows"] == 6
    scores = json.loads(run("eval", "score", rows, "--json")[1])
    assert [(s["method"], s["ratio"]) for s in scores] == [("full", 1.0), ("none", None), ("kvzip", 2.0)]
    assert run("eval", "report", rows, "-o", page)[0] == 0
    assert page.read_text().startswith("<!doctype html>")


def test_methods_are_listed_with_their_options(run):
    listed = {(m["level"], m["name"]): m for m in json.loads(run("methods", "--json")[1])}
    assert listed["latent", "kvzip"]["options"]["allocation"] == "global"
    assert listed["latent", "virtual_tokens_uniform"]["options"]["weights"] == "uniform"
    assert (listed["latent", "informed"]["kind"], listed["latent", "knorm"]["kind"]) == ("recommended", "baseline")
    assert listed["text", "clamp"]["options"] == {"head": 128, "tail": 128, "errors": 8}
    shown = run("methods")[1]
    assert all(name in shown for _, name in listed)
    assert shown.index("latent method: recommended") < shown.index("latent method: baseline") < shown.index("knorm")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["bogus"], 2, "No such command"),
        (["read"], 2, "Missing argument"),
        (["read", "/nonexistent.json"], 2, "no such file"),
        (["read", "."], 2, ""),
        (["compact", TASKDECK], 2, "--output"),
        (["compact", TASKDECK, "-o", "x", "--ratio", "0.5"], 2, "at least 1"),
        (["compact", TASKDECK, "-o", "x", "--ratio", "nan"], 2, "at least 1"),
        (["compact", TASKDECK, "-o", "x", "--latent", "kvzp"], 2, "there are: informed, surrogate, "),
        (["compact", TASKDECK, "-o", "x", "--latent", "kvzip:chunk=x"], 2, "must be of type int"),
        (
            ["compact", TASKDECK, "-o", "x", "--latent", "kvzip:depth=1"],
            2,
            "it has: allocation, cap, floor",
        ),
        (["compact", TASKDECK, "-o", "x", "--dtype", "float16"], 2, "float16"),
        (["compact", TASKDECK, "-o", "x", "--model", "/nonexistent"], 1, "cannot load model"),
        (["ask", TASKDECK, "Which ticket?"], 2, f"is a session; compact it first: holdfast compact {TASKDECK} -o "),
        (["ask", __file__, "Which ticket?"], 2, "`holdfast compact` makes one from a session"),
        (["recompact", TASKDECK, "-o", "x", "--ratio", "2"], 2, "compact it first"),
        (["read", TASKDECK.parent], 2, "one of its session files, e.g. probes.jsonl, session.json"),
        (["compact", TASKDECK, "-o", "x", "--device", "cuda"], 2, "use --device cpu"),
        (["compact", TASKDECK, "-o", "x", "--device", "gpu"], 2, "there are cpu, cuda"),
        (["compact", TASKDECK, "-o", "x", "--model", Path(__file__).parent], 1, "the folder has no config.json"),
        (["compact", TASKDECK, "-o", "x", "--model", "nobody/no-such-model"], 1, "unset HF_HUB_OFFLINE"),
        (["show", "/nonexistent.holdfast"], 2, "no such file"),
        (["compact", TASKDECK, "-o", TASKDECK], 2, "is the input"),
        (["compact", TASKDECK, "-o", "."], 2, "give a file in a folder"),
        (["compact", TASKDECK, "-o", "/nonexistent/x"], 2, "give a file in a folder"),
        (["compact", TASKDECK, "-o", Path(__file__)], 2, "stands there already"),
        (["eval", "report", TASKDECK, "-o", TASKDECK], 2, "is the input"),
        (["fetch", "gpt-9"], 2, "smollm2-135m"),
        (["eval", "score", "/nonexistent.jsonl"], 2, "nonexistent.jsonl"),
        (["eval", "report", TASKDECK, "-o", "x.html"], 2, "session.json:1"),
        (["eval", "run", "--transcripts", "/nonexistent", "--probes", "p", "--latent", "kvzip", "--out", "o"], 2, "no"),
    ],
)
def test_a_mistake_is_one_line_on_stderr_with_its_exit_code(run, arguments, code, says):
    got, out, err = run(*arguments)
    assert got == code
    assert out == ""
    assert err.startswith("holdfast: ")
    assert err.count("\n") == 1
    assert says in err


def test_a_session_longer_than_the_model_is_refused_with_the_way_out(run, session, tmp_path):
    plain_model("llama", max_position_embeddings=556).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    code, _, err = run("compact", session, "-o", tmp_path / "x", "--model", tmp_path)
    assert code == 2
    assert "use --window 300 " in err


def test_pins_choose_what_stays(run, model, session, tmp_path):
    sizes = {}
    how = ("--latent", "truncate", "--no-gate", "--model", model, "--json", "--force")
    for pin in ("none", "system,task,user"):
        _, text, _ = run("compact", session, "-o", tmp_path / "p", "--pin", pin, *how)
        sizes[pin] = json.loads(text)["tokens_compacted"]
    assert sizes["none"] > sizes["system,task,user"] > 0
    assert run("compact", session, "-o", tmp_path / "p", "--pin", "users")[0] == 2


def test_a_budget_below_what_is_pinned_says_what_is_and_what_to_do(run, model, session, tmp_path):
    code, _, err = run("compact", session, "-o", tmp_path / "p", "--budget", "20", "--model", model)
    assert code == 2
    least = int(err.partition("give at least ")[2].split()[0])
    pinned = err.partition("stay verbatim (")[2].partition(")")[0]
    assert all(kind in pinned for kind in ("system", "task"))
    assert "--pin none" in err
    assert "--keep-recent 0" in err
    assert run("compact", session, "-o", tmp_path / "p", "--budget", least, "--no-gate", "--model", model)[0] == 0


def test_what_a_session_says_is_shown_and_never_interpreted(run, tmp_path):
    call = {"id": "1", "type": "function", "function": {"name": "[/bold]\x1b[31m", "arguments": "{}"}}
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    path = tmp_path / "a[red]b.json"
    path.write_text(json.dumps(messages))
    code, out, _ = run("read", path)
    assert code == 0
    assert "a[red]b.json" in out.replace("\n", "")
    assert "[/bold]" in out
    assert "\x1b" not in out


SAID = ":rocket:\tgo\u00a0on \u3000 [b] \u26a0 \U0001f600"


def test_a_turn_is_printed_as_it_was_said(run, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"role": "user", "content": SAID}, {"role": "assistant", "content": "x"}]))
    assert SAID in run("expand", path, "1")[1].split("\n")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_an_output_that_has_not_all_characters_is_written_all_the_same(tmp_path, encoding, options):
    path = tmp_path / os.fsdecode(b"a\xff.json")
    path.write_text(json.dumps([{"role": "user", "content": SAID}, {"role": "assistant", "content": "x"}]))
    command = [sys.executable, "-c", "from holdfast.cli.main import main; main()", "show", path, *options]
    environment = {**os.environ, "PYTHONIOENCODING": f"{encoding}:strict"}
    out = subprocess.run(command, check=True, capture_output=True, env=environment).stdout.decode(encoding)
    if options:
        assert SAID in [line["text"] for line in json.loads(out)["lines"]]
    else:
        assert ":rocket:\tgo" in out


@pytest.mark.parametrize("options", [["--temperature", "nan"], ["--temperature", "-1"], ["--limit", "0"]])
def test_senseless_sampling_is_bad_input(run, stored, model, options):
    assert run("ask", stored, "x", "--model", model, *options)[0] == 2


@pytest.mark.parametrize("options", [[], ["--lenient"]])
def test_an_orphaned_result_is_left_out_and_said(run, tmp_path, options):
    path = tmp_path / "orphan.json"
    path.write_text(
        json.dumps([{"role": "user", "content": "x"}, {"role": "tool", "tool_call_id": "9", "content": "y"}])
    )
    code, out, _ = run("read", path, *options, "--json")
    assert code == 0
    assert json.loads(out)["skipped"]
