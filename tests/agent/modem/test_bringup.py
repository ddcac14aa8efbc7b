"""Bringing a link up, step by step, on simulated modems: what is found, done, told, and refused."""

from __future__ import annotations

import json
import socket
import threading
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from agent.measurements.base import Finished
from agent.modem import data_way
from agent.modem.apn import Apn
from agent.modem.bringup import Bringer, Step, Tools
from agent.modem.data_way import choose
from agent.modem.diagnose import Roots
from agent.modem.discovery import FoundModem, FoundPort
from agent.modem.errors import CommandRefused
from agent.modem.manager import MmModem
from agent.modems import SerialModems
from agent.name_servers import of_resolv_conf
from agent.path import LinkPath
from agent.settings import BringUp, Link
from lab.modem import SimulatedModem, cell_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

ROUTE = b'[{"dst":"default","dev":"lo"}]'


@dataclass
class Place:
    """A probe with one modem; `lo` stands for the interface that the modem has brought."""

    folder: Path
    modem: SimulatedModem
    route: bytes = ROUTE
    pppd: str = "pppd"
    steps: list[Step] = field(default_factory=list)
    now_s: float = 0.0

    def sleep(self, duration_s: float) -> None:
        self.now_s += duration_s

    @property
    def bringer(self) -> Bringer:
        roots = Roots(self.folder / "sys", self.folder / "dev")
        return Bringer(
            Tools(
                modems=SerialModems(sys_root=roots.sys, dev_root=roots.dev, proc_root=self.folder),
                data_dir=self.folder,
                roots=roots,
                run=lambda _: Finished(0, self.route, b"", 0.0, overran=False),
                sleep=self.sleep,
                clock=lambda: self.now_s,
                pppd=self.pppd,
                resolv_conf=self.folder / "resolv.conf",
            )
        )

    def link(self, **changes: Any) -> Link:  # noqa: ANN401  # fields of a Link
        fields = {"name": "viettel", "interface": "lo", "modem": str(self.modem.port), "bring_up": BringUp()}
        return Link(**{**fields, **changes})

    def up(self, *, dry_run: bool = False, **changes: Any) -> list[tuple[str, str]]:  # noqa: ANN401  # fields of a Link
        """Bring it up; return the names and states of the steps."""
        self.steps.clear()
        good = self.bringer.up(self.link(**changes), dry_run=dry_run, tell=self.steps.append)
        assert good == (self.steps[-1].state != "failed")
        return [(step.name, step.state) for step in self.steps]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Callable[..., Place]]:
    modems: list[SimulatedModem] = []

    def make(dialect: str = "quectel-ec25", operator: str = "viettel") -> Place:
        quick = {"register_s": 0.0, "latency_s": 0.0, "gap_s": 0.0}
        modem = SimulatedModem(dialect, cell_of(operator), link=tmp_path / "modem", **quick)  # type: ignore[arg-type]  # floats
        modems.append(modem.start())
        return Place(tmp_path, modem)

    yield make
    for modem in modems:
        modem.stop()


GOOD = [("modem", "ok"), ("sim", "ok"), ("apn", "told"), ("network", "ok"), ("data", "ok")]
PROOF = [("address", "ok"), ("route", "ok"), ("dns", "told")]


@pytest.mark.parametrize("dialect", ["quectel-ec25", "simcom-sim7600", "huawei-me909"])
@pytest.mark.parametrize("dry_run", [False, True])
def test_a_link_that_is_up_is_found_so_and_proved(place: Callable[..., Place], dialect: str, *, dry_run: bool) -> None:
    here = place(dialect)
    assert here.up(dry_run=dry_run) == [*GOOD, *PROOF]
    assert "write_apn is off" in here.steps[2].told
    assert "registered: Viettel, lte, RSRP" in here.steps[3].told


def test_an_apn_is_written_where_that_is_allowed_and_a_dry_run_only_says_so(place: Callable[..., Place]) -> None:
    here = place(operator="mobifone")
    allowed = BringUp(write_apn=True)
    assert ("apn", "would") in here.up(dry_run=True, bring_up=allowed)
    assert here.steps[2].told == "write APN m-wap in place of none"
    assert ("apn", "done") in here.up(bring_up=allowed)
    assert ("apn", "ok") in here.up(bring_up=allowed)


@pytest.mark.parametrize(
    ("fault", "step", "told"),
    [
        ("sim-pulled", "sim", "put one in"),
        ("sim-pin", "sim", "give the link a pin_file"),
        ("denied", "network", "the network refuses the subscription"),
        ("no-service", "network", "it hears no cell after 30 s; check antenna"),
        ("silence", "modem", "nothing answers AT"),
    ],
)
def test_what_stands_in_the_way_is_the_last_step_told(
    place: Callable[..., Place], fault: str, step: str, told: str
) -> None:
    here = place()
    here.modem.fault(fault)
    assert here.up(bring_up=BringUp(wait_s=30))[-1] == (step, "failed")
    assert told in here.steps[-1].told


def test_a_locked_sim_is_opened_once_and_the_way_goes_on(place: Callable[..., Place]) -> None:
    here = place()
    here.modem.fault("sim-pin")
    pin_file = here.folder / "pin"
    pin_file.write_text("1234")
    pin_file.chmod(0o600)
    assert here.up(dry_run=True, pin_file=pin_file)[1] == ("sim", "would")
    assert here.modem.sim.lock.value == "SIM PIN"
    assert here.up(pin_file=pin_file)[1] == ("sim", "done")
    assert here.steps[-1].name == "dns"


def test_without_a_route_a_bound_test_goes_nowhere_and_that_is_told(place: Callable[..., Place]) -> None:
    here = place()
    here.route = b"[]"
    assert here.up()[-1] == ("route", "failed")
    assert "ip route add default dev lo metric 700" in here.steps[-1].told


def test_for_the_ladder_nothing_is_done_that_the_configuration_does_not_allow(place: Callable[..., Place]) -> None:
    here = place()
    assert here.bringer.again(here.link(bring_up=None)) is None
    here.modem.fault("sim-pin")
    pin_file = here.folder / "pin"
    pin_file.write_text("1234")
    pin_file.chmod(0o600)
    assert here.bringer.again(here.link(bring_up=None, pin_file=pin_file)) == (
        "sim: the PIN was typed once and accepted"
    )


def test_what_failed_is_tried_again_after_pauses_that_double(place: Callable[..., Place]) -> None:
    here = place()
    link, bringer = here.link(), here.bringer
    assert not bringer.due(link), "nothing has been tried, so nothing has failed"
    here.modem.fault("no-service")
    tries: list[float] = []
    bringer.up(link, dry_run=False, tell=here.steps.append)
    began_s = here.now_s
    while here.now_s - began_s < 600:
        if bringer.due(link):
            tries.append(here.now_s - began_s)
            bringer.again(link)
        here.now_s += 5
    gaps = [later - earlier for earlier, later in pairwise(tries)]
    assert gaps == sorted(gaps)
    assert 3 <= len(tries) <= 6
    here.modem.clear()
    here.now_s += 600
    assert bringer.due(link)
    assert "answers over lo" in str(bringer.again(link)) or "no name server" in str(bringer.again(link))
    assert not bringer.due(link)


def test_ppp_is_dialled_held_and_ended(place: Callable[..., Place], monkeypatch: pytest.MonkeyPatch) -> None:
    here = place()
    program = here.folder / "pppd"
    program.write_text(
        "#!/bin/sh\nsleep 0.3\n"
        "printf 'local  IP address 10.64.0.2\\nprimary   DNS address 127.0.0.1\\n'\nexec sleep 60\n"
    )
    program.chmod(0o755)
    here.pppd = str(program)
    looks = [LinkPath(interface="ppp0", exists=False, up=False)]
    up = LinkPath(interface="ppp0", up=True, source_address="10.64.0.2")

    def look(_: str) -> LinkPath:
        return looks.pop() if looks else up

    monkeypatch.setattr("agent.modem.bringup.look", look)
    monkeypatch.setattr(data_way, "dns_answers", lambda interface, server: (interface, server) == ("ppp0", "127.0.0.1"))
    link = here.link(interface="ppp0")
    bringer = here.bringer
    assert bringer.up(link, dry_run=False, tell=here.steps.append)
    assert [step.state for step in here.steps[-4:]] == ["done", "ok", "ok", "ok"]
    assert "ppp0 is a PPP device: dialled on" in here.steps[-4].told
    assert bringer.calls(link)
    bringer.close()
    assert not bringer.calls(link)


def test_a_call_that_is_interrupted_while_it_comes_up_is_ended_too(
    place: Callable[..., Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Told(BaseException):
        pass

    here = place()
    program = here.folder / "pppd"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    here.pppd = str(program)
    bringer, link = here.bringer, here.link(interface="ppp97")

    def look(_: str) -> LinkPath:
        if bringer.calls(link):
            raise Told
        return LinkPath(interface="ppp97", exists=False, up=False)

    monkeypatch.setattr("agent.modem.bringup.look", look)
    with pytest.raises(Told):
        bringer.up(link, dry_run=False, tell=here.steps.append)
    assert bringer.calls(link)
    bringer.close()
    assert not bringer.calls(link)


def test_a_dry_run_of_ppp_names_the_port_and_dials_nothing(place: Callable[..., Place]) -> None:
    here = place()
    here.pppd = "/nowhere/pppd"
    assert here.up(dry_run=True, interface="ppp97")[-1] == ("data", "would")
    assert "dial ATD*99***1# on" in here.steps[-1].told


# --- which way ---

SERIAL = FoundModem(
    usb_path="1-1",
    vendor_id="2c7c",
    product_id="0125",
    device="EC25",
    family="quectel",
    ports=(FoundPort(device="/dev/ttyUSB2", interface=2, role="at1", why=""),),
)
MANAGED = MmModem(path="/M/0", usb_path="1-1", model="EC25", ports={"ttyUSB2": "at"})


@pytest.mark.parametrize(
    ("asked", "interface", "managed", "drivers", "way"),
    [
        ("auto", "usb0", None, {"usb0": "cdc_ether"}, "dhcp"),
        ("auto", "eth1", None, {"eth1": "rndis_host"}, "dhcp"),
        ("auto", "wwan0", None, {"wwan0": "qmi_wwan"}, "modem-manager"),
        ("auto", "wwan0", None, {"wwan0": "cdc_mbim"}, "modem-manager"),
        ("auto", "wwan0", MANAGED, {"wwan0": "qmi_wwan"}, "modem-manager"),
        ("auto", "ppp0", None, {"wwan0": "qmi_wwan"}, "ppp"),
        ("auto", "cell0", None, {}, "ppp"),
        ("ppp", "wwan0", None, {"wwan0": "qmi_wwan"}, "ppp"),
        ("auto", "wwan1", None, {"wwan0": "qmi_wwan"}, None),
    ],
)
def test_the_way_is_chosen_by_what_the_modem_shows_and_explained(
    asked: Any,  # noqa: ANN401  # a Way or auto
    interface: str,
    managed: MmModem | None,
    drivers: dict[str, str | None],
    way: str | None,
) -> None:
    chosen = choose(asked, interface, SERIAL, managed, drivers)
    assert chosen.way == way
    assert len(chosen.why) > 15


def test_the_driver_of_an_interface_is_read_from_sysfs(tmp_path: Path) -> None:
    driver = tmp_path / "bus/usb/drivers/qmi_wwan"
    driver.mkdir(parents=True)
    device = tmp_path / "class/net/wwan0/device"
    device.mkdir(parents=True)
    (device / "driver").symlink_to(driver)
    assert data_way.driver_of("wwan0", tmp_path) == "qmi_wwan"
    assert data_way.driver_of("eth0", tmp_path) is None


# --- through ModemManager ---

BEARER = {
    "status": {"connected": "yes", "interface": "wwan0"},
    "ipv4-config": {"method": "static", "address": "10.1.2.3", "prefix": "29", "gateway": "10.1.2.4", "mtu": "1430"},
}


def manager_says(bearer: dict[str, Any], asked: list[list[str]]) -> Callable[[Sequence[str]], dict[str, Any]]:
    def ask(arguments: Sequence[str]) -> dict[str, Any]:
        asked.append(list(arguments))
        if arguments[0] == "-b":
            return {"bearer": bearer}
        return {"modem": {"generic": {"bearers": ["/B/1"]}}} if len(arguments) == 2 else {}

    return ask


def test_modem_manager_connects_and_the_interface_gets_what_its_bearer_says() -> None:
    asked: list[list[str]] = []
    done: list[str] = []

    def run(command: Sequence[str]) -> Finished:
        done.append(" ".join(command))
        return Finished(0, b"", b"", 0.0, overran=False)

    told = data_way.connect_by_manager(
        MANAGED, Apn("m-wap", "mms", "mms"), "wwan0", metric=700, ask=manager_says(BEARER, asked), run=run
    )
    assert asked[0] == ["-m", "/M/0", "--simple-connect=apn=m-wap,ip-type=ipv4,user=mms,password=mms"]
    assert done == [
        "ip link set wwan0 mtu 1430 up",
        "ip address replace 10.1.2.3/29 dev wwan0",
        "ip route replace default via 10.1.2.4 dev wwan0 metric 700",
    ]
    assert "10.1.2.3/29" in told


def test_a_bearer_elsewhere_is_no_connection_of_this_link() -> None:
    elsewhere = {**BEARER, "status": {"connected": "yes", "interface": "wwan1"}}
    with pytest.raises(CommandRefused, match="no bearer is on wwan0"):
        data_way.connect_by_manager(
            MANAGED, Apn("x"), "wwan0", metric=1, ask=manager_says(elsewhere, []), run=lambda _: pytest.fail("no")
        )


# --- proof ---


def test_a_name_server_that_answers_over_the_interface_is_a_proof() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))

        def answer() -> None:
            question, client = server.recvfrom(512)
            server.sendto(question[:2] + b"\x81\x80" + question[4:], client)

        thread = threading.Thread(target=answer)
        thread.start()
        assert data_way.dns_answers("lo", "127.0.0.1", port=server.getsockname()[1])
        thread.join()
    assert not data_way.dns_answers("lo", "127.0.0.1", port=server_port_that_is_closed())


def server_port_that_is_closed() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def test_routes_are_read_as_ip_prints_them() -> None:
    def said(text: bytes) -> Callable[[Sequence[str]], Finished]:
        return lambda _: Finished(0, text, b"", 0.0, overran=False)

    assert data_way.has_default_route("lo", said(json.dumps([{"dst": "default"}]).encode()))
    assert not data_way.has_default_route("lo", said(b"[]"))
    assert not data_way.has_default_route("lo", said(b"nonsense"))


def test_name_servers_of_this_machine_itself_prove_nothing(tmp_path: Path) -> None:
    conf = tmp_path / "resolv.conf"
    conf.write_text("# x\nnameserver 127.0.0.53\nnameserver 10.0.0.1\nnameserver fe80::1\nsearch a b\nnameserver\n")
    assert of_resolv_conf(conf) == ("10.0.0.1",)
    assert of_resolv_conf(tmp_path / "none") == ()
