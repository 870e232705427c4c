"""Each way out of the sandbox is refused, on every back end that works here."""

import os
import socket
from pathlib import Path

import pytest

from holdfast.agent.commands import FLOOD, run_command
from holdfast.agent.sandbox import SANDBOXES, open_sandbox
from holdfast.agent.sandbox.base import Rights
from holdfast.errors import BadOption, Failed

PATH = {"PATH": "/usr/local/bin:/usr/bin:/bin"}


@pytest.fixture(params=[name for name in SANDBOXES if name != "none"])
def sandbox(request):
    try:
        return open_sandbox(request.param)
    except Failed as error:
        pytest.skip(str(error))


@pytest.fixture
def sh(sandbox, tmp_path):
    rights = {"work": tmp_path / "work", "scratch": tmp_path / "scratch"}
    for folder in rights.values():
        folder.mkdir()
    (tmp_path / "secret").write_text("hunter2")

    def run(command, seconds=20.0, **limits):
        return run_command(command, sandbox, Rights(**rights, **limits), PATH, seconds)

    run.outside, run.work = tmp_path, rights["work"]
    return run


def test_it_works_in_its_tree(sh):
    done = sh("echo hi > a && cat a >&2 && mktemp -p ../scratch && ls /usr/bin/env && exit 3")
    assert done.returncode == 3
    assert done.output.startswith("hi\n")
    assert (sh.work / "a").read_text() == "hi\n"


@pytest.mark.parametrize("target", ["../outside", "link", "/etc/holdfast-escape", "/usr/holdfast-escape"])
def test_nothing_outside_is_written(sh, target):
    real = Path(target) if target.startswith("/") else sh.outside / "outside"
    (sh.work / "link").symlink_to(real)
    sh(f"echo x > {target}; echo x > {real}; mkdir -p {real}; rm -rf ../secret; chmod 777 ..")
    assert not real.exists()
    assert (sh.outside / "secret").read_text() == "hunter2"


@pytest.mark.parametrize("secret", ["../secret", "link", "/etc/shadow", "/root/.bashrc", "/proc/OURS/environ"])
def test_no_secret_is_read(sh, secret):
    secret = secret.replace("OURS", str(os.getpid()))
    (sh.work / "link").symlink_to(sh.outside / "secret")
    done = sh(f"cat {secret} | tr 'a-z' 'A-Z'; cat < {secret}")
    assert done.returncode != 0
    assert "HUNTER2" not in done.output


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_nothing_is_connected_to(sh, kind):
    with socket.socket(socket.AF_INET if kind == "tcp" else socket.AF_UNIX) as server:
        address = ("127.0.0.1", 0) if kind == "tcp" else str(sh.outside / "socket")
        server.bind(address)
        server.listen()
        to = f"TCP:127.0.0.1:{server.getsockname()[1]}" if kind == "tcp" else f"UNIX:{address}"
        reach = f"exec 3<>/dev/tcp/127.0.0.1/{to.rpartition(':')[2]}"
        unix = f"perl -MIO::Socket::UNIX -e 'IO::Socket::UNIX->new(Peer => \"{to[5:]}\") or die $!'"
        assert sh(reach if kind == "tcp" else unix).returncode != 0


def test_a_fork_loop_stops_and_leaves_nothing(sh, sandbox):
    # where processes are only counted from outside, a loop that doubles takes the machine of the test before it is seen
    doubles = "f() { f | f & }; f; " if sandbox.name == "sandlock" or os.getuid() else ""
    done = sh(f"{doubles}for i in $(seq 99); do sleep 60 & done; sleep 60", seconds=1.5, processes=20)
    assert done.seconds < 15
    assert sh("ls /proc | grep -c '^[0-9]'").output.strip() in {"3", "4", "5", "6"}


def test_more_memory_than_allowed_is_refused(sh):
    done = sh("perl -e '$x = \"x\" x (400 << 20); sleep 9; print length $x'", memory=128 << 20)
    assert done.returncode != 0
    assert "419430400" not in done.output


@pytest.mark.parametrize("command", ["sleep 60", "setsid sleep 60 & sleep 60", "trap '' TERM; while :; do :; done"])
def test_a_command_ends_at_its_time_with_all_its_processes(sh, command):
    done = sh(command, seconds=0.5)
    assert done.returncode == -1
    assert "more than 0.5 s" in done.ended
    assert done.seconds < 8


def test_what_runs_in_the_background_ends_with_its_command(sh):
    done = sh("(sleep 1; touch late) & setsid bash -c 'sleep 1; touch late' & echo started")
    assert done.output == "started\n"
    assert done.returncode == 0
    assert sh("sleep 1.3; ls").output == ""


def test_a_flood_is_clamped_and_ended(sh):
    done = sh("yes 0123456789abcdef", seconds=30)
    assert done.total > FLOOD
    assert "printed more" in done.ended
    assert len(done.describe()) < 11_000


def test_head_and_tail_of_a_long_output_are_shown(sh):
    done = sh("seq 1 20000")
    assert done.output.startswith("1\n2\n")
    assert done.tail.endswith("19999\n20000\n")
    assert "<elided_chars>98894</elided_chars>" in done.describe()


def test_secrets_of_the_environment_stay_outside(sh, sandbox):
    assert sorted(line.partition("=")[0] for line in sh("env").output.splitlines()) == [
        *("HOLDFAST_COMMAND", "PATH", "PWD", "SHLVL", "_"),
    ]


def test_an_unknown_sandbox_is_refused_by_name():
    with pytest.raises(BadOption, match="no sandbox is called 'jail'; there are: auto, sandlock, bubblewrap, none"):
        open_sandbox("jail")
