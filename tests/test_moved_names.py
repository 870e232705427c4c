"""Names of version 0.4 work as before, and say where they are now."""

import subprocess
import sys
from importlib import import_module

import pytest

from holdfast._moved import MODULES, NAMES

PUBLIC = {
    "agents": "SubAgent fork own_blocks bring_back system_prompt",
    "engine.live": "Live CHUNK",
    "history": "Compaction Event Lineage compact_file expand_file lineage log_path read_log undo_file",
    "latent": "Plan Policy compact ask load save restore compact_parts Part",
    "rounds": "recompact join",
    "store": "Store",
    "textual": "TextPlan Rewritten Breaker rewrite rewrite_again",
    "transcript.size": "count",
    "triggers": "Trigger Seen Why due",
}
"""Names that version 0.4 documented or its own commands imported."""


@pytest.fixture
def fresh(monkeypatch):
    """Forgets the old modules that other tests have imported."""
    for module in MODULES:
        monkeypatch.delitem(sys.modules, f"holdfast.{module}", raising=False)


@pytest.mark.parametrize("module", MODULES)
def test_an_old_module_is_imported_and_says_where_it_went(fresh, module):
    with pytest.warns(DeprecationWarning, match=f"holdfast.{module} is now holdfast.{MODULES[module][0]}"):
        assert import_module(f"holdfast.{module}").__name__ == f"holdfast.{module}"
    for home in MODULES[module]:
        import_module(f"holdfast.{home}")


@pytest.mark.parametrize(("module", "name"), NAMES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_old_name_is_the_new_object(fresh, module, name):
    home, new = NAMES[module, name]
    old = import_module(f"holdfast.{module}")
    with pytest.warns(DeprecationWarning, match=f"is now holdfast.{home}.{new}"):
        assert getattr(old, name) is getattr(import_module(f"holdfast.{home}"), new)


@pytest.mark.parametrize("module", PUBLIC)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_public_name_of_an_old_module_is_found(fresh, module):
    old = import_module(f"holdfast.{module}")
    assert [name for name in PUBLIC[module].split() if not hasattr(old, name)] == []


def test_a_name_that_never_was_is_refused_as_ever(fresh):
    with pytest.warns(DeprecationWarning, match="textual"), pytest.raises(ImportError):
        from holdfast.textual import no_such_name  # noqa: F401
    with pytest.raises(ModuleNotFoundError):
        import_module("holdfast.no_such_module")


def test_the_warning_names_the_line_that_imports():
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", "from holdfast.textual import TextPlan"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert "<string>:1: DeprecationWarning: holdfast.textual is now holdfast.text.rewrite" in done.stderr
