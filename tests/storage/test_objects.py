"""The store: what was acknowledged is there, once, in order, whoever else writes and whenever the writer dies."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.errors import BadContext, BadInput, BadOption, Conflict, Failed, Missing
from holdfast.storage import backends
from holdfast.storage.store import Store

SOURCE = str(Path(backends.__file__).parents[2])


@pytest.fixture(params=["folder", "memory"])
def url(request, tmp_path):
    """A place that nothing else uses."""
    return str(tmp_path / "store") if request.param == "folder" else f"memory://{uuid4().hex}/store"


@pytest.fixture
def store(url):
    return Store(url)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "store"


def files(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def fill(store, log="a", n=3):
    for seq in range(n):
        store.append(log, seq, {"n": seq})


# Objects


def test_an_object_is_found_under_its_sha256(store):
    digest = store.put(b"some bytes")
    assert digest == hashlib.sha256(b"some bytes").hexdigest()
    assert store.get(digest) == b"some bytes"
    assert store.has(digest)
    assert not store.has("0" * 64)


def test_another_store_at_the_same_url_finds_it(url):
    assert Store(url).get(Store(url).put(b"")) == b""


def test_the_layout_of_a_folder(folder):
    store = Store(folder)
    digest = store.put(b"x")
    fill(store, "log_1")
    assert files(folder) == [
        "logs/log_1/00000000.json",
        "logs/log_1/00000001.json",
        "logs/log_1/00000002.json",
        f"objects/{digest[:2]}/{digest}",
    ]


def test_the_same_content_is_written_once(folder):
    store = Store(folder)
    path = folder / "objects" / "2d" / store.put(b"x")
    before = path.stat().st_ino
    assert Store(folder).put(b"x") == path.name
    assert path.stat().st_ino == before


def test_a_missing_object_is_missing(store):
    with pytest.raises(Missing, match=f"no object {'0' * 64}"):
        store.get("0" * 64)


@pytest.mark.parametrize("damage", [b"", b"some byteS", b"some bytes and more"])
def test_a_damaged_object_is_refused_and_put_again_heals_it(folder, damage):
    store = Store(folder)
    digest = store.put(b"some bytes")
    (folder / "objects" / digest[:2] / digest).write_bytes(damage)
    with pytest.raises(BadContext, match=digest):
        store.get(digest)
    store.put(b"some bytes")
    assert store.get(digest) == b"some bytes"


@pytest.mark.parametrize("digest", ["", "ab", "../../etc/passwd", "A" * 64, "0" * 63 + "/", "0" * 65, "0" * 64 + "\n"])
def test_what_is_no_digest_is_bad_input(store, digest):
    for call in (store.get, store.has):
        with pytest.raises(BadInput, match="64 hexadecimal"):
            call(digest)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_any_bytes_come_back(store, data):
    assert store.get(store.put(data)) == data


# Collecting


def test_only_old_objects_that_nobody_names_go(url):
    kept, dropped = Store(url).put(b"named"), Store(url).put(b"nameless")
    assert Store(url).collect({kept}) == 0  # both are young
    assert Store(url, grace=-5).collect({kept}) == len(b"nameless")
    assert Store(url).has(kept)
    assert not Store(url).has(dropped)
    assert Store(url, grace=-5).collect(set()) == len(b"named")
    assert Store(url, grace=-5).collect(set()) == 0


def test_to_put_an_old_object_again_gives_it_time(folder):
    store = Store(folder, grace=100)
    digest = store.put(b"x")
    path = folder / "objects" / digest[:2] / digest
    os.utime(path, (1, 1))
    store.put(b"x")
    assert store.collect(set()) == 0
    os.utime(path, (1, 1))
    assert store.collect(set()) == 1


def test_an_old_object_elsewhere_is_written_anew(url):
    if "memory" not in url:
        pytest.skip("a folder renews the time of the file instead")
    store = Store(url, grace=0)
    digest = store.put(b"x")
    first = store._place.fs.modified(f"{store._place.root}/objects/{digest[:2]}/{digest}")
    store.put(b"x")
    assert store._place.fs.modified(f"{store._place.root}/objects/{digest[:2]}/{digest}") > first


def test_collecting_takes_what_crashes_left_and_nothing_else(folder):
    store = Store(folder)
    fill(store)
    store.put(b"x")
    for name in ("old", "young"):
        (folder / "tmp" / name).write_bytes(b"123")
    (folder / "tmp" / "dropped").mkdir()
    (folder / "tmp" / "dropped" / "00000000.json").write_bytes(b"12345")
    foreign = folder / "objects" / "README"
    foreign.write_text("mine")
    for path in (folder / "tmp" / "old", folder / "tmp" / "dropped", folder / "logs" / "a" / "00000000.json"):
        os.utime(path, (1, 1))
    assert store.collect(set()) == 8
    assert files(folder / "tmp") == ["young"]
    assert len(store.events("a")) == 3


class Interrupted(backends.Folder):
    """A collector that a writer overtakes, after it has looked at an object and before it takes it."""

    def _aside(self):
        for path in self.root.glob("objects/*/*"):
            os.utime(path)
        return super()._aside()


def test_an_object_that_a_writer_finds_while_it_is_collected_stays(folder):
    store = Store(folder)
    digest = store.put(b"x")
    os.utime(folder / "objects" / digest[:2] / digest, (1, 1))
    store._place = Interrupted(folder)
    assert store.collect(set()) == 0
    assert store.get(digest) == b"x"
    assert files(folder / "tmp") == []


# Logs


def test_events_come_back_in_order(store):
    fill(store, "a", 12)
    fill(store, "b", 1)
    assert store.events("a") == [{"n": n} for n in range(12)]
    assert store.logs() == ["a", "b"]


def test_an_unknown_log_has_no_events(store):
    assert store.events("a") == []
    assert store.logs() == []
    store.drop("a")


def test_a_number_that_is_taken_is_a_conflict_and_stays_as_it_was(store):
    fill(store)
    for seq in range(3):
        with pytest.raises(Conflict, match=f"somebody else wrote event {seq} of log a"):
            store.append("a", seq, {"mine": True})
    with pytest.raises(Conflict):
        store.append("a", 2, {"n": 2})  # the same content is another event all the same
    assert store.events("a") == [{"n": n} for n in range(3)]


def test_a_number_that_does_not_follow_is_a_conflict(store):
    fill(store)
    for log, seq in (("a", 4), ("a", 99_999_999), ("b", 1)):
        with pytest.raises(Conflict, match=f"log {log} has no event {seq - 1}"):
            store.append(log, seq, {})
    assert store.logs() == ["a"]


@pytest.mark.parametrize("seq", [-1, 10**8, 10**30])
def test_a_number_out_of_range_is_bad_input(store, seq):
    with pytest.raises(BadInput, match="numbered from 0"):
        store.append("a", seq, {})


def test_a_dropped_log_is_gone_and_can_begin_anew(store):
    fill(store, "a")
    fill(store, "b")
    store.drop("a")
    assert store.logs() == ["b"]
    assert store.events("a") == []
    with pytest.raises(Conflict):
        store.append("a", 3, {})
    store.append("a", 0, {"again": 1})
    assert store.events("a") == [{"again": 1}]
    assert store.events("b") == [{"n": n} for n in range(3)]


NAMES = ["", ".", "..", "../a", "a/b", "/etc/passwd", "a\0", "a\n", "a b", "a.json", "ä", "a" * 65, "~", "\ud800"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_could_leave_the_store_is_bad_input(store, name):
    for call in (lambda: store.append(name, 0, {}), lambda: store.events(name), lambda: store.drop(name)):
        with pytest.raises(BadInput, match="1 to 64 of"):
            call()
    assert store.logs() == []


TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.dictionaries(TEXT, JSON, max_size=4), min_size=1, max_size=4))
def test_any_json_comes_back(store, events):
    log = uuid4().hex
    for seq, event in enumerate(events):
        store.append(log, seq, event)
    assert store.events(log) == events
    assert repr(store.events(log)) == repr([json.loads(json.dumps(e, sort_keys=True)) for e in events])  # -0.0, True


def test_a_lone_surrogate_survives(store):
    store.append("a", 0, {"text": "\ud800 \udfff \U0001f600"})
    assert store.events("a") == [{"text": "\ud800 \udfff \U0001f600"}]


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "event",
    [{"a": b"bytes"}, {"a": float("nan")}, {"a": {1, 2}}, {"a": nested(300)}, {"a": nested(100_000)}, {("a",): 1}],
    ids=["bytes", "nan", "set", "deep", "deepest", "key"],
)
def test_what_is_not_json_is_bad_input_and_leaves_the_log_as_it_was(store, event):
    with pytest.raises(BadInput, match="event 0"):
        store.append("a", 0, event)
    assert store.events("a") == []


def test_an_event_that_holds_itself_is_bad_input(store):
    event = {}
    event["self"] = [event, event]
    with pytest.raises(BadInput, match="event 0 cannot be written"):
        store.append("a", 0, event)


def test_ten_megabytes_of_one_token_come_back(store):
    store.append("a", 0, {"text": "x" * 10_000_000})
    assert len(store.events("a")[0]["text"]) == 10_000_000


# Damage


def event_file(folder, seq):
    return folder / "logs" / "a" / f"{seq:08d}.json"


DAMAGE = {
    "empty": lambda data: b"",
    "torn": lambda data: data[: len(data) // 2],
    "torn at the checksum": lambda data: data[:30],
    "short of its end": lambda data: data[:-1],
    "longer": lambda data: data + b"\n",
    "one bit": lambda data: data[:-5] + bytes([data[-5] ^ 1]) + data[-4:],
    "zeros": lambda data: bytes(len(data)),
    "not text": lambda data: b"\xff" * 100,
    "sealed, no JSON": lambda data: sealed(b"{"),
    "sealed, no event": lambda data: sealed(b"[]"),
    "sealed, too deep": lambda data: sealed(b"[" * 100_000),
    "sealed, of another shape": lambda data: sealed(b'{"event":7,"seq":%d}' % json.loads(data[65:])["seq"]),
}


def sealed(body):
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body + b"\n"


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_torn_last_event_is_passed_over_and_the_log_goes_on(folder, damage):
    store = Store(folder)
    fill(store)
    path = event_file(folder, 2)
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    assert store.events("a") == [{"n": 0}, {"n": 1}]
    store.append("a", 2, {"again": 2})
    with pytest.raises(Conflict):
        store.append("a", 2, {"again": 3})
    store.append("a", 3, {"n": 3})
    assert store.events("a") == [{"n": 0}, {"n": 1}, {"again": 2}, {"n": 3}]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_event_before_the_end_is_refused_by_name(folder, damage):
    fill(Store(folder))
    path = event_file(folder, 1)
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    with pytest.raises(BadContext, match=r"logs/a/00000001\.json is damaged"):
        Store(folder).events("a")


def test_an_event_that_stands_in_anothers_place_is_damaged(folder):
    fill(Store(folder))
    event_file(folder, 1).write_bytes(event_file(folder, 0).read_bytes())
    with pytest.raises(BadContext, match=r"00000001\.json is damaged"):
        Store(folder).events("a")


class Hasty(backends.Folder):
    """A listing that missed what was written while it ran."""

    missed = ("00000001.json",)

    def names(self, folder):
        missed, self.missed = self.missed, ()
        return [name for name in super().names(folder) if name not in missed]


def test_an_event_that_a_listing_missed_is_no_gap(folder):
    store = Store(folder)
    fill(store)
    store._place = Hasty(folder)
    assert store.events("a") == [{"n": n} for n in range(3)]


@pytest.mark.parametrize("seq", [0, 1])
def test_a_gap_is_refused_by_name(folder, seq):
    fill(Store(folder))
    event_file(folder, seq).unlink()
    with pytest.raises(BadContext, match=rf"logs/a/0000000{seq}\.json is missing"):
        Store(folder).events("a")


def test_an_event_torn_twice_is_written_a_third_time(folder):
    store = Store(folder)
    fill(store, n=1)
    for name in ("00000001.json", "00000001.1.json"):
        (folder / "logs" / "a" / name).write_bytes(b"torn")
    assert store.events("a") == [{"n": 0}]
    store.append("a", 1, {"n": 1})
    assert store.events("a") == [{"n": 0}, {"n": 1}]


def test_foreign_files_in_a_log_are_not_events(folder):
    store = Store(folder)
    fill(store)
    for name in (".00000003.json.tmp", "3.json", "00000003.json.bak", "00000003.0.json", "notes"):
        (folder / "logs" / "a" / name).write_text("x")
    (folder / "logs" / "not a log").mkdir()
    assert len(store.events("a")) == 3
    assert store.logs() == ["a"]


# Places that cannot be written


def test_only_the_owner_reads_the_store(folder):
    old = os.umask(0)
    try:
        store = Store(folder)
        fill(store)
        store.put(b"x")
    finally:
        os.umask(old)
    for path in (folder, *folder.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_file_in_the_way_of_the_store_is_told_with_its_path(tmp_path):
    (tmp_path / "file").write_text("mine")
    for where in ("file", "file/below"):
        store = Store(tmp_path / where)
        for call in (lambda s: s.put(b"x"), lambda s: s.append("a", 0, {}), lambda s: s.events("a")):
            with pytest.raises(Failed, match=f"{tmp_path}/{where}"):
                call(store)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not hold for root")
def test_a_folder_without_permission_is_told_with_its_path(folder):
    folder.mkdir(mode=0o500)
    with pytest.raises(Failed, match=f"{folder}.*ermission"):
        Store(folder).put(b"x")


def test_a_full_disk_is_told_with_the_path_and_leaves_nothing(folder):
    """The limit on the size of a file is a disk that takes the first bytes and no more."""
    store = Store(folder)
    fill(store)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(Failed, match=f"cannot write {folder}/objects/.*too large"):
            store.put(b"x" * 10_000)
        with pytest.raises(Failed, match=f"cannot write {folder}/logs/a/00000003.json.*too large"):
            store.append("a", 3, {"text": "x" * 10_000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files(folder) == [f"logs/a/0000000{n}.json" for n in range(3)]
    store.append("a", 3, {"n": 3})
    assert len(store.events("a")) == 4


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("nowhere://a", "cannot be opened.*nowhere"),
        ("data://a", "cannot refuse to overwrite"),
        ("ftp://127.0.0.1:9/a", "cannot be opened"),
        ("memory://a*b", "pattern"),
    ],
)
def test_a_url_that_cannot_hold_a_store_is_a_bad_option(url, match):
    with pytest.raises(BadOption, match=match):
        Store(url)


def test_a_backend_that_is_not_installed_is_named():
    try:
        import s3fs  # noqa: F401
    except ImportError:
        with pytest.raises(BadOption, match=r"s3://bucket/x needs a library.*s3fs"):
            Store("s3://bucket/x")
    else:
        pytest.skip("s3fs is installed")


def test_urls_of_this_machine_are_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    fill(Store(f"file://{tmp_path}/store"))
    assert len(Store("~/store").events("a")) == len(Store(tmp_path / "store").events("a")) == 3


# Servers that do not hold what they promise


class Server:
    """A file system of fsspec, with one fault."""

    protocol = "s3"

    def __init__(self, inner, fault):
        self.inner, self.fault = inner, fault

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def pipe_file(self, path, data, mode="overwrite"):
        if self.fault == "ignores the condition":
            self.inner.pipe_file(path, data)
        elif self.fault == "loses the answer":
            self.inner.pipe_file(path, data, mode=mode)
            if "logs" in path:
                raise OSError("precondition failed")  # of the request's own repetition
        else:
            raise PermissionError("denied")


def faulty(fault):
    store = Store(f"memory://{uuid4().hex}/store")
    store._place.fs, store._place._proven = Server(store._place.fs, fault), False
    return store


def test_a_server_that_overwrites_is_refused_before_anything_is_written():
    store = faulty("ignores the condition")
    with pytest.raises(BadOption, match="two writers would lose events"):
        store.append("a", 0, {})
    assert store.logs() == []


def test_an_event_whose_answer_was_lost_is_written_once():
    store = faulty("loses the answer")
    fill(store)
    assert store.events("a") == [{"n": n} for n in range(3)]


def test_a_server_that_denies_is_told_with_its_url():
    store = faulty("denies")
    for call in (lambda: store.put(b"x"), lambda: store.append("a", 0, {})):
        with pytest.raises(Failed, match=f"cannot write {store.url}.*denied"):
            call()


# Many writers


def append_all(store, who, n):
    """Append n events whenever there is room; the numbers that were acknowledged."""
    mine, seq = [], 0
    while len(mine) < n:
        try:
            store.append("a", seq, {"who": who, "n": len(mine)})
            mine.append(seq)
        except Conflict:
            seq = len(store.events("a")) - 1
        seq += 1
    return mine


def check_every_event_once(events, writers, n):
    assert Counter(event["who"] for event in events) == dict.fromkeys(writers, n)
    for who in writers:
        assert [event["n"] for event in events if event["who"] == who] == list(range(n))


def test_sixteen_threads_append_to_one_log(url):
    acknowledged = {}

    def write(who):
        acknowledged[who] = append_all(Store(url), who, 5)

    threads = [threading.Thread(target=write, args=(who,)) for who in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = Store(url).events("a")
    check_every_event_once(events, range(16), 5)
    assert sorted(seq for seqs in acknowledged.values() for seq in seqs) == list(range(80))
    assert all(events[seq]["who"] == who for who, seqs in acknowledged.items() for seq in seqs)


class Slow(MemoryFileSystem):
    """Between the look and the write of one caller come the looks of all the others, where no lock holds them off."""

    looked = threading.Barrier(8)

    def exists(self, path, **kwargs):
        found = super().exists(path, **kwargs)
        with suppress(threading.BrokenBarrierError):
            self.looked.wait(0.1)
        return found


def test_of_many_that_create_one_event_in_memory_one_does():
    url, acknowledged = f"memory://{uuid4().hex}", []

    def write(who):
        store = Store(url)
        store._place.fs = Slow()
        with suppress(Conflict):
            store.append("a", 0, {"who": who})
            acknowledged.append({"who": who})

    threads = [threading.Thread(target=write, args=(who,)) for who in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Store(url).events("a") == acknowledged


PROCESS = """
import sys
sys.path[:0] = [sys.argv[1], sys.argv[2]]
from test_objects import append_all
from holdfast.storage.store import Store
store = Store(sys.argv[3])
for _ in range(20):
    store.put(b"shared" * 1000)
append_all(store, sys.argv[4], 25)
"""


def spawn(script, *arguments):
    command = [sys.executable, "-c", script, SOURCE, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_four_processes_append_to_one_log_and_put_one_object(folder):
    processes = [spawn(PROCESS, Path(__file__).parent, folder, who) for who in "wxyz"]
    for process in processes:
        assert process.communicate()[1] is None
        assert process.returncode == 0
    store = Store(folder)
    check_every_event_once(store.events("a"), "wxyz", 25)
    digest = hashlib.sha256(b"shared" * 1000).hexdigest()
    assert store.get(digest) == b"shared" * 1000
    assert [f for f in files(folder) if not f.startswith("logs/")] == [f"objects/{digest[:2]}/{digest}"]


def test_one_object_put_by_many_threads_is_whole(url):
    data = b"y" * 200_000
    digests = set()
    threads = [threading.Thread(target=lambda: digests.add(Store(url).put(data))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [Store(url).get(digest) for digest in digests] == [data]


# Kills


WRITER = """
import sys
sys.path.insert(0, sys.argv[1])
from holdfast.storage.store import Store
store = Store(sys.argv[2])
seq = len(store.events("a"))
while True:
    digest = store.put(b"%d" % seq * 1000)
    store.append("a", seq, {"seq": seq, "object": digest, "text": "x" * 5000})
    print(seq, flush=True)
    seq += 1
"""


def test_what_was_acknowledged_before_a_kill_is_there(folder):
    """Twenty writers one after the other, each killed at some instant of its work."""
    acknowledged = -1
    for turn in range(20):
        writer = spawn(WRITER, folder)
        for _ in range(1 + turn % 4):
            acknowledged = int(writer.stdout.readline())
        time.sleep(turn % 7 * 0.0007)  # to meet every step of a write
        writer.kill()
        rest = writer.communicate()[0].split()
        acknowledged = int(rest[-1]) if rest else acknowledged
        events = Store(folder).events("a")
        assert len(events) in (acknowledged + 1, acknowledged + 2)  # the last one may have lost its answer only
    store = Store(folder)
    assert [event["seq"] for event in events] == list(range(len(events)))
    for event in events:
        assert store.get(event["object"]) == b"%d" % event["seq"] * 1000
