"""Namespaces come when asked and go whatever happens: at the end, after an exception, after kill -9 of the owner."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lab import netns
from lab.netns import NetworkError, Run, veth

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAMES = Path("/run/netns")


@pytest.fixture
def run() -> Iterator[Run]:
    try:
        world = Run()
    except NetworkError as error:
        pytest.skip(str(error))
    with world:
        yield world


def wait_for(condition: Callable[[], bool], what: str, patience_s: float = 10) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {patience_s} s: {what}"
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    return netns._start_ticks(pid) is None


def test_without_root_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(NetworkError) as refusal:
        Run()
    assert str(refusal.value) == "network namespaces need root: run it with sudo"


@pytest.mark.root
def test_two_namespaces_talk_over_a_cable(run: Run) -> None:
    one, other = run.namespace("one"), run.namespace("other")
    veth(one, "a", other, "b")
    one.ip("address add 198.18.0.1/30 dev a")
    other.ip("address add 198.18.0.2/30 dev b")
    assert "1 received" in one.run(["ping", "-n", "-c", "1", "198.18.0.2"])
    assert one.carrier("a")
    other.ip("link set dev b down")
    assert not one.carrier("a")


@pytest.mark.root
def test_a_socket_opened_inside_stays_inside_and_the_thread_comes_back(run: Run) -> None:
    space = run.namespace("core")
    space.ip("address add 198.18.0.1/32 dev lo")
    home = Path("/proc/thread-self/ns/net").readlink()
    elsewhere: list[Path] = []
    with space.inside(), socket.create_server(("198.18.0.1", 0)) as server:
        assert Path("/proc/thread-self/ns/net").readlink() != home
        other = threading.Thread(target=lambda: elsewhere.append(Path("/proc/thread-self/ns/net").readlink()))
        main_thread = Path(f"/proc/self/task/{os.getpid()}/ns/net").readlink()
        with socket.create_connection(server.getsockname(), timeout=5) as client:
            assert client.getpeername()[0] == "198.18.0.1"
    assert Path("/proc/thread-self/ns/net").readlink() == home
    assert main_thread != home
    other.start()
    other.join()
    assert elsewhere == [home]
    with pytest.raises(OSError, match="assign requested address"), socket.create_server(("198.18.0.1", 0)):
        pass


@pytest.mark.root
def test_the_thread_comes_back_after_an_exception_too(run: Run) -> None:
    home = Path("/proc/thread-self/ns/net").readlink()
    with pytest.raises(ZeroDivisionError), run.namespace("core").inside():
        _ = 1 / 0
    assert Path("/proc/thread-self/ns/net").readlink() == home


@pytest.mark.root
def test_a_program_inside_sees_only_its_own_devices(run: Run) -> None:
    assert run.namespace("core").run(["ls", "/sys/class/net"]).split() == ["lo"]


@pytest.mark.root
def test_a_complaint_of_ip_names_the_namespace_and_the_command(run: Run) -> None:
    space = run.namespace("core")
    with pytest.raises(NetworkError, match=rf"{space.name}: `link set nothere up` failed: Cannot find device"):
        space.ip("link set nothere up")
    with pytest.raises(NetworkError, match=r"no end of .* in 0\.2 s"):
        space.run(["sleep", "30"], timeout_s=0.2)


@pytest.mark.root
@pytest.mark.parametrize("label", ["", "../etc", "a b", "-x", "x" * 65])
def test_a_label_that_cannot_name_a_namespace_is_refused(run: Run, label: str) -> None:
    with pytest.raises(NetworkError, match="cannot name a namespace"):
        run.namespace(label)


@pytest.mark.root
def test_a_label_serves_once(run: Run) -> None:
    run.namespace("core")
    with pytest.raises(NetworkError, match="has a namespace 'core' already"):
        run.namespace("core")


@pytest.mark.root
def test_after_an_exception_no_namespace_and_no_process_is_left(run: Run) -> None:
    with pytest.raises(ZeroDivisionError), Run() as world:  # noqa: PT012 # the run around the failing line is the point
        space = world.namespace("core")
        polite = space.popen(["sleep", "600"])
        stubborn = space.popen(
            ["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 1; done"], stdout=subprocess.PIPE
        )
        assert stubborn.stdout is not None
        with stubborn.stdout:
            assert stubborn.stdout.readline() == b"deaf\n"
        space.run(["sh", "-c", "setsid --fork sleep 601 >/dev/null 2>&1"])  # leaves its process group, as daemons do
        wait_for(lambda: len(netns._pids(space.name)) >= 3, "a daemon in the namespace")
        inhabitants = netns._pids(space.name)
        _ = 1 / 0
    assert not (NAMES / space.name).exists()
    assert polite.returncode == -signal.SIGTERM
    assert stubborn.returncode == -signal.SIGKILL
    wait_for(lambda: all(is_gone(pid) for pid in inhabitants), "the daemon's end")


@pytest.mark.root
def test_a_living_owners_namespaces_are_not_swept(run: Run) -> None:
    space = run.namespace("core")
    assert space.name not in netns.sweep()
    assert (NAMES / space.name).exists()


OWNER = """
import time
from lab.cell.topology import build_core, build_probe
from lab.netns import Run
run = Run()
core = build_core(run)
cell = build_probe(core, "site").attach_cell(down_mbps=10, up_mbps=10, rtt_ms=10)
server = core.namespace.popen(["sleep", "600"])
print(server.pid, cell.relay_pid, *(space.name for space in run.namespaces), flush=True)
time.sleep(600)
"""


@pytest.mark.root
def test_what_a_killed_owner_leaves_behind_is_swept(run: Run) -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True) as owner:
        try:
            assert owner.stdout is not None
            server_pid, relay_pid, *names = owner.stdout.readline().split()
            assert len(names) == 3
            assert all((NAMES / name).exists() for name in names)
        finally:
            owner.kill()
    wait_for(lambda: is_gone(int(relay_pid)), "the relay's end: its owner is dead")
    netns.sweep()  # any other run that begins on this machine meanwhile may have done it first
    assert not any((NAMES / name).exists() for name in names)
    wait_for(lambda: is_gone(int(server_pid)), "the server's end")


def test_a_name_that_is_not_ours_is_no_orphan() -> None:
    assert not netns._is_orphan("core")
    assert not netns._is_orphan("pf-core")
    assert netns._is_orphan("pf-4194305.1.1-core")  # a pid beyond the kernel's largest (2^22)
    own = os.getpid()
    assert not netns._is_orphan(f"pf-{own}.{netns._start_ticks(own)}.1-core")
    assert netns._is_orphan(f"pf-{own}.1.1-core")  # another process had this pid once
