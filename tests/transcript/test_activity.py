"""Commands, how they ended, and files are found in the calls of every format."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.transcript.activity import Command, FileAccess, find_activity
from holdfast.transcript.outcomes import RunCounts, count_tests, find_error_line, read_exit_code
from holdfast.transcript.read import read
from holdfast.transcript.shell import find_shell_access
from holdfast.transcript.turn import Role, ToolCall, Turn

PATCH = "*** Begin Patch\n*** Update File: src/a.py\n@@\n-x\n+y\n*** Add File: b.md\n+z\n*** End Patch"


def one(name: str, arguments: object, text: str = "", **more: object) -> tuple[Turn, ...]:
    given = arguments if isinstance(arguments, str) else json.dumps(arguments)
    call = Turn(Role.ASSISTANT, calls=(ToolCall("k", name, given),))
    return (call, Turn(Role.TOOL, text, call_id="k", **more))


@pytest.mark.parametrize(
    ("name", "arguments", "commands"),
    [
        ("Bash", {"command": "ls -la", "description": "List"}, ["ls -la"]),
        ("execute_bash", {"command": "make"}, ["make"]),
        ("shell", {"command": ["bash", "-lc", "pytest -q"], "workdir": "/r"}, ["pytest -q"]),
        ("exec_command", {"cmd": "git status"}, ["git status"]),
        ("run_commands", {"commands": ["ls", "pwd"]}, ["ls", "pwd"]),
        ("run_shell_command", {"command": "npm test"}, ["npm test"]),
        ("mcp__box__terminal", {"command": "id"}, ["id"]),
        ("str_replace_editor", {"command": "view", "path": "a.py"}, []),
        ("bash", "not json", []),
        ("bash", {"command": 3}, []),
        ("unknown_tool", {"command": "ls"}, []),
    ],
)
def test_commands_are_found_in_every_formats_shell_tool(name, arguments, commands) -> None:
    assert [found.text for found in find_activity(one(name, arguments)).commands] == commands


@pytest.mark.parametrize(
    ("name", "arguments", "path", "part"),
    [
        ("Read", {"file_path": "/r/a.py"}, "/r/a.py", ""),
        ("Read", {"file_path": "a.py", "offset": 5, "limit": 9}, "a.py", "offset=5,limit=9"),
        ("read_file", {"absolute_path": "/a"}, "/a", ""),
        ("read", {"filePath": "a.py"}, "a.py", ""),
        ("read_files", {"files": [{"path": "a.py", "start_line": 2}]}, "a.py", "start_line=2"),
        ("str_replace_based_edit_tool", {"command": "view", "path": "a.py", "view_range": [1, 9]}, "a.py", None),
        ("open", {"path": "a.py", "line_number": 7}, "a.py", "line_number=7"),
        ("bash", {"command": "cat a.py"}, "a.py", ""),
        ("bash", {"command": "cd src && sed -n '1,20p' a.py"}, "src/a.py", "sed -n 1,20p"),
        ("shell", {"command": ["bash", "-lc", "nl -ba a.py"], "workdir": "/r"}, "/r/a.py", ""),
        ("bash", {"command": "cat a.py | head -5"}, "a.py", "cat | head -5"),
    ],
)
def test_reads_are_found_with_what_was_read_of_the_file(name, arguments, path, part) -> None:
    (found,) = find_activity(one(name, arguments, "x = 1")).reads
    assert (found.turn, found.result_turn, found.path) == (0, 1, path)
    assert part is None or found.part == part


@pytest.mark.parametrize(
    ("name", "arguments", "paths"),
    [
        ("Write", {"file_path": "a.py", "content": "x"}, ["a.py"]),
        ("edit", {"filePath": "a.py", "oldString": "x"}, ["a.py"]),
        ("MultiEdit", {"file_path": "a.py", "edits": []}, ["a.py"]),
        ("str_replace_editor", {"command": "create", "path": "a.py"}, ["a.py"]),
        ("editor", {"path": "a.py", "old_text": "x", "new_text": "y"}, ["a.py"]),
        ("apply_patch", PATCH, ["src/a.py", "b.md"]),
        ("apply_patch", {"input": PATCH}, ["src/a.py", "b.md"]),
        ("bash", {"command": f"apply_patch <<'EOF'\n{PATCH}\nEOF"}, ["src/a.py", "b.md"]),
        ("bash", {"command": "cat > a.py <<'EOF'\nprint('1 > b.py')\nEOF\npython a.py"}, ["a.py"]),
        ("bash", {"command": "sed -i 's/a/b/' a.py && ls"}, ["a.py"]),
        ("bash", {"command": "make 2>&1 | tee log.txt"}, ["log.txt"]),
        ("bash", {"command": "echo 'a > b' 2>/dev/null"}, []),
        ("bash", {"command": "python -c 'print(1 << 3)' > out"}, ["out"]),
    ],
)
def test_writes_are_found_in_tools_patches_heredocs_and_redirections(name, arguments, paths) -> None:
    assert [found.path for found in find_activity(one(name, arguments, "ok")).writes] == paths


def test_a_failed_call_neither_read_nor_wrote() -> None:
    turns = (*one("Read", {"file_path": "a"}, "no such file", is_error=True), *one("Edit", {"file_path": "a"}, "no"))
    failed = (*turns[:3], Turn(Role.TOOL, "no match", call_id="k", is_error=True))
    seen = find_activity(failed)
    assert (seen.reads, seen.writes) == ((), ())


def test_what_a_failed_command_wrote_is_still_written() -> None:
    seen = find_activity(one("bash", {"command": "cat > a.py <<'EOF'\nx\nEOF\npython a.py"}, "boom\n[exit code 1]"))
    assert seen.writes == (FileAccess(0, "a.py", 1),)
    assert seen.commands[0].failed


def test_calls_written_as_text_count_and_are_answered_by_the_next_observation() -> None:
    text = "Look:\n<function=bash>\n<parameter=command>cat a.py</parameter>\n</function>"
    turns = (Turn(Role.ASSISTANT, text), Turn(Role.USER, "OBSERVATION:\nx = 1"), Turn(Role.ASSISTANT, text))
    seen = find_activity((*turns, Turn(Role.USER, "Stop, never do that.")))
    assert [(c.turn, c.result_turn) for c in seen.commands] == [(0, 1), (2, None)]
    assert seen.open_calls == (2,)


def test_results_are_matched_by_id_and_open_calls_named() -> None:
    calls = (ToolCall("a", "Bash", '{"command": "false"}'), ToolCall("b", "Bash", '{"command": "true"}'))
    turns = (
        Turn(Role.ASSISTANT, calls=calls),
        Turn(Role.TOOL, "Exit code 1", call_id="b", is_error=True),
        Turn(Role.TOOL, "fine", call_id="a"),
        Turn(Role.ASSISTANT, calls=(ToolCall("c", "Bash", '{"command": "ls"}'),)),
    )
    seen = find_activity(turns)
    assert [(c.text, c.result_turn, c.exit_code, c.failed) for c in seen.commands] == [
        ("false", 2, None, False),
        ("true", 1, 1, True),
        ("ls", None, None, False),
    ]
    assert seen.open_calls == (3,)


def test_an_edit_of_the_open_file_and_one_that_the_harness_applied_are_writes() -> None:
    edit = one("edit", {"search": "x", "replace": "y"}, "done\n(Open file: /r/a.py)\n(Current directory: /r)")
    harness = (Turn(Role.TOOL, "Tokens: 5 sent\nApplied edit to docs/b.md  \nCommit 1a2b3c4 docs"),)
    assert [found.path for found in find_activity((*edit, *harness)).writes] == ["/r/a.py", "docs/b.md"]


@pytest.mark.parametrize(
    ("text", "extra", "code"),
    [
        ("a.py\n[The command completed with exit code 2.]", {}, 2),
        ("a.py\n[exit code 0]", {}, 0),
        ("<returncode>127</returncode>\n<output>\n</output>", {}, 127),
        ("Exit code 1\nTraceback", {}, 1),
        ("Wall time: 0.1 seconds\nProcess exited with code 3\nOutput:\nx", {}, 3),
        ("Command: x\nOutput: y\nExit Code: 4\nSignal: 0", {}, 4),
        ('{"output":"x","metadata":{"exit_code":5,"duration_seconds":0.0}}', {}, 5),
        ("x", {"extra": {"returncode": -9}}, -9),
        ("x", {"extras": {"metadata": {"exit_code": 6}}}, 6),
        ("if it fails, exit code 7 tells why, they say", {}, None),
        ("nothing said", {}, None),
        ("", {"extra": {"returncode": True}}, None),
    ],
)
def test_exit_codes_are_read_where_harnesses_leave_them(text, extra, code) -> None:
    assert read_exit_code(Turn(Role.TOOL, text, extra=extra)) == code


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("== 2 failed, 10 passed, 1 skipped, 3 warnings in 1.02s ==", RunCounts(10, 2, 1)),
        ("3 passed in 0.12s", RunCounts(3)),
        ("== 1 passed, 1 error in 61.00s (0:01:01) ==", RunCounts(1, 1)),
        ("Ran 5 tests in 0.001s\n\nFAILED (failures=1, errors=1, skipped=1)", RunCounts(2, 2, 1)),
        ("Ran 2 tests in 0.001s\n\nOK", RunCounts(2)),
        ("Test Suites: 1 failed, 1 total\nTests:       1 failed, 2 skipped, 4 passed, 7 total", RunCounts(4, 1, 2)),
        (" Test Files  1 failed (1)\n\x1b[2m      Tests \x1b[22m 1 failed | 6 passed (7)", RunCounts(6, 1)),
        ("  12 passing (20ms)\n  1 pending\n  2 failing", RunCounts(12, 2, 1)),
        ("\u2139 tests 9\n\u2139 pass 8\n\u2139 fail 1\n\u2139 skipped 0", RunCounts(8, 1)),
        (
            "--- PASS: TestA (0.00s)\n    --- FAIL: TestA/b (0.00s)\n--- SKIP: TestC\nFAIL\tx/y\t0.1s",
            RunCounts(1, 1, 1),
        ),
        ("ok  \tx/y\t0.012s\nok  \tx/z\t(cached)", RunCounts(2)),
        (
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured\n"
            "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured",
            RunCounts(4, 2, 1),
        ),
        ("all good", None),
        ("we have 3 passed pawns in 2 games", None),
    ],
)
def test_counts_are_read_from_every_runner(text, counts) -> None:
    assert count_tests(text) == counts


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("ok\n  ValueError: bad port\nmore", "ValueError: bad port"),
        ("src/a.c:3:1: error: expected ';'", "src/a.c:3:1: error: expected ';'"),
        ("bash: foo: command not found", "bash: foo: command not found"),
        ("make: *** [Makefile:192: build] Error 2", "make: *** [Makefile:192: build] Error 2"),
        ("all fine, 0 errors", ""),
    ],
)
def test_the_first_error_line_is_found(text, line) -> None:
    assert find_error_line(text) == line


def test_a_long_error_line_is_cut_with_a_mark() -> None:
    assert find_error_line("ValueError: " + "x" * 500).endswith("x…")
    assert len(find_error_line("ValueError: " + "x" * 500)) == 160


def test_the_example_is_known_whole() -> None:
    seen = find_activity(read("examples/taskdeck/session.json").turns)
    assert all(command.exit_code is not None for command in seen.commands)
    assert sum(command.failed for command in seen.commands) == 5
    assert seen.open_calls == ()
    assert isinstance(seen.commands[0], Command)


@given(st.text(alphabet="cat<>|&;'\"\\ \n$()EOFab.1-", max_size=60))
def test_no_command_is_too_strange(text) -> None:
    found = find_shell_access(text)
    assert not found.alone or found.reads


@given(st.text(max_size=80), st.sampled_from(("bash", "Read", "apply_patch", "editor", "x")))
def test_no_arguments_are_too_strange(arguments, name) -> None:
    find_activity(one(name, arguments, arguments))
