"""version, models, config and init: what is here, and how an agent gets there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast import __version__
from holdfast.cli.agent_settings import AGENTS
from holdfast.cli.main import SECTIONS, app, main
from holdfast.model.bundled_models import BUNDLES, folder
from ticker_lines import without_ticker

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, without_ticker(err)

    return call


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home, a Holdfast folder and a project without anything in them."""
    for name in ("home", "project"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HOLDFAST_HOME", str(tmp_path / "holdfast"))
    monkeypatch.delenv("HOLDFAST_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path


def test_version_names_holdfast_and_the_libraries(run: Run) -> None:
    assert f"holdfast {__version__} in " in run("version")[1]
    told = json.loads(run("version", "--json")[1])
    assert told["torch"]
    assert told["holdfast"] == __version__


@pytest.mark.usefixtures("here")
def test_models_says_what_is_here_and_what_can_be_fetched(run: Run) -> None:
    name = "smollm2-135m"
    assert f"holdfast fetch {name}" in run("models")[1]
    folder(name).mkdir(parents=True)
    (folder(name) / "config.json").write_text(" " * 2_000_000)
    rows = {row["name"]: row for row in json.loads(run("models", "--json")[1])}
    assert set(rows) == set(BUNDLES)
    assert (rows[name]["megabytes"], rows[name]["positions"]) == (2, 8192)
    assert f"here: {folder(name)} (2 MB)" in run("models")[1]
    assert all(row["licence"] and row["download_megabytes"] for row in rows.values())


def test_config_says_where_everything_is_and_what_was_found(
    run: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = json.loads(run("config", "--json")[1])
    assert places["folder"]["source"] == "$HOLDFAST_HOME"
    assert places["configuration"]["path"] == str(here / "holdfast" / "holdfast.toml")
    assert not any(place["exists"] for place in places.values())
    assert "(not there yet)" in run("config")[1]
    own = here / "own.toml"
    own.write_text("")
    monkeypatch.setenv("HOLDFAST_CONFIG", str(own))
    (here / "holdfast" / "models").mkdir(parents=True)
    places = json.loads(run("config", "--json")[1])
    assert (places["configuration"]["path"], places["configuration"]["exists"]) == (str(own), True)
    assert "$HOLDFAST_CONFIG" in places["configuration"]["source"]
    assert places["models"]["exists"]


@pytest.mark.parametrize("name", AGENTS)
@pytest.mark.parametrize("to", ["--proxy", "--serve"])
@pytest.mark.usefixtures("here")
def test_init_names_the_address_in_every_agents_settings(run: Run, name: str, to: str) -> None:
    _, out, _ = run("init", name, to, "--url", "http://127.0.0.1:8123/v1", "--json")
    told = json.loads(out)
    settings = told["content"] + told["command"]
    assert "http://127.0.0.1:8123" in settings
    assert "8123/v1/v1" not in settings
    assert told["start"].startswith(f"holdfast {to[2:]} ")
    assert "8123" in told["start"]
    assert not list(Path().rglob("*"))
    assert not list(Path.home().rglob("*"))


@pytest.mark.parametrize("name", [name for name, agent in AGENTS.items() if name != "cline"])
@pytest.mark.usefixtures("here")
def test_init_writes_a_new_file_and_never_changes_one(run: Run, name: str) -> None:
    code, out, _ = run("init", name, "--write", "--json")
    path = Path(json.loads(out)["file"])
    assert (code, path.read_text()) == (0, json.loads(out)["content"])
    path.write_text("mine")
    code, out, err = run("init", name, "--write")
    assert (code, out, path.read_text()) == (2, "", "mine")
    assert "stands there already and is not changed" in err
    path.unlink()
    path.symlink_to("elsewhere")
    assert run("init", name, "--write")[0] == 2
    assert not path.exists()


@pytest.mark.usefixtures("here")
def test_init_says_what_it_cannot_do_and_what_to_do_instead(run: Run) -> None:
    assert "claude-code, codex" in run("init", "emacs")[2]
    assert "run the command that `holdfast init cline` prints" in run("init", "cline", "--write")[2]
    assert "must be an address" in run("init", "codex", "--url", "localhost")[2]


def test_every_command_is_listed_with_a_whole_sentence_and_can_be_completed() -> None:
    listed = {function.__name__ for functions in SECTIONS.values() for function in functions} | {"eval"}
    assert listed == {command.callback.__name__ for command in app.registered_commands if command.callback} | {"eval"}
    text = subprocess.run(
        [sys.executable, "-m", "holdfast", "--help"],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "80"},
    ).stdout
    assert "..." not in text.partition("Sessions:")[2]
    assert "--install-completion" in text
    assert max(map(len, text.splitlines())) <= 80
