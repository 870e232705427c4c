"""The README's commands and Python blocks run as printed, from the built wheel, and print what stands there.

The wheel is installed into an environment of its own beside the libraries of this one, so that what it lacks is missed.
In `make test` the commands that run a model find a tiny one under the name of the default, with its tokenizer: whether
they run is tried in seconds. `make test-all` runs them with the model itself.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import venv
from contextlib import suppress
from pathlib import Path

import pytest

from conftest import SHAPE
from holdfast import config
from holdfast.model.bundled_models import DEFAULT, ensure_model
from holdfast.model.bundled_models import folder as model_folder
from ticker_lines import without_ticker

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SECONDS = 900  # of one block, on a machine that is busy


def blocks(language):
    return [body for name, body in BLOCK.findall(README) if name == language]


def free_port():
    """Returns a port that nothing listens on, of those that the system gives to nobody by itself."""
    for port in random.SystemRandom().sample(range(20_000, 30_000), 50):
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise OSError("no port is free")


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """Returns the folder of the commands of an environment that holds the built wheel."""
    place = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", place, ROOT], check=True)
    (wheel,) = place.glob("*.whl")
    venv.create(place / "venv")
    scripts = place / "venv" / "bin"
    subprocess.run([*pip, "--python", scripts / "python", "install", "--no-deps", "--no-index", wheel], check=True)
    (packages,) = (place / "venv" / "lib").glob("python*/site-packages")
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib"))  # behind the wheel, which is found first
    return scripts


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    return tmp_path


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory):
    """Returns a Holdfast folder whose default model is a tiny random one that has the tokenizer of the real one."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    home = tmp_path_factory.mktemp("home")
    tokenizer = AutoTokenizer.from_pretrained(ensure_model())
    model = home / model_folder(DEFAULT).relative_to(config.home())
    LlamaForCausalLM(LlamaConfig(**SHAPE | {"vocab_size": len(tokenizer)})).save_pretrained(model)
    tokenizer.save_pretrained(model)
    return {"HOLDFAST_HOME": str(home)}


def run(script, folder, scripts, **variables):
    """Runs a script by bash in the folder, ends what it left in the background, and returns what it printed.

    Lines of progress, which a slow machine sees and a quick one does not, are left out.
    """
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    env |= {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "120"}
    out = folder / "out.txt"
    with out.open("w") as file:
        child = subprocess.Popen(
            ["bash", "-e", "-c", script], cwd=folder, env=env, stdout=file, stderr=file, start_new_session=True
        )
        try:
            code = child.wait(SECONDS)
        finally:
            try:
                os.killpg(child.pid, signal.SIGTERM)
            except ProcessLookupError:
                child.poll()  # nothing of it is left
    assert code == 0, out.read_text()
    return without_ticker(out.read_text())


def test_the_wheel_is_what_runs(folder, installed):
    where = run("python -c 'import holdfast; print(holdfast.__file__)'", folder, installed)
    assert where.startswith(str(installed.parent))


def matches(shown, printed):
    """Returns True if the printed text is what the README shows, where a line `…` stands for any lines."""
    pattern = "".join(r"(?:.*\n)*?" if line == "…" else re.escape(line) + "\n" for line in shown)
    return re.fullmatch(pattern, printed) is not None


@pytest.mark.parametrize("block", blocks("console"), ids=lambda block: block.splitlines()[0][:40])
def test_a_console_block_prints_what_the_readme_shows(block, folder, installed):
    if "mine.json" in block:
        shutil.copy(ROOT / "examples/taskdeck/session.json", folder / "mine.json")
    for command, *shown in (part.splitlines() for part in block.split("$ ")[1:]):
        printed = run(command, folder, installed)
        assert matches(shown, printed), printed


@pytest.mark.model
@pytest.mark.parametrize("block", blocks("sh"), ids=lambda block: block.splitlines()[0][:40])
@pytest.mark.parametrize("real", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["tiny", "real"])
def test_a_shell_block_runs(block, real, folder, installed, stand_in):
    for port in ("8000", "8001"):
        block = block.replace(port, str(free_port()))
    run(block, folder, installed, **({} if real else stand_in))


@pytest.mark.slow
@pytest.mark.model
def test_the_demo_runs(folder, installed):
    assert "html" in run("holdfast demo", folder, installed)


@pytest.mark.slow
@pytest.mark.model
def test_the_python_block_runs(folder, installed):
    (code,) = blocks("python")
    (folder / "block.py").write_text(code)
    assert "tokens;" in run("python block.py", folder, installed)


def test_every_link_of_the_pages_leads_somewhere():
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
            assert (page.parent / link).exists(), f"{page.relative_to(ROOT)} links to {link}, which is not there"
