"""What pings, look-ups and pages measure, against a cell whose delay is known."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from service_servers import NameServer, WebServer, own_authority

from lab.cell.topology import CORE_ADDRESS, build_core, build_probe
from lab.netns import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lab.cell.link import Cell

pytestmark = [pytest.mark.root, pytest.mark.alone]

RTT_MS = 80.0
SLACK_MS = 25.0
"""What user-space relay, servers in Python and a busy machine may add to the least of some round trips."""
_MEASURE = Path(__file__).with_name("measure.py")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[tuple[Cell, Callable[..., dict[str, Any]]]]:
    """Give a cell with servers behind it, and how to measure over it."""
    with Run() as run:
        core = build_core(run)
        probe = build_probe(core, "probe")
        cell = probe.attach_cell("wwan0", down_mbps=40, up_mbps=15, rtt_ms=RTT_MS)
        tls = own_authority(tmp_path, "www.test")
        with core.namespace.inside():
            names = NameServer(CORE_ADDRESS, answer=CORE_ADDRESS)
            servers = [names, WebServer(CORE_ADDRESS, 80), WebServer(CORE_ADDRESS, 443, tls=tls)]

        def measure(measurement: str, **options: object) -> dict[str, Any]:
            task = {"measurement": measurement, "interface": "wwan0", "host": CORE_ADDRESS, "options": options}
            if measurement == "web":
                options["ca_file"] = str(tls.ca_file)
            with probe.namespace.popen(
                [sys.executable, str(_MEASURE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            ) as process:
                written = json.dumps(task | {"resolvers": [CORE_ADDRESS]}).encode()
                stdout, stderr = process.communicate(written, timeout=60)
            assert stdout, stderr.decode()
            found: dict[str, Any] = json.loads(stdout)[measurement]
            return found

        yield cell, measure
        for server in servers:
            server.close()


def test_each_step_takes_its_round_trips(place: tuple[Cell, Callable[..., dict[str, Any]]]) -> None:
    _, measure = place
    found = measure("ping", count=4, tcp_port=80, http_url="http://www.test/empty")
    for way in ("icmp", "tcp", "http"):
        assert RTT_MS <= found[way]["rtt_min_ms"] < RTT_MS + SLACK_MS, way
        assert found[way]["loss_percent"] == 0
    times_ms = [lookup["answer_ms"] for lookup in measure("dns", names=["a.test", "b.test"])["lookups"]]
    assert RTT_MS <= min(times_ms) < RTT_MS + SLACK_MS

    pages = measure("web", urls=["https://www.test/empty"] * 2)["pages"]
    best = {
        step: min(page[step] for page in pages) for step in ("dns_ms", "connect_ms", "tls_ms", "ttfb_ms", "total_ms")
    }
    for step in ("dns_ms", "connect_ms", "tls_ms"):  # TLS 1.3: one round trip
        assert RTT_MS <= best[step] < RTT_MS + SLACK_MS, step
    assert 4 * RTT_MS <= best["ttfb_ms"] <= best["total_ms"] < 4 * (RTT_MS + SLACK_MS)


def test_jitter_is_what_the_cell_adds_and_losses_are_counted(
    place: tuple[Cell, Callable[..., dict[str, Any]]],
) -> None:
    cell, measure = place
    cell.set_delay(RTT_MS, jitter_ms=60)
    cell.set_loss(down_percent=50, up_percent=0)
    shaken = measure("ping", count=10, tcp_port=80)
    for way in ("icmp", "tcp"):
        assert shaken[way]["jitter_variance_ms2"] > 10, way  # of 60 ms drawn evenly in each direction: 600
        assert 0 < shaken[way]["received"] < shaken[way]["sent"] == 10, way
    assert shaken["tcp"]["rtt_max_ms"] < 900, "a first packet sent again after 1 s tells of the timer"
