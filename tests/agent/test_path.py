"""The kernel's view of a link, on the loopback and in network namespaces."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import msgspec
import pytest

from agent import path as paths
from agent.path import Counters, LinkPath
from lab.netns import Namespace, Run, veth

if TYPE_CHECKING:
    from collections.abc import Iterator


def test_the_loopback_is_up_and_has_its_address() -> None:
    assert paths.look("lo") == LinkPath(interface="lo", source_address="127.0.0.1")


def test_an_interface_that_is_not_there_is_a_fact_not_an_error() -> None:
    assert paths.look("nosuch0") == LinkPath(interface="nosuch0", exists=False, up=False)


def test_every_interface_is_counted() -> None:
    assert "lo" in paths.counters()


def test_what_was_carried_is_a_difference_unless_the_interface_came_anew() -> None:
    assert Counters(150, 60) - Counters(100, 10) == Counters(50, 50)
    assert Counters(30, 20) - Counters(100, 10) == Counters(30, 20)
    assert Counters(3, 4).both_bytes == 7


def test_the_way_to_oneself_is_the_loopback() -> None:
    assert paths.route_device("127.0.0.1", "127.0.0.1") == "lo"


@pytest.mark.parametrize(
    ("destination", "source"), [("127.0.0.1", "203.0.113.9"), ("", ""), ("x", "127.0.0.1"), ("-h", "127.0.0.1")]
)
def test_no_way_is_none(destination: str, source: str) -> None:
    assert paths.route_device(destination, source) is None


def test_names_and_numbers_are_resolved() -> None:
    assert paths.resolve("192.0.2.7") == "192.0.2.7"
    assert paths.resolve("localhost") == "127.0.0.1"
    assert paths.resolve("no.such.name.invalid") is None


@pytest.fixture
def net() -> Iterator[tuple[Namespace, Namespace]]:
    """Make a probe with two ways out, eth0 by default and wwan0, and what they lead to."""
    with Run() as run:
        probe, core = run.namespace("probe"), run.namespace("core")
        veth(probe, "eth0", core, "office")
        veth(probe, "wwan0", core, "cell")
        probe.ip(
            "address add 10.1.0.2/24 dev eth0",
            "address add 10.2.0.2/24 dev wwan0",
            "route add default via 10.1.0.1 dev eth0 metric 100",
            "route add default via 10.2.0.1 dev wwan0 metric 700",
        )
        yield probe, core


@pytest.fixture
def probe(net: tuple[Namespace, Namespace]) -> Namespace:
    return net[0]


def inside(probe: Namespace, expression: str) -> str:
    code = f"from agent import path; print({expression})"
    return probe.run([sys.executable, "-c", code]).strip()


@pytest.mark.root
def test_a_link_is_seen_with_address_and_gateway(probe: Namespace) -> None:
    expected = LinkPath(interface="wwan0", source_address="10.2.0.2", gateway="10.2.0.1")
    assert inside(probe, "path.look('wwan0')") == str(expected)


@pytest.mark.root
@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("link set wwan0 down", LinkPath(interface="wwan0", up=False, source_address="10.2.0.2")),
        ("address flush dev wwan0", LinkPath(interface="wwan0")),
        ("link delete wwan0", LinkPath(interface="wwan0", exists=False, up=False)),
    ],
)
def test_what_happened_to_a_link_is_seen(probe: Namespace, command: str, expected: LinkPath) -> None:
    probe.ip(command)
    assert inside(probe, "path.look('wwan0')") == str(expected)


@pytest.mark.root
def test_a_cable_pulled_at_the_far_end_is_a_link_that_is_not_up(net: tuple[Namespace, Namespace]) -> None:
    probe, core = net
    core.ip("link set cell down")
    deadline_s = time.monotonic() + 20
    while "up=False" not in inside(probe, "path.look('wwan0')"):  # the kernel takes up to a second to notice
        assert time.monotonic() < deadline_s


@pytest.mark.root
def test_policy_rules_decide_the_way_of_an_address(probe: Namespace) -> None:
    asked = "path.route_device('10.9.0.1', '10.2.0.2')"
    assert inside(probe, asked) == "eth0"
    probe.ip("route add default via 10.2.0.1 dev wwan0 table 100", "rule add from 10.2.0.2 lookup 100")
    assert inside(probe, asked) == "wwan0"
    probe.ip("route replace unreachable default table 100")
    assert inside(probe, asked) == "None"


@pytest.mark.root
def test_stacked_interfaces_are_known(probe: Namespace) -> None:
    probe.ip("link add link wwan0 name mux0 type macvlan")
    assert inside(probe, "path.stacked_with('mux0'), path.stacked_with('wwan0')") == "{'wwan0'} {'mux0'}"
    assert inside(probe, "path.stacked_with('eth0')") == "set()"


def test_a_path_is_a_value() -> None:
    path = LinkPath(interface="lo", source_address="127.0.0.1")
    assert msgspec.convert(msgspec.to_builtins(path), LinkPath) == path
