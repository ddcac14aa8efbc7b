"""Ways to a link that are not the plain one: by its own routing table, over IPv6, in a network namespace of its own."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from agent import path as paths
from agent.lease import Habits
from agent.measurements import family
from agent.measurements.base import MeasurementFailed
from agent.measurements.throughput_options import ThroughputOptions
from agent.path import LinkPath
from agent.runner import Runner
from agent.settings import IperfServer, Link, Settings, Site, ThroughputJob
from agent.spool import Spool
from base.broker import BrokerSettings
from lab.netns import veth
from wire.measured import Failed, Throughput
from wire.reasons import Invalid, Reason
from wire.results import Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Site as Place

    from agent.bench import Look
    from agent.lease import Wish
    from wire.leases import LeaseReply

SERVER, OWN_ADDRESS = "10.9.0.1", "10.2.0.2"
LATENCY = {"measurement": "latency", "options": {"duration_s": 1, "interval_ms": 50, "icmp_count": 0}}
CONFIG = """\
probe_id: p
site: {id: s}
broker: {host: localhost, tls: null}
links: [{name: tested, interface: wwan0}]
jobs: [{name: radio, measurement: radio, every_s: 60}]
"""


@pytest.mark.root
def test_echoes_that_are_bound_to_an_address_alone_are_refused_until_the_link_has_its_table(
    site: Place, tmp_path: Path
) -> None:
    site.echo()
    bare = site.measure(**LATENCY)
    assert bare["failed"]["reason"] == Reason.WRONG_PATH
    assert "would leave by eth0" in bare["failed"]["detail"]

    (tmp_path / "agent.yaml").write_text(CONFIG)
    command = [sys.executable, "-m", "agent.cli", "link", "setup", "--config", str(tmp_path / "agent.yaml")]
    site.probe.run(command)
    before = site.carried()
    kept = site.measure(**LATENCY)
    assert kept["latency"]["udp"]["received"] > 10
    grown = {name: count - before[name] for name, count in site.carried().items()}
    assert grown["wwan0"] > 10 * 2 * 88 > 500 > grown["eth0"]


@pytest.mark.root
@pytest.mark.parametrize("rule", ["ipproto udp dport 2112", "uidrange 0-4294967294", "to 10.9.0.1", "fwmark 0"])
def test_echoes_that_a_rule_would_lead_elsewhere_are_not_sent(site: Place, rule: str) -> None:
    site.echo()
    site.probe.ip(
        "route add default via 10.2.0.1 dev wwan0 table 100",
        f"rule add from {OWN_ADDRESS} lookup 100 priority 200",
        "route add default via 10.1.0.1 dev eth0 table 50",
        f"rule add {rule} lookup 50 priority 100",
    )
    before = site.carried()
    answer = site.measure(**LATENCY)
    assert answer["failed"]["reason"] == Reason.WRONG_PATH, answer
    assert site.carried()["eth0"] - before["eth0"] < 500


@pytest.mark.root
def test_a_cable_a_wireless_card_and_three_modems_coexist(site: Place, tmp_path: Path) -> None:
    """Every one of five links is measured over itself: two sticks share an address, one modem has no gateway at all."""
    site.shape(site.net, "office", 40)
    veth(site.probe, "wlan0", site.net, "radio")
    site.net.ip("address add 10.6.0.1/24 dev radio")
    site.probe.ip("address add 10.6.0.2/24 dev wlan0", "route add default via 10.6.0.1 dev wlan0 metric 600")
    site.shape(site.net, "radio", 40)
    site.tun_cable("ppp0", "peer0")
    site.probe.ip("address add 10.3.0.2 peer 10.3.0.1 dev ppp0", "link set ppp0 up")
    site.net.ip("address add 10.3.0.1 peer 10.3.0.2 dev peer0", "link set peer0 up")
    for number in (1, 2):
        stick = site.run.namespace(f"stick{number}")
        veth(site.probe, f"usb{number}", stick, "lan")
        stick.ip("address add 192.168.8.1/24 dev lan", f"address add {SERVER}/32 dev lo")
        site.shape(stick, "lan", 40)
        site.probe.ip(f"address add 192.168.8.100/24 dev usb{number}")
        site.probe.ip(f"route add default via 192.168.8.1 dev usb{number} metric {700 + number}")
        site.serve_in(stick, 5201, once=False)
    site.serve(5201, once=False)
    names = ("eth0", "wlan0", "ppp0", "usb1", "usb2")
    links = ", ".join(f"{{name: {name}, interface: {name}}}" for name in names)
    config = tmp_path / "agent.yaml"
    config.write_text(CONFIG.replace("{name: tested, interface: wwan0}", links))
    site.probe.run([sys.executable, "-m", "agent.cli", "link", "setup", "--config", str(config)])

    for name in names:
        before = site.carried()
        answer = site.measure(interface=name, ports=[5201], options={"duration_s": 1, "omit_s": 0, "upload": False})
        grown = {other: count - before[other] for other, count in site.carried().items()}
        assert "failed" not in answer, (name, answer)
        assert not {Invalid.BYTES_NOT_ACCOUNTED, Invalid.OTHER_INTERFACE_USED} & set(answer["invalid"]), (name, answer)
        assert grown.pop(name) > answer["download"]["payload_bytes"]
        assert sum(grown.values()) < 20_000, (name, grown)


# --- a namespace of its own -------------------------------------------------------------------------------------------


class Now:
    """The real clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic_s(self) -> float:
        return self.now().timestamp()

    def quality(self) -> Clock:
        return Clock()


class Nobody:
    """Neither a modem nor a responder."""

    habits = Habits([])

    def look(self, _link: Link) -> Look:
        raise AssertionError

    @contextmanager
    def ask(self, _wish: Wish) -> Iterator[Callable[[float], LeaseReply | None]]:
        yield lambda _timeout_s: None


def runner_for(link: Link, tmp_path: Path) -> tuple[Runner, Spool]:
    options = ThroughputOptions(duration_s=1, omit_s=0, connect_timeout_s=1)
    settings = Settings(
        probe_id="p",
        site=Site(id="s"),
        broker=BrokerSettings(host="b"),
        links=(link,),
        jobs=(ThroughputJob(name="light", every_s=60, options=options),),
        data_dir=tmp_path,
        servers=(IperfServer(host=SERVER),),
    )
    spool = Spool(tmp_path / "spool.db", max_bytes=10_000_000)
    return Runner(settings, spool, Now(), Nobody(), Nobody()), spool


@pytest.mark.root
def test_a_link_in_a_namespace_of_its_own_is_measured_from_inside_it(site: Place, tmp_path: Path) -> None:
    site.serve(5201, once=False)
    link = Link(name="tested", interface="wwan0", namespace=site.probe.name, modem=None)
    runner, spool = runner_for(link, tmp_path)
    before = site.carried()

    result = runner.run(runner._settings.job("light"), link, slot=1, due=None)
    spent = runner.budget.spent(link)
    spool.close()

    assert isinstance(result.outcome, Throughput), result
    assert result.outcome.upload is not None
    assert not {Invalid.BYTES_NOT_ACCOUNTED, Invalid.OTHER_INTERFACE_USED} & set(result.outcome.invalid)
    assert result.used is not None
    assert (result.used.interface, result.used.source_address) == ("wwan0", OWN_ADDRESS)
    carried = site.carried()["wwan0"] - before["wwan0"]
    assert carried > result.outcome.download.payload_bytes + result.outcome.upload.payload_bytes
    assert spent.day_bytes >= carried, "the plan is charged by the counters inside"
    assert not paths.look("wwan0").exists, "the agent itself is outside again"


def test_a_link_whose_namespace_is_gone_is_a_failed_result(tmp_path: Path) -> None:
    link = Link(name="tested", interface="wwan0", namespace="no-such-namespace", modem=None)
    runner, spool = runner_for(link, tmp_path)
    result = runner.run(runner._settings.job("light"), link, slot=1, due=None)
    spool.close()
    assert isinstance(result.outcome, Failed)
    assert result.outcome.reason is Reason.LINK_DOWN
    assert "ip netns add" in result.outcome.detail


# --- the family -------------------------------------------------------------------------------------------------------

BOTH = LinkPath(interface="lo", source_address="127.0.0.1", ipv6_address="fd00::2")


@pytest.mark.parametrize(
    ("path", "host", "asked", "source", "address"),
    [
        (BOTH, "192.0.2.7", "ipv4", "127.0.0.1", "192.0.2.7"),
        (BOTH, "2001:db8::7", "ipv6", "fd00::2", "2001:db8::7"),
        (BOTH, "2001:db8::7", "auto", "fd00::2", "2001:db8::7"),
        (BOTH, "192.0.2.7", "auto", "127.0.0.1", "192.0.2.7"),
        (BOTH, "localhost", "auto", "fd00::2", "::1"),
        (LinkPath(interface="lo", source_address="127.0.0.1"), "localhost", "auto", "127.0.0.1", "127.0.0.1"),
        (LinkPath(interface="lo", ipv6_address="fd00::2"), "localhost", "auto", "fd00::2", "::1"),
    ],
)
def test_the_family_is_chosen_once(path: LinkPath, host: str, asked: str, source: str, address: str) -> None:
    chosen, found = family.choose(path, host, asked)  # type: ignore[arg-type]  # a Literal
    assert (chosen.source_address, found) == (source, address)
    assert family.of(found) == ("ipv6" if ":" in address else "ipv4")


@pytest.mark.parametrize(
    ("path", "host", "asked", "reason"),
    [
        (BOTH, "192.0.2.7", "ipv6", Reason.NAME_NOT_RESOLVED),
        (BOTH, "2001:db8::7", "ipv4", Reason.NAME_NOT_RESOLVED),
        (LinkPath(interface="lo", source_address="127.0.0.1"), "2001:db8::7", "ipv6", Reason.NO_ADDRESS),
        (LinkPath(interface="lo", source_address="127.0.0.1"), "2001:db8::7", "auto", Reason.NAME_NOT_RESOLVED),
        (LinkPath(interface="lo", ipv6_address="fd00::2"), "192.0.2.7", "ipv4", Reason.NO_ADDRESS),
    ],
)
def test_a_family_that_cannot_be_had_is_a_failure_and_never_the_other_one(
    path: LinkPath, host: str, asked: str, reason: Reason
) -> None:
    with pytest.raises(MeasurementFailed) as failure:
        family.choose(path, host, asked)  # type: ignore[arg-type]  # a Literal
    assert failure.value.reason is reason


@pytest.mark.root
def test_the_address_that_is_valid_beyond_the_link_is_the_links_ipv6_address(site: Place) -> None:
    site.probe.sysctl(net__ipv6__conf__all__disable_ipv6=0)
    look = [sys.executable, "-c", "from agent import path; print(path.look('wwan0').ipv6_address)"]
    assert site.probe.run(look).strip() == "None", "an address of the link itself is none"
    site.probe.ip("address add fd00:2::2/64 dev wwan0 nodad")
    assert site.probe.run(look).strip() == "fd00:2::2"


@pytest.mark.root
def test_what_carries_a_tunnel_is_another_way(site: Place) -> None:
    site.probe.ip("link add wwan5 type vxlan id 5 dev eth0 local 10.1.0.2 remote 10.1.0.1 dstport 4789")
    look = [sys.executable, "-c", "from agent import path; print(path.stacked_with('wwan5'))"]
    assert site.probe.run(look).strip() == "set()"
