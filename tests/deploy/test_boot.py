"""A site in small, in a booted Debian: docs/install.md followed to the letter, then what the units promise."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Machine

pytestmark = [pytest.mark.root, pytest.mark.journey]

ROLES = ("agent", "collector", "responder")
PROBE = "lc-tan-phong-1"
CAP_NET_ADMIN, CAP_NET_RAW = 1 << 12, 1 << 13  # linux/capability.h

AGENT_YAML = f"""\
probe_id: {PROBE}
site: {{id: tan-phong}}
broker:
  host: localhost
  credentials_file: /etc/probefleet/credentials
  tls: {{ca_file: /etc/probefleet/ca.pem}}
links:
  - {{name: viettel, interface: lo, modem: /dev/ttyUSB0}}
jobs:
  - {{name: light, measurement: throughput, every_s: 15, options: {{duration_s: 1, omit_s: 0, congestion: reno}}}}
  - {{name: ping, measurement: latency, every_s: 10, options: {{duration_s: 1, icmp_count: 3}}}}
  - {{name: radio, measurement: radio, every_s: 10}}
"""
STICK_YAML = AGENT_YAML.replace("links:\n", "links:\n  - {name: stick, interface: usb0, modem: null}\n")
STICK_NETWORK = """\
[Match]
Name=stick
[Network]
Address=198.51.100.129/25
DHCPServer=yes
[DHCPServer]
Router=198.51.100.130
"""
MOBILE = "  - {name: mobile, interface: wwan0, modem: null}\n"


def unit(role: str) -> str:
    return f"probefleet-{role}.service"


@pytest.fixture(scope="module")
def site(machine: Machine, guide: Callable[..., str]) -> Machine:
    """Install server and probe on one machine by the commands of the guide."""
    if shutil.which("influx") is None:
        pytest.skip("NOT SHOWN: the guide uses influx, which is missing; apt-get install influxdb-client")
    machine.run("bash", "-c", guide("server", "influxdb"), timeout_s=180)
    machine.run("bash", "-c", guide("probe"), timeout_s=180)
    # Steps B3 and B5, which a person does by hand.
    machine.run(
        "install", "-m", "640", "-g", "probefleet-agent", f"/root/{PROBE}.credentials", "/etc/probefleet/credentials"
    )
    machine.run("tee", "/etc/probefleet/agent.yaml", stdin=AGENT_YAML)
    machine.run("sh", "-c", "chown root:dialout /dev/ttyUSB0 && chmod 660 /dev/ttyUSB0")
    machine.run("bash", "-c", f"probe-agent check-config && {guide('start')}")
    return machine


def stats(site: Machine) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(site.run("probe-collector", "stats", "--json"))
    return found


def test_the_units_are_running_and_come_back_at_every_boot(site: Machine) -> None:
    for role in ROLES:
        assert site.run("systemctl", "is-active", unit(role), check=False) == "active\n", site.journal(unit(role))
        assert site.run("systemctl", "is-enabled", unit(role)) == "enabled\n"
    assert site.run("systemctl", "--failed", "--plain", "--no-legend", "list-units") == ""


def test_results_of_every_kind_travel_from_the_sandboxed_agent_into_the_journal(site: Machine) -> None:
    wanted = {"throughput", "latency", "radio"}

    def there() -> bool:
        probe = stats(site)["probes"].get(PROBE, {})
        return set(probe.get("kinds", ())) >= wanted and bool(probe.get("online"))

    site.wait_until(there, 60, f"{wanted} of {PROBE} in the journal")
    assert stats(site)["quarantine"] == []


def test_what_the_sandbox_might_have_broken_was_measured(site: Machine) -> None:
    login = ". /root/grafana-influxdb; export INFLUX_USERNAME=grafana INFLUX_PASSWORD=$PROBEFLEET_INFLUXDB_PASSWORD"

    def ask(query: str) -> str:
        return site.run("bash", "-c", f'{login}; influx -database probefleet -execute "$1"', "ask", query, check=False)

    # ICMP needs ping to run without its file capability; the state of the clock needs adjtimex; radio needs the port.
    site.wait_until(lambda: "icmp_rtt_mean_ms" in ask("SHOW FIELD KEYS FROM latency"), 30, "ICMP figures in InfluxDB")
    assert "clock_synchronised" in ask("SHOW FIELD KEYS FROM radio")
    assert "rsrp_dbm" in ask("SHOW FIELD KEYS FROM radio")
    assert "download_mbps" in ask("SHOW FIELD KEYS FROM throughput")
    assert "not authorized" in ask("DROP MEASUREMENT radio")


@pytest.mark.parametrize("role", ROLES)
def test_a_service_has_no_privilege_but_for_the_routes_of_the_agent_which_it_hands_on_to_nobody(
    site: Machine, role: str
) -> None:
    pid = site.show(unit(role), "MainPID")
    status = dict(line.split(":\t", 1) for line in site.run("cat", f"/proc/{pid}/status").splitlines() if ":\t" in line)
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    own = CAP_NET_ADMIN if role == "agent" else 0
    assert [int(status[name], 16) for name in ("CapPrm", "CapEff", "CapAmb")] == [own, own, 0]
    assert int(status["CapBnd"], 16) == (CAP_NET_ADMIN | CAP_NET_RAW if role == "agent" else 0)
    user = site.run("id", "-u", f"probefleet-{role}").strip()
    assert status["Uid"].split() == [user] * 4


@pytest.mark.parametrize("role", ROLES)
def test_a_service_can_write_its_own_folder_and_nothing_else(site: Machine, role: str) -> None:
    inside = ("nsenter", "--target", site.show(unit(role), "MainPID"), "--mount", "--")
    # As root in the service's view of the files: not even that helps.
    for place in ("/etc", "/etc/probefleet", "/opt/probefleet", "/usr", "/var/lib", "/boot", "/srv"):
        told = site.run(*inside, "touch", f"{place}/intruder", check=False)
        assert "Read-only file system" in told, place
    others = [f"/var/lib/probefleet-{other}" for other in ROLES if other != role]
    for place in others:
        assert "Read-only" in site.run(*inside, "touch", f"{place}/intruder", check=False)
    own = f"/var/lib/probefleet-{role}/intruder"
    site.run(*inside, "sh", "-c", f"touch {own} && rm {own}")
    assert site.works("test", "-e", "/root/probefleet-ca")
    assert not site.works(*inside, "test", "-e", "/root/probefleet-ca")
    site.run("touch", "/tmp/seen-by-all")
    assert not site.works(*inside, "test", "-e", "/tmp/seen-by-all")


def test_the_agent_sees_the_modem_and_the_servers_see_no_device(site: Machine) -> None:
    views = {
        role: site.run("nsenter", "--target", site.show(unit(role), "MainPID"), "--mount", "--", "ls", "/dev").split()
        for role in ROLES
    }
    assert "ttyUSB0" in views["agent"]
    assert "ttyUSB0" not in views["collector"]
    assert "ttyUSB0" not in views["responder"]


def test_nobody_else_can_read_the_secrets(site: Machine) -> None:
    secrets = {
        "/etc/probefleet/credentials": "agent",
        "/etc/probefleet/broker-credentials": "collector",
        "/etc/probefleet/influxdb-credentials": "collector",
        "/etc/probefleet/responder.credentials": "responder",
    }
    for path, owner in secrets.items():
        for role in ROLES:
            may = site.works("runuser", "-u", f"probefleet-{role}", "--", "cat", path)
            assert may == (role == owner), f"{role} {path}"
    for path in ("/etc/mosquitto/probefleet.passwd", "/etc/mosquitto/certs/probefleet.key", "/root/influxdb-admin"):
        assert not site.works("runuser", "-u", "nobody", "--", "cat", path), path


def test_the_journal_can_be_saved_and_the_database_built_anew_from_it(site: Machine, guide: Callable[..., str]) -> None:
    assert PROBE in site.run("bash", "-c", guide("backup"))
    assert "0 refused" in site.run("bash", "-c", guide("replay"))


def test_installing_again_changes_no_configuration_and_restarts_what_runs(site: Machine) -> None:
    files = "cat /etc/probefleet/* | sha256sum"
    before, pids = site.run("sh", "-c", files), {role: site.show(unit(role), "MainPID") for role in ROLES}
    site.run(f"{site.source}/scripts/install", "--wheels", "/wheels", *ROLES)
    assert site.run("sh", "-c", files) == before
    for role in ROLES:
        assert site.show(unit(role), "ActiveState") == "active"
        assert site.show(unit(role), "MainPID") != pids[role]


def test_a_killed_service_is_started_again_and_goes_on(site: Machine) -> None:
    pids = {role: site.show(unit(role), "MainPID") for role in ROLES}
    site.run("kill", "-KILL", *pids.values())

    def all_back() -> bool:
        return all(
            site.show(unit(role), "ActiveState") == "active"
            and site.show(unit(role), "MainPID") not in {"0", pids[role]}
            for role in ROLES
        )

    site.wait_until(all_back, 60, "all three run again")
    count = stats(site)["results"]
    site.wait_until(lambda: stats(site)["results"] > count, 60, "new results in the journal")
    probe = stats(site)["probes"][PROBE]
    assert (probe["missing"], probe["holes"]) == (0, [])


def test_a_start_limit_does_not_strand_the_agent(site: Machine) -> None:
    # systemd's own limit, 5 starts in 10 s, would end it for good; the pause is shortened to come that far.
    site.run("mkdir", "-p", f"/run/systemd/system/{unit('agent')}.d")
    site.run("tee", f"/run/systemd/system/{unit('agent')}.d/quick.conf", stdin="[Service]\nRestartSec=100ms\n")
    site.run("systemctl", "daemon-reload")
    killed = {"0"}

    def back() -> bool:
        return site.show(unit("agent"), "ActiveState") == "active" and site.show(unit("agent"), "MainPID") not in killed

    for _ in range(7):
        site.wait_until(back, 15, "the agent runs again")
        killed.add(pid := site.show(unit("agent"), "MainPID"))
        site.run("kill", "-KILL", pid)
    site.wait_until(back, 15, "the agent runs again")
    assert int(site.show(unit("agent"), "NRestarts")) >= 7


def test_services_end_in_order_when_told_to(site: Machine) -> None:
    for role in ROLES:
        site.run("systemctl", "stop", unit(role), timeout_s=90)
        assert site.show(unit(role), "Result") == "success", site.journal(unit(role))
        assert site.run("pgrep", "-u", f"probefleet-{role}", check=False) == ""


def test_the_routing_table_of_a_link_leads_out_by_the_link_or_not_at_all(
    site: Machine, guide: Callable[..., str]
) -> None:
    site.run("tee", "/etc/probefleet/agent.yaml", stdin=AGENT_YAML.replace("links:\n", f"links:\n{MOBILE}"))
    site.run("bash", "-ec", "ip link add eth7 type veth peer name cable; ip link add wwan0 type veth peer name air")
    for device, address in (("eth7", "192.0.2.2/24"), ("wwan0", "198.51.100.2/24")):
        site.run("ip", "address", "add", address, "dev", device)
        site.run("ip", "link", "set", device, "up")
    site.run("ip", "link", "set", "cable", "up")
    site.run("ip", "link", "set", "air", "up")
    site.run("ip", "route", "add", "default", "via", "192.0.2.1", "dev", "eth7", "metric", "100")
    site.run("ip", "route", "add", "default", "via", "198.51.100.1", "dev", "wwan0", "metric", "700")

    def way_out(source: str = "198.51.100.2") -> str:
        return site.run("ip", "route", "get", "203.0.113.9", "from", source, check=False)

    assert "dev eth7" in way_out()  # what happens without: the link's own packets leave by the cable
    assert "oif wwan0 lookup 7100 proto 112" in site.run("bash", "-c", guide("routing"))
    assert "via 198.51.100.1 dev wwan0" in way_out()
    site.run("ip", "link", "set", "wwan0", "down")
    assert "No route to host" in way_out() or "unreachable" in way_out()

    script = "/etc/NetworkManager/dispatcher.d/70-probefleet-links"
    site.run("ip", "link", "set", "wwan0", "up")
    site.run("ip", "address", "del", "198.51.100.2/24", "dev", "wwan0")
    site.run("ip", "address", "add", "198.51.100.7/24", "dev", "wwan0")
    site.run("ip", "route", "add", "default", "via", "198.51.100.1", "dev", "wwan0", "metric", "700")
    site.run(script, "wwan0", "dhcp4-change")
    assert "via 198.51.100.1 dev wwan0" in way_out("198.51.100.7")
    assert "198.51.100.2" not in site.run("ip", "rule", "show")

    site.run("probe-agent", "link", "teardown")
    assert site.run("ip", "rule", "show").count("lookup") == 3
    assert not site.works("test", "-e", script)

    # The sandboxed agent does it by itself, before its next test.
    site.run("systemctl", "start", unit("agent"))
    site.wait_until(lambda: "via 198.51.100.1 dev wwan0" in way_out("198.51.100.7"), 30, "the agent keeps the table")
    site.run("ip", "rule", "del", "from", "198.51.100.7", "lookup", "7100")
    site.wait_until(lambda: "via 198.51.100.1 dev wwan0" in way_out("198.51.100.7"), 60, "and goes on keeping it")
    assert "may not change" not in site.journal(unit("agent"))
    site.run("systemctl", "stop", unit("agent"), timeout_s=90)


def test_systemd_networkd_gives_a_stick_its_table_from_the_files_we_make(site: Machine) -> None:
    if not site.works("test", "-x", "/lib/systemd/systemd-networkd"):
        pytest.skip("NOT SHOWN: systemd-networkd is missing")
    site.run("tee", "/etc/probefleet/agent.yaml", stdin=STICK_YAML)
    site.run("mkdir", "-p", "/run/systemd/network")
    site.run("tee", "/run/systemd/network/80-stick.network", stdin=STICK_NETWORK)
    site.run("probe-agent", "link", "setup", "--for", "networkd")
    site.run("ip", "rule", "add", "from", "198.51.100.77", "lookup", "77", "priority", "9000")  # not ours: stays
    site.run("ip", "link", "add", "usb0", "type", "veth", "peer", "name", "stick")
    site.run("systemctl", "restart", "systemd-networkd")

    def table() -> str:
        return site.run("ip", "route", "show", "table", "7100", check=False)

    site.wait_until(lambda: "default via 198.51.100.130 dev usb0" in table(), 30, "a lease, and the table's way out")
    assert "unreachable default" in table()
    assert "from all oif usb0 lookup 7100" in site.run("ip", "rule", "show")
    assert "default via 198.51.100.130 dev usb0 proto dhcp" in site.run("ip", "route", "show", "metric", "700")
    site.run("probe-agent", "link", "setup")
    site.run("networkctl", "reconfigure", "usb0")  # takes its own away, and puts it back
    site.wait_until(lambda: "default via 198.51.100.130 dev usb0" in table(), 30, "another lease")
    rules = site.run("ip", "rule", "show")
    assert "from 198.51.100.77 lookup 77" in rules
    assert "from all oif usb0 lookup 7100 proto 112" in rules
    site.run("probe-agent", "link", "setup")
    assert "nothing to change" in site.run("probe-agent", "link", "setup")
    site.run("probe-agent", "link", "teardown")
    assert not site.works("test", "-e", "/etc/systemd/network/70-probefleet-stick.network")
