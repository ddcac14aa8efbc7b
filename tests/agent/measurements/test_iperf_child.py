"""The child by itself: what it may import, what it must not touch, and that it always ends."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from agent.measurements.iperf_child import busy_s

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

COMMAND = [sys.executable, "-P", "-m", "agent.measurements.iperf_child"]


def job(port: int, **changes: object) -> bytes:
    settings: dict[str, object] = {
        "host": "127.0.0.1",
        "port": port,
        "reverse": True,
        "source": "127.0.0.1",
        "device": "lo",
        "duration_s": 1,
        "omit_s": 0,
        "streams": 1,
        "congestion": "cubic",
        "interval_s": 0.5,
        "connect_timeout_s": 2,
        "receive_timeout_s": 2,
        "deadline_s": 8,
    }
    return json.dumps(settings | changes).encode()


def answer_of(work: bytes, env: dict[str, str] | None = None) -> dict[str, Any]:
    done = subprocess.run(
        COMMAND, input=work, capture_output=True, timeout=30, check=True, env={**os.environ, **(env or {})}
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_it_answers_with_iperf3s_report_and_nothing_else(serve: Callable[..., int]) -> None:
    report = answer_of(job(serve("-1")))
    assert "error" not in report
    assert report["end"]["sum_received"]["bytes"] > 0
    assert (report["byte_cap_reached"], report["deadline_reached"]) == (False, False)


def test_it_is_light() -> None:
    """A Pi starts one per transfer: msgspec, psutil, logging and our own other modules stay out."""
    code = "import sys; import agent.measurements.iperf_child; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout.split()
    assert not {"msgspec", "psutil", "paho", "logging", "subprocess", "asyncio", "yaml"} & set(loaded)


@pytest.mark.parametrize("work", [b"", b"{}", b"[]", b"nonsense"])
def test_a_job_that_is_none_is_an_answer_not_a_traceback(work: bytes) -> None:
    report = answer_of(work)
    assert report["unusable"]
    assert report["error"].startswith("job: ")


def test_a_library_that_is_not_there_is_an_answer_not_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "iperf3.py").write_text("raise ImportError('no module of that name')\n")
    report = answer_of(job(1), env={"PYTHONPATH": str(tmp_path)})
    assert report["unusable"]
    assert report["error"] == "libiperf: no module of that name"


def test_a_setter_that_the_library_lacks_is_an_answer_not_a_default(tmp_path: Path) -> None:
    """An iperf3 too old to bind to a device must not test over whatever route there is."""
    (tmp_path / "iperf3.py").write_text(
        "class Lib:\n"
        "    def __getattr__(self, name):\n"
        "        if name == 'iperf_set_test_bind_dev': raise AttributeError(name)\n"
        "        return lambda *_: 0\n"
        "class Client:\n"
        "    def __init__(self, **_): self.lib, self._test = Lib(), 0\n"
    )
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from agent.measurements import iperf_child; iperf_child.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], input=job(1), capture_output=True, timeout=20, check=True)
    report = json.loads(done.stdout)
    assert report["unusable"]
    assert "iperf_set_test_bind_dev" in report["error"]


OLD_LIBRARY = """
class Lib:
    def __getattr__(self, name):
        if name in {'MISSING'.split()}: raise AttributeError(name)
        return Function(name)
class Function:
    def __init__(self, name): self.name = name
    def __call__(self, *_): return b'VERSION' if self.name == 'iperf_get_iperf_version' else STATUS
class Client:
    def __init__(self, **_): self.lib, self._test = Lib(), 0
"""


@pytest.mark.parametrize(
    ("version", "missing", "status", "said"),
    [
        ("3.5", "iperf_set_test_bind_dev", 0, "version 3.5 has no iperf_set_test_bind_dev; 3.12 (Debian 12) or later"),
        ("3.12", "iperf_set_test_bind_port", 0, "version 3.12 has no iperf_set_test_bind_port"),
        ("3.18", "iperf_parse_arguments", 0, "no iperf_parse_arguments, so the password cannot be padded"),
        ("3.22", "", -1, "version 3.22 pads passwords by OAEP alone, which the responder's servers do not read"),
    ],
)
def test_a_library_too_old_or_too_new_says_what_it_cannot_do(
    tmp_path: Path, version: str, missing: str, status: int, said: str
) -> None:
    """Recorded: 3.22 answers -1 to --use-pkcs1-padding from a client; 3.18 answers 0, and its password is read."""
    text = OLD_LIBRARY.replace("'MISSING'.split()", ", ".join(map(repr, missing.split() or ["nothing"])))
    (tmp_path / "iperf3.py").write_text(text.replace("VERSION", version).replace("STATUS", str(status)))
    login = {"user": "u", "password": "p", "public_key": "k"} if version >= "3.17" and version != "3.5" else None
    report = answer_of(job(1, client_port=40_000, login=login), env={"PYTHONPATH": str(tmp_path)})
    assert report["unusable"]
    assert said in report["error"]


def test_the_version_that_cannot_be_told_needs_no_padding(serve: Callable[..., int]) -> None:
    report = answer_of(job(serve("-1")))
    assert report["start"]["version"].startswith("iperf 3.")


def test_the_streams_leave_from_the_ports_that_were_asked_for(serve: Callable[..., int]) -> None:
    report = answer_of(job(serve("-1"), client_port=21_234, streams=3))
    assert [one["local_port"] for one in report["start"]["connected"]] == [
        21_234,
        21_235,
        21_236,
    ]  # below the kernel's own choice


def test_a_library_is_not_looked_for_where_a_compiler_is_installed(tmp_path: Path, serve: Callable[..., int]) -> None:
    """With gcc and libiperf-dev the wrapper finds `liblibiperf.a`; here the library has a name."""
    (tmp_path / "sitecustomize.py").write_text(
        "import ctypes.util\nctypes.util.find_library = lambda _: 'liblibiperf.a'\n"
    )
    report = answer_of(job(serve("-1")), env={"PYTHONPATH": str(tmp_path)})
    assert "error" not in report
    code = "import iperf3; iperf3.Client()"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, check=False
    )
    assert b"liblibiperf.a" in done.stderr, "the trap is none any more"


def test_a_quote_in_an_error_does_not_spoil_the_answer(serve: Callable[..., int]) -> None:
    report = answer_of(job(serve("-1"), congestion='cu"bic'))
    assert "congestion control" in report["error"]


def test_two_at_once_do_not_disturb_each_other(serve: Callable[..., int]) -> None:
    """Two clients in one process do: libiperf keeps its state in globals."""
    children = []
    for number in range(2):
        child = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert child.stdin is not None
        child.stdin.write(job(serve("-1"), reverse=number == 0))
        child.stdin.close()
        child.stdin = None
        children.append(child)
    for child in children:
        with child:
            report = json.loads(child.communicate(timeout=30)[0])
        assert "error" not in report
        assert report["end"]["sum_received"]["bytes"] > 0


@pytest.mark.parametrize("reverse", [True, False], ids=["download", "upload"])
def test_the_streams_are_watched_from_their_first_byte(serve: Callable[..., int], *, reverse: bool) -> None:
    report = answer_of(job(serve("-1"), reverse=reverse, streams=4))
    looks = report["looks"]
    assert looks[0][1:] == [0, 0]
    assert [moved for _, moved, _ in looks] == sorted(moved for _, moved, _ in looks)
    assert 0.5 < looks[-1][0] - looks[0][0] < 5
    assert looks[-1][1] == pytest.approx(report["end"]["sum_received"]["bytes"], rel=0.3)
    assert all(rtt_us > 0 for _, _, rtt_us in looks[2:])


def test_udp_sends_datagrams_that_fit_and_tells_what_arrived(serve: Callable[..., int]) -> None:
    report = answer_of(job(serve("-1"), congestion=None, udp={"payload_bytes": 1200, "rate_bps": 5_000_000}))
    assert report["start"]["test_start"]["blksize"] == 1200
    assert report["end"]["sum_received"]["bytes"] == pytest.approx(5e6 / 8, rel=0.2)


def test_a_host_that_says_nothing_is_left_at_the_deadline(silent_host: int) -> None:
    begun_s = time.monotonic()
    report = answer_of(job(silent_host, deadline_s=1.5))
    assert report["deadline_reached"]
    assert "error" in report
    assert 1.4 < time.monotonic() - begun_s < 15


def test_sockets_opened_after_a_test_are_never_touched(serve: Callable[..., int]) -> None:
    """The destructor trap: with the wrapper in one's own process, sockets that got the old numbers are written into."""
    port = serve()
    for _ in range(2):
        report = answer_of(job(port, duration_s=1))
        assert "error" not in report
        pairs = [socket.socketpair() for _ in range(8)]
        try:
            answer_of(job(port))
            ends = [end for pair in pairs for end in pair]
            assert select.select(ends, [], [], 0.1)[0] == [], "a socket of ours received something"
            for one, other in pairs:
                one.sendall(b"still here")
                assert other.recv(64) == b"still here"
        finally:
            for one, other in pairs:
                one.close()
                other.close()


def test_the_trap_is_real_the_wrapper_writes_into_sockets_of_others(serve: Callable[..., int]) -> None:
    """Why there is a child at all. When this fails, the iperf3 package has been mended."""
    code = f"""
import iperf3, socket

def intact(one, other):
    try:
        one.sendall(b"x")
        return other.recv(8) == b"x"
    except OSError:
        return False

client = iperf3.Client(lib_name="libiperf.so.0", verbose=False)
client.server_hostname, client.port, client.duration = "127.0.0.1", {serve("-1")}, 1
client.run()
pairs = [socket.socketpair() for _ in range(8)]
del client
print("intact" if all(intact(*pair) and intact(*pair[::-1]) for pair in pairs) else "harmed")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30, check=False, text=True)
    assert "harmed" in done.stdout, done.stderr


def test_ten_transfers_on_one_server_in_a_row_all_bring_figures(serve: Callable[..., int]) -> None:
    port = serve()
    for number in range(10):
        report = answer_of(job(port, duration_s=1, max_bytes=1_000_000, reverse=number % 2 == 0))
        assert "error" not in report, report["error"]
        assert report["byte_cap_reached"]


def test_time_at_the_processor_is_counted_and_time_asleep_is_not() -> None:
    before_s = busy_s()
    time.sleep(0.3)
    slept_s = busy_s() - before_s
    until_s = time.thread_time() + 0.1
    while time.thread_time() < until_s:
        pass
    assert busy_s() - before_s - slept_s >= 0.1
    assert slept_s < 0.3
