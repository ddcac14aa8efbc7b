"""One look at a link's health, for the recovery ladder: modem, SIM, registration, address, and traffic."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from agent import path
from agent.measurements.base import MeasurementFailed
from agent.modem.discovery import find_ports
from agent.modem.errors import PortBusy, PortForbidden
from wire.events import Diagnosis
from wire.radio import Registration
from wire.reasons import Condition, Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.bench import Look, Modems
    from agent.settings import Link

_REACH_S: Final = 5.0
_RECOVERY_MODE: Final = ("05c6", "9008")  # Qualcomm's, with a firmware that does not start
_BY_REASON: Final = {
    Reason.SIM_ABSENT: Condition.SIM_ABSENT,
    Reason.SIM_LOCKED: Condition.SIM_LOCKED,
    Reason.NO_REGISTRATION: Condition.NOT_REGISTERED,
}


class Roots(NamedTuple):
    """Where the kernel shows devices; tests have their own."""

    sys: Path = Path("/sys")
    dev: Path = Path("/dev")


REAL: Final = Roots()


def reaches(interface: str | None, target: str) -> bool:
    """Whether a TCP connection to `host:port` gets any answer, over this interface or, with None, as the routes say.

    A refusal is an answer too. SO_BINDTODEVICE is open to every user since Linux 5.7.
    """
    host, _, port = target.rpartition(":")
    address = path.resolve(host)
    if address is None:
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(_REACH_S)
        try:
            if interface is not None:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
            probe.connect((address, int(port)))
        except ConnectionRefusedError:
            return True
        except (OSError, OverflowError):
            return False
    return True


def diagnose(
    link: Link,
    modems: Modems,
    *,
    others: Sequence[str] = (),
    roots: Roots = REAL,
    reach: Callable[[str | None, str], bool] = reaches,
) -> Diagnosis:
    """Look once. `others` are the interfaces of the probe's other links: if they fail alike, the outage is remote."""
    seen = None
    if link.modem is not None:
        try:
            seen = modems.look(link)
        except MeasurementFailed as failure:
            return Diagnosis(condition=_condition(link, failure, roots), detail=failure.detail)
    condition, detail = _of_radio(seen) or _of_path(link.interface) or _of_traffic(link, others, reach)
    return Diagnosis(condition=condition, detail=detail, radio=seen.reading if seen is not None else None)


def _of_radio(seen: Look | None) -> tuple[Condition, str] | None:
    if seen is None or seen.reading.registration in {Registration.HOME, Registration.ROAMING}:
        return None
    if seen.reading.registration is Registration.DENIED:
        return Condition.DENIED, "the network refuses the registration"
    return Condition.NOT_REGISTERED, f"the modem says: {seen.reading.registration or 'nothing of its registration'}"


def _of_path(interface: str) -> tuple[Condition, str] | None:
    found = path.look(interface)
    if found.exists and found.up and found.source_address:
        return None
    what = "is missing" if not found.exists else "has no address" if found.up else "is down"
    return Condition.NO_ADDRESS, f"{interface} {what}"


def _of_traffic(link: Link, others: Sequence[str], reach: Callable[[str | None, str], bool]) -> tuple[Condition, str]:
    targets = link.recovery.check
    if not targets:
        return Condition.HEALTHY, f"{link.interface} has an address"
    if any(reach(link.interface, target) for target in targets):
        return Condition.HEALTHY, f"traffic flows over {link.interface}"
    told = f"{', '.join(targets)} cannot be reached over {link.interface}"
    working = [other for other in others if path.look(other).source_address]
    if working and not any(reach(other, target) for other in working for target in targets):
        return Condition.REMOTE, f"{told}, nor over {', '.join(working)}"
    return Condition.NO_TRAFFIC, told


def _condition(link: Link, failure: MeasurementFailed, roots: Roots) -> Condition:
    """Tell a modem that is gone from one that is there and silent, and both from what only a person can change."""
    if isinstance(failure.__cause__, PortBusy | PortForbidden):
        return Condition.PORT_HELD
    if failure.reason in _BY_REASON:
        return _BY_REASON[failure.reason]
    assert link.modem is not None  # noqa: S101  # a link without a modem is never looked at
    if link.modem != "auto":
        return Condition.SILENT if link.modem.startswith("http:") or Path(link.modem).exists() else Condition.ABSENT
    modems = [one for one in find_ports(roots.sys, roots.dev) if link.usb_path in {None, one.usb_path}]
    if not modems:
        return Condition.ABSENT
    if len(modems) > 1 or (modems[0].vendor_id, modems[0].product_id) == _RECOVERY_MODE:
        return Condition.NEEDS_HANDS
    return Condition.SILENT
