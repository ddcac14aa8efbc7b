"""Echoes before and beside a transfer: irtt, else ping, else nothing; never at the cost of the transfer."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import path as paths
from agent.measurements import round_trips
from agent.measurements.base import MeasurementFailed
from agent.measurements.round_trips import Echoes, Series, idle_within_s, read_irtt, read_ping
from agent.measurements.throughput_options import ThroughputOptions
from agent.path import LinkPath
from wire.measured import RoundTrips
from wire.reasons import Reason

if TYPE_CHECKING:
    from conftest import Site

TRANSCRIPTS = Path(__file__).parents[2] / "transcripts" / "echo"


@pytest.mark.parametrize(("name", "count"), [("irtt-no-loss", 2), ("irtt-loss", 2), ("irtt-late", 2)])
def test_every_round_trip_that_irtt_reports_is_read(name: str, count: int) -> None:
    series = read_irtt((TRANSCRIPTS / f"{name}.json").read_bytes())
    assert (series.tool, len(series.echoes)) == ("irtt", count)
    assert all(0 < rtt_ms < 1000 for _, rtt_ms in series.echoes)


@pytest.mark.parametrize(
    "payload", [b"", b"{", b"[]", b'{"round_trips":[{}]}', b'{"round_trips":[{"delay":{}}]}', b"\xff"]
)
def test_what_is_no_report_has_no_round_trips(payload: bytes) -> None:
    assert read_irtt(payload).summary() is None


def test_pings_lines_are_read_and_doubles_are_not() -> None:
    series = read_ping((TRANSCRIPTS / "ping-no-loss.txt").read_bytes())
    assert len(series.echoes) >= 5
    once = b"64 bytes from 10.0.0.1: icmp_seq=1 ttl=62 time=154 ms\n"
    assert read_ping(once + once.replace(b" ms", b" ms (DUP!)")).echoes == ((0.0, 154.0),)
    assert read_ping((TRANSCRIPTS / "ping-all-lost.txt").read_bytes()).summary() is None


@given(st.lists(st.floats(0.1, 5000), min_size=5, max_size=200))
def test_half_are_faster_than_the_median_and_one_in_twenty_slower_than_p95(rtts_ms: list[float]) -> None:
    found = Series("irtt", tuple((0.0, rtt_ms) for rtt_ms in rtts_ms)).summary()
    assert found is not None
    assert found.count == len(rtts_ms)
    assert sum(rtt_ms > found.p95_ms * 1.006 for rtt_ms in rtts_ms) <= len(rtts_ms) / 20
    assert found.median_ms <= found.p95_ms


def test_echoes_count_while_data_flowed_and_no_longer() -> None:
    """A connection that took long to come about must not pass for a link without a queue."""
    idle = [(index / 10, 50.0) for index in range(30)]
    loaded = [(index / 10, 210.0) for index in range(30, 60)]
    found = Series("irtt", (*idle, *loaded)).summary(3.0, 6.0)
    assert found == RoundTrips(tool="irtt", count=30, median_ms=210.0, p95_ms=210.0)
    assert Series("irtt", (*idle, *loaded)).summary(5.7, 6.0) is None


def test_responsiveness_is_round_trips_per_minute() -> None:
    assert RoundTrips(tool="irtt", count=9, median_ms=220.9, p95_ms=249.0).responsiveness_rpm == pytest.approx(
        272, abs=1
    )


def test_a_host_that_does_not_echo_is_pinged_and_remembered() -> None:
    echoes = Echoes(paths.look("lo"), "127.0.0.1", 9)  # nobody listens there
    begun_s = time.monotonic()
    idle = echoes.idle(2.0)
    assert idle is not None
    assert idle.tool == "ping"
    assert time.monotonic() - begun_s < idle_within_s(2.0) + 5
    begun_s = time.monotonic()
    assert echoes.idle(2.0) is idle
    assert time.monotonic() - begun_s < 0.5


@pytest.mark.parametrize(("within_s", "fewest"), [(2.2, 5), (1.0, 0), (-3.0, 0)])
def test_where_the_lease_leaves_little_time_fewer_echoes_are_sent_or_none(within_s: float, fewest: int) -> None:
    echoes = Echoes(paths.look("lo"), "127.0.0.1", None)
    begun_s = time.monotonic()
    idle = echoes.idle(5.0, within_s)
    assert time.monotonic() - begun_s < max(within_s, 0.0) + 2, "the rest is for a machine that is busy"
    assert (idle is not None) == (fewest > 0)
    assert idle is None or fewest <= idle.count < 5.0 / 0.2


def test_without_a_tool_there_are_no_figures_and_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    echoes = Echoes(LinkPath(interface="lo", source_address="127.0.0.1"), "127.0.0.1", None)
    with echoes.meanwhile(5.0) as found:
        pass
    assert found == []
    assert echoes.idle(1.0) is None
    with echoes.meanwhile(5.0) as found:
        pass
    assert found == []


def test_a_transfer_that_fails_takes_its_echoes_along() -> None:
    def fails() -> None:
        raise MeasurementFailed(Reason.TIMEOUT)

    echoes = Echoes(paths.look("lo"), "127.0.0.1", None)
    begun_s = time.monotonic()
    with pytest.raises(MeasurementFailed), echoes.meanwhile(30.0):
        fails()
    assert time.monotonic() - begun_s < 5
    assert os.waitstatus_to_exitcode(0) == 0
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_nothing_is_sent_where_nothing_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(round_trips, "started", None)
    echoes = Echoes(paths.look("lo"), "127.0.0.1", None)
    assert echoes.idle(0.0) is None
    with echoes.meanwhile(0.0) as found:
        pass
    assert found == []


@pytest.mark.root
@pytest.mark.alone
def test_a_queue_shows_in_the_echoes_beside_the_transfer_and_in_tcps_own_round_trip(site: Site) -> None:
    site.serve(5201, 5202)
    site.echo()
    site.probe.ip("rule add from 10.2.0.2 lookup 100", "route add default via 10.2.0.1 dev wwan0 table 100")
    options = {"preset": "light", "duration_s": 3, "idle_s": 1}
    answer = site.measure(options=options, irtt_port=2112)
    assert answer["invalid"] == [], "the echoes' bytes are accounted for"
    assert (answer["idle"]["tool"], answer["idle"]["count"] >= 8) == ("irtt", True)
    for transfer in (answer["download"], answer["upload"]):
        loaded = transfer["loaded"]
        assert (loaded["tool"], loaded["count"] >= 20) == ("irtt", True)
        assert loaded["median_ms"] > 5 * answer["idle"]["median_ms"], "the shaper queues up to 100 ms"
        assert transfer["tcp_rtt_mean_ms"] == pytest.approx(loaded["median_ms"], rel=0.5)
        assert transfer["tcp_rtt_min_ms"] <= transfer["tcp_rtt_mean_ms"] <= transfer["tcp_rtt_max_ms"]


@pytest.mark.root
def test_echoes_that_would_leave_elsewhere_are_not_sent_by_irtt(site: Site) -> None:
    """By irtt only an address is bound; the default route is another interface's here. ping binds the device."""
    site.serve(5201)
    site.echo()
    answer = site.measure(
        options={"duration_s": 1, "omit_s": 0, "upload": False, "loaded_latency": True, "idle_s": 2}, irtt_port=2112
    )
    assert answer["idle"]["tool"] == "ping"
    assert answer["invalid"] == []


@pytest.mark.root
def test_a_silent_network_takes_the_run_no_longer_than_its_lease(site: Site) -> None:
    site.net.ip("route add blackhole 10.2.0.2/32")
    options = {"preset": "light", "duration_s": 1, "idle_s": 1, "connect_timeout_s": 0.5, "upload": False}
    answer = site.measure(options=options, irtt_port=2112)
    assert (answer["failed"]["reason"], answer["failed"]["begun"]) == (Reason.TIMEOUT, False)
    assert answer["elapsed_s"] < ThroughputOptions(**options).longest_s
