"""`holdfast serve` as its user runs it: what it refuses, and a whole life of it with a tiny model in a folder."""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import pytest

from child import Child, child
from holdfast.cli import console
from holdfast.cli.main import main
from holdfast.storage.store import Store
from ticker_lines import without_ticker
from waiting import PATIENCE

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command; gives exit code, stdout and stderr. It must end before it loads a model."""
    monkeypatch.setattr(console, "engine", lambda *_: pytest.fail("the model was loaded"))
    monkeypatch.delenv("HOLDFAST_API_KEYS", raising=False)

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(["serve", "--port", "0", *map(str, arguments)])
        out, err = capsys.readouterr()
        return int(str(stop.value.code)), out, without_ticker(err)

    return call


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--host", "0.0.0.0"], "--api-key-file"),
        (["--host", "::"], "HOLDFAST_API_KEYS"),
        (["--api-key-file", "nowhere.txt"], "nowhere.txt"),
        (["--port", "65536"], "65535"),
        (["--ratio", "0.5"], "ratio"),
        (["--latent", "nonsense"], "nonsense"),
        (["--slots", "0"], "--slots"),
        (["--keep-recent", "-1"], "--keep-recent"),
        (["--pin", "nonsense"], "nonsense"),
        (["--trigger", "often"], "--trigger"),
        (["--trigger", "0"], "got 0"),
        (["--trigger", "120%"], "120%"),
        (["--low", "0"], "--low"),
        (["--accept", "0"], "--accept"),
        (["--accept", "1.5"], "--accept"),
        (["--volatile", "("], "regular expression"),
        (["--low", "1"], "--low"),
        (["--idle", "-1"], "--idle"),
        (["--idle", "nan"], "--idle"),
        (["--cool-down", "-1"], "--cool-down"),
        (["--memory", "0"], "--memory"),
        (["--memory", "nan"], "--memory"),
        (["--max-body", "0"], "body"),
        (["--max-requests", "0"], "concurrency"),
        (["--max-per-minute", "0"], "per minute"),
        (["--max-tokens", "0"], "max tokens"),
        (["--max-seconds", "0"], "seconds"),
        (["--max-seconds", "nan"], "seconds"),
        (["--max-seconds", "inf"], "seconds"),
        (["--drain", "-1"], "drain"),
        (["--drain", "nan"], "drain"),
        (["--drain", "inf"], "drain"),
        (["--nonsense"], "--nonsense"),
        (["surplus"], "surplus"),
    ],
)
def test_a_wrong_option_is_told_in_one_line_before_the_model_is_loaded(run: Run, options: list[str], told: str) -> None:
    code, out, err = run(*options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert told in err
    assert "Traceback" not in err


def test_a_port_that_is_taken_is_told_before_the_model_is_loaded(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, _, err = run("--port", taken.getsockname()[1])
    assert (code, err.count("\n")) == (1, 1)
    assert "--port" in err


def test_help_says_what_every_option_is_for(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    rows = re.findall(r"^  (--[a-z-]+)(.*(?:\n {6,}.*)*)", out, re.MULTILINE)
    named = {name for name, _ in rows}
    assert named >= {"--model", "--host", "--port", "--store", "--api-key-file", "--trigger", "--drain", "--help"}
    for name, about in rows:
        assert re.search(r"[A-Za-z]{2,}.*[.:)]", about.replace("\n", " ")), f"{name} says nothing"


# a whole life


@contextmanager
def serving(model: str, store: Path, *options: str) -> Iterator[Child]:
    """A server in a process of its own."""
    with child("-m", "holdfast", "serve", "--model", model, "--store", str(store), "--port", "0", *options) as one:
        yield one


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys.txt"
    path.write_text("# of the team\nright\n\nother\n")
    return path


def test_a_server_keeps_its_sessions_when_it_is_told_to_stop(model: str, keys: Path, tmp_path: Path) -> None:
    history = [{"role": "user", "content": "Look at the files of this folder. " * 8}]
    store, answers, sessions = tmp_path / "store", [], []
    for how in (signal.SIGTERM, signal.SIGINT):
        with serving(model, store, "--api-key-file", str(keys), "--max-tokens", "8") as served:
            url = served.address()
            assert httpx.get(f"{url}/v1/models", timeout=PATIENCE).status_code == 401
            with openai.OpenAI(base_url=f"{url}/v1", api_key="right") as client:
                answers.append(client.chat.completions.create(model="any", messages=history))  # type: ignore[arg-type]
            mine = {"authorization": "Bearer right"}
            heard = httpx.get(f"{url}/holdfast/sessions", headers=mine, timeout=PATIENCE).json()
            sessions.append(heard)
            code, err = served.end(how), served.output()
        assert (code, "Traceback" in err) == (0, False)
        message = answers[-1].choices[0].message
        history += [{"role": "assistant", "content": message.content}, {"role": "user", "content": "And?"}]
    first, second = (answer.usage for answer in answers)
    assert second.prompt_tokens_details.cached_tokens >= first.prompt_tokens + first.completion_tokens
    assert second.completion_tokens <= 8
    (one,), (two,) = sessions
    assert (two["id"], two["turns"]) == (one["id"], 4)
    kinds = [event["kind"] for event in Store(store).events(one["id"])]
    assert kinds.count("saved") == 2  # so that the second start read nothing again


def test_a_folder_without_a_model_is_told_in_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["serve", "--model", str(tmp_path / "nowhere"), "--port", "0", "--store", str(tmp_path / "store")])
    err = capsys.readouterr().err
    assert stop.value.code == 1
    assert "cannot load model" in err.splitlines()[-1]
    assert not (tmp_path / "store").exists()
