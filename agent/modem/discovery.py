"""Finds modems by USB identity and interface number through sysfs. Only `resolve` opens a port, and only an AT port.

Which interface is which is data: `usb_ids.csv`, with the source of each line. A diagnostic or a positioning port is
named and never opened: bytes written to a diagnostic port can crash a modem. The stable key of a modem is its USB path
(`1-1.2`): ttyUSB numbers change at every reset.
"""

from __future__ import annotations

import csv
import logging
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from agent.modem.errors import ModemError, NoModem
from agent.modem.session import ModemSession

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

log = logging.getLogger(__name__)

ROLES: Final = ("at1", "at2", "ppp", "diag", "nmea")
_PROBE_S: Final = 20.0
_RECOVERY_MODE: Final = ("05c6", "9008")
# Huawei tells ports by class ff and subclass/protocol (77-mm-huawei-net-port-types.rules).
_HUAWEI_ROLES: Final = {
    **dict.fromkeys((("01", "01"), ("02", "01")), "ppp"),
    **dict.fromkeys((("01", "02"), ("02", "02")), "at1"),
    **dict.fromkeys((("01", "05"), ("01", "14"), ("06", "14")), "nmea"),
}
# Makers whose unlisted devices are still modems.
_MAKERS: Final = {
    "2c7c": "quectel",
    "1e0e": "simcom",
    "1bc7": "telit",
    "1199": "sierra",
    "12d1": "huawei",
    "19d2": "zte",
    "1546": "ublox",
    "1e2d": "cinterion",
    "2cb7": "fibocom",
    "8087": "fibocom",
    "0681": "cinterion",
}


class KnownModem(msgspec.Struct, frozen=True, kw_only=True):
    """A line of usb_ids.csv: interface numbers by role; `wait_s` after plugging in before a port may be probed."""

    vendor_id: str
    product_id: str
    family: str
    device: str
    roles: dict[str, int]
    wait_s: float
    source: str


class FoundPort(msgspec.Struct, frozen=True, kw_only=True):
    """A serial port of a modem: its device node, USB interface number, role (one of ROLES, or None), and why."""

    device: str
    interface: int
    role: str | None
    why: str


class FoundModem(msgspec.Struct, frozen=True, kw_only=True):
    """A modem on the bus. `device` is the name in the table, or the product's own."""

    usb_path: str
    vendor_id: str
    product_id: str
    device: str
    family: str
    ports: tuple[FoundPort, ...]
    interfaces: tuple[str, ...] = ()
    why: str = ""

    def ports_of(self, *roles: str) -> tuple[str, ...]:
        """Device nodes by role, in the order of the roles given."""
        return tuple(port.device for role in roles for port in self.ports if port.role == role)


@cache
def known_modems() -> dict[tuple[str, str], KnownModem]:
    """Read the table by (vendor id, product id); `*` as the product stands for every other product of the vendor."""
    text = Path(__file__).with_name("usb_ids.csv").read_text(encoding="utf-8")
    table = {}
    for row in csv.DictReader(text.splitlines()):
        table[row["vendor_id"], row["product_id"]] = KnownModem(
            vendor_id=row["vendor_id"],
            product_id=row["product_id"],
            family=row["family"],
            device=row["device"],
            roles={role: int(row[role]) for role in ROLES if row[role]},
            wait_s=float(row["wait_s"]),
            source=row["source"],
        )
    return table


def find_ports(sys_root: Path = Path("/sys"), dev_root: Path = Path("/dev")) -> list[FoundModem]:
    """List the USB modems with their ports by role, in order of USB path. Opens nothing.

    A modem without a serial port (HiLink sticks, MBIM only) is listed with no ports. Devices that come or go while the
    tree is read are left out.
    """
    found = []
    for folder in sorted((sys_root / "bus/usb/devices").glob("*-*"), key=lambda path: _natural(path.name)):
        if ":" in folder.name:
            continue
        try:
            modem = _modem(folder, dev_root)
        except OSError:  # a folder that goes away between two looks at it: the modem was unplugged
            continue
        if modem is not None:
            found.append(modem)
    return found


def _modem(folder: Path, dev_root: Path) -> FoundModem | None:
    vendor_id, product_id = _read(folder / "idVendor").lower(), _read(folder / "idProduct").lower()
    known = known_modems().get((vendor_id, product_id)) or known_modems().get((vendor_id, "*"))
    if known is None and vendor_id not in _MAKERS:
        return None
    ports: list[FoundPort] = []
    networks: list[str] = []
    for interface in sorted(folder.glob(f"{folder.name}:*")):
        ports += [_port(tty, interface, known, vendor_id, dev_root) for tty in _ttys(interface)]
        networks += [path.name for path in sorted(interface.glob("net/*"))]
    own = _read(folder / "product") or "unknown product"
    if known is not None:
        why = f"{vendor_id}:{product_id} is {known.device} ({known.source})"
    else:
        why = f"{vendor_id} is {_MAKERS[vendor_id]}; {product_id} is not in the table, so every port has to be tried"
    if (vendor_id, product_id) == _RECOVERY_MODE:
        why = f"{vendor_id}:{product_id} is a modem in recovery mode: its firmware does not start, it needs service"
    elif known is not None and known.wait_s:
        why += f"; it answers only {known.wait_s:g} s after it is plugged in"
    if not ports:
        why += "; it shows no serial port (a HiLink stick, or drivers missing)"
    return FoundModem(
        usb_path=folder.name,
        vendor_id=vendor_id,
        product_id=product_id,
        device=own if known is None or known.product_id == "*" else known.device,
        family=known.family if known else _MAKERS[vendor_id],
        ports=tuple(sorted(ports, key=lambda port: (port.interface, port.device))),
        interfaces=tuple(networks),
        why=why,
    )


def _port(tty: str, interface: Path, known: KnownModem | None, vendor_id: str, dev_root: Path) -> FoundPort:
    number = int(_read(interface / "bInterfaceNumber") or "0", 16)
    role, why = None, f"interface {number} has no role in the table"
    if known is not None and known.product_id == "*":
        kind = (_read(interface / "bInterfaceSubClass"), _read(interface / "bInterfaceProtocol"))
        role = _HUAWEI_ROLES.get(kind)
        why = f"interface {number} has subclass/protocol {'/'.join(kind)}"
    elif known is not None:
        role = next((role for role in ROLES if known.roles.get(role) == number), None)
        why = f"interface {number} is {role} ({known.source})" if role else why
    elif vendor_id in _MAKERS:
        why = f"interface {number} of a product that is not in the table"
    return FoundPort(device=str(dev_root / tty), interface=number, role=role, why=why)


def _ttys(interface: Path) -> list[str]:
    """USB serial drivers put ttyUSBn right below the interface; cdc-acm puts ttyACMn into a folder `tty`."""
    direct = [path.name for path in interface.glob("tty[A-Z]*") if path.name != "tty"]
    return sorted({*direct, *(path.name for path in interface.glob("tty/*"))})


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _natural(name: str) -> list[int]:
    return [int(part) for part in re.findall(r"[0-9]+", name)]


# --- choosing a port ------------------------------------------------------------------------------------------------


def resolve(
    port: str,
    *,
    usb_path: str | None = None,
    sys_root: Path = Path("/sys"),
    dev_root: Path = Path("/dev"),
    answers: Callable[[str], bool] | None = None,
) -> str:
    """Return the AT port to use: `port` itself, or with `auto` the first AT port of the one modem that answers `AT`.

    The second AT port is tried first: the first one may carry PPP, and ModemManager takes it by default. Raises NoModem
    where there is none, several and no `usb_path` (the message lists them), or none that answers.
    """
    if port != "auto":
        return port
    modems = [m for m in find_ports(sys_root, dev_root) if usb_path is None or m.usb_path == usb_path]
    usable = [modem for modem in modems if _candidates(modem)]
    if not usable:
        told = "; ".join(f"{m.usb_path}: {m.why}" for m in modems) or "no USB modem is plugged in"
        where = f" at USB path {usb_path}" if usb_path else ""
        raise NoModem(f"modem auto{where}: {told}; `probe-agent modem list` shows what is there")
    if len(usable) > 1:
        listed = "; ".join(f"{m.usb_path} {m.device} ({', '.join(_candidates(m))})" for m in usable)
        raise NoModem(f"modem auto: {len(usable)} modems are plugged in: {listed}; name one port in the link's `modem`")
    tried = []
    for candidate in _candidates(usable[0]):
        if (answers or _answers)(candidate):
            log.info("modem auto: %s, because %s", candidate, usable[0].why)
            return candidate
        tried.append(candidate)
    raise NoModem(f"modem auto: {usable[0].device} at {usable[0].usb_path} answers AT on none of {', '.join(tried)}")


def _candidates(modem: FoundModem) -> tuple[str, ...]:
    """Ports that may be asked: AT ports; where nobody knows the roles, every port without one, as ModemManager does."""
    if (modem.vendor_id, modem.product_id) == _RECOVERY_MODE:
        return ()
    named = modem.ports_of("at2", "at1")
    return named or tuple(port.device for port in modem.ports if port.role is None)


def _answers(port: str) -> bool:
    try:
        with ModemSession(port, deadline_s=_PROBE_S):
            return True
    except ModemError as error:
        log.info("modem auto: not %s: %s", port, error)
        return False


def table(modems: Sequence[FoundModem]) -> str:
    """Draw the list for people: one line a modem, one a port, and why."""
    lines = []
    for modem in modems:
        lines.append(
            f"{modem.usb_path:<10} {modem.vendor_id}:{modem.product_id}  {modem.device}  [{modem.family or '-'}]"
        )
        lines += [f"{'':<10} {port.device:<16} {port.role or '-':<5} {port.why}" for port in modem.ports]
        lines += [f"{'':<10} network interface {name}" for name in modem.interfaces]
        lines.append(f"{'':<10} {modem.why}")
    return "\n".join(lines)
