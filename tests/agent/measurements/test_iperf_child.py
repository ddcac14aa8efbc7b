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
