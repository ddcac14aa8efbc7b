"""Traps on the way: whatever routes and rules do, no sample went elsewhere, and none that went right is refused.

Each trap is laid twice, side by side: on a probe as it comes, and on one whose links have their routing tables
(`probe-agent link setup`). Where the bytes went is what the interfaces of the probe have counted, read from outside the
agent. `bare` and `kept` say what must come of a test: `right`, a figure that counts; `none`, no such figure; `either`,
as chance has it, but never one that went elsewhere.
"""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import pytest

from lab.netns import veth
from wire.reasons import Invalid

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Site, Task

pytestmark = pytest.mark.root

Outcome = Literal["right", "none", "either"]
Overrides = dict[str, Any]
PATH_DOUBTS = {Invalid.BYTES_NOT_ACCOUNTED, Invalid.OTHER_INTERFACE_USED, Invalid.OTHER_TRAFFIC}
SERVER, OWN_ADDRESS = "10.9.0.1", "10.2.0.2"
SERVER_V6 = "fd00:9::1"
OWN_V6 = "fd00:2::2"


@dataclass(frozen=True)
class Trap:
    """`lay` may answer with what the measurement is to do differently (`interface`, `host`, `options`, `meanwhile`)."""

    name: str
    lay: Callable[[Site], Overrides | None]
    bare: Outcome = "right"
    kept: Outcome = "right"
    links: str = "{name: tested, interface: wwan0}"


def ip(*lines: str) -> Callable[[Site], None]:
    """Lay a trap that is a few `ip` commands on the probe."""
    return lambda site: site.probe.ip(*lines)


def elsewhere(*rules: str) -> Callable[[Site], None]:
    """Have policy rules lead to a table whose default route leaves by eth0."""
    way = "route add default via 10.1.0.1 dev eth0 table 50"
    return ip(way, *(f"rule add {rule} lookup 50 priority {100 + number}" for number, rule in enumerate(rules)))


def without_default_route(site: Site) -> None:
    site.probe.ip("route delete default via 10.2.0.1 dev wwan0 metric 700")


def proxy_arp(site: Site) -> None:
    without_default_route(site)
    site.net.sysctl(net__ipv4__conf__all__arp_ignore=0)


def strict_filter(site: Site) -> None:
    site.probe.sysctl(net__ipv4__conf__wwan0__rp_filter=1)


def sticks(site: Site) -> Overrides:
    """Plug in two sticks, routers of their own with one gateway, one subnet and one address; test the second."""
    for number in (1, 2):
        stick = site.run.namespace(f"stick{number}")
        veth(site.probe, f"usb{number}", stick, "lan")
        stick.ip("address add 192.168.8.1/24 dev lan", f"address add {SERVER}/32 dev lo")
        site.shape(stick, "lan", 40)
        site.shape(site.probe, f"usb{number}", 15)
        site.probe.ip(
            f"address add 192.168.8.100/24 dev usb{number}",
            f"route add default via 192.168.8.1 dev usb{number} metric {700 + number}",
        )
        for port in (5201, 5202):
            site.serve_in(stick, port)
    return {"interface": "usb2"}


def sticks_filtered(site: Site) -> Overrides:
    found = sticks(site)
    site.probe.sysctl(net__ipv4__conf__usb1__rp_filter=1, net__ipv4__conf__usb2__rp_filter=1)
    return found


def one_lan(site: Site) -> None:
    """Put eth0 into the link's subnet, on the same wire: a cable and a wireless card in one office."""
    site.net.ip(
        "link add lan type bridge",
        "link set lan up",
        "address flush dev cell",
        "address flush dev office",
        "link set cell master lan",
        "link set office master lan",
        "address add 10.2.0.1/24 dev lan",
    )
    site.probe.ip(
        "address flush dev eth0",
        "address add 10.2.0.3/24 dev eth0",
        "route add default via 10.2.0.1 dev eth0 metric 100",
    )


def point_to_point(site: Site) -> Overrides:
    """Dial: a TUN device with a peer and no route but the one to that."""
    site.tun_cable("ppp0", "peer0")
    site.probe.ip("address add 10.3.0.2 peer 10.3.0.1 dev ppp0", "link set ppp0 up")
    site.net.ip("address add 10.3.0.1 peer 10.3.0.2 dev peer0", "link set peer0 up")
    return {"interface": "ppp0"}


def raw_ip(site: Site) -> Overrides:
    """Attach a QMI modem in raw-IP mode: an address of its own, no peer, no gateway, no route."""
    site.tun_cable("wwan1", "peer0")
    site.probe.ip("address add 10.3.0.2/32 dev wwan1", "link set wwan1 up")
    site.net.ip("address add 10.3.0.1/32 dev peer0", "link set peer0 up", "route add 10.3.0.2/32 dev peer0")
    return {"interface": "wwan1"}


def raw_ip_guarded(site: Site) -> Overrides:
    found = raw_ip(site)
    site.probe.ip("route add unreachable default metric 4278198272 table 60", "rule add from 10.3.0.2 lookup 60")
    return found


def ipv6(site: Site) -> Overrides:
    """Give both ways IPv6; the cable's default route is the better one."""
    for namespace in (site.probe, site.net):
        namespace.sysctl(net__ipv6__conf__all__disable_ipv6=0)
    for near, far, subnet, metric in (("eth0", "office", 1, 100), ("wwan0", "cell", 2, 700)):
        site.probe.ip(f"address add fd00:{subnet}::2/64 dev {near} nodad")
        site.net.ip(f"address add fd00:{subnet}::1/64 dev {far} nodad")
        way = ["-6", "route", "add", "default", "via", f"fd00:{subnet}::1", "dev", near, "metric", str(metric)]
        site.probe.run(["ip", *way])
    site.net.ip(f"address add {SERVER_V6}/128 dev lo")
    return {"host": SERVER_V6, "options": {"family": "ipv6"}}


def ipv6_small_packets(site: Site) -> Overrides:
    found = ipv6(site)
    small_packets(site)
    return found


def ipv6_without_a_route(site: Site) -> Overrides:
    found = ipv6(site)
    site.probe.run(["ip", "-6", "route", "delete", "default", "dev", "wwan0"])
    return found


def ipv6_on_the_cable_alone(site: Site) -> Overrides:
    """Where the link has no IPv6, `auto` is IPv4: and never IPv6 over the cable."""
    found = ipv6(site)
    site.probe.ip(f"address delete {OWN_V6}/64 dev wwan0")
    return found | {"options": {"family": "auto"}}


def ipv6_rule(site: Site) -> Overrides:
    found = ipv6(site)
    site.probe.run(["ip", "-6", "route", "add", "default", "via", "fd00:1::1", "dev", "eth0", "table", "50"])
    site.probe.run(["ip", "-6", "rule", "add", "from", OWN_V6, "lookup", "50", "priority", "100"])
    return found


def small_packets(site: Site) -> None:
    site.probe.ip("link set wwan0 mtu 1280")
    site.net.ip("link set cell mtu 1280")


def vpn(site: Site) -> None:
    """Route everything into a tunnel but what is marked, as wg-quick does."""
    site.probe.ip(
        "tuntap add dev wg0 mode tun",
        "link set wg0 up",
        "address add 10.77.0.2/32 dev wg0",
        "route add default dev wg0 table 51820",
        "rule add not fwmark 51820 lookup 51820 priority 32765",
        "rule add lookup main suppress_prefixlength 0 priority 32764",
    )


def tunnel_over_the_cable(site: Site) -> Overrides:
    """Measure a `link` whose bytes leave by the cable all the same."""
    for namespace, near, far, own, other in (
        (site.probe, "wwan5", "eth0", "10.1.0.2", "10.1.0.1"),
        (site.net, "far5", "office", "10.1.0.1", "10.1.0.2"),
    ):
        namespace.ip(f"link add {near} type vxlan id 5 dev {far} local {own} remote {other} dstport 4789")
        namespace.ip(f"link set {near} up")
    site.probe.ip("address add 10.5.0.2/24 dev wwan5", "route add default via 10.5.0.1 dev wwan5 metric 800")
    site.net.ip("address add 10.5.0.1/24 dev far5")
    site.shape(site.net, "far5", 40)
    site.shape(site.probe, "wwan5", 15)
    return {"interface": "wwan5"}


def forwarded_back(site: Site) -> None:
    """Have the link's gateway send everything back to the probe, which forwards it by the cable."""
    loop = site.run.namespace("loop")
    site.probe.ip("link delete wwan0")
    veth(site.probe, "wwan0", loop, "in0")
    veth(site.probe, "back0", loop, "out0")
    loop.ip("address add 10.2.0.1/24 dev in0", "address add 10.4.0.1/24 dev out0", "route add default via 10.4.0.2")
    loop.sysctl(net__ipv4__ip_forward=1)
    site.probe.ip(
        f"address add {OWN_ADDRESS}/24 dev wwan0",
        "route add default via 10.2.0.1 dev wwan0 metric 700",
        "address add 10.4.0.2/24 dev back0",
    )
    site.probe.sysctl(net__ipv4__ip_forward=1, net__ipv4__conf__back0__accept_local=1)
    site.net.ip("route add 10.2.0.2/32 via 10.1.0.2 dev office")


def answers_by_the_cable(site: Site) -> None:
    """Have the network deliver what is for the link's address by the cable: the kernel takes it in at either."""
    site.net.ip(f"route add {OWN_ADDRESS}/32 via 10.1.0.2 dev office")


def own_server(site: Site) -> Overrides:
    site.serve_in(site.probe, 5301)
    site.serve_in(site.probe, 5302)
    return {"host": "10.1.0.2", "ports": [5301, 5302]}


def bridged(site: Site) -> Overrides:
    """Put the modem's device under a bridge that has its address: both count the same bytes."""
    site.probe.ip(
        "link add br0 type bridge",
        "link set br0 up",
        "address flush dev wwan0",
        "link set wwan0 master br0",
        f"address add {OWN_ADDRESS}/24 dev br0",
        "route add default via 10.2.0.1 dev br0 metric 700",
    )
    return {"interface": "br0"}


def some_traffic(site: Site) -> None:
    """Let results and remote shells cross the cable during the test, as they do on every probe."""
    site.serve_in(site.net, 5999)
    site.background(["iperf3", "-c", "10.1.0.1", "-p", "5999", "-t", "4", "-b", "200K", "-l", "1K"])


def new_address(site: Site) -> Overrides:
    def change() -> None:
        site.wait_for_bytes(1_000_000)
        site.probe.ip(f"address delete {OWN_ADDRESS}/24 dev wwan0", "address add 10.2.0.9/24 dev wwan0")

    return {"meanwhile": change, "options": {"duration_s": 3, "upload": False}, "impatient": True}


TRAPS = [
    Trap("the default route is elsewhere", ip()),
    Trap("the modem is down", ip("link set wwan0 down"), "none", "none"),
    Trap("the interface is missing", ip("link delete wwan0"), "none", "none"),
    Trap("no default route by the link", without_default_route, "none", "none"),
    Trap(
        "no default route by the link and its gateway in the configuration",
        without_default_route,
        "none",
        links="{name: tested, interface: wwan0, gateway: 10.2.0.1}",
    ),
    Trap("no default route and a gateway that answers for everybody", proxy_arp),
    Trap("a more specific route by the cable", ip(f"route add {SERVER}/32 via 10.1.0.1 dev eth0")),
    Trap("a black hole in the main table", ip(f"route add blackhole {SERVER}/32"), "none"),
    Trap(
        "a default route with both as next hops",
        ip("route add default nexthop via 10.1.0.1 dev eth0 nexthop via 10.2.0.1 dev wwan0"),
    ),
    Trap("a rule for all", elsewhere("from all")),
    Trap(
        "a rule for the address and for every other selector",
        elsewhere(
            f"from {OWN_ADDRESS}",
            f"to {SERVER}",
            "uidrange 0-4294967294",
            "ipproto tcp dport 5201-5202",
            "fwmark 0",
            "iif lo",
        ),
    ),
    Trap("a rule that prohibits", ip("rule add from all prohibit priority 100"), "none", "none"),
    Trap("a rule to an empty table", ip(f"rule add from {OWN_ADDRESS} lookup 100")),
    Trap(
        "a rule to a table with nothing but a guard",
        ip(f"rule add from {OWN_ADDRESS} lookup 100", "route add unreachable default table 100"),
        "none",
    ),
    Trap("a VPN that takes everything", vpn),
    Trap("a strict path filter", strict_filter, "none"),
    Trap(
        "two sticks with one gateway and one address",
        sticks,
        links="{name: a, interface: usb1}, {name: b, interface: usb2}",
    ),
    Trap(
        "the same and a strict path filter",
        sticks_filtered,
        "none",
        links="{name: a, interface: usb1}, {name: b, interface: usb2}",
    ),
    Trap("cable and link in one network", one_lan, "either"),
    Trap("point-to-point without any route", point_to_point, links="{name: tested, interface: ppp0}"),
    Trap("raw IP without any route", raw_ip, links="{name: tested, interface: wwan1}"),
    Trap("raw IP with a guard and nothing else", raw_ip_guarded, links="{name: tested, interface: wwan1}"),
    Trap("IPv6 and a better default route by the cable", ipv6),
    Trap("IPv6 in the smallest packets", ipv6_small_packets),
    Trap("IPv6 without a route by the link", ipv6_without_a_route, "none", "none"),
    Trap("IPv6 on the cable alone", ipv6_on_the_cable_alone, "none", "none"),
    Trap("IPv6 and a rule for the address", ipv6_rule),
    Trap("the smallest packets", small_packets),
    Trap(
        "a link that is a tunnel over the cable",
        tunnel_over_the_cable,
        "none",
        "none",
        links="{name: tested, interface: wwan5}",
    ),
    Trap("a gateway that sends everything back", forwarded_back, "none", "none"),
    Trap("answers that come by the cable", answers_by_the_cable, "none", "none"),
    Trap("a server on the probe itself", own_server, "none", "none"),
    Trap("a modem under a bridge", bridged, links="{name: tested, interface: br0}"),
    Trap("some traffic of others on the cable", some_traffic),
    Trap("the address changes in the middle", new_address, "none", "none"),
]


@dataclass
class Laid:
    """One trap on one probe, with a test under way."""

    site: Site
    asked: Overrides
    before: dict[str, int]
    task: Task

    @classmethod
    def out(cls, trap: Trap, site: Site, config: Path | None) -> Laid:
        site.serve(5201, 5202)
        site.net.sysctl(net__ipv4__conf__all__arp_ignore=1)  # as if the server were a hop away, as it always is
        asked = trap.lay(site) or {}
        if config is not None:
            config.write_text(_CONFIG % trap.links)
            command = [sys.executable, "-m", "agent.cli", "link", "setup", "--config", str(config)]
            site.probe.run(command)
        meanwhile = asked.pop("meanwhile", None)
        options = {"duration_s": 1, "omit_s": 0, "connect_timeout_s": 1} | asked.pop("options", {})
        before = site.carried()
        task = site.start(options=options, **asked)
        if meanwhile is not None:
            meanwhile()
        return cls(site, asked, before, task)

    def settle(self, expected: Outcome) -> None:
        answer = self.task.answer()
        grown = {name: count - self.before.get(name, 0) for name, count in self.site.carried().items()}
        link = grown.pop(self.asked.get("interface", "wwan0"), 0)
        others = sum(count for name, count in grown.items() if name not in self.stacked())
        shown = f"{answer}, carried: {link} and {grown}"

        assert expected == ("right" if _admitted(answer) else "none") or expected == "either", shown
        if "failed" in answer or answer["upload_failure"] is not None:
            return
        transfers = [one for one in (answer["download"], answer["upload"]) if one is not None]
        payload = sum(one["payload_bytes"] for one in transfers)
        went_right = link >= payload and others < 0.03 * payload + 200_000 * len(transfers)
        assert _admitted(answer) == went_right, shown

    def stacked(self) -> set[str]:
        return {"lo", "wwan0"} if self.asked.get("interface") == "br0" else {"lo"}


_CONFIG = """\
probe_id: p
site: {id: s}
broker: {host: localhost, tls: null}
links: [%s]
jobs: [{name: radio, measurement: radio, every_s: 60}]
"""


def _admitted(answer: dict[str, Any]) -> bool:
    """Whether figures came of it, and nothing speaks against where they went (a busy machine may stutter)."""
    if "failed" in answer or answer["upload_failure"] is not None:
        return False
    return not PATH_DOUBTS & set(answer["invalid"])


@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: trap.name.replace(" ", "-"))
def test_no_sample_went_elsewhere_and_none_that_went_right_is_refused(
    trap: Trap, two_sites: tuple[Site, Site], tmp_path: Path
) -> None:
    bare, kept = two_sites
    laid = Laid.out(trap, bare, None), Laid.out(trap, kept, tmp_path / "agent.yaml")
    laid[0].settle(trap.bare)
    laid[1].settle(trap.kept)


SELECTORS = (
    *("from all", f"from {OWN_ADDRESS}", f"to {SERVER}", "uidrange 0-4294967294"),
    *("ipproto tcp", "oif wwan0", "iif lo"),
)
POOL = [
    *(f"rule add {selector} lookup {table}" for table in (50, 60, 70) for selector in SELECTORS),
    "rule add from all prohibit",
    f"rule add to {SERVER} unreachable",
    "rule add from 10.2.0.0/24 blackhole",
    "route replace default via 10.1.0.1 dev eth0 metric 50",
    "route delete default via 10.2.0.1 dev wwan0 metric 700",
    "route replace default nexthop via 10.1.0.1 dev eth0 nexthop via 10.2.0.1 dev wwan0",
    f"route replace {SERVER}/32 via 10.1.0.1 dev eth0",
    f"route replace {SERVER}/32 via 10.2.0.1 dev wwan0",
    f"route replace blackhole {SERVER}/32",
    f"route replace {SERVER}/32 dev wwan0",
    f"address replace {OWN_ADDRESS}/32 dev eth0",
    "address replace 10.2.0.77/24 dev wwan0",
    "address replace 10.2.0.3/24 dev eth0",
    "neighbour replace 10.2.0.1 lladdr 02:00:00:00:00:01 dev wwan0 nud permanent",
    "link set wwan0 arp off",
    "link set wwan0 down",
]  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_on_the_way_no_sample_went_elsewhere(
    seed: int, two_sites: tuple[Site, Site], tmp_path: Path
) -> None:
    """Draw several obstacles at once; tables 50 and 60 lead by the cable and by the link, table 70 nowhere."""
    rng = random.Random(seed)
    drawn = rng.sample(POOL, rng.randint(2, 6))
    filters = [rng.randint(0, 2) for _ in range(2)]

    def lay(site: Site) -> None:
        site.probe.ip(
            "route add default via 10.1.0.1 dev eth0 table 50", "route add default via 10.2.0.1 dev wwan0 table 60"
        )
        site.probe.ip("route add unreachable default table 70")
        site.probe.sysctl(net__ipv4__conf__eth0__rp_filter=filters[0], net__ipv4__conf__wwan0__rp_filter=filters[1])
        for number, command in enumerate(drawn):
            priority = f" priority {rng.randint(100, 900) + number}" if command.startswith("rule") else ""
            site.probe.run(["ip", *(command + priority).split()], check=False)  # one may be in the way of another

    state = rng.getstate()
    bare = Laid.out(Trap(str(drawn), lay), two_sites[0], None)
    rng.setstate(state)
    kept = Laid.out(Trap(str(drawn), lay), two_sites[1], tmp_path / "agent.yaml")
    bare.settle("either")
    kept.settle("either")


def test_the_traps_are_real_without_binding_the_test_goes_elsewhere(site: Site) -> None:
    """What all this is for: an ordinary client on the same probe, told the link's address."""
    site.serve(5201)
    before = site.carried()
    site.probe.run(["iperf3", "-c", SERVER, "-B", OWN_ADDRESS, "-t", "1", "-b", "10M"])
    grown = {name: count - before[name] for name, count in site.carried().items()}
    assert grown["eth0"] > 1_000_000
