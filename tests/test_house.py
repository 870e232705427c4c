"""The shape of the code base: small functions, small files, nothing loaded before it is needed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "holdfast"
FILES = sorted(SRC.rglob("*.py"))
TOTAL_LINES = 37000  # raised only on purpose, in a commit of its own


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_functions_stay_under_60_lines_and_files_under_400(path):
    text = path.read_text()
    assert text.count("\n") < 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length < 60, f"{node.name} has {length} lines"


def test_the_whole_stays_under_its_ceiling():
    assert sum(path.read_text().count("\n") for path in FILES) < TOTAL_LINES


@pytest.mark.parametrize("command", [["-c", "import holdfast"], ["-m", "holdfast", "--help"]])
def test_import_and_help_load_no_model_library(command):
    code = (
        "import runpy, sys\n"
        f"args = {command!r}\n"
        "sys.argv = ['holdfast', *args[2:]]\n"
        "try:\n"
        "    exec(args[1]) if args[0] == '-c' else runpy.run_module(args[1], run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code\n"
        "heavy = {'torch', 'transformers', 'matplotlib', 'numpy', 'gguf'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_importing_the_package_prints_nothing():
    done = subprocess.run([sys.executable, "-c", "import holdfast"], check=True, capture_output=True)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_every_public_name_can_be_used():
    import holdfast

    assert {name for name in holdfast.__all__ if getattr(holdfast, name) is None} == set()
