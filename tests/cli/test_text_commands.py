"""`holdfast compact --text`: exit codes, files that can be read again, and what is told."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.cli.main import main
from holdfast.errors import BadOption
from holdfast.methods.registry import TEXT
from holdfast.text.file_log import log_path, undo_file
from holdfast.transcript.read import read
from stub_endpoint import Stub, serving
from ticker_lines import without_ticker

EXAMPLE = "examples/taskdeck/session.json"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `holdfast compact`; gives exit code, stdout and stderr."""

    def started(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(["compact", *map(str, arguments)])
        out, err = capsys.readouterr()
        code = stop.value.code
        assert isinstance(code, int)
        return code, out, without_ticker(err)

    return started


@pytest.mark.parametrize("method", sorted(set(TEXT) - {"none", "summarize", "prune_tokens", "retrieve"}))
def test_a_compacted_session_is_written_in_its_own_format_and_reads_again(
    run: Run, tmp_path: Path, method: str
) -> None:
    out = tmp_path / "out.json"
    code, told, _ = run(EXAMPLE, "--text", method, "--ratio", 4, "-o", out)
    assert code == 0
    assert "facts in what was compacted" in told
    before, after = read(EXAMPLE), read(out)
    assert after.format == before.format
    assert len(after.turns) <= len(before.turns) + 1
    assert after.turns[0] == before.turns[0]
    assert after.turns[-1].text == before.turns[-1].text


def test_json_lists_every_lost_and_restored_fact(run: Run, tmp_path: Path) -> None:
    told = json.loads(run(EXAMPLE, "--text", "truncate", "--budget", 4000, "-o", tmp_path / "a.json", "--json")[1])
    atoms = told["gate"]["atoms"].values()
    assert sum(counts["lost"] for counts in atoms) == len(told["gate"]["lost"]) > 0
    assert sum(counts["restored"] for counts in atoms) == len(told["gate"]["restored"]) > 0
    assert told["tokens"] <= told["budget"] == 4000


def test_where_rules_alone_overrun_the_budget_one_line_says_so(run: Run, tmp_path: Path) -> None:
    rules = "\n".join(f"Never touch the generated module {n} in any way." for n in range(60))
    said = [
        ("user", "Fix the parser of the settings file."),
        ("assistant", "ok"),
        ("user", rules),
        *[("assistant", "and so on " * 300)] * 6,
    ]
    path = tmp_path / "session.json"
    path.write_text(json.dumps([{"role": role, "content": text} for role, text in said]))
    options = [path, "--text", "truncate", "--budget", 500, "--keep-recent", 0, "-o"]
    told = json.loads(run(*options, tmp_path / "a.json", "--json")[1])
    over = told["tokens"] - 500
    assert told["gate"]["tokens_over"] == over > 0
    assert told["gate"]["rules_restored"] == 60
    (line,) = [line for line in run(*options, tmp_path / "b.json")[1].split("\n") if "over the budget" in line]
    assert f"{over:,} tokens over the budget: 60 rules" in line
    assert line.strip().endswith(told["notes"][-1])


def test_a_session_that_fits_is_copied_byte_for_byte(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert run(EXAMPLE, "--text", "tiered", "--ratio", 1, "-o", out)[0] == 0
    assert out.read_bytes() == Path(EXAMPLE).read_bytes()


def test_strict_exits_with_three_and_writes_nothing(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    code, _, err = run(EXAMPLE, "--text", "truncate", "--ratio", 8, "--strict", "-o", out)
    assert (code, out.exists()) == (3, False)
    assert "would be lost" in err


def test_without_the_gate_nothing_is_said_of_facts(run: Run, tmp_path: Path) -> None:
    told = run(EXAMPLE, "--text", "truncate", "--ratio", 8, "--no-gate", "-o", tmp_path / "a.json")[1]
    assert "facts in what" not in told


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--text", "truncate"], "needs --budget"),
        (["--text", "trunkate", "--ratio", "2"], "no text method is called"),
        (["--text", "truncate", "--ratio", "0.5"], "at least 1"),
        (["--text", "truncate", "--budget", "0"], "at least 1 token"),
        (["--text", "truncate", "--ratio", "2", "--budget", "9"], "either --ratio or --budget"),
        (["--text", "truncate", "--ratio", "2", "--keep-recent", "-1"], "keep_recent"),
        (["--text", "truncate", "--ratio", "2", "--allow-over", "200%"], "allow_over"),
        (["--text", "truncate", "--ratio", "2", "--allow-over", "much"], "must be a share"),
        (["--text", "truncate", "--ratio", "2", "--no-gate", "--strict"], "leave out --no-gate"),
        (["--text", "truncate", "--ratio", "2", "--window", "9"], "--window is not for --text"),
        (["--text", "truncate", "--ratio", "2", "--latent", "kvzip"], "--latent is not for --text"),
        (["--text", "truncate", "--ratio", "2", "--model", "gemma3-270m"], "--model is not for --text"),
        (["--text", "truncate", "--ratio", "2", "--dtype", "bfloat16"], "--dtype is not for --text"),
    ],
)
def test_bad_options_are_one_line_and_exit_with_two(run: Run, tmp_path: Path, options: list[str], reason: str) -> None:
    code, _, err = run(EXAMPLE, *options, "-o", tmp_path / "out.json")
    assert code == 2
    assert reason in err
    assert err.count("\n") == 1


def test_a_session_is_sent_only_where_its_owner_says(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session, asked = Path(EXAMPLE).resolve(), ("--text", "summarize:trigger=0", "--ratio", 3, "-o", "out.json")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOLDFAST_HOME", str(tmp_path / "home"))
    with serving(Stub("## State and next step\n- port 8471 is next")) as stub:
        row = f'[routes.compactor]\nkind = "openai"\nmodel = "stub"\nbase_url = "{stub.url}/v1"\n'
        row += "price_in = 1000000\nprice_out = 0\n"
        Path("holdfast.toml").write_text(row)
        code, _, err = run(session, *asked)
        assert (code, stub.requests) == (2, [])
        assert "not read unasked" in err
        code, out, _ = run(session, *asked, "--config", "holdfast.toml", "--json")
        assert code == 0
        assert json.loads(out)["usd_of_compactor"] > 0
    assert stub.requests


def test_a_configuration_is_refused_where_no_model_is_asked(run: Run, tmp_path: Path) -> None:
    code, _, err = run(EXAMPLE, "--config", "x.toml", "-o", tmp_path / "out.holdfast")
    assert code == 2
    assert "--config" in err


def test_a_session_is_rewritten_in_place_only_where_it_can_be_undone(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "session.json"
    before = Path(EXAMPLE).read_bytes()
    path.write_bytes(before)
    assert run(path, "--text", "truncate", "--ratio", 4, "-o", path)[0] == 0
    assert path.read_bytes() != before
    undo_file(path)
    assert path.read_bytes() == before


def test_a_log_is_no_output(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "session.json"
    path.write_bytes(Path(EXAMPLE).read_bytes())
    run(path, "--text", "truncate", "--ratio", 4, "-o", path)
    log = log_path(path)
    before = log.read_bytes()
    code, _, err = run(EXAMPLE, "--text", "truncate", "--ratio", 4, "-o", log)
    assert code == 2
    assert "the name of a log" in err
    with pytest.raises(BadOption):
        undo_file(path, log)
    assert log.read_bytes() == before


def test_another_name_of_the_input_is_no_output(run: Run, tmp_path: Path) -> None:
    path, name = tmp_path / "session.json", tmp_path / "name.json"
    path.write_bytes(Path(EXAMPLE).read_bytes())
    name.hardlink_to(path)
    code, _, err = run(path, "--text", "truncate", "--ratio", 4, "-o", name)
    assert code == 2
    assert "is the input" in err
    assert path.read_bytes() == name.read_bytes() == Path(EXAMPLE).read_bytes()


def test_no_model_library_is_loaded(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom holdfast.cli.main import main\n"
        f"options = ['--text', 'tiered', '--ratio', '4', '-o', {str(tmp_path / 'o.json')!r}]\n"
        f"try:\n    main(['compact', {EXAMPLE!r}, *options])\n"
        "except SystemExit as stop:\n    assert not stop.code\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
