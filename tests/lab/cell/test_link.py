"""The emulated link against real ping, iperf3 and sockets: delay, jitter, loss, rate, trace, outage, a pulled cable."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from lab.cell import bench, orders
from lab.cell.link import Cell, CellError
from lab.cell.topology import Core, Probe, build_probe
from lab.cell.trace import TraceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from lab.cell.orders import Direction

pytestmark = [pytest.mark.root, pytest.mark.alone]

_SO_RCVBUFFORCE = 33  # asm-generic/socket.h; not in Python's socket module


@pytest.fixture
def probe(core: Core) -> Probe:
    return build_probe(core, "site", uplink="cell")


@pytest.fixture
def cell(probe: Probe) -> Cell:
    return probe.attach_cell("wwan0", down_mbps=50, up_mbps=50, rtt_ms=10)


@pytest.fixture
def sockets(core: Core, probe: Probe, cell: Cell) -> Iterator[dict[Direction, tuple[socket.socket, socket.socket]]]:
    """For each direction a connected UDP sender and its receiver, which holds thousands of packets."""
    with core.namespace.inside():
        core_side = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        core_side.bind((core.address, 0))
    with probe.namespace.inside():
        probe_side = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        probe_side.bind((cell.address, 0))
    with core_side, probe_side:
        core_side.connect(probe_side.getsockname())
        probe_side.connect(core_side.getsockname())
        for side in (core_side, probe_side):
            side.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 16_000_000)
        yield {"up": (probe_side, core_side), "down": (core_side, probe_side)}


def received(receiver: socket.socket, quiet_s: float) -> list[int]:
    """Give the numbers that arrive until none has for a while."""
    receiver.settimeout(quiet_s)
    numbers: list[int] = []
    while True:
        try:
            numbers.append(int.from_bytes(receiver.recv(2048), "big"))
        except TimeoutError:
            return numbers


def measured_mbps(probe: Probe, direction: Direction) -> float:
    report = bench.iperf3(probe, "wwan0", direction, seconds=2)
    return float(report["sum_received"]["bits_per_second"]) / 1e6


@pytest.mark.parametrize("rtt_ms", [0, 30, 120])
def test_the_round_trip_is_what_was_asked(probe: Probe, cell: Cell, rtt_ms: float) -> None:
    cell.set_delay(rtt_ms)
    assert rtt_ms <= bench.ping(probe, "wwan0") < rtt_ms + 5  # the least of ten: a busy machine delays some, not all


def test_jitter_spreads_packets_and_none_overtakes(
    cell: Cell, sockets: dict[Direction, tuple[socket.socket, socket.socket]]
) -> None:
    cell.set_delay(rtt_ms=20, jitter_ms=60)
    sender, receiver = sockets["up"]
    receiver.settimeout(10)
    trips_ms: list[float] = []
    for number in range(40):
        sent_at = time.monotonic()
        sender.send(number.to_bytes(2, "big"))
        assert int.from_bytes(receiver.recv(2048), "big") == number
        trips_ms.append((time.monotonic() - sent_at) * 1e3)
    assert min(trips_ms) >= 10
    assert max(trips_ms) - min(trips_ms) > 20  # 40 even draws from 60 ms all within 20: once in 10^17 runs
    for number in range(300):
        sender.send(number.to_bytes(2, "big"))
    assert received(receiver, quiet_s=1) == list(range(300))


@pytest.mark.parametrize("direction", ["down", "up"])
def test_each_direction_loses_the_share_that_was_asked(
    cell: Cell, sockets: dict[Direction, tuple[socket.socket, socket.socket]], direction: Direction
) -> None:
    cell.set_loss(**{f"{direction}_percent": 10, f"{'up' if direction == 'down' else 'down'}_percent": 0})
    sent = 3000
    for way, (sender, receiver) in sockets.items():
        for number in range(sent):
            sender.send(number.to_bytes(2, "big"))
            if number % 100 == 0:
                time.sleep(0.002)  # room in the TUN device's queue and the shaper's
        missing = sent - len(received(receiver, quiet_s=1))
        if way == direction:
            assert 200 < missing < 400  # 300 expected, standard deviation 16: six of them either way
        else:
            assert missing == 0
    report = cell.report()
    assert report.down.overflowed == report.up.overflowed == 0


@pytest.mark.usefixtures("iperf3_server")
def test_tcp_reaches_the_goodput_and_a_new_rate_shows(probe: Probe, cell: Cell) -> None:
    assert cell.goodput_mbps("down") == pytest.approx(50 * 1448 / 1514)
    assert measured_mbps(probe, "down") == pytest.approx(cell.goodput_mbps("down"), rel=0.08)
    cell.set_rate(down_mbps=50, up_mbps=6)
    assert measured_mbps(probe, "up") == pytest.approx(6 * 1448 / 1514, rel=0.08)


@pytest.mark.usefixtures("iperf3_server")
@pytest.mark.parametrize("direction", ["down", "up"])
def test_a_replayed_trace_carries_its_mean(probe: Probe, cell: Cell, tmp_path: Path, direction: Direction) -> None:
    file = tmp_path / "bursty"
    file.write_text("".join(f"{ms}\n" * 10 for ms in range(10, 1001, 10)))  # ten packets every 10 ms: 12 Mbps
    cell.replay(**{direction: file}, scale=2.0)
    assert measured_mbps(probe, direction) == pytest.approx(24 * 1448 / 1500, rel=0.08)
    cell.set_rate(50, 50)
    assert measured_mbps(probe, direction) == pytest.approx(cell.goodput_mbps(direction), rel=0.08)


def test_a_cut_mid_transfer_takes_the_carrier_and_restore_brings_it_back(
    core: Core, probe: Probe, cell: Cell, iperf3_server: None, wait_for: Callable[..., None]
) -> None:
    transfer = probe.namespace.popen(
        ["iperf3", "-c", core.address, "--bind-dev", "wwan0", "-R", "-t", "60"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for(lambda: cell.report().down.packets > 500, "a transfer under way")
    assert probe.namespace.carrier("wwan0")
    cell.cut()
    assert not probe.namespace.carrier("wwan0")
    assert "NO-CARRIER" in probe.namespace.run(["ip", "link", "show", "dev", "wwan0"])
    assert transfer.poll() is None
    with pytest.raises(Exception, match="100% packet loss"):
        probe.namespace.run(["ping", "-I", "wwan0", "-c", "1", "-W", "1", core.address])
    crossed = cell.report().down.packets
    cell.restore()
    wait_for(lambda: probe.namespace.carrier("wwan0"), "the carrier")
    wait_for(lambda: cell.report().down.packets > crossed + 500, "the transfer going on", patience_s=20)


def test_in_an_outage_packets_vanish_and_the_carrier_stays(core: Core, probe: Probe, cell: Cell) -> None:
    cell.outage(600)
    pings = ["ping", "-I", "wwan0", "-c", "3", "-i", "0.1", "-W", "1", core.address]
    with pytest.raises(Exception, match="100% packet loss"):
        probe.namespace.run(pings)
    assert probe.namespace.carrier("wwan0")
    assert cell.report().up.lost >= 3
    cell.outage(0)
    assert "3 received" in probe.namespace.run(pings)


def test_an_outage_ends_by_itself(core: Core, probe: Probe, cell: Cell) -> None:
    cell.outage(0.5)
    assert cell.report().up.lost == 0
    answer = probe.namespace.run(["ping", "-I", "wwan0", "-c", "40", "-i", "0.1", "-W", "1", core.address])
    assert 0 < cell.report().up.lost < 40, answer


def test_what_the_link_cannot_do_is_refused_and_changes_nothing(probe: Probe, cell: Cell, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a cell runs at"):
        cell.set_rate(50, 0)
    with pytest.raises(CellError, match=r"delay_s"):
        cell.set_delay(-1)
    with pytest.raises(CellError, match=r"loss_percent"):
        cell.set_loss(100, 101)
    (tmp_path / "wrong").write_text("one\n")
    with pytest.raises(TraceError, match="line 1"):
        cell.replay(down=tmp_path / "wrong")
    with pytest.raises(TraceError, match="No such file"):
        cell.replay(up=tmp_path / "nothing")
    assert (cell.down_mbps, cell.up_mbps) == (50, 50)
    assert 10 <= bench.ping(probe, "wwan0") < 15


def test_an_order_that_makes_no_sense_is_refused_and_the_relay_lives(probe: Probe, cell: Cell) -> None:
    for nonsense in (b"\x00\xff", b"{}", b'{"type": "explode"}', b'{"type": "silence", "for_s": -1}', b"[" * 20_000):
        cell._control.send(nonsense)
        assert isinstance(orders.decode_answer(cell._control.recv(orders.MOST_BYTES)), orders.Refused)
    assert 10 <= bench.ping(probe, "wwan0") < 15


def test_a_dead_relay_is_named(cell: Cell) -> None:
    os.kill(cell.relay_pid, signal.SIGKILL)
    with pytest.raises(CellError, match="the relay is gone"):
        cell.outage(1)


def test_the_relay_ends_when_its_cell_is_closed(cell: Cell, wait_for: Callable[..., None]) -> None:
    relay = cell._relay
    cell.close()
    wait_for(lambda: relay.poll() is not None, "the relay's end")
    assert relay.returncode == 0
    cell.close()


def test_a_probe_with_two_cells_and_an_uplink_has_three_ways(core: Core) -> None:
    probe = build_probe(core, "two", uplink="eth0")
    probe.attach_cell("wwan0", down_mbps=20, up_mbps=5, rtt_ms=30)
    probe.attach_cell("wwan1", down_mbps=10, up_mbps=5, rtt_ms=70)
    assert set(probe.cells) == {"wwan0", "wwan1"}
    assert 30 <= bench.ping(probe, "wwan0") < 35
    assert 70 <= bench.ping(probe, "wwan1") < 75
    assert bench.ping(probe, "eth0") < 5
    assert "dev eth0" in probe.namespace.run(["ip", "route", "get", core.address])  # unbound: the wrong way


def test_a_server_on_the_wildcard_answers_from_the_cores_address(core: Core, probe: Probe, cell: Cell) -> None:
    with core.namespace.inside():
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind(("", 0))
    with probe.namespace.inside():
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with server, client:
        server.settimeout(10)
        client.settimeout(10)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"wwan0")
        client.connect((core.address, server.getsockname()[1]))  # deaf to any other address
        client.send(b"ask")
        server.sendto(b"answer", server.recvfrom(100)[1])
        assert client.recv(100) == b"answer"
