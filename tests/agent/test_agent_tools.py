"""The tools of the profiles, and calls as text."""

import json
import os

import pytest

from holdfast.agent.call_syntax import open_syntax
from holdfast.agent.control import FormatError
from holdfast.agent.profiles import PROFILES
from holdfast.agent.sandbox import open_sandbox
from holdfast.agent.tools import run_tool
from holdfast.agent.workplace import Workplace, open_rights
from holdfast.errors import BadOption
from holdfast.transcript.turn import Role, Turn


@pytest.fixture
def use(tmp_path):
    place = Workplace(open_sandbox("none"), open_rights(tmp_path))

    def call(name, **arguments):
        tool = next(tool for profile in PROFILES.values() if (tool := profile.tool(name)))
        return run_tool(tool, arguments, place).text

    call.work = tmp_path
    return call


def test_the_editor_edits_and_takes_back(use):
    def edit(command, **more):
        return use("str_replace_editor", command=command, path="d/a.py", **more)

    assert edit("create", file_text="one\ntwo\nthree\n") == "Created d/a.py."
    assert "exists already" in edit("create", file_text="")
    assert edit("view", view_range=[2, -1]) == "     2\ttwo\n     3\tthree"
    assert "stands 0 times" in edit("str_replace", old_str="four", new_str="x")
    assert "stands 2 times" in edit("str_replace", old_str="o", new_str="x")
    assert edit("str_replace", old_str="two\n", new_str="2\n2b\n").startswith(
        "Changed d/a.py:\n     1\tone\n     2\t2\n"
    )
    edit("insert", insert_line=0, new_str="zero")
    assert (use.work / "d" / "a.py").read_text() == "zero\none\n2\n2b\nthree\n"
    edit("undo_edit")
    edit("undo_edit")
    assert (use.work / "d" / "a.py").read_text() == "one\ntwo\nthree\n"
    assert "no edit" in edit("undo_edit")
    assert "there is no command 'cut'" in edit("cut")
    assert use("str_replace_editor", command="view", path=".") == "d/"


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "link/x", "dir", "missing", "pipe"])
def test_files_outside_and_what_is_no_file_are_refused_in_words(use, path):
    (use.work / "link").symlink_to(use.work.parent)
    (use.work / "dir").mkdir()
    os.mkfifo(use.work / "pipe")
    said = use("read_file", path=path)
    assert any(words in said for words in ("outside of the work tree", "is a folder", "does not exist"))


def test_a_long_file_is_clamped(use):
    (use.work / "long").write_text("x" * 10**6)
    assert len(use("read_file", path="long")) < 41_000


def test_a_call_as_xml_is_read_and_two_or_half_a_one_are_refused():
    tools = PROFILES["editor"].tools
    syntax = open_syntax("xml", tools)
    text = "I look.\n<function=bash>\n<parameter=command>\nls -la\necho '<b>'\n</parameter>\n</function>"
    (call,) = syntax.parse(Turn(Role.ASSISTANT, text), tools, "c").calls
    assert (call.name, json.loads(call.arguments)) == ("bash", {"command": "ls -la\necho '<b>'"})
    for wrong, words in ((text + text, "2 calls"), (text[:60], "not whole")):
        with pytest.raises(FormatError, match=words):
            syntax.parse(Turn(Role.ASSISTANT, wrong), tools, "c")
    assert "str_replace_editor" in (syntax.describe(tools) if syntax.describe else "")
    with pytest.raises(BadOption, match="a fence can call one tool"):
        open_syntax("fence", tools)
