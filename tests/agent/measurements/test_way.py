"""The way to a server: its routers after a failure, and the largest packet that passes. Real routers, in namespaces."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from agent import path as paths
from agent.measurements import mtu, trace
from lab.netns import Namespace, Run, veth
from wire.measured import Hop

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVER = "10.9.0.1"
_MEASURE = Path(__file__).with_name("measure.py")
NARROW = 1400


class Way:
    """A probe, two routers and a server, one behind the other; the probe has an eth0 with the default route too."""

    def __init__(self, run: Run) -> None:
        self.probe, self.tower, self.edge, self.net = (
            run.namespace(name) for name in ("probe", "tower", "edge", "net")
        )
        veth(self.probe, "eth0", self.net, "office")
        veth(self.probe, "wwan0", self.tower, "cell")
        veth(self.tower, "far", self.edge, "near")
        veth(self.edge, "far", self.net, "near")
        self.probe.sysctl(net__ipv4__ping_group_range="0 2147483647")
        self.probe.ip(
            "address add 10.1.0.2/24 dev eth0",
            "address add 10.2.0.2/24 dev wwan0",
            "route add default via 10.1.0.1 dev eth0 metric 100",
            "route add default via 10.2.0.1 dev wwan0 metric 700",
        )
        self.tower.ip(
            "address add 10.2.0.1/24 dev cell", "address add 10.3.0.1/24 dev far", "route add default via 10.3.0.2"
        )
        self.edge.ip(
            "address add 10.3.0.2/24 dev near",
            "address add 10.4.0.1/24 dev far",
            "route add default via 10.4.0.2",
            "route add 10.2.0.0/24 via 10.3.0.1",
        )
        self.net.ip(
            "address add 10.1.0.1/24 dev office",
            "address add 10.4.0.2/24 dev near",
            f"address add {SERVER}/32 dev lo",
            "route add 10.2.0.0/24 via 10.4.0.1",
        )
        for router in (self.tower, self.edge):
            # Routers answer as often as they are asked: the kernel's limits are for the Internet (icmp(7)).
            router.sysctl(net__ipv4__ip_forward=1, net__ipv4__icmp_ratelimit=0, net__ipv4__icmp_msgs_per_sec=10_000)
        self.net.sysctl(net__ipv4__icmp_ratelimit=0)

    def silence(self, router: Namespace) -> None:
        """Let a router forward as before and say nothing itself."""
        router.ip("rule add iif lo blackhole")

    def measure(self, measurement: str, **options: object) -> dict[str, Any]:
        before = self._sent_by_eth0()
        task = {"measurement": measurement, "interface": "wwan0", "host": SERVER, "options": options}
        with self.probe.popen(
            [sys.executable, str(_MEASURE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            stdout, stderr = process.communicate(json.dumps(task).encode(), timeout=60)
        assert stdout, stderr.decode()
        assert self._sent_by_eth0() - before < 1000
        found: dict[str, Any] = json.loads(stdout)
        return found

    def _sent_by_eth0(self) -> int:
        return int(self.probe.run(["cat", "/sys/class/net/eth0/statistics/tx_bytes"]))


@pytest.fixture
def way() -> Iterator[Way]:
    with Run() as run:
        yield Way(run)


def traced(way: Way, **options: object) -> list[str | None]:
    hops = way.measure("trace", **options)["trace"]
    assert [hop["ttl"] for hop in hops] == list(range(1, len(hops) + 1))
    assert all(("rtt_ms" in hop) == ("address" in hop) for hop in hops)
    return [hop.get("address") for hop in hops]


@pytest.mark.root
def test_every_router_is_named_up_to_the_host(way: Way) -> None:
    assert traced(way) == ["10.2.0.1", "10.3.0.2", SERVER]


@pytest.mark.root
def test_a_silent_router_is_a_hop_without_an_address(way: Way) -> None:
    way.silence(way.tower)
    assert traced(way, max_s=1) == [None, "10.3.0.2", SERVER]


@pytest.mark.root
def test_the_way_ends_where_nobody_answers_any_more(way: Way) -> None:
    way.edge.ip("route add blackhole 10.9.0.0/24")
    way.silence(way.edge)
    assert traced(way, max_s=1) == ["10.2.0.1"]


@pytest.mark.root
def test_a_router_that_knows_no_way_ends_it(way: Way) -> None:
    way.edge.ip("route add unreachable 10.9.0.0/24")
    assert traced(way) == ["10.2.0.1", "10.3.0.2"]


@pytest.mark.root
def test_only_so_many_hops_are_looked_for(way: Way) -> None:
    assert traced(way, max_hops=1) == ["10.2.0.1"]


@pytest.mark.root
def test_a_link_where_nobody_answers_is_one_silent_hop_after_the_time_given(way: Way) -> None:
    way.silence(way.tower)
    way.tower.ip("route replace blackhole default")
    answer = way.measure("trace", max_s=1)
    assert answer["trace"] == [{"ttl": 1}]
    assert 0.9 < answer["elapsed_s"] < 5


def test_a_link_that_is_gone_has_no_way() -> None:
    gone = paths.LinkPath(interface="nosuch0", source_address="192.0.2.1")
    assert trace.trace(gone, "127.0.0.1", trace.TraceOptions()) == ()


def test_the_loopback_is_one_hop() -> None:
    (hop,) = trace.trace(paths.look("lo"), "127.0.0.1", trace.TraceOptions())
    assert (hop.ttl, hop.address) == (1, "127.0.0.1")
    assert hop != Hop(ttl=1, address="127.0.0.1"), "it has a time"


# --- the largest packet ---------------------------------------------------------------------------------------------


def largest(way: Way) -> dict[str, Any]:
    answer = way.measure("ping", count=2, mtu=True)
    found: dict[str, Any] = answer["ping"]["mtu"]
    return found


@pytest.mark.root
def test_a_way_as_wide_as_the_interface(way: Way) -> None:
    assert largest(way) == {"mtu_bytes": 1500, "interface_mtu_bytes": 1500}


@pytest.mark.root
def test_a_narrow_link_is_found_by_what_the_router_says(way: Way) -> None:
    way.edge.ip(f"link set far mtu {NARROW}")
    way.net.ip(f"link set near mtu {NARROW}")
    answer = way.measure("ping", count=2, mtu=True)["ping"]
    assert answer["mtu"] == {"mtu_bytes": NARROW, "interface_mtu_bytes": 1500}
    assert answer["interface_bytes"] < 8000, "the router's word is taken, not groped for"


@pytest.mark.root
@pytest.mark.parametrize("narrow", [NARROW, 1353])
def test_a_black_hole_is_found_by_what_does_not_come_back(way: Way, narrow: int) -> None:
    way.silence(way.edge)
    way.edge.ip(f"link set far mtu {narrow}")
    way.net.ip(f"link set near mtu {narrow}")
    assert largest(way) == {"mtu_bytes": narrow, "interface_mtu_bytes": 1500, "black_hole": True}


@pytest.mark.root
def test_time_that_is_up_leaves_what_passed_so_far(way: Way) -> None:
    way.silence(way.edge)
    way.edge.ip(f"link set far mtu {NARROW}")
    with way.probe.inside():
        found = mtu.find(paths.LinkPath(interface="wwan0", source_address="10.2.0.2"), SERVER, longest_s=0.4)
    assert (found.exact, found.mtu_bytes) == (False, mtu.LEAST_BYTES)


@pytest.mark.root
def test_a_host_that_echoes_nothing_is_a_reason_beside_other_figures(way: Way) -> None:
    way.net.sysctl(net__ipv4__icmp_echo_ignore_all=1)
    server = way.net.popen(
        [sys.executable, "-u", "-m", "http.server", "-b", SERVER, "80"], stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert b"Serving" in server.stdout.readline()
    try:
        answer = way.measure("ping", count=2, mtu=True, tcp_port=80)["ping"]
    finally:
        server.kill()
        with server:
            pass
    assert answer["tcp"]["received"] == 2
    assert answer["icmp"]["received"] == 0
    assert answer["failures"] == {"mtu": "timeout"}


@pytest.mark.root
def test_without_the_right_to_icmp_sockets_it_says_so(way: Way) -> None:
    way.probe.sysctl(net__ipv4__ping_group_range="1 0")
    answer = way.measure("ping", count=2, mtu=True)["ping"]
    assert answer["icmp"]["received"] == 2
    assert answer["failures"] == {"mtu": "tool_missing"}
