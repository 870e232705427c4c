"""The README's commands and Python blocks run as printed, from the built wheel, and print what stands there.

The wheel is installed into an environment of its own beside the libraries of this one, so that what it lacks is missed.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SECONDS = 900  # of one block, on a machine that is busy


def blocks(language):
    return [body for name, body in BLOCK.findall(README) if name == language]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


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


def run(script, folder, scripts):
    """Runs a script by bash in the folder, ends what it left in the background, and returns what it printed."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
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
    return out.read_text()


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
def test_a_shell_block_runs(block, folder, installed):
    for port in ("8000", "8001"):
        block = block.replace(port, str(free_port()))
    run(block, folder, installed)


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
