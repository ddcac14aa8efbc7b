"""Names of test servers: through the link, or from this machine, or not at all."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import msgspec
import pytest
from service_servers import NameServer

from agent import dns_client, name_servers, resolver
from agent import path as paths
from agent.dns_message import Kind
from agent.measurements.base import MeasurementFailed
from agent.name_servers import Files, Found
from wire.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LO = paths.look("lo")
HERE = msgspec.structs.replace(LO, resolvers=("127.0.0.1",))


@pytest.fixture(autouse=True)
def _nothing_is_remembered() -> None:
    resolver.forget()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    made = NameServer("127.0.0.1", 0)
    monkeypatch.setattr(dns_client.ask, "__kwdefaults__", {"port": made.port})
    yield made
    made.close()


def test_addresses_are_taken_as_they_are() -> None:
    assert resolver.resolve(LO, "192.0.2.7") == "192.0.2.7"
    assert resolver.resolve(LO, "2001:DB8::7", family=socket.AF_INET6) == "2001:db8::7"
    with pytest.raises(MeasurementFailed, match="no IPv4 address found for 2001:db8::7"):
        resolver.resolve(LO, "2001:db8::7")


def test_this_machines_own_names_need_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n# 10.0.0.1 commented\n::1 six\n10.9.0.1\tServer.example server # ours\n")
    monkeypatch.setattr(resolver, "_HOSTS", hosts)
    assert resolver.resolve(HERE, "server") == resolver.resolve(HERE, "SERVER.example.") == "10.9.0.1"
    assert resolver.resolve(HERE, "localhost") == resolver.resolve(HERE, "x.localhost") == "127.0.0.1"
    assert resolver.resolve(HERE, "six", family=socket.AF_INET6) == "::1"


def test_a_name_is_asked_for_once_while_its_answer_holds(server: NameServer) -> None:
    assert resolver.resolve(HERE, "www.test") == "10.9.0.1"
    assert resolver.resolve(HERE, "WWW.test.") == "10.9.0.1"
    assert server.names() == ["www.test"]
    assert resolver.resolve(HERE, "www.test", fresh=True) == "10.9.0.1"
    assert server.names() == ["www.test", "www.test"]


def test_what_one_link_was_told_is_not_told_to_another(server: NameServer) -> None:
    resolver.resolve(HERE, "www.test")
    elsewhere = msgspec.structs.replace(HERE, source_address="127.0.0.9")
    resolver.resolve(elsewhere, "www.test")
    assert [peer for _, peer, _ in server.asked] == ["127.0.0.1", "127.0.0.9"]


@pytest.mark.parametrize(
    ("name", "told"), [("nothing.test", "RCODE 3"), ("empty.test", "has no A record"), ("broken.test", "RCODE 2")]
)
def test_a_name_without_an_address_is_a_name_not_resolved(server: NameServer, name: str, told: str) -> None:
    with pytest.raises(MeasurementFailed, match=told) as failure:
        resolver.resolve(HERE, name)
    assert failure.value.reason is Reason.NAME_NOT_RESOLVED
    assert len(server.asked) == (2 if name.startswith("broken") else 1), "what is final is not asked again"


def test_a_server_that_does_not_answer_is_passed_over(server: NameServer) -> None:
    refusing = msgspec.structs.replace(HERE, resolvers=("127.0.0.7", "127.0.0.1"))
    assert resolver.resolve(refusing, "www.test") == "10.9.0.1"


def test_silence_ends_at_the_deadline(server: NameServer) -> None:
    with pytest.raises(MeasurementFailed, match=r"asked over lo alone: 127\.0\.0\.1: no answer"):
        resolver.resolve(HERE, "silent.test", timeout_s=0.3)


def test_without_a_name_server_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(name_servers, "_find", lambda _interface, _files: Found((), "nobody"))
    with pytest.raises(MeasurementFailed, match="no name server of lo is known; give the link `resolvers`"):
        resolver.resolve(LO, "www.test")


def test_a_truncated_answer_is_asked_for_again_over_tcp(server: NameServer) -> None:
    answer = dns_client.ask(HERE, "127.0.0.1", "big.test", Kind.A, timeout_s=5, port=server.port)
    assert (answer.addresses, answer.tcp) == (("10.9.0.1",), True)
    assert [how for _, _, how in server.asked] == ["udp", "tcp"]
    with pytest.raises(dns_client.LookupFailed) as failure:
        dns_client.ask(HERE, "127.0.0.1", "big-and-broken.test", Kind.A, timeout_s=5, port=server.port)
    assert (failure.value.reason, failure.value.tcp) == (Reason.MALFORMED, True)


def test_false_answers_are_passed_over(server: NameServer) -> None:
    assert resolver.resolve(HERE, "spoofed.test") == "10.9.0.1"


# --- whose name servers ---------------------------------------------------------------------------------------------


def tool(folder: Path, name: str, says: str, status: int = 0) -> None:
    file = folder / name
    file.write_text(f"#!/bin/sh\ncat <<'EOF'\n{says}\nEOF\nexit {status}\n")
    file.chmod(0o755)


def files(tmp_path: Path, system: str = "") -> Files:
    (tmp_path / "netif").mkdir(exist_ok=True)
    (tmp_path / "resolv.conf").write_text(system)
    return Files(tmp_path / "netif", tmp_path / "ppp.conf", (tmp_path / "no-such", tmp_path / "resolv.conf"))


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "cat").symlink_to("/bin/cat")
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_whoever_brought_the_link_up_knows_its_name_servers(tmp_path: Path, tools: Path) -> None:
    places = files(
        tmp_path, "search x\nnameserver 127.0.0.53\nnameserver 203.0.113.5\nnameserver fe80::1%eth0\nnameserver\n"
    )
    assert name_servers.of_link(LO, places) == Found(("203.0.113.5",), str(tmp_path / "resolv.conf"))
    name_servers.forget()
    (tmp_path / "netif" / str(socket.if_nametoindex("lo"))).write_text(
        "ADMIN_STATE=configured\nDNS=10.1.1.1 10.1.1.2\n"
    )
    assert name_servers.of_link(LO, places) == Found(("10.1.1.1", "10.1.1.2"), "systemd-networkd")
    name_servers.forget()
    tool(tools, "nmcli", "10.2.2.1 | 10.2.2.2")
    assert name_servers.of_link(LO, places) == Found(("10.2.2.1", "10.2.2.2"), "NetworkManager")
    name_servers.forget()
    tool(tools, "resolvectl", "Link 1 (lo): 10.3.3.1 10.3.3.2#dns.example fe80::1%lo")
    assert name_servers.of_link(LO, places) == Found(("10.3.3.1", "10.3.3.2"), "systemd-resolved")
    assert name_servers.of_link(HERE, places) == Found(("127.0.0.1",), "set for the link")


def test_tools_that_know_nothing_are_passed_over(tmp_path: Path, tools: Path) -> None:
    tool(tools, "resolvectl", "Link 1 (lo):")
    tool(tools, "nmcli", "Error: NetworkManager is not running.", status=8)
    assert name_servers.of_link(LO, files(tmp_path)) == Found((), "nobody")


def test_a_bearer_of_modem_manager_knows_its_name_servers(tmp_path: Path, tools: Path) -> None:
    mmcli = tools / "mmcli"
    mmcli.write_text("""#!/bin/sh
case "$2 $3" in
"-L ") echo '{"modem-list": ["/Modem/0", "/Modem/1"]}' ;;
"-m /Modem/0") echo '{"modem": {"generic": {"bearers": "--"}}}' ;;
"-m /Modem/1") echo '{"modem": {"generic": {"bearers": ["/Bearer/3", "/Bearer/4"]}}}' ;;
"-b /Bearer/3") echo '{"bearer": {"status": {"interface": "wwan7"}, "ipv4-config": {"dns": ["10.6.6.1"]}}}' ;;
"-b /Bearer/4") echo '{"bearer": {"status": {"interface": "lo"}, "ipv4-config": {"dns": ["10.5.5.1", "10.5.5.2"]}}}' ;;
esac
""")
    mmcli.chmod(0o755)
    assert name_servers.of_link(LO, files(tmp_path)) == Found(("10.5.5.1", "10.5.5.2"), "ModemManager")
    name_servers.forget()
    tool(tools, "mmcli", "error: couldn't find the ModemManager process", status=1)
    assert name_servers.of_link(LO, files(tmp_path)).servers == ()


def test_a_namespace_has_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "modem1").mkdir()
    (tmp_path / "modem1/resolv.conf").write_text("nameserver 10.7.7.1\n")
    assert name_servers.of_namespace("modem1", tmp_path) == ("10.7.7.1",)
    assert name_servers.of_namespace("modem2", tmp_path) == name_servers.of_namespace(None, tmp_path) == ()


def test_pppds_file_is_for_ppp_devices(tmp_path: Path, tools: Path) -> None:
    places = files(tmp_path)
    places.pppd.write_text("nameserver 10.4.4.1\nnameserver 10.4.4.2\n")
    dialled = msgspec.structs.replace(LO, interface="ppp0")
    assert name_servers.of_link(dialled, places) == Found(("10.4.4.1", "10.4.4.2"), str(places.pppd))
    assert name_servers.of_link(LO, places).servers == ()
