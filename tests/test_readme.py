"""Every command and every Python block of the README runs as it is printed, and prints what stands there."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
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


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    return tmp_path


def run(script, folder):
    """Runs a script by bash in the folder, ends what it left in the background, and returns what it printed."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT / "src"), "COLUMNS": "120"}
    out = folder / "out.txt"
    with out.open("w") as file:
        child = subprocess.Popen(
            ["bash", "-e", "-c", script],
            cwd=folder,
            env=env,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
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


def matches(shown, printed):
    """Returns True if the printed text is what the README shows, where a line `…` stands for any lines."""
    pattern = "".join(r"(?:.*\n)*?" if line == "…" else re.escape(line) + "\n" for line in shown)
    return re.fullmatch(pattern, printed) is not None


@pytest.mark.parametrize("block", blocks("console"), ids=lambda block: block.splitlines()[0][:40])
def test_a_console_block_prints_what_the_readme_shows(block, folder):
    if "mine.json" in block:
        shutil.copy(ROOT / "examples/taskdeck/session.json", folder / "mine.json")
    for command, *shown in (part.splitlines() for part in block.split("$ ")[1:]):
        printed = run(command, folder)
        assert matches(shown, printed), printed


@pytest.mark.model
@pytest.mark.parametrize("block", blocks("sh"), ids=lambda block: block.splitlines()[0][:40])
def test_a_shell_block_runs(block, folder):
    for port in ("8000", "8001"):
        block = block.replace(port, str(free_port()))
    run(block, folder)


@pytest.mark.model
def test_the_python_block_runs(folder):
    (code,) = blocks("python")
    (folder / "block.py").write_text(code)
    assert "tokens;" in run(f"{sys.executable} block.py", folder)


def test_every_link_of_the_pages_leads_somewhere():
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
            assert (page.parent / link).exists(), f"{page.relative_to(ROOT)} links to {link}, which is not there"
