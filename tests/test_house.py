"""The shape of the code base: small functions, small files, nothing loaded before it is needed."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SRC = TESTS.parent / "src" / "holdfast"
FILES = sorted(SRC.rglob("*.py"))
LITERAL = re.compile(r" - .*\)\.abs\(\)\.max\(\) <=? ([0-9]*\.[0-9]+|[0-9.]+e-[0-9]+)( \*|$)")
TOTAL_LINES = 72000  # raised only on purpose, in a commit of its own


def test_functions_stay_under_60_lines_and_files_under_400():
    long = [str(path.relative_to(SRC)) for path in FILES if path.read_text().count("\n") >= 400]
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.body[0].lineno + 1  # a command's parameters are its options
                long += [f"{path.relative_to(SRC)}: {node.name} has {length} lines"] if length >= 60 else []
    assert long == []


def test_no_test_compares_tensors_by_a_tolerance_of_its_own():
    """`tolerance.close` derives it from dtype and size."""
    own = []
    for path in sorted(TESTS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())) if path.name != "tolerance.py" else ():
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            apart = ast.unparse(node) if isinstance(node, ast.Compare) else ""
            if called in ("torch.allclose", "torch.isclose", "torch.testing.assert_close") or LITERAL.search(apart):
                own.append(f"{path.relative_to(TESTS)}:{node.lineno}")
    assert own == []


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
