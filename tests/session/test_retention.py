"""A store keeps its limits, says what went and why, and never drops what is needed or in use."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest
from typer.testing import CliRunner

from holdfast.cli.main import app
from holdfast.errors import BadOption, Missing
from holdfast.session.retention import (
    DAY,
    StoredSession,
    StoreLimits,
    choose_evictions,
    list_sessions,
    prune,
    total_bytes,
)
from holdfast.storage.store import Store

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
fuzz = import_module("fuzz_imports")
NOW = 1_000 * DAY


def stored(name: str, days: float, nbytes: int = 10, **shared: int) -> StoredSession:
    return StoredSession(name, NOW - days * DAY, nbytes, shared)


def gone(sessions: list[StoredSession], limits: StoreLimits, spared: tuple[str, ...] = ()) -> list[str]:
    return [session.name for session, _ in choose_evictions(sessions, limits, NOW, spared)]


FOUR = [stored("a", 1), stored("b", 5, 30), stored("c", 3), stored("d", 40, 5)]


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (StoreLimits(), []),
        (StoreLimits(55), []),
        (StoreLimits(54), ["d"]),
        (StoreLimits(49), ["d", "b"]),
        (StoreLimits(1), ["d", "b", "c", "a"]),
        (StoreLimits(age=4 * DAY), ["d", "b"]),
        (StoreLimits(15, 39 * DAY), ["d", "b", "c"]),
    ],
)
def test_the_oldest_go_until_the_limits_are_kept(limits: StoreLimits, expected: list[str]) -> None:
    assert gone(FOUR, limits) == expected
    left = [session for session in FOUR if session.name not in expected]
    assert limits.nbytes is None or total_bytes(left) <= limits.nbytes


def test_what_is_in_use_or_cannot_be_read_stays() -> None:
    unread = StoredSession("x", 0.0, 1000, problem="damaged")
    assert gone([*FOUR, unread], StoreLimits(1), ("d",)) == ["b", "c", "a"]


def test_objects_that_forks_share_count_once_and_free_nothing_until_the_last_is_gone() -> None:
    forks = [stored("old", 3, 1, big=100), stored("new", 1, 1, big=100), stored("own", 2, 1, other=50)]
    assert total_bytes(forks) == 153
    assert gone(forks, StoreLimits(110)) == ["old", "own"]


@pytest.mark.parametrize("limits", [{"nbytes": 0}, {"age": -1.0}, {"age": float("inf")}])
def test_a_limit_that_lets_nothing_stay_is_refused(limits: dict[str, float]) -> None:
    with pytest.raises(BadOption):
        StoreLimits(**limits)  # type: ignore[arg-type]


def host_of(store: Store, **limits: float):
    policy = fuzz.HostPolicy(trigger=fuzz.POLICY.trigger, store=StoreLimits(**limits))  # type: ignore[arg-type]
    return fuzz.SessionHost(fuzz.build_pair("llama").engine, fuzz.PLAN, store, policy)


def talk(host, *words: str) -> list[str]:
    return [fuzz.answer(host, (fuzz.Turn(fuzz.Role.USER, word),))[0] for word in words]


@pytest.mark.parametrize("url", ["folder", "memory://retention"])
def test_sizes_are_those_of_the_files(tmp_path: Path, url: str) -> None:
    store = Store(tmp_path if url == "folder" else url)
    host = host_of(store)
    one, two = talk(host, "First task.", "Second task.")
    host.close()
    sessions = {session.name: session for session in list_sessions(store)}
    assert [sessions[name].title for name in (one, two)] == ["First task.", "Second task."]
    assert all(session.turns == 2 and session.objects and not session.problem for session in sessions.values())
    if url == "folder":
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert total_bytes(sessions.values()) == sum(path.stat().st_size for path in files)
    store.drop(one), store.drop(two)


def test_a_server_drops_the_oldest_says_so_and_serves_the_history_again(tmp_path: Path, caplog) -> None:
    host = host_of(Store(tmp_path))
    old, new = talk(host, "The old one.", "The new one.")
    host.close()
    host = host_of(Store(tmp_path), nbytes=total_bytes(list_sessions(Store(tmp_path))) - 1)
    host.close()  # which waits for what was begun at the start
    assert f"session {old} is dropped: the store held" in caplog.text
    assert [row["id"] for row in host.sessions("k")] == [new]
    assert (host.stats("k").evicted, host.stats("other").evicted) == (1, 0)
    with pytest.raises(Missing, match="send its history again"):
        host.session(old, "k")
    with pytest.raises(Missing, match="there is no session"):
        host.session(old, "other")
    assert [session.name for session in list_sessions(Store(tmp_path))] == [new]


def test_pruning_drops_what_is_named_and_what_cannot_be_read(tmp_path: Path) -> None:
    host = host_of(Store(tmp_path))
    one, two = talk(host, "First task.", "Second task.")
    host.close()
    store = Store(tmp_path, grace=0.0)  # not of a live host, whose clean-up at the start would take what it is writing
    store.append("broken", 0, {"what": 1})
    before = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    plan = prune(store, names=[one], unreadable=True, dry_run=True)
    assert (len(store.logs()), [session.name for session, _ in plan.dropped]) == (3, [one, "broken"])
    done = prune(store, names=[one], unreadable=True)
    after = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert (store.logs(), [session.name for session in done.kept]) == ([two], [two])
    assert done.freed == before - after > 0
    with pytest.raises(BadOption, match="no session 'nobody'"):
        prune(store, names=["nobody"])
    assert host_of(Store(tmp_path)).session(two, "k")["title"] == "Second task."


def test_the_command_lists_and_prunes(tmp_path: Path) -> None:
    host = host_of(Store(tmp_path))
    one, two = talk(host, "First task.", "Second task.")
    host.close()
    run, folder = CliRunner(), str(tmp_path)
    shown = run.invoke(app, ["store", "--store", folder])
    assert all(word in shown.stdout for word in (one, two, "First task.", "2 sessions"))
    with pytest.raises(BadOption, match="say what goes"):
        run.invoke(app, ["store", "prune", "--store", folder], catch_exceptions=False)
    dropped = run.invoke(app, ["store", "prune", "--store", folder, "--session", one])
    assert one in dropped.stdout
    assert "1 of 2 sessions" in dropped.stdout
    assert Store(tmp_path).logs() == [two]
