"""Throughput on the loopback, and what it does about servers that will not have us."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import msgspec
import psutil
import pytest

from agent import path as paths
from agent.measurements import throughput, throughput_options
from agent.measurements.base import MeasurementFailed
from agent.measurements.throughput import Measured, Terms, run, run_in_turn
from agent.measurements.throughput_options import ThroughputOptions
from agent.path import LinkPath
from wire.measured import Transfer
from wire.reasons import Invalid, Reason
from wire.results import Server

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SHORT = ThroughputOptions(duration_s=1, omit_s=0, streams=1, connect_timeout_s=1)


def at(*ports: int, host: str = "127.0.0.1") -> Server:
    return Server(host=host, ports=ports)


def children() -> list[psutil.Process]:
    running = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in running if "iperf_child" in " ".join(child.cmdline())]


def test_a_run_on_the_loopback_brings_both_directions(serve: Callable[..., int]) -> None:
    measured = run(paths.look("lo"), at(serve("-1"), serve("-1"), host="localhost"), SHORT)
    assert measured.download.steady_mbps > 10
    assert measured.upload is not None
    assert measured.upload.mbps == measured.upload.steady_mbps > 10
    assert measured.upload_failure is None
    assert set(measured.invalid) <= {Invalid.OTHER_TRAFFIC}, "others may use the loopback too"
    assert children() == []


def test_without_upload_one_server_is_enough(serve: Callable[..., int]) -> None:
    options = msgspec.structs.replace(SHORT, upload=False)
    assert options.transfers == 1
    measured = run(paths.look("lo"), at(serve("-1")), options)
    assert (measured.upload, measured.upload_failure) == (None, None)


def test_one_port_serves_both_directions_of_a_plain_server(serve: Callable[..., int]) -> None:
    measured = run(paths.look("lo"), at(serve()), SHORT)
    assert measured.upload is not None


def test_an_upload_that_is_refused_leaves_the_download_standing(serve: Callable[..., int]) -> None:
    measured = run(paths.look("lo"), at(serve("-1"), 9), SHORT)
    assert measured.download.steady_mbps > 10
    assert (measured.upload, measured.upload_failure) == (None, Reason.REFUSED)


def test_a_port_where_nobody_listens_is_a_refusal() -> None:
    with pytest.raises(MeasurementFailed) as failure:
        run(paths.look("lo"), at(9), SHORT)
    assert (failure.value.reason, failure.value.begun) == (Reason.REFUSED, False)
    assert failure.value.detail == "download, 127.0.0.1:9: unable to connect to server: Connection refused"


def test_a_server_that_tests_with_another_is_busy(serve: Callable[..., int]) -> None:
    port = serve()
    with _hog(port), pytest.raises(MeasurementFailed) as failure:
        run(paths.look("lo"), at(port), SHORT)
    assert (failure.value.reason, failure.value.begun) == (Reason.BUSY, False)


def test_a_host_that_takes_connections_and_says_nothing_is_a_timeout(
    silent_host: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throughput_options, "WIND_UP_S", 0.5)
    begun_s = time.monotonic()
    with pytest.raises(MeasurementFailed) as failure:
        run(paths.look("lo"), at(silent_host), SHORT)
    assert failure.value.reason is Reason.TIMEOUT
    assert time.monotonic() - begun_s < SHORT.deadline_s + 10
    assert children() == []


def test_a_name_that_nobody_knows_is_said_to_be_so() -> None:
    with pytest.raises(MeasurementFailed) as failure:
        run(paths.look("lo"), at(5201, host="no.such.name.invalid"), SHORT)
    assert failure.value.reason is Reason.NAME_NOT_RESOLVED


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (LinkPath(interface="wwan9", exists=False, up=False), Reason.LINK_DOWN),
        (LinkPath(interface="wwan9", up=False, source_address="10.0.0.1"), Reason.LINK_DOWN),
        (LinkPath(interface="wwan9"), Reason.NO_ADDRESS),
        (LinkPath(interface="wwan9", source_address="127.0.0.1"), Reason.LINK_DOWN),  # gone since it was looked at
        (LinkPath(interface="lo", source_address="203.0.113.9"), Reason.LINK_DOWN),  # another address since
    ],
)
def test_a_link_that_is_not_there_is_down(path: LinkPath, expected: Reason) -> None:
    with pytest.raises(MeasurementFailed) as failure:
        run(path, at(9), SHORT)
    assert failure.value.reason is expected


def test_a_machine_without_the_library_lacks_a_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "iperf3.py").write_text("raise ImportError('not installed')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(MeasurementFailed) as failure:
        run(paths.look("lo"), at(9), SHORT)
    assert failure.value.reason is Reason.TOOL_MISSING


def test_a_child_that_ignores_its_deadline_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "CHILD", ("sh", "-c", "sleep 60 & sleep 60"))
    monkeypatch.setattr(throughput_options, "WIND_UP_S", -1.5)
    monkeypatch.setattr(throughput, "KILL_AFTER_S", 0.0)
    with pytest.raises(MeasurementFailed) as failure:
        run(paths.look("lo"), at(9), SHORT)
    assert failure.value.reason is Reason.TIMEOUT
    assert not [child for child in psutil.Process().children(recursive=True) if child.name() == "sleep"]


def test_a_child_that_is_terminated_is_a_failure_not_a_hang(serve: Callable[..., int]) -> None:
    """Libiperf would answer a signal only when its call returns; a child simply dies, and its figures with it."""

    def terminate() -> None:
        deadline_s = time.monotonic() + 20
        while time.monotonic() < deadline_s:
            for child in children():
                child.terminate()
                return
            time.sleep(0.02)

    helper = threading.Thread(target=terminate)
    helper.start()
    begun_s = time.monotonic()
    with pytest.raises(MeasurementFailed) as failure:
        run(paths.look("lo"), at(serve()), ThroughputOptions(duration_s=20, streams=1))
    helper.join()
    assert failure.value.reason is Reason.TOOL_FAILED
    assert "without a word" in failure.value.detail
    assert time.monotonic() - begun_s < 15


@pytest.mark.parametrize(
    ("answer", "status", "expected"),
    [
        ('{"error": "unable to receive control message: Connection reset by peer"}', 0, Reason.INTERRUPTED),
        ('{"error": "the server is busy running a test. try again later"}', 0, Reason.BUSY),
        ('{"end": {"sum_received": {"bytes": 1000000, "seconds": 1.0}}}', 1, None),
    ],
    ids=["an error with status 0", "busy with status 0", "figures with status 1"],
)
def test_an_exit_status_says_nothing(
    answer: str, status: int, expected: Reason | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`iperf3 -J` exits 0 on errors: what counts is the key `error`."""
    monkeypatch.setattr(throughput, "CHILD", ("sh", "-c", f"cat > /dev/null; echo '{answer}'; exit {status}"))
    options = msgspec.structs.replace(SHORT, upload=False)
    if expected is None:
        assert run(paths.look("lo"), at(9), options).download.payload_bytes == 1_000_000
        return
    with pytest.raises(MeasurementFailed) as failure:
        run(paths.look("lo"), at(9), options)
    assert failure.value.reason is expected


def test_what_the_agent_writes_meanwhile_is_not_swallowed(
    serve: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    """The wrapper redirects the whole process's standard output while it runs."""
    over = threading.Event()

    def write() -> int:
        count = 0
        while not over.wait(0.02):
            os.write(1, f"line {count}\n".encode())
            count += 1
        return count

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        run(paths.look("lo"), at(serve("-1")), msgspec.structs.replace(SHORT, upload=False))
        over.set()
    assert capfd.readouterr().out.splitlines() == [f"line {number}" for number in range(writing.result())]
    assert writing.result() > 10


def test_the_whole_of_an_upload_has_a_mean_too(serve: Callable[..., int]) -> None:
    measured = run(paths.look("lo"), at(serve()), ThroughputOptions(duration_s=1, omit_s=1, streams=2))
    for transfer in (measured.download, measured.upload):
        assert transfer is not None
        assert transfer.mbps is not None
        assert transfer.elapsed_s == pytest.approx(2.0, abs=0.3)
        assert transfer.mbps == pytest.approx(transfer.payload_bytes * 8 / transfer.elapsed_s / 1e6, rel=0.01)
        assert transfer.tcp_rtt_mean_ms is not None
        assert transfer.family == "ipv4"


class Stop(BaseException):
    """What a signal handler may raise."""


def test_a_run_that_is_interrupted_leaves_no_child(serve: Callable[..., int]) -> None:
    def interrupt(*_: object) -> None:
        raise Stop

    port = serve("-1")
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        later = subprocess.Popen(["sh", "-c", f"sleep 1; kill -USR1 {os.getpid()}"])
        with later, pytest.raises(Stop):
            run(paths.look("lo"), at(port), ThroughputOptions(duration_s=20, streams=1))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert children() == []


# --- plain servers in turn ------------------------------------------------------------------------------------------


class Servers:
    """Stands in for `run`: what each port answers, time after time; keeps the order of the visits."""

    def __init__(self, **answers: list[MeasurementFailed | Measured]) -> None:
        self.answers = answers
        self.visits: list[str] = []

    def __call__(self, _path: LinkPath, server: Server, _options: ThroughputOptions, _terms: Terms) -> Measured:
        self.visits.append(server.host)
        answers = self.answers[server.host]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, MeasurementFailed):
            raise answer
        return answer


FIGURES = Measured(Transfer(steady_mbps=40.0, payload_bytes=1, elapsed_s=1.0), None, None, (), 1)


def failed(reason: Reason, *, begun: bool = False) -> MeasurementFailed:
    return MeasurementFailed(reason, begun=begun)


def visit(servers: Servers, monkeypatch: pytest.MonkeyPatch, *, patience_s: float = 60.0) -> tuple[Measured, Server]:
    """Try them in turn, with a clock that only pauses move."""
    now_s = [0.0]
    monkeypatch.setattr(throughput, "run", servers)
    monkeypatch.setattr(throughput.time, "monotonic", lambda: now_s[0])
    monkeypatch.setattr(throughput.time, "sleep", lambda pause_s: now_s.__setitem__(0, now_s[0] + pause_s))
    wanted = [Server(host=host, ports=(5201,)) for host in servers.answers]
    return run_in_turn(LinkPath(interface="lo"), wanted, SHORT, patience_s=patience_s)


def test_the_first_server_that_takes_us_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    servers = Servers(a=[failed(Reason.REFUSED)], b=[failed(Reason.BUSY)], c=[FIGURES], d=[FIGURES])
    measured, used = visit(servers, monkeypatch)
    assert (measured, used.host) == (FIGURES, "c")
    assert servers.visits == ["a", "b", "c"]


def test_busy_servers_are_asked_again_and_dead_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    servers = Servers(a=[failed(Reason.BUSY), failed(Reason.BUSY), FIGURES], b=[failed(Reason.UNREACHABLE)])
    assert visit(servers, monkeypatch)[1].host == "a"
    assert servers.visits == ["a", "b", "a", "a"]


def test_patience_with_busy_servers_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    servers = Servers(a=[failed(Reason.BUSY)], b=[failed(Reason.TIMEOUT)])
    with pytest.raises(MeasurementFailed, match="busy for 30 s: a:5201") as failure:
        visit(servers, monkeypatch, patience_s=30.0)
    assert failure.value.reason is Reason.BUSY
    assert 3 <= len(servers.visits) <= 8, "pauses double"


def test_when_no_server_is_left_the_last_ones_reason_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    servers = Servers(a=[failed(Reason.REFUSED)], b=[failed(Reason.TIMEOUT)])
    with pytest.raises(MeasurementFailed) as failure:
        visit(servers, monkeypatch)
    assert failure.value.reason is Reason.TIMEOUT
    assert servers.visits == ["a", "b"]


@pytest.mark.parametrize(
    "what", [failed(Reason.TIMEOUT, begun=True), failed(Reason.LINK_DOWN), failed(Reason.TOOL_MISSING)], ids=str
)
def test_what_is_not_the_servers_fault_or_has_cost_bytes_is_not_tried_elsewhere(
    what: MeasurementFailed, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = Servers(a=[what], b=[FIGURES])
    with pytest.raises(MeasurementFailed) as failure:
        visit(servers, monkeypatch)
    assert failure.value is what
    assert servers.visits == ["a"]


def test_a_real_busy_server_is_waited_for(serve: Callable[..., int]) -> None:
    port = serve()
    options = msgspec.structs.replace(SHORT, upload=False)
    with _hog(port, seconds=2):
        measured, used = run_in_turn(paths.look("lo"), [at(9), at(port)], options, patience_s=60.0)
    assert used == at(port)
    assert measured.download.steady_mbps > 10


# --- options --------------------------------------------------------------------------------------------------------


def test_the_default_is_the_light_test() -> None:
    options = ThroughputOptions()
    assert (options.omit_s, options.duration_s, options.streams, options.congestion) == (1, 5, 4, "cubic")
    assert options.deadline_s == 1 + 5 + 5 + 5
    assert 2 * options.deadline_s < options.longest_s < 60


@pytest.mark.parametrize(
    "changes",
    [
        {"duration_s": 0},
        {"duration_s": 61},
        {"omit_s": -1},
        {"streams": 17},
        {"congestion": "cubic; rm"},
        {"interval_s": 0.01},
        {"max_bytes": 10},
        {"bytes": 10},
        {"duration_s": 0.4},
    ],
    ids=str,
)
def test_impossible_options_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(changes, ThroughputOptions)


class _hog:  # noqa: N801  # reads as a statement
    """Keep a plain server busy with a client of one's own."""

    def __init__(self, port: int, *, seconds: int = 20) -> None:
        self._command = ["iperf3", "-c", "127.0.0.1", "-p", str(port), "-t", str(seconds), "-b", "1M", "--forceflush"]

    def __enter__(self) -> None:
        self._client = subprocess.Popen(self._command, stdout=subprocess.PIPE)
        assert self._client.stdout is not None
        assert any(b"connected to" in line for line in self._client.stdout)

    def __exit__(self, *_: object) -> None:
        self._client.kill()
        with self._client:
            pass
