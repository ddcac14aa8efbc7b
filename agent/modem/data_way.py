"""How a modem's data reaches this machine: which way, and why; connecting through ModemManager; proof that it works."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from agent.measurements.base import Finished, MeasurementFailed
from agent.modem.errors import CommandRefused

if TYPE_CHECKING:
    from pathlib import Path

    from agent.modem.apn import Apn
    from agent.modem.discovery import FoundModem
    from agent.modem.manager import Ask, MmModem

Way = Literal["dhcp", "modem-manager", "ppp"]
Run = Callable[[Sequence[str]], Finished]
"""Runs a tool; raises MeasurementFailed where it is not there."""

_WITH_DHCP: Final = {"cdc_ether", "rndis_host", "cdc_ncm", "huawei_cdc_ncm"}
_WITH_CONTROL: Final = {"qmi_wwan", "cdc_mbim"}
_DNS_PORT: Final = 53
_DNS_S: Final = 4.0
# "Which are the name servers of the root?" (RFC 1035 section 4.1; recursion wanted): every resolver answers that.
_QUESTION: Final = bytes.fromhex("7066010000010000000000000000020001")


class Chosen(NamedTuple):
    """A way, or None where there is none, and why."""

    way: Way | None
    why: str


def driver_of(interface: str, sys_root: Path) -> str | None:
    """Name the kernel driver of a network interface."""
    link = sys_root / "class/net" / interface / "device/driver"
    return link.resolve().name if link.exists() else None


def choose(
    asked: Way | Literal["auto"],
    interface: str,
    modem: FoundModem | None,
    managed: MmModem | None,
    drivers: dict[str, str | None],
) -> Chosen:
    """Choose how the data comes. `drivers`: those of the modem's network interfaces by their names. Pure."""
    driver = drivers.get(interface)
    shown = ", ".join(f"{name} ({kind or 'no driver'})" for name, kind in drivers.items())
    way: Way | None = None
    if asked != "auto":
        way, why = asked, "agent.yaml says so (bring_up.data)"
    elif managed is not None:
        way, why = "modem-manager", "ModemManager owns this modem"
    elif interface.startswith("ppp"):
        way, why = "ppp", f"{interface} is a PPP device"
    elif driver in _WITH_DHCP:
        way, why = "dhcp", f"{interface} is driven by {driver}: the modem is a router that gives addresses by DHCP"
    elif driver in _WITH_CONTROL:
        way, why = "modem-manager", f"{interface} is driven by {driver}, which only QMI or MBIM can start"
    elif drivers:
        why = f"{interface} is no device of this modem; it has {shown}: correct the link's interface"
    elif modem is None or modem.ports:
        way, why = "ppp", "the modem shows serial ports only"
    else:
        why = "the modem shows neither a serial port nor a network device; are drivers missing?"
    return Chosen(way, why)


def connect_by_manager(managed: MmModem, apn: Apn, interface: str, *, metric: int, ask: Ask, run: Run) -> str:
    """Have ModemManager connect, and give the interface what the bearer says; raise ModemError, MeasurementFailed."""
    wanted = f"apn={apn.name},ip-type=ipv4"
    if apn.username:
        wanted += f",user={apn.username},password={apn.password}"
    ask(["-m", managed.path, f"--simple-connect={wanted}"])
    bearer = _connected(managed, interface, ask)
    address = bearer.get("ipv4-config") or {}
    if address.get("method") == "dhcp":
        return f"ModemManager is connected with {apn.name}; {interface} gets its address by DHCP"
    if address.get("method") != "static":
        raise CommandRefused(f"{managed.path}: the bearer has no IPv4 address ({address.get('method')}); wrong APN?")
    local = f"{address['address']}/{address['prefix']}"
    for command in (
        ["ip", "link", "set", interface, "mtu", address.get("mtu") or "1500", "up"],
        ["ip", "address", "replace", local, "dev", interface],
        ["ip", "route", "replace", "default", "via", address["gateway"], "dev", interface, "metric", str(metric)],
    ):
        done = run(command)
        if done.status != 0:
            raise CommandRefused(f"{' '.join(command)}: {done.complaint}; this needs root")
    return f"ModemManager is connected with {apn.name}; {interface} has {local}"


def _connected(managed: MmModem, interface: str, ask: Ask) -> dict[str, Any]:
    """Find the bearer that is connected on this interface."""
    generic = (ask(["-m", managed.path]).get("modem") or {}).get("generic") or {}
    for bearer_path in generic.get("bearers") or []:
        bearer: dict[str, Any] = ask(["-b", str(bearer_path)]).get("bearer") or {}
        status = bearer.get("status") or {}
        if status.get("connected") == "yes" and status.get("interface") in {interface, None, "--"}:
            return bearer
    raise CommandRefused(f"{managed.path}: connected, but no bearer is on {interface}; correct the link's interface")


# --- proof ------------------------------------------------------------------------------------------------------------


def has_default_route(interface: str, run: Run) -> bool:
    """Whether a default route leaves by this interface, with any metric, in the main table."""
    try:
        routes = json.loads(run(["ip", "-j", "-4", "route", "show", "default", "dev", interface]).stdout or b"[]")
    except (MeasurementFailed, ValueError):
        return False
    return bool(routes)


def dns_answers(interface: str, server: str, *, port: int = _DNS_PORT) -> bool:
    """Whether a name server answers over this interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        door.settimeout(_DNS_S)
        try:
            door.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
            door.connect((server, port))
            door.send(_QUESTION)
            return door.recv(512)[:2] == _QUESTION[:2]
        except OSError:
            return False
