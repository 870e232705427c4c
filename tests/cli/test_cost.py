"""`holdfast cost`, in this process: the table, JSON, the plot, and refusals of one line."""

from __future__ import annotations

import json
import re

import pytest
from rich.table import Table

from holdfast.cli import console
from holdfast.cli.main import main
from ticker_lines import without_ticker

PRICES = '[models."m"]\ninput = 3\noutput = 15\n[models."cheap"]\ninput = 1\noutput = 2\n'


@pytest.fixture
def run(capsys, tmp_path):
    """Cost of a made-up session; gives exit code, stdout and stderr."""
    messages = [{"role": "user", "content": "task " * 500}]
    for at in range(30):
        messages += [
            {"role": "assistant", "content": f"step {at}"},
            {"role": "user", "content": f"found{at % 7} " * 200},
        ]
    (tmp_path / "s.json").write_text(json.dumps(messages))
    (tmp_path / "p.toml").write_text(PRICES)

    def started(*arguments, prices="m"):
        files = (tmp_path / "s.json", "--price-file", tmp_path / "p.toml", "--prices", prices)
        with pytest.raises(SystemExit) as stop:
            main(["cost", *map(str, (*files, *arguments))])
        out, err = capsys.readouterr()
        return stop.value.code, out, without_ticker(err)

    return started


def test_the_table_names_its_baseline_its_prices_and_what_was_assumed(run):
    code, out, err = run("--trigger", "3000")
    assert (code, err) == (0, "")
    for said in ("of none", "cache+truncate", "plan+truncate", "before a next call", "no model was called", "30 calls"):
        assert said in out
    for said in ("no cache_write price: 1.25 x input", "p.toml", "USD per MTok", "times not recorded"):
        assert said in out


def test_no_column_of_a_table_is_cut_off_where_stdout_is_no_terminal(capsys):
    numbers = [str(n) * 12 for n in range(9)] * 2
    console.print_whole(Table(*numbers))
    assert set(numbers) <= set(re.findall("[0-9]+", capsys.readouterr().out))


def test_json_has_every_call_and_the_baselines_share(run):
    code, out, _ = run("--json", "--trigger", "3000", "--strategies", "cache,none,plan+truncate")
    told = json.loads(out)
    assert code == 0
    assert told["baseline"] == "cache"
    cache, none, plan = told["strategies"]
    assert cache["share_of_baseline"] == 1
    assert none["usd"] > cache["usd"] >= plan["usd"]
    assert none["usd"] == pytest.approx(sum(none["usd_per_call"]))
    assert len(none["prompts"]) == none["turns"] == told["calls"] == 30
    assert plan["advice"]["when"] in ("now", "later", "never")
    assert all(made["from_turn"] >= 1 and made["freed"] > 0 for made in plan["compactions"])


def test_life_and_caching_can_be_chosen(run):
    def usage(*arguments):
        return json.loads(run("--json", "--strategies", "cache", *arguments)[1])["strategies"][0]

    assert usage()["written"] > 0
    assert usage("--ttl", "1h")["written"] == 0 < usage("--ttl", "1h")["written_1h"]
    assert usage("--caching", "automatic")["written"] == 0


def test_the_gate_is_on_and_can_be_left_out(run):
    def told(*arguments):
        return json.loads(run("--json", "--strategies", "cache+truncate@3000", *arguments)[1])["terms"]["gate"]

    assert (told(), told("--no-gate")) == (True, False)
    assert "is put back" in run()[1]
    assert "the gate is off" in run("--no-gate")[1]


def test_the_plot_is_a_picture(run, tmp_path):
    code, _, err = run("--plot", tmp_path / "c.png", "--strategies", "none,truncate@3000")
    assert code == 0
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    assert "c.png written" in err.replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--prices", "nobody-knows"), "knows no model"),
        (("--strategies", "magic"), "magic"),
        (("--strategies", "best+"), "no text method"),
        (("--trigger", "0"), "the trigger must be at least 1 token, got 0"),
        (("--trigger", "-5"), "the trigger must be at least 1 token, got -5"),
        (("--budget", "0"), "the budget must be from 1"),
        (("--trigger", "100", "--budget", "200"), "budget"),
        (("--ttl", "1d"), "--ttl"),
        (("--caching", "never"), "--caching"),
        (("--reread", "200%"), "reread"),
        (("--risk", "much"), "--risk"),
        (("--remaining", "0"), "remain"),
        (("--seconds-per-turn", "-1"), "seconds"),
        (("--seconds-per-turn", "nan"), "seconds"),
        (("--keep-recent", "-1"), "keep_recent"),
        (("--compactor", "nobody-knows"), "knows no model"),
        (("--plot", "nowhere/c.png"), "folder that exists"),
    ],
)
def test_what_cannot_be_done_is_one_line(run, arguments, says):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("turns", [[{"role": "user", "content": "task"}], [{"role": "user", "content": "task"}] * 3])
def test_a_session_that_called_no_model_has_nothing_to_price(run, tmp_path, turns):
    (tmp_path / "s.json").write_text(json.dumps(turns))
    code, out, err = run()
    assert (code, out) == (2, "")
    assert "no turn of an assistant" in err


def test_a_typo_in_a_price_file_is_named(run, tmp_path):
    (tmp_path / "p.toml").write_text('[models."m"]\ninptu = 3\noutput = 15\n')
    code, _, err = run()
    assert code == 2
    assert "models.m.inptu" in err
