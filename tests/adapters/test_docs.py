"""The snippets of docs/adapters.md run as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "adapters.md").read_text("utf-8")
SECTIONS = {
    section.partition("\n")[0]: re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    for section in PAGE.split("\n## ")[1:]
}
NEEDS = {
    "Chat messages, without a framework": ("", "sent as"),
    "LangChain": ("langchain", "Done."),
    "pydantic-ai": ("pydantic_ai", "success"),
    "mini-swe-agent": ("minisweagent", "Submitted"),
    "inspect-ai": ("inspect_ai", "HoldfastCompaction at 70% of the window"),
    "OpenHands": ("openhands", "finished"),
}


def test_every_section_has_one_snippet():
    assert {name: len(found) for name, found in SECTIONS.items()} == dict.fromkeys(NEEDS, 1)


@pytest.mark.filterwarnings(  # of inspect and of what it leaves open
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning", "ignore:The 'initial'"
)
@pytest.mark.parametrize("name", NEEDS)
def test_the_snippet_runs(name, capsys, tmp_path, monkeypatch):
    library, said = NEEDS[name]
    if library and find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it asks the network when imported
    exec(compile(SECTIONS[name][0], f"docs/adapters.md: {name}", "exec"), {"__name__": "__main__"})
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("module", "library"), [(name, name) for name in ("langchain", "pydantic_ai", "inspect_ai", "openhands")]
)
def test_a_library_that_is_not_there_is_named_with_what_to_install(module, library):
    code = f"import sys; sys.modules[{library!r}] = None; import holdfast.adapters.{module}"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert re.search(r"MissingExtra: .*pip install 'holdfast\[", done.stderr)
