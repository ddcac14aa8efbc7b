"""The links' tables in a real kernel: made, kept, explained, removed; and links in a namespace of their own."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agent import path as paths
from agent.link_files import files, remove, write
from agent.measurements.base import MeasurementFailed
from agent.namespace import inside
from agent.settings import Link, load
from lab.netns import Namespace, Run, veth
from wire.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

root = pytest.mark.root
CONFIG = """\
probe_id: p
site: {id: s}
broker: {host: localhost, tls: null}
links:
  - {name: dialled, interface: ppp0}
  - {name: stick, interface: usb0}
  - {name: other-stick, interface: usb1}
  - {name: away, interface: wwan9}
jobs: [{name: radio, measurement: radio, every_s: 60}]
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "agent.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def probe() -> Iterator[Namespace]:
    """Make a probe with a network cable, a dialled modem, and two sticks that give out the same address."""
    with Run() as run:
        made, far = run.namespace("probe"), run.namespace("far")
        made.sysctl(net__ipv6__conf__all__disable_ipv6=0, net__ipv6__conf__default__disable_ipv6=0)
        for device in ("eth0", "usb0", "usb1"):
            veth(made, device, far, f"far-{device}")
        made.ip(
            "address add 10.1.0.2/24 dev eth0",
            "route add default via 10.1.0.1 dev eth0 metric 100",
            "address add 192.168.8.100/24 dev usb0",
            "address add 2001:db8:8::100/64 dev usb0 nodad",
            "route add default via 192.168.8.1 dev usb0 metric 700",
            "route add 10.50.0.0/16 via 192.168.8.1 dev usb0",
            "address add 192.168.8.100/24 dev usb1",
            "route add default via 192.168.8.1 dev usb1 metric 701",
            "tuntap add dev ppp0 mode tun",
            "link set ppp0 up",
            "address add 10.64.0.2 peer 10.64.0.1 dev ppp0",
        )
        made.run(["ip", *["-6", "route", "add", "default", "via", "2001:db8:8::1", "dev", "usb0", "metric", "700"]])
        yield made


def link(probe: Namespace, config: Path, *words: str, check: bool = True) -> str:
    verb, *rest = words
    return probe.run([sys.executable, "-m", "agent.cli", "link", verb, "--config", str(config), *rest], check=check)


def kernel(probe: Namespace) -> str:
    shown = [
        probe.run(["ip", family, *what])
        for family in ("-4", "-6")
        for what in (("rule", "show"), ("route", "show", "table", "all"))
    ]
    lines = "".join(shown).splitlines()
    return "\n".join(line for line in lines if "fe80:" not in line)  # those the kernel adds when it finds time


def way(probe: Namespace, *words: str) -> str:
    return probe.run(["ip", "route", "get", *words], check=False)


@root
def test_links_that_look_alike_coexist_and_nothing_falls_through(probe: Namespace, config: Path) -> None:
    assert "dev eth0" in way(probe, "203.0.113.9", "from", "192.168.8.100")  # the trap, before

    link(probe, config, "setup")

    for device in ("usb0", "usb1"):
        assert f"via 192.168.8.1 dev {device}" in way(probe, "203.0.113.9", "oif", device)
    assert "via 192.168.8.1 dev usb0" in way(probe, "203.0.113.9", "from", "192.168.8.100")
    assert "dev ppp0" in way(probe, "203.0.113.9", "from", "10.64.0.2")
    assert "via 2001:db8:8::1 dev usb0" in way(probe, "2001:db8:99::1", "from", "2001:db8:8::100")
    assert "dev eth0" in way(probe, "203.0.113.9")
    probe.ip("link set usb0 down")
    probe.ip("link set usb1 down")
    assert "dev eth0" not in way(probe, "203.0.113.9", "from", "192.168.8.100")
    probe.ip("link delete ppp0")
    assert "dev eth0" not in way(probe, "203.0.113.9", "from", "10.64.0.2")


@root
def test_applying_twice_changes_nothing_and_teardown_leaves_what_others_have_made(
    probe: Namespace, config: Path
) -> None:
    probe.ip("rule add from 10.7.7.7 lookup 77 priority 90", "rule add oif usb0 lookup 77 priority 710")
    probe.ip("route add 10.77.0.0/16 via 10.1.0.1 dev eth0 table 77", "route add 10.78.0.0/16 dev usb1 table 7102")
    before = kernel(probe)
    explained = json.loads(link(probe, config, "setup", "--dry-run", "--json"))
    assert kernel(probe) == before, "a dry run changes nothing"
    assert all(step["command"] and step["why"] for step in explained["changes"])
    link(probe, config, "setup")
    after = kernel(probe)
    assert after != before
    assert "nothing to change" in link(probe, config, "setup")
    assert kernel(probe) == after
    link(probe, config, "teardown", "--link", "stick")
    assert "lookup 7101" not in kernel(probe)
    assert "lookup 7102" in kernel(probe)
    link(probe, config, "teardown")
    assert kernel(probe) == before


@root
def test_the_commands_of_a_dry_run_do_the_same(probe: Namespace, config: Path) -> None:
    explained = json.loads(link(probe, config, "setup", "--dry-run", "--json"))
    for step in explained["changes"]:
        probe.run(step["command"].split())
    assert "nothing to change" in link(probe, config, "setup")


@root
def test_an_address_that_changed_is_followed(probe: Namespace, config: Path) -> None:
    link(probe, config, "setup")
    probe.ip("address delete 192.168.8.100/24 dev usb0", "address add 192.168.9.7/24 dev usb0")
    probe.ip("route add default via 192.168.9.1 dev usb0 metric 800")
    link(probe, config, "setup")
    assert "via 192.168.9.1 dev usb0" in way(probe, "203.0.113.9", "from", "192.168.9.7")
    assert probe.run(["ip", "rule", "show", "table", "7101"]).count("192.168.") == 1
    assert "via 192.168.8.1 dev usb1" in way(probe, "203.0.113.9", "from", "192.168.8.100")


@root
def test_a_gateway_that_no_route_names_is_asked_for_and_taken_from_the_configuration(
    probe: Namespace, config: Path
) -> None:
    probe.ip("route delete default via 192.168.8.1 dev usb0 metric 700")
    assert "usb0 has no default route" in link(probe, config, "setup")
    config.write_text(CONFIG.replace("interface: usb0}", "interface: usb0, gateway: 192.168.8.1}"))
    assert "usb0 has no default route" not in link(probe, config, "setup")
    assert "via 192.168.8.1 dev usb0" in way(probe, "203.0.113.9", "oif", "usb0")


@root
def test_a_strict_path_filter_is_loosened_on_the_links_alone(probe: Namespace, config: Path) -> None:
    probe.sysctl(net__ipv4__conf__usb0__rp_filter=1, net__ipv4__conf__eth0__rp_filter=1)
    assert "rp_filter=2" in link(probe, config, "setup", "--dry-run")
    link(probe, config, "setup")
    read = ["sysctl", "-n", "net.ipv4.conf.usb0.rp_filter", "net.ipv4.conf.eth0.rp_filter"]
    assert probe.run(read).split() == ["2", "1"]


@root
def test_links_whose_routes_are_not_ours_are_left_alone(probe: Namespace, config: Path) -> None:
    config.write_text(CONFIG.replace("interface: usb0}", "interface: usb0, routes: leave}"))
    link(probe, config, "setup")
    assert "7101" not in kernel(probe)
    assert "7102" in kernel(probe)


KEEP = """
import ctypes, logging, os, subprocess, sys
from pathlib import Path
from agent.router import Keeper, keep_rights_to_oneself
from agent.settings import load
logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s", level="INFO")
links = load(Path(sys.argv[1])).links
import encodings.ascii  # nobody may not look into the folder of this Python later
libc, net_admin = ctypes.CDLL(None), int(sys.argv[2]) << 12
libc.prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS: become nobody, with what systemd's AmbientCapabilities= gives
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
version_3 = (ctypes.c_uint32 * 2)(0x20080522, 0)  # capset(2)
assert libc.capset(version_3, (ctypes.c_uint32 * 6)(net_admin, net_admin, net_admin, 0, 0, 0)) == 0
if net_admin:
    assert libc.prctl(47, 2, 12, 0, 0) == 0  # PR_CAP_AMBIENT_RAISE
keep_rights_to_oneself()
keeper = Keeper(links)
keeper.keep()
keeper.keep()
tried = subprocess.run(["ip", "link", "set", "lo", "mtu", "60000"], capture_output=True, text=True)
print("a child may:", "Operation not permitted" not in tried.stderr)
"""


@root
def test_the_agent_without_the_right_says_it_once_and_goes_on(probe: Namespace, config: Path) -> None:
    before = kernel(probe)
    said = probe.run([sys.executable, "-c", KEEP, str(config), "0"])
    assert said.count("WARNING") == 1
    assert "probe-agent link setup" in said
    assert "a child may: False" in said
    assert kernel(probe) == before


@root
def test_the_agent_as_its_unit_runs_it_keeps_the_tables_and_the_right_to_itself(probe: Namespace, config: Path) -> None:
    said = probe.run([sys.executable, "-c", KEEP, str(config), "1"])
    assert "WARNING" not in said
    assert "INFO ip -4 rule add from 10.64.0.2" in said
    assert "a child may: False" in said
    assert "nothing to change" in link(probe, config, "setup")


def test_a_link_in_a_namespace_that_is_not_there_is_down() -> None:
    with pytest.raises(MeasurementFailed) as failure, inside("no-such-namespace"):
        pytest.fail("inside of nothing")
    assert failure.value.reason is Reason.LINK_DOWN
    assert "ip netns add no-such-namespace" in failure.value.detail
    assert paths.carried("lo", "no-such-namespace") is None
    assert paths.meter("lo", "no-such-namespace") is None


@root
def test_a_link_in_a_namespace_is_seen_counted_and_routed_there_and_nowhere_else(
    probe: Namespace, config: Path
) -> None:
    here = Path("/proc/self/ns/net").readlink()
    with inside(probe.name):
        assert paths.look("usb0").source_address == "192.168.8.100"
        assert subprocess.run(["ip", "link", "show", "usb0"], capture_output=True, check=False).returncode == 0
    assert Path("/proc/self/ns/net").readlink() == here
    assert not paths.look("usb0").exists
    assert paths.carried("usb0", probe.name) is not None
    meter = paths.meter("usb0", probe.name)
    assert meter is not None
    config.write_text(CONFIG.replace("interface: usb0}", f"interface: usb0, namespace: {probe.name}, modem: null}}"))
    done = subprocess.run(
        [sys.executable, "-m", "agent.cli", "link", "setup", "--link", "stick", "--config", str(config)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"ip -n {probe.name} -4 rule add oif usb0" in done.stdout
    assert "lookup 7101" in kernel(probe)
    shown = subprocess.run(
        [sys.executable, "-m", "agent.cli", "links", "--json", "--config", str(config)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "routing tables:" in shown.stderr, "those of the links outside are not made"
    stick = next(one for one in json.loads(shown.stdout) if one["link"] == "stick")
    assert (stick["state"], stick["address"], stick["usable"]) == ("up", "192.168.8.100", True)


# --- files for those who look after the network -----------------------------------------------------------------------


def test_files_for_a_manager_are_written_once_and_removed_by_their_mark(tmp_path: Path, config: Path) -> None:
    links = load(config).links
    tables = {one.name: 7100 + index for index, one in enumerate(links)}
    for manager, expected in (("networkd", 3), ("networkmanager", 3), ("kernel", 0)):
        made = files(manager, links, tables, Path("/opt/probefleet/bin/probe-agent"), Path("/etc/agent.yaml"))  # type: ignore[arg-type]  # a Literal
        assert len(made) == expected
        assert len(write(made, tmp_path)) == expected
        assert write(made, tmp_path) == []
        foreign = tmp_path / "etc/systemd/network/70-probefleet-mine.network"
        foreign.parent.mkdir(parents=True, exist_ok=True)
        foreign.write_text("[Match]\nName=eth5\n")
        assert len(remove(tmp_path)) == expected
        assert foreign.exists()


def test_the_dispatcher_script_calls_us_for_our_links_alone(tmp_path: Path) -> None:
    called = tmp_path / "called"
    program = tmp_path / "probe-agent"
    program.write_text(f'#!/bin/sh\necho "$@" >>{called}\n')
    program.chmod(0o755)
    links = (Link(name="a", interface="wwan0"), Link(name="b", interface="usb0"), Link(name="c", interface="lo"))
    script, _ = files("networkmanager", links, {"a": 7100, "b": 7101, "c": 7102}, program, Path("/etc/agent.yaml"))
    (path,) = write([script], tmp_path)
    for interface, action in (
        ("wwan0", "up"),
        ("eth0", "up"),
        ("usb0", "dhcp4-change"),
        ("usb0", "hostname"),
        ("lo", "up"),
    ):
        subprocess.run([path, interface, action], check=True)
    assert called.read_text() == "link setup --config /etc/agent.yaml\n" * 2


def test_a_stick_is_no_network_cable(tmp_path: Path) -> None:
    names = ("usb0", "eth1", "enx001122334455", "eth0", "wlan0", "wwan0", "ppp0")
    links = tuple(Link(name=name, interface=name) for name in names)
    made = files("networkmanager", links, dict.fromkeys(names, 7100), tmp_path, tmp_path)
    assert [file.path.stem.removeprefix("probefleet-") for file in made[1:]] == ["usb0", "eth1", "enx001122334455"]
    assert all(file.mode == 0o600 for file in made[1:]), "NetworkManager ignores profiles that others may read"


def test_a_wrong_link_is_named(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "agent.cli", "link", "setup", "--link", "nobody", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == textwrap.dedent("no link is named 'nobody'; links: dialled, stick, other-stick, away\n")
