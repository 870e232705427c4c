"""The routing table: which model does which task, with its prices and limits."""

import subprocess
import sys
from pathlib import Path

import pytest

from holdfast import config
from holdfast.engine.routing import Route, Task, chat_for_task, open_route, read_routes
from holdfast.errors import BadInput, BadOption
from stub_endpoint import Stub, serving

TABLE = """
[routes.compactor]
kind = "openai"
model = "stub"
base_url = "{url}/v1"
key_env = "STUB_KEY"
price_in = 0.25
price_out = 1.0
max_input = 1000
max_output = 50
timeout = 5

[routes.planner]
kind = "local"
model = "smollm2-135m"
"""


@pytest.fixture
def table(tmp_path, monkeypatch):
    """The user's own file, in a Holdfast folder that is not the working folder."""
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("HOLDFAST_HOME", str(home))
    monkeypatch.delenv(config.CONFIG_VARIABLE, raising=False)
    return home / config.CONFIG


def test_a_row_is_called_with_its_limits_and_its_key(table, monkeypatch):
    monkeypatch.setenv("STUB_KEY", "sk-of-the-row")
    with serving(Stub("fine")) as stub:
        table.write_text(TABLE.format(url=stub.url))
        chat = chat_for_task(Task.COMPACTOR)
        assert chat("", "x", 100, 60).text == "fine"
    assert (chat.name, chat.max_input) == ("stub", 1000)
    assert stub.requests[0]["max_tokens"] == 50
    assert stub.headers[0]["authorization"] == "Bearer sk-of-the-row"


def test_a_missing_key_names_its_variable(table, monkeypatch):
    monkeypatch.delenv("STUB_KEY", raising=False)
    table.write_text(TABLE.format(url="http://127.0.0.1:9"))
    with pytest.raises(BadOption, match="STUB_KEY"):
        chat_for_task(Task.COMPACTOR)


def test_a_task_without_a_row_and_no_file_at_all_have_no_model(table):
    assert chat_for_task(Task.COMPACTOR) is None
    table.write_text(TABLE.format(url="http://127.0.0.1:9"))
    assert chat_for_task(Task.VALIDATOR) is None


def row(model):
    return f'[routes.planner]\nkind = "local"\nmodel = "{model}"'


def test_a_file_of_the_working_folder_is_not_read_unasked(table):
    Path(config.CONFIG).write_text(row("hostile"))
    assert read_routes() == {}
    table.write_text(row("own"))
    assert read_routes()[Task.PLANNER].model == "own"


def test_a_named_file_goes_before_the_users_own(table, tmp_path, monkeypatch):
    table.write_text(row("own"))
    (tmp_path / "named.toml").write_text(row("of the variable"))
    (tmp_path / "other.toml").write_text(row("of the call"))
    monkeypatch.setenv(config.CONFIG_VARIABLE, str(tmp_path / "named.toml"))
    assert read_routes()[Task.PLANNER].model == "of the variable"
    assert read_routes(tmp_path / "other.toml")[Task.PLANNER].model == "of the call"


def test_a_named_file_that_is_not_there_is_an_error_and_never_passed_over(table, tmp_path, monkeypatch):
    table.write_text(row("own"))
    monkeypatch.setenv(config.CONFIG_VARIABLE, str(tmp_path / "gone.toml"))
    with pytest.raises(BadInput, match=r"gone\.toml"):
        read_routes()
    with pytest.raises(BadInput, match=r"away\.toml"):
        read_routes(tmp_path / "away.toml")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("routes = 3", "routes"),
        ("[routes.cook]\nkind='local'\nmodel='x'", "routes.cook"),
        ("[routes.planner]\nkind='ftp'\nmodel='x'", "routes.planner.kind"),
        ("[routes.planner]\nkind='local'", "routes.planner.model"),
        ("[routes.planner]\nkind='local'\nmodel='x'\nprice_in=-1\nprice_out=1", "routes.planner.price_in"),
        ("[routes.planner]\nkind='local'\nmodel='x'\nprice_in=1", "both price_in and price_out"),
        ("[routes.planner]\nkind='local'\nmodel='x'\nprice_in=nan\nprice_out=1", "routes.planner.price_in"),
        ("[routes.planner]\nkind='local'\nmodel='x'\ntimeout=0", "routes.planner.timeout"),
        ("[routes.planner]\nkind='openai'\nmodel='x'\nbase_url='file:///etc'", "routes.planner.base_url"),
        ("[routes.planner]\nkind='openai'\nmodel='x'\nkey='sk-1'", "routes.planner.key"),
        ("[routes", "TOML"),
    ],
)
def test_a_bad_file_names_the_key(table, text, key):
    table.write_text(text)
    with pytest.raises(BadInput, match=key.replace(".", r"\.")):
        read_routes()


def test_reading_the_table_loads_no_sdk_and_no_model_library():
    code = (
        "import sys, holdfast.engine.routing as r\n"
        "r.open_route(r.Route(kind='openai', model='x')); r.open_route(r.Route(kind='local', model='x'))\n"
        "assert not {'openai', 'anthropic', 'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.model
def test_the_embedded_model_answers_in_its_time():
    from holdfast.errors import Failed

    chat = open_route(Route(kind="local", model="smollm2-135m", max_output=8))
    reply = chat("Answer in one word.", "What is the capital of France?", 100, 600)
    assert "Paris" in reply.text
    assert reply.tokens_out <= 8 < reply.tokens_in
    with pytest.raises(Failed, match="no answer within"):
        chat("", "x", 100, 1e-6)
    with pytest.raises(Failed, match="reads and writes at most"):
        chat("", "word " * 9000, 100, 600)


def test_the_example_can_be_read():
    routes = read_routes(Path(__file__).parents[2] / "examples" / "holdfast.toml")
    assert set(routes) == {Task.COMPACTOR, Task.PLANNER, Task.VALIDATOR}
