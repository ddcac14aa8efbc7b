"""Latency: real irtt and ping, on the loopback and over links in network namespaces."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from agent import path as paths
from agent.measurements import latency
from agent.measurements.base import MeasurementFailed
from agent.measurements.latency import LatencyOptions
from wire.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Site

SHORT = LatencyOptions(duration_s=1, icmp_count=3)
BRIEFLY = {"duration_s": 1, "icmp_count": 3}
SERVER, OWN_ADDRESS = "10.9.0.1", "10.2.0.2"


@pytest.fixture
def echo_port() -> Iterator[int]:
    """Run an irtt server on the loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    with subprocess.Popen(["irtt", "server", "-b", f"127.0.0.1:{port}"], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert any(b"starting IPv4 listener" in line for line in server.stdout)
        yield port
        server.kill()


def test_round_trips_are_measured_by_two_tools(echo_port: int) -> None:
    result = latency.run(paths.look("lo"), "127.0.0.1", SHORT, port=echo_port)
    assert (result.udp.tool, result.udp.sent) == ("irtt", 10)
    assert 8 <= result.udp.received <= 10  # a machine that stood still for a moment loses one on the loopback too
    assert result.udp.loss_percent == pytest.approx(100 - 10 * result.udp.received)
    if result.udp.received == result.udp.sent:
        assert (result.loss_up_percent, result.loss_down_percent) == (0, 0)
    assert result.udp.rtt_median_ms is not None
    assert 0 < result.udp.rtt_median_ms < 1000
    assert result.icmp is not None
    assert (result.icmp.tool, result.icmp.sent) == ("ping", 3)
    assert result.interface_bytes is not None
    assert result.interface_bytes > result.udp.received * 2 * 88


@pytest.fixture
def late_port(echo_port: int) -> Iterator[int]:
    """Stand before the irtt server and hold its eleventh answer, that to the tenth echo, for a second."""
    with socket.socket(type=socket.SOCK_DGRAM) as front, socket.socket(type=socket.SOCK_DGRAM) as back:
        front.bind(("127.0.0.1", 0))
        back.connect(("127.0.0.1", echo_port))
        front.settimeout(0.1)
        back.settimeout(0.1)
        ended = threading.Event()
        clients: list[tuple[str, int]] = []

        def forth() -> None:
            while not ended.is_set():
                with suppress(TimeoutError):
                    datagram, client = front.recvfrom(2000)
                    clients.append(client)
                    back.send(datagram)

        def and_back() -> None:
            answers = 0
            while not ended.is_set():
                with suppress(TimeoutError):
                    datagram = back.recv(2000)
                    answers += 1
                    if answers == 11:
                        ended.wait(1.0)
                    front.sendto(datagram, clients[-1])

        threads = [threading.Thread(target=forth), threading.Thread(target=and_back)]
        for thread in threads:
            thread.start()
        yield front.getsockname()[1]
        ended.set()
        for thread in threads:
            thread.join()


def test_a_last_echo_that_takes_long_is_late_not_lost(late_port: int) -> None:
    result = latency.run(paths.look("lo"), "127.0.0.1", SHORT, port=late_port)
    assert (result.udp.sent, result.udp.received) == (10, 10)
    assert result.udp.rtt_max_ms is not None
    assert result.udp.rtt_max_ms >= 1000


def test_the_second_opinion_can_be_left_out(echo_port: int) -> None:
    options = LatencyOptions(duration_s=1, icmp_count=0)
    assert latency.run(paths.look("lo"), "127.0.0.1", options, port=echo_port).icmp is None


def test_no_server_is_a_refusal() -> None:
    with pytest.raises(MeasurementFailed) as failure:
        latency.run(paths.look("lo"), "127.0.0.1", SHORT, port=9)
    assert failure.value.reason is Reason.REFUSED


@pytest.mark.parametrize("host", ["no.such.name.invalid", "", "-h", "a b", "::1"])
def test_a_host_without_an_address_is_a_name_not_resolved(host: str) -> None:
    with pytest.raises(MeasurementFailed) as failure:
        latency.run(paths.look("lo"), host, SHORT)
    assert failure.value.reason is Reason.NAME_NOT_RESOLVED


def only(tools: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a machine that has these tools and no others."""
    for tool in tools:
        found = shutil.which(tool)
        assert found is not None
        (folder / tool).symlink_to(found)
    monkeypatch.setenv("PATH", str(folder))


def test_a_machine_without_irtt_lacks_a_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(["ip", "ping"], tmp_path, monkeypatch)
    with pytest.raises(MeasurementFailed, match="irtt is not installed") as failure:
        latency.run(paths.look("lo"), "127.0.0.1", SHORT)
    assert failure.value.reason is Reason.TOOL_MISSING


def test_a_machine_without_ping_has_the_first_opinion_alone(
    echo_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(["ip", "irtt"], tmp_path, monkeypatch)
    result = latency.run(paths.look("lo"), "127.0.0.1", SHORT, port=echo_port)
    assert result.icmp is None
    assert result.udp.received == result.udp.sent > 0


# --- over links -----------------------------------------------------------------------------------------------------


def route_by_source(site: Site) -> None:
    """Give the link's address a routing table of its own, as a probe with several ways out needs it."""
    site.probe.ip("route add default via 10.2.0.1 dev wwan0 table 100", f"rule add from {OWN_ADDRESS} lookup 100")


@pytest.mark.root
def test_a_link_whose_packets_would_leave_elsewhere_is_not_measured(site: Site) -> None:
    site.echo()
    before = site.carried_bytes("eth0", "tx")
    answer = site.measure(measurement="latency", options=BRIEFLY)
    assert answer["failed"]["reason"] == Reason.WRONG_PATH
    assert "would leave by eth0, not by wwan0" in answer["failed"]["detail"]
    assert site.carried_bytes("eth0", "tx") - before < 1000


@pytest.mark.root
def test_with_a_route_of_its_own_the_link_is_measured_and_nothing_else(site: Site) -> None:
    site.echo()
    route_by_source(site)
    before = site.carried_bytes("eth0", "tx")
    answer = site.measure(measurement="latency", options=BRIEFLY)
    assert answer["latency"]["udp"]["received"] == 10
    assert answer["latency"]["icmp"]["received"] == 3
    assert answer["latency"]["interface_bytes"] > 10 * 2 * 88
    assert site.carried_bytes("eth0", "tx") - before < 1000


@pytest.mark.root
def test_a_route_that_forbids_the_way_out_is_unreachable(site: Site) -> None:
    site.probe.ip("route add unreachable default table 100", f"rule add from {OWN_ADDRESS} lookup 100")
    answer = site.measure(measurement="latency", options=BRIEFLY)
    assert answer["failed"]["reason"] == Reason.UNREACHABLE


@pytest.mark.root
def test_a_server_that_never_answers_is_a_timeout(site: Site) -> None:
    route_by_source(site)
    site.net.ip(f"route add blackhole {OWN_ADDRESS}/32")
    answer = site.measure(measurement="latency", options=BRIEFLY)
    assert answer["failed"]["reason"] == Reason.TIMEOUT
    assert answer["elapsed_s"] < 15


@pytest.mark.root
def test_a_device_that_goes_down_in_the_run_is_a_lost_link(site: Site) -> None:
    site.echo()
    route_by_source(site)
    task = site.start(measurement="latency", options={"duration_s": 2, "icmp_count": 0})
    site.wait_for_bytes(800, way="tx")
    site.probe.ip("link set wwan0 down")
    answer = task.answer()
    assert answer["failed"]["reason"] == Reason.LINK_LOST


@pytest.mark.root
def test_a_network_that_falls_silent_in_the_run_is_loss_not_failure(site: Site) -> None:
    site.echo()
    route_by_source(site)
    task = site.start(measurement="latency", options={"duration_s": 2, "icmp_count": 3})
    site.wait_for_bytes(800)
    site.net.ip("link set cell down")
    site.net.ip("link set cell up", f"route add blackhole {OWN_ADDRESS}/32")
    answer = task.answer()
    udp, icmp = answer["latency"]["udp"], answer["latency"]["icmp"]
    assert 0 < udp["received"] < udp["sent"] <= 20
    assert udp["loss_percent"] > 0
    assert (icmp["received"], icmp["loss_percent"]) == (0, 100)
