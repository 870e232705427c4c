"""An agent goes on while its session is changed: no line of it is ever lost, in the file or in the log."""

from __future__ import annotations

from functools import partial
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from child import child
from file_log.chat_files import exchange, grow, load, opening, save, user
from file_log.wire_files import WIRES
from holdfast.errors import Conflict
from holdfast.storage.files import Disk
from holdfast.text.file_log import compact_file, expand_file, log_path, read_lineage, read_log, undo_file
from holdfast.text.rewrite import TextPlan
from holdfast.transcript.read import read
from holdfast.transcript.turn import Role
from waiting import until

FOLD = TextPlan("test_fold", ratio=5, keep_recent=1, gate=False)
MASK = TextPlan("test_mask", ratio=5, keep_recent=1, gate=False)


def expand_a_result(path, **options):
    """Puts the first result back that was masked."""
    results = (n for n, turn in enumerate(read_lineage(path).raw, 1) if turn.role is Role.TOOL)
    return expand_file(path, next(results), **options)


CHANGES = {
    "fold": ((), partial(compact_file, plan=FOLD)),
    "mask": ((), partial(compact_file, plan=MASK)),
    "undo": ((MASK,), undo_file),
    "expand": ((MASK,), expand_a_result),
}


class Meanwhile(Disk):
    """A disk on which somebody does something before and after every step."""

    def __init__(self, act):
        self._act, self.steps = act, 0

    def _around(self, name, *args):
        self._tell()
        result = getattr(super(), name)(*args)
        self._tell()
        return result

    def _tell(self):
        self.steps += 1
        self._act(self.steps)


def _told(name):
    return lambda self, *args: self._around(name, *args)


for _name in ("create", "extend", "write", "sync", "read", "swap", "move", "link", "remove"):
    setattr(Meanwhile, _name, _told(_name))


def appended(path, data):
    """What an agent does that opens its session for each line."""
    with path.open("ab") as file:
        file.write(data)


def changed(path, wire, change, at):
    """Makes the change while a line is appended at each of the steps `at`; returns the lines, and the steps it took."""
    prepared, verb = CHANGES[change]
    wire.start(path)
    for plan in prepared:
        compact_file(path, plan)
    before, lines = path.read_bytes(), []

    def act(step):
        if step in at:
            lines.append(wire.line(len(lines) + 1, path))
            appended(path, lines[-1])

    disk = Meanwhile(act)
    try:
        verb(path, disk=disk)
        return before, lines, disk.steps, True
    except Conflict:
        return before, lines, disk.steps, False


def is_kept(path, line):
    return line in path.read_bytes() or any(line in event.before + event.after for event in read_log(path))


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.name)
def test_no_line_that_is_appended_at_any_step_of_a_change_is_lost(wire, change, tmp_path):
    (tmp_path / "count").mkdir()
    *_, steps, done = changed(tmp_path / "count" / "session.jsonl", wire, change, ())
    assert done
    assert steps >= 10
    lost = []
    for step in range(1, steps + 1):
        folder = tmp_path / str(step)
        folder.mkdir()
        path = folder / "session.jsonl"
        before, lines, _, done = changed(path, wire, change, {step})
        lost += [(step, line) for line in lines if line not in path.read_bytes()]
        assert done or path.read_bytes() == before + b"".join(lines)
        assert any("meanwhile 1" in turn.text for turn in read(path).turns) or wire.name == "pi"
        assert not [spare for spare in folder.iterdir() if spare.name.endswith(".tmp")]
        if done and change in ("fold", "mask"):
            undo_file(path)
            assert path.read_bytes() == before + b"".join(lines)
    assert lost == []


@settings(max_examples=60, deadline=None)
@given(at=st.sets(st.integers(1, 60), max_size=8), change=st.sampled_from(sorted(CHANGES)), wire=st.sampled_from(WIRES))
def test_no_line_is_lost_however_many_are_appended(tmp_path_factory, at, change, wire):
    path = tmp_path_factory.mktemp("meanwhile") / "session.jsonl"
    before, lines, _, done = changed(path, wire, change, at)
    assert [line for line in lines if line not in path.read_bytes()] == []
    read(path)
    if done and change in ("fold", "mask"):
        undo_file(path)
        assert path.read_bytes() == before + b"".join(lines)


@pytest.mark.parametrize("wire", [wire for wire in WIRES if wire.name in ("codex", "pi")], ids=lambda wire: wire.name)
def test_lines_in_front_of_a_record_are_judged_together_and_said_once(wire, tmp_path):
    """The last exchange is the agent's own, so that what it says next is read behind what it said before."""
    for first, second in combinations(range(1, 16), 2):
        path = tmp_path / f"{first}-{second}.jsonl"
        wire.start(path)
        said = []

        def say(step, first=first, second=second, path=path, said=said):
            for _ in range({0: 3, first: 3, second: 1}.get(step, 0)):
                said.append(wire.line(len(said) + 1, path))
                appended(path, said[-1])

        start = path.read_bytes()
        say(0)
        compact_file(path, FOLD, disk=Meanwhile(say))
        undo_file(path)
        assert path.read_bytes() == start + b"".join(said), (first, second)


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.name)
def test_what_was_appended_while_the_method_worked_stands_behind_the_compaction(wire, tmp_path):
    path = tmp_path / "session.jsonl"
    wire.start(path)
    before, line = path.read_bytes(), wire.line(1, path)

    class Slow(Disk):
        """Reads the file only once the method is done."""

        def read(self, held):
            if held == path and line not in path.read_bytes():
                appended(path, line)
            return super().read(held)

    compact_file(path, MASK, disk=Slow())
    assert path.read_bytes().endswith(line)
    undo_file(path)
    assert path.read_bytes() == before + line


@pytest.mark.parametrize("name", ["codex", "pi"])
def test_a_format_that_compacts_by_appending_is_appended_to_and_keeps_its_inode(name, tmp_path):
    wire = next(wire for wire in WIRES if wire.name == name)
    path = tmp_path / "session.jsonl"
    wire.start(path)
    before, inode = path.read_bytes(), path.stat().st_ino
    with path.open("ab") as agent:
        assert compact_file(path, MASK).event
        assert path.stat().st_ino == inode
        assert path.read_bytes().startswith(before)
        agent.write(wire.line(1, path))
    assert b"meanwhile 1" in path.read_bytes()
    assert any("[" in turn.text and "characters]" in turn.text for turn in read(path).turns) or name == "pi"


@pytest.mark.parametrize("rename", [False, True], ids=["rewritten", "renamed"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_document_that_an_agent_writes_anew_is_refused_and_never_lost(change, rename, tmp_path):
    def start(path):
        save(path, [*opening(), *(m for n in range(1, 5) for m in exchange(n, f"result {n} " + "word " * 50))])
        for plan in CHANGES[change][0]:
            compact_file(path, plan)

    def act_at(path, wanted):
        def act(step):
            if step == wanted and rename:
                other = path.with_name("other")
                other.write_bytes(path.read_bytes())
                save(other.with_suffix(".json"), [*load(path), user("meanwhile")])
                other.with_suffix(".json").replace(path)
                other.unlink()
            elif step == wanted:
                grow(path, [user("meanwhile")])

        return act

    (tmp_path / "count").mkdir()
    counted = tmp_path / "count" / "session.json"
    start(counted)
    disk = Meanwhile(lambda step: None)
    CHANGES[change][1](counted, disk=disk)
    refused = 0
    for step in range(1, disk.steps + 1):
        (tmp_path / str(step)).mkdir()
        path = tmp_path / str(step) / "session.json"
        start(path)
        try:
            CHANGES[change][1](path, disk=Meanwhile(act_at(path, step)))
        except Conflict:
            refused += 1
        assert load(path)[-1] == user("meanwhile"), step
    assert refused >= 5


HOLD = """
import signal, sys
file = open(sys.argv[1], sys.argv[2])
print("open", flush=True)
signal.pause()
"""


def held(path, mode):
    return child("-c", HOLD, str(path), mode)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "session.jsonl"
    save(path, [*opening(), *(m for n in range(1, 5) for m in exchange(n, f"result {n} " + "word " * 50))])
    return path


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the system does not tell who holds a file")


@needs_proc
@pytest.mark.parametrize("mode", ["ab", "r+b"])
def test_a_session_that_an_agent_holds_open_is_not_replaced(path, mode):
    before = path.read_bytes()
    with held(path, mode) as agent:
        until(lambda: "open" in agent.output("stdout"))
        with pytest.raises(Conflict, match=r"is open in .*stop the agent first, or use the proxy"):
            compact_file(path, MASK)
        assert path.read_bytes() == before
        assert not log_path(path).exists()
        assert compact_file(path, MASK, force=True).event


@needs_proc
@pytest.mark.parametrize("change", [undo_file, expand_a_result])
def test_undo_and_expand_ask_who_holds_the_session_too(path, change):
    compact_file(path, MASK)
    after = path.read_bytes()
    with held(path, "ab") as agent:
        until(lambda: "open" in agent.output("stdout"))
        with pytest.raises(Conflict, match="is open in"):
            change(path)
    assert path.read_bytes() == after
    change(path)
    assert path.read_bytes() != after


@needs_proc
def test_a_session_that_is_only_read_by_another_is_replaced(path):
    with held(path, "rb") as reader:
        until(lambda: "open" in reader.output("stdout"))
        assert compact_file(path, MASK).event


@needs_proc
def test_an_agent_that_opens_the_session_in_the_middle_of_a_write_keeps_it(path):
    before = path.read_bytes()
    agents = []

    class Opening(Disk):
        def swap(self, one, other):
            if not agents:
                agents.append(held(path, "ab"))
                agent = agents[0].__enter__()
                until(lambda: "open" in agent.output("stdout"))
            super().swap(one, other)

    try:
        with pytest.raises(Conflict, match="opened the session while"):
            compact_file(path, MASK, disk=Opening())
    finally:
        agents[0].__exit__(None, None, None)
    assert path.read_bytes() == before
