"""No write follows a link, takes a name that can be guessed, or overwrites what another user owns."""

from __future__ import annotations

import ast
import os
import stat
import time
from pathlib import Path

import pytest

import holdfast
from holdfast.errors import BadInput, Failed
from holdfast.storage import files
from holdfast.storage.files import AGE, Disk, Lines, append, create, replace, workshop
from holdfast.storage.store import Store

SRC = Path(holdfast.__file__).parent
ROWS = b'{"a": 1}\n'


@pytest.fixture
def treasure(tmp_path):
    """A file of the user that no write may touch."""
    path = tmp_path / "home" / "bashrc"
    path.parent.mkdir()
    path.write_bytes(b"export PRECIOUS=1\n")
    path.chmod(0o640)
    yield path
    assert path.read_bytes() == b"export PRECIOUS=1\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def write_line(path):
    with Lines(path) as lines:
        lines.append(b"{}")


WRITES = {
    "replace": lambda path: replace(path, b"new"),
    "create": lambda path: create(path, b"new"),
    "append": lambda path: append(path, b"new"),
    "exchange": lambda path: files.exchange(path, b"new", lambda found: b""),
    "lines": write_line,
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_no_write_goes_through_a_link(write, treasure, tmp_path):
    link = tmp_path / "out"
    link.symlink_to(treasure)
    with pytest.raises((BadInput, FileExistsError)):
        write(link)
    assert link.readlink() == treasure
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "out"]


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_no_write_creates_what_a_dangling_link_names(write, tmp_path):
    link = tmp_path / "out"
    link.symlink_to(tmp_path / "authorized_keys")
    with pytest.raises((BadInput, FileExistsError)):
        write(link)
    assert not (tmp_path / "authorized_keys").exists()


def test_a_link_is_refused_by_name_with_where_it_leads_and_what_to_do(treasure, tmp_path):
    link = tmp_path / "out"
    link.symlink_to(treasure)
    with pytest.raises(BadInput, match=r"out is a link to .*bashrc.*give the file itself, or remove the link"):
        replace(link, b"new")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_no_write_goes_to_a_file_of_another_user(write, tmp_path):
    path = tmp_path / "out"
    path.write_bytes(b"theirs")
    os.chown(path, 65534, -1)
    with pytest.raises((BadInput, FileExistsError)):
        write(path)
    assert path.read_bytes() == b"theirs"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_no_write_goes_to_a_pipe(write, tmp_path):
    os.mkfifo(tmp_path / "out")
    with pytest.raises((BadInput, FileExistsError)):
        write(tmp_path / "out")


class Planting(Disk):
    """Somebody puts a link where the file was, just before it takes its place."""

    def __init__(self, path, treasure):
        self.path, self.treasure = path, treasure

    def sync(self, descriptor):
        self.path.unlink(missing_ok=True)
        self.path.symlink_to(self.treasure)


def test_a_link_that_is_planted_in_the_middle_of_a_write_is_not_followed(treasure, tmp_path):
    path = tmp_path / "out"
    path.write_bytes(b"old")
    with pytest.raises(BadInput, match="is a link"):
        replace(path, b"new", disk=Planting(path, treasure))
    path.unlink()
    path.write_bytes(b"old")
    with pytest.raises(OSError):
        files.exchange(path, b"new", lambda found: b"", disk=Planting(path, treasure))
    assert path.is_symlink()


class Names(Disk):
    """The names that a write takes on its way."""

    def __init__(self):
        self.names = []

    def create(self, path, mode):
        self.names.append(path)
        return super().create(path, mode)


def test_spare_names_lie_in_the_same_folder_and_are_never_the_same(tmp_path):
    disk = Names()
    for _ in range(50):
        replace(tmp_path / "out", b"new", disk=disk)
    assert {path.parent for path in disk.names} == {tmp_path}
    assert len(set(disk.names)) == 50
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


class Taken(Disk):
    """Every spare name is a link already."""

    def __init__(self, treasure):
        self.treasure = treasure

    def create(self, path, mode):
        path.symlink_to(self.treasure)
        return super().create(path, mode)


def test_a_spare_that_is_taken_is_not_written(treasure, tmp_path):
    with pytest.raises(FileExistsError):
        replace(tmp_path / "out", b"new", disk=Taken(treasure))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_the_permissions_of_what_stood_there_stay(tmp_path, mode):
    path = tmp_path / "out"
    path.write_bytes(b"old")
    path.chmod(mode)
    replace(path, b"new")
    assert stat.S_IMODE(path.stat().st_mode) == mode
    files.exchange(path, b"newer", lambda found: b"")
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_new_file_is_never_more_open_than_it_was_asked_for(tmp_path):
    modes = []

    class Looking(Disk):
        def write(self, descriptor, data):
            modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
            super().write(descriptor, data)

    replace(tmp_path / "out", b"new", mode=0o600, disk=Looking())
    assert modes == [0o600]


class Stopped(Disk):
    """The disk is full after a few bytes."""

    def write(self, descriptor, data):
        os.write(descriptor, data[:2])
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("write", [replace, create])
def test_what_fails_leaves_the_old_file_and_nothing_beside_it(write, tmp_path):
    path = tmp_path / "out"
    if write is replace:
        path.write_bytes(b"old")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(OSError, match="out"):
        write(path, b"new content", disk=Stopped())
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_left_over_spares_are_swept_and_fresh_ones_and_files_of_others_stay(treasure, tmp_path):
    old = [".holdfast-0123456789abcdef.tmp", ".session.jsonl.holdfast.tmp", ".out.holdfast.4711.tmp"]
    for name in old:
        (tmp_path / name).write_bytes(b"left over")
    (tmp_path / ".x.holdfast.tmp").symlink_to(treasure)
    folder = tmp_path / ".holdfast-a1b2c3d4.tmp"
    folder.mkdir()
    (folder / "part").write_bytes(b"left over")
    stay = [".holdfast-fedcba9876543210.tmp", ".session.jsonl.tmp", "holdfast.tmp", ".bashrc"]
    for name in stay:
        (tmp_path / name).write_bytes(b"mine")
    past = time.time() - 2 * AGE
    for name in (*old, ".x.holdfast.tmp", folder.name, *stay[1:]):
        os.utime(tmp_path / name, (past, past), follow_symlinks=False)
    replace(tmp_path / "out", b"new")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*stay, "home", "out"])


def test_a_workshop_is_its_owners_alone_and_is_gone_at_the_end(tmp_path):
    with workshop(tmp_path) as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "made").write_bytes(b"new")
        (folder / "rest").write_bytes(b"rest")
        files.install(folder / "made", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_a_library_wrote_is_not_installed_over_a_link(treasure, tmp_path):
    link = tmp_path / "out"
    link.symlink_to(treasure)
    with workshop(tmp_path) as folder:
        (folder / "made").write_bytes(b"new")
        with pytest.raises(BadInput, match="is a link"):
            files.install(folder / "made", link)


def test_lines_stand_alone_whatever_was_left_half_written(tmp_path):
    path = tmp_path / "rows.jsonl"
    for torn, stays in ((b"", b""), (b'{"a": 2', b""), (b'{"a": 2}', b'{"a": 2}\n'), (b"a note", b"a note\n")):
        path.write_bytes(ROWS + torn)
        with Lines(path) as lines:
            lines.append('{"b": 1}')
        assert path.read_bytes() == ROWS + stays + b'{"b": 1}\n'


def test_a_second_writer_is_kept_out_until_the_first_is_done(tmp_path):
    path = tmp_path / "log.jsonl"
    with Lines(path) as one, Lines(path) as two:
        one.lock()
        with pytest.raises(Failed, match="run the command again"):
            two.lock()
    with Lines(path) as three:
        three.lock()


def test_a_full_disk_is_told_with_the_name_of_the_log(tmp_path):
    with Lines(tmp_path / "log.jsonl", disk=Stopped()) as lines, pytest.raises(OSError, match=r"log\.jsonl"):
        lines.append("{}")


@pytest.mark.parametrize("planted", ["objects", "logs", "logs/session", "tmp"])
def test_a_store_writes_through_no_link(tmp_path, planted):
    root, elsewhere = tmp_path / "store", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (root / planted).parent.mkdir(parents=True)
    (root / planted).symlink_to(elsewhere)
    store = Store(root)
    with pytest.raises(BadInput, match="is a link"):
        [store.put(b"data"), store.append("session", 0, {})]
    assert list(elsewhere.iterdir()) == []


CALLS = {
    "write_text", "write_bytes", "touch", "symlink_to", "hardlink_to", "mkstemp", "mkdtemp", "NamedTemporaryFile",
    "TemporaryFile", "TemporaryDirectory", "copyfile", "copymode", "copytree", "copy2", "truncate", "ftruncate",
    "FileHandler", "rename", "link", "symlink",
}  # fmt: skip
OS_FLAGS = {"O_WRONLY", "O_RDWR", "O_CREAT", "O_APPEND", "O_TRUNC"}
WRITER = {"storage/files.py", "storage/swap.py"}
# they make the throw-away folder in which a program is run, or the pipe on which it is judged; no file of a user
RUNNERS = {
    "agent/sandbox/sandlock.py",
    "agent/workplace.py",
    *(f"bench/{x}.py" for x in ("inspect/sandbox", "inspect/solver", "keep/checks", "keep/judge", "tasks/workspace")),
}


def _offences(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in OS_FLAGS:
            yield node.lineno, node.attr
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        owner = getattr(getattr(node.func, "value", None), "id", "")
        if name in CALLS and owner not in ("files", "DISK"):
            yield node.lineno, name
        if owner == "os" and name == "replace":
            yield node.lineno, "os.replace"
        if name == "replace" and isinstance(node.func, ast.Attribute) and len(node.args) == 1 and not node.keywords:
            yield node.lineno, "Path.replace"
        modes = [a.value for a in (*node.args, *(k.value for k in node.keywords)) if isinstance(a, ast.Constant)]
        modes = [mode for mode in modes if isinstance(mode, str) and len(mode) <= 3]
        if name in ("open", "fdopen") and any(set(mode) & set("wax+") for mode in modes):
            yield node.lineno, name


def test_no_other_module_opens_a_file_for_writing():
    found = []
    for path in sorted(SRC.rglob("*.py")):
        name = str(path.relative_to(SRC))
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found += [f"{name}:{line}: {what}" for line, what in _offences(tree) if name not in WRITER | RUNNERS]
    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        "open(p, 'w')", "open(p, mode='ab')", "p.open('r+b')", "p.write_text(t)", "p.write_bytes(b)",
        "os.replace(a, b)",
        "a.replace(b)", "a.rename(b)", "os.open(p, os.O_WRONLY | os.O_CREAT)", "shutil.copyfile(a, b)", "p.touch()",
        "tempfile.NamedTemporaryFile()", "os.link(a, b)", "logging.FileHandler(p)",
    ],
)  # fmt: skip
def test_the_scan_finds_every_way_to_write(code):
    assert list(_offences(ast.parse(code)))


def test_the_scan_passes_over_what_only_reads():
    assert not list(_offences(ast.parse("open(p); p.open('rb'); t.replace('a', 'b'); engine.open(context)")))
