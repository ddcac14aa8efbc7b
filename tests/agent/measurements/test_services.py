"""DNS, web and pings over a link that is not the default one: real servers, in namespaces and on the loopback."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import pytest
from service_servers import NameServer, Silence, WebServer, own_authority

from agent import path as paths
from agent import resolver
from agent.measurements import http_client, ping, web
from agent.measurements.base import MeasurementFailed
from wire.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Site

    from lab.servers import TlsFiles
    from wire.measured import Echo

SERVER, OWN_ADDRESS = "10.9.0.1", "10.2.0.2"
RESOLVER = "10.9.0.53"
LO = paths.look("lo")


@pytest.fixture
def names(site: Site) -> Iterator[NameServer]:
    """Run the operator's name server, which both ways lead to."""
    site.net.ip(f"address add {RESOLVER}/32 dev lo")
    with site.net.inside():
        server = NameServer(RESOLVER)
    yield server
    server.close()


@pytest.fixture
def pages(site: Site) -> Iterator[WebServer]:
    with site.net.inside():
        server = WebServer(SERVER, 80)
    yield server
    server.close()


@pytest.fixture
def here() -> Iterator[WebServer]:
    """Run a web server on the loopback."""
    server = WebServer("127.0.0.1")
    yield server
    server.close()


def ask(site: Site, measurement: str, options: dict[str, Any] | None = None, **task: object) -> dict[str, Any]:
    """Measure over wwan0; see that nothing but the kernel's own goodbyes (RST, which nobody binds) left by eth0."""
    before = site.carried_bytes("eth0", "tx")
    answer = site.measure(measurement=measurement, options=options or {}, resolvers=[RESOLVER], **task)
    limit_bytes = {"throughput": 20_000, "web": 10_000}.get(measurement, 300)
    assert site.carried_bytes("eth0", "tx") - before < limit_bytes, f"something left by another link: {answer}"
    return answer


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.root
def test_each_kind_of_answer_is_told_apart(site: Site, names: NameServer) -> None:
    asked = ["www.test", "alias.test", "big.test", "spoofed.test", "nothing.test", "broken.test", "refused.test"]
    asked += ["empty.test", "garbage.test", "silent.test"]
    answer = ask(site, "dns", {"names": asked, "timeout_s": 0.6})["dns"]
    found = {lookup["name"].partition(".")[0]: lookup for lookup in answer["lookups"]}
    assert {name: lookup.get("failure") for name, lookup in found.items()} == {
        "www": None,
        "alias": None,
        "big": None,
        "spoofed": None,
        "nothing": Reason.NO_SUCH_NAME,
        "broken": Reason.SERVER_FAILURE,
        "refused": Reason.REFUSED,
        "empty": Reason.NAME_NOT_RESOLVED,
        "garbage": Reason.MALFORMED,
        "silent": Reason.TIMEOUT,
    }
    assert [name for name, lookup in found.items() if lookup.get("tcp")] == ["big"]
    assert [name for name, lookup in found.items() if "answer_ms" not in lookup] == ["silent"]
    assert (found["www"]["addresses"], found["www"]["ttl_s"]) == (1, 60)
    assert {peer for _, peer, _ in names.asked} == {OWN_ADDRESS}
    assert names.names().count("silent.test") == 1, "a question is put once"
    assert answer["interface_bytes"] > 10 * 2 * (28 + 12)


@pytest.mark.root
def test_a_resolver_that_is_silent_is_a_failed_result(site: Site, names: NameServer) -> None:
    answer = ask(site, "dns", {"names": ["silent.test"], "timeout_s": 0.5})
    assert answer["failed"]["reason"] == Reason.TIMEOUT
    assert f"{RESOLVER} (set for the link): no answer over wwan0" in answer["failed"]["detail"]


@pytest.mark.root
def test_names_of_test_servers_are_looked_up_through_the_link(site: Site, names: NameServer) -> None:
    assert ask(site, "resolve", hosts=["server.test", "localhost", "10.7.7.7"])["resolve"] == [
        "10.9.0.1",
        "127.0.0.1",
        "10.7.7.7",
    ]
    assert names.asked == [("server.test", OWN_ADDRESS, "udp")]


@pytest.mark.root
def test_a_link_without_a_way_to_its_resolver_never_asks_over_another(site: Site, names: NameServer) -> None:
    site.net.ip(f"route add blackhole {OWN_ADDRESS}/32")  # questions arrive, answers do not; eth0 would work
    answer = ask(site, "resolve", hosts=["server.test"], timeout_s=1.0)
    assert answer["failed"]["reason"] == Reason.NAME_NOT_RESOLVED
    assert f"server.test, asked over wwan0 alone: {RESOLVER}: no answer" in answer["failed"]["detail"]
    assert {peer for _, peer, _ in names.asked} == {OWN_ADDRESS}


@pytest.mark.root
def test_a_throughput_test_finds_its_server_by_the_links_resolver(site: Site, names: NameServer) -> None:
    site.serve(5201)
    answer = ask(site, "throughput", {"duration_s": 1, "upload": False}, host="iperf.test", ports=[5201])
    assert answer["download"]["steady_mbps"] > 1
    assert names.asked == [("iperf.test", OWN_ADDRESS, "udp")]


# --- web ------------------------------------------------------------------------------------------------------------


@pytest.mark.root
def test_every_step_of_a_page_is_timed(site: Site, names: NameServer, tmp_path: Path) -> None:
    tls = own_authority(tmp_path, "www.test", SERVER)
    with site.net.inside():
        secure, plain = WebServer(SERVER, 443, tls=tls), WebServer(SERVER, 80)
    try:
        urls = ["https://www.test/slow", "http://www.test/page", "http://www.test/missing"]
        answer = ask(site, "web", {"urls": urls, "ca_file": str(tls.ca_file), "max_bytes": 20_000})
    finally:
        secure.close()
        plain.close()
    slow, page, missing = answer["web"]["pages"]
    assert (slow["status"], slow["body_bytes"], slow["address"]) == (200, 1000, SERVER)
    assert slow["dns_ms"] > 0
    assert slow["connect_ms"] > 0
    assert slow["tls_ms"] > 0
    steps_ms = slow["dns_ms"] + slow["connect_ms"] + slow["tls_ms"]
    assert steps_ms + 300 <= slow["ttfb_ms"] <= slow["total_ms"] < 10_000
    assert "tls_ms" not in page
    assert (page["body_bytes"], page["capped"]) == (20_000, True)
    assert (missing["status"], missing["failure"]) == (404, Reason.HTTP_STATUS)
    assert answer["web"]["interface_bytes"] > 21_000
    assert [peer[0] for _, peer in secure.asked + plain.asked] == [OWN_ADDRESS] * 3
    assert names.names() == ["www.test"] * 3, "a page is looked up afresh each time"


def fetch(url: str, timeout_s: float = 5, ca_file: Path | None = None, max_bytes: int = 300_000) -> http_client.Answer:
    return http_client.fetch(LO, url, "127.0.0.1", timeout_s=timeout_s, max_bytes=max_bytes, ca_file=ca_file)


@pytest.mark.parametrize(
    ("page", "status", "body_bytes", "failure"),
    [
        ("page", 200, 50_000, None),
        ("empty", 200, 0, None),
        ("chunked", 200, 5000, None),
        ("missing", 404, 12, Reason.HTTP_STATUS),
        ("moved", 301, 0, Reason.HTTP_STATUS),
        ("short", 200, 0, Reason.CUT_OFF),
        ("garbage", None, 0, Reason.MALFORMED),
        ("close", None, 0, Reason.CUT_OFF),
    ],
)
def test_each_end_of_a_page_is_told_apart(
    here: WebServer, page: str, status: int | None, body_bytes: int, failure: Reason | None
) -> None:
    answer = fetch(f"http://localhost:{here.server_port}/{page}")
    assert (answer.failure, answer.status if failure is not Reason.MALFORMED else None) == (failure, status)
    assert answer.body_bytes == body_bytes
    assert not answer.capped
    assert answer.connect_ms is not None


def test_a_page_that_drips_ends_at_the_deadline(here: WebServer) -> None:
    begun_s = time.monotonic()
    answer = fetch(f"http://localhost:{here.server_port}/drip", timeout_s=1)
    assert answer.failure is Reason.TIMEOUT
    assert answer.ttfb_ms is not None
    assert time.monotonic() - begun_s < 10


def test_a_server_that_takes_connections_and_is_silent_is_a_timeout() -> None:
    with Silence("127.0.0.1") as silence:
        answer = fetch(f"http://localhost:{silence.port}/", timeout_s=0.5)
        assert (answer.failure, answer.ttfb_ms) == (Reason.TIMEOUT, None)
        answer = fetch(f"https://localhost:{silence.port}/", timeout_s=0.5)
        assert (answer.failure, answer.tls_ms) == (Reason.TIMEOUT, None)
    assert fetch("http://localhost:9/").failure is Reason.REFUSED


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    return own_authority(tmp_path_factory.mktemp("pki"), "localhost")


def test_only_who_is_trusted_is_measured(tls: TlsFiles, tmp_path: Path) -> None:
    server = WebServer("127.0.0.1", tls=tls)
    try:
        url = f"https://localhost:{server.server_port}/empty"
        assert fetch(url, ca_file=tls.ca_file).failure is None
        unknown = fetch(url)
        assert (unknown.failure, unknown.ttfb_ms) == (Reason.TLS_FAILED, None)
        assert unknown.connect_ms is not None
        assert "certificate" in unknown.detail
        other = fetch(url.replace("localhost", "127.0.0.1"), ca_file=tls.ca_file)
        assert (other.failure, "IP address mismatch" in other.detail) == (Reason.TLS_FAILED, True)
        missing = fetch(url, ca_file=tmp_path / "no-such.pem")
        assert (missing.failure, "no-such.pem" in missing.detail) == (Reason.TLS_FAILED, True)
        plain = fetch(url.replace("https", "http"))
        assert plain.failure in {Reason.CUT_OFF, Reason.MALFORMED}
    finally:
        server.close()


def test_a_set_without_any_page_is_a_failed_result(here: WebServer) -> None:
    urls = (f"http://localhost:{here.server_port}/missing", "http://no.such.name.invalid/")
    with pytest.raises(MeasurementFailed, match=r"server says 404; .*there is no no\.such\.name") as failure:
        web.run(LO, web.WebOptions(urls=urls))
    assert failure.value.reason is Reason.HTTP_STATUS


# --- pings ----------------------------------------------------------------------------------------------------------


@pytest.mark.root
def test_a_host_is_pinged_in_three_ways(site: Site, names: NameServer, pages: WebServer) -> None:
    site.probe.sysctl(net__ipv4__ping_group_range="0 2147483647")
    options = {"count": 5, "tcp_port": 80, "http_url": "http://www.test/empty", "mtu": True}
    answer = ask(site, "ping", options, host="www.test")["ping"]
    for way in ("icmp", "tcp", "http"):
        echo = answer[way]
        assert (echo["sent"], echo["received"], echo["loss_percent"]) == (5, 5, 0), way
        assert 0 < echo["rtt_min_ms"] <= echo["rtt_median_ms"] <= echo["rtt_max_ms"] < 5000
        assert echo["jitter_variance_ms2"] >= 0
    assert answer["mtu"] == {"mtu_bytes": 1500, "interface_mtu_bytes": 1500}
    assert answer["interface_bytes"] > 5 * (2 * 84 + 4 * 40 + 2 * 150) + 2 * 1500
    gets = [peer for path, peer in pages.asked if path == "/empty"]
    assert (len(gets), len(set(gets))) == (5, 1), "all on one kept connection"
    assert gets[0][0] == OWN_ADDRESS
    assert names.names() == ["www.test"], "one look-up serves all"


@pytest.mark.root
def test_services_go_over_ipv6_where_it_is_asked_for(site: Site) -> None:
    server, own = "fd00:9::1", "fd00:2::2"
    for namespace in (site.probe, site.net):
        namespace.sysctl(net__ipv6__conf__all__disable_ipv6=0)
    site.probe.ip(f"address add {own}/64 dev wwan0 nodad")
    site.net.ip("address add fd00:2::1/64 dev cell nodad", f"address add {server}/128 dev lo")
    site.net.ip(f"address add {RESOLVER}/32 dev lo")
    site.probe.run(["ip", "-6", "route", "add", "default", "via", "fd00:2::1", "dev", "wwan0", "metric", "700"])
    with contextlib.ExitStack() as stack:
        with site.net.inside():
            names = NameServer(RESOLVER, answer_ipv6=server)
            stack.callback(names.close)
            pages = WebServer(server, 80)
            stack.callback(pages.close)
        options: dict[str, object] = {"urls": ["http://www.test/page"], "family": "ipv6"}
        (page,) = site.measure(measurement="web", options=options, resolvers=[RESOLVER])["web"]["pages"]
        assert (page["status"], page["address"]) == (200, server)
        options = {"count": 2, "tcp_port": 80, "http_url": "http://www.test/empty", "family": "auto"}
        answer = site.measure(measurement="ping", options=options, host="www.test", resolvers=[RESOLVER])["ping"]
    assert answer["family"] == "ipv6"
    assert [answer[way]["received"] for way in ("icmp", "tcp", "http")] == [2, 2, 2]
    assert {peer[0] for _, peer in pages.asked} == {own}


@pytest.mark.root
def test_connections_that_are_not_answered_are_losses_and_the_others_stand(site: Site) -> None:
    site.net.ip("route add blackhole 10.2.0.2/32")
    answer = ask(site, "ping", {"count": 2, "tcp_port": 80, "timeout_s": 0.5}, host=SERVER)
    assert answer["failed"]["reason"] == Reason.TIMEOUT
    assert "10.9.0.1: nothing came back" in answer["failed"]["detail"]


@pytest.mark.root
@pytest.mark.parametrize(
    ("measurement", "options"),
    [
        ("web", {"urls": ["http://10.9.0.1/drip"], "timeout_s": 2}),
        ("ping", {"icmp": False, "http_url": "http://10.9.0.1/drip", "count": 2, "timeout_s": 1}),
        ("dns", {"names": ["silent.test"], "timeout_s": 2}),
    ],
)
def test_a_device_that_goes_down_in_the_run_is_a_lost_link(
    site: Site, names: NameServer, pages: WebServer, measurement: str, options: dict[str, Any]
) -> None:
    task = site.start(measurement=measurement, options=options, resolvers=[RESOLVER], host=SERVER)
    deadline_s = time.monotonic() + 20
    while not (names.asked or pages.asked):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    site.probe.ip("link set wwan0 down")
    answer = task.answer()
    assert answer["failed"]["reason"] == Reason.LINK_LOST
    assert answer["failed"]["detail"].endswith("wwan0 is down")
    assert answer["elapsed_s"] < 15


def pinged(url: str, timeout_s: float = 2) -> Echo:
    options = ping.PingOptions(count=3, icmp=False, http_url=url, timeout_s=timeout_s)
    echo = ping.run(LO, None, options).http
    assert echo is not None
    return echo


def test_the_time_of_a_round_trip_holds_what_the_server_takes(here: WebServer) -> None:
    echo = pinged(f"http://localhost:{here.server_port}/slow")
    assert (echo.sent, echo.received) == (3, 3)
    assert echo.rtt_min_ms is not None
    assert 300 <= echo.rtt_min_ms < 3000


def test_a_server_that_ends_each_connection_is_connected_to_anew_which_is_not_timed(here: WebServer) -> None:
    echo = pinged(f"http://localhost:{here.server_port}/hurried")
    assert (echo.sent, echo.received) == (3, 3)
    assert len({peer for _, peer in here.asked}) == 3


def test_replies_that_do_not_come_are_losses(here: WebServer) -> None:
    with pytest.raises(MeasurementFailed, match="no end in time") as failure:
        pinged(f"http://localhost:{here.server_port}/drip", timeout_s=0.5)
    assert failure.value.reason is Reason.TIMEOUT


def test_whoever_is_never_answered_does_not_go_on_for_ever(here: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "PINGS_LONGEST_S", 0.5)
    port = here.server_port
    url = f"http://localhost:{port}/slow"
    options = ping.PingOptions(count=100, timeout_s=0.5, http_url=url, tcp_port=port, icmp=False)
    result = ping.run(LO, "127.0.0.1", options)
    assert result.http is not None
    assert result.tcp is not None
    assert 1 <= result.http.sent < 10
    assert 1 <= result.tcp.sent < 10
    monkeypatch.setattr(web, "LONGEST_S", 0.1)
    assert len(web.run(LO, web.WebOptions(urls=(url,) * 5)).pages) == 1


def test_a_page_that_is_not_there_is_nothing_to_ping_with(here: WebServer) -> None:
    with pytest.raises(MeasurementFailed, match="the server says 404") as failure:
        pinged(f"http://localhost:{here.server_port}/missing")
    assert failure.value.reason is Reason.HTTP_STATUS


def test_a_port_where_nobody_listens_is_a_refusal_beside_the_figures_that_came() -> None:
    result = ping.run(LO, "127.0.0.1", ping.PingOptions(count=2, tcp_port=9))
    assert result.icmp is not None
    assert result.icmp.received == 2
    assert (result.tcp, result.failures) == (None, {"tcp": Reason.REFUSED})


def test_urls_are_taken_apart() -> None:
    assert http_client.parts_of("http://a.test") == (False, "a.test", 80, "a.test", "/")
    assert http_client.parts_of("https://A.test:8443/x/y?z=1") == (True, "a.test", 8443, "A.test:8443", "/x/y?z=1")


@pytest.fixture(autouse=True)
def _nothing_is_remembered() -> None:
    resolver.forget()
