"""The user's folder: the environment is read in one place, when it is asked for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"HOLDFAST_HOME": "/a", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/a"),
        ({"XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/b/holdfast"),
        ({"HOME": "/c"}, "/c/.cache/holdfast"),
        ({"HOLDFAST_HOME": "", "HOME": "/c"}, "/c/.cache/holdfast"),
    ],
)
def test_home_is_the_explicit_folder_then_xdg_then_the_cache(environment, expected):
    names = ("HOLDFAST_HOME", "XDG_CACHE_HOME", "HOME")
    rest = {key: value for key, value in os.environ.items() if key not in names}
    code = "from holdfast.config import home; print(home())"
    source = {"PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=rest | source | environment, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == expected
