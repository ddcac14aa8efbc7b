"""What systemd-networkd or NetworkManager is to be told about the links, as files. Pure but for `write` and `remove`.

Neither can make a rule `from` an address that comes by DHCP: they give the link its routes, `probe-agent link setup`
the rest. NetworkManager calls it by a dispatcher script at every change of a link; under networkd, which calls nobody,
the running agent does it before each test.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from agent.routing import BY_DEVICE, GUARD_METRIC

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.settings import Link

Manager = Literal["kernel", "networkd", "networkmanager"]

_MARK: Final = "# Made by `probe-agent link setup`; `probe-agent link teardown` removes it.\n"
_ROUTER_STICK: Final = re.compile(r"usb\d+|eth[1-9]\d*|enx[0-9a-f]{12}|enp\d+s\d+u\S+")
"""Names that kernel and udev give to modems with a DHCP server of their own; eth0 is the network cable."""
_METRIC: Final = 700
"""NetworkManager's own for mobile broadband: a network cable (100) stays the way for everything that is no test."""
_NETWORKD_CONF: Final = Path("etc/systemd/networkd.conf.d/70-probefleet.conf")
_DISPATCHER: Final = Path("etc/NetworkManager/dispatcher.d/70-probefleet-links")


class File(NamedTuple):
    """One file, by its path below the root directory."""

    path: Path
    text: str
    mode: int
    why: str


def files(manager: Manager, links: Sequence[Link], tables: dict[str, int], program: Path, config: Path) -> list[File]:
    """Say which files a network manager needs for these links; `tables` by the links' names."""
    ours = [link for link in links if link.routes == "keep" and link.namespace is None and link.interface != "lo"]
    sticks = [link for link in ours if _ROUTER_STICK.fullmatch(link.interface)]
    if manager == "networkd":
        return [_foreign(), *(_network(link, tables[link.name]) for link in sticks)]
    if manager == "networkmanager":
        return [_dispatcher(ours, program, config), *(_connection(link) for link in sticks)]
    return []


def write(wanted: Sequence[File], root: Path = Path("/")) -> list[Path]:
    """Write what is not there yet as it should be, return which; raise OSError."""
    written = []
    for file in wanted:
        path = root / file.path
        if path.is_file() and path.read_text(encoding="utf-8") == file.text:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=file.mode)
        path.chmod(file.mode)
        path.write_text(file.text, encoding="utf-8")
        written.append(path)
    return written


def remove(root: Path = Path("/")) -> list[Path]:
    """Remove all files of ours, known by their first lines; return which; raise OSError."""
    found = [
        *root.glob("etc/systemd/network/70-probefleet-*.network"),
        *root.glob("etc/NetworkManager/system-connections/probefleet-*.nmconnection"),
        root / _NETWORKD_CONF,
        root / _DISPATCHER,
    ]
    removed = [path for path in found if path.is_file() and _MARK in path.read_text(encoding="utf-8")]
    for path in removed:
        path.unlink()
    return removed


def _foreign() -> File:
    text = _MARK + "[Network]\nManageForeignRoutes=no\nManageForeignRoutingPolicyRules=no\n"
    return File(_NETWORKD_CONF, text, 0o644, "networkd removes routes and rules that are not its own, unless told so")


def _network(link: Link, table: int) -> File:
    text = f"""{_MARK}[Match]
Name={link.interface}

[Link]
RequiredForOnline=no

[Network]
DHCP=ipv4
IPv6AcceptRA=yes

[DHCPv4]
RouteMetric={_METRIC}

[IPv6AcceptRA]
RouteMetric={_METRIC}

[Route]
Gateway=_dhcp4
Table={table}

[Route]
Gateway=_ipv6ra
Table={table}

[RoutingPolicyRule]
Family=both
OutgoingInterface={link.interface}
Table={table}
Priority={BY_DEVICE}
"""
    for anywhere in ("0.0.0.0/0", "::/0"):
        text += f"\n[Route]\nType=unreachable\nDestination={anywhere}\nTable={table}\nMetric={GUARD_METRIC}\n"
    why = f"{link.interface} by DHCP, after the network cable in the main table, and with its own table {table}"
    return File(Path(f"etc/systemd/network/70-probefleet-{link.name}.network"), text, 0o644, why)


def _connection(link: Link) -> File:
    text = f"""{_MARK}[connection]
id=probefleet-{link.name}
type=ethernet
interface-name={link.interface}
autoconnect-retries=0

[ipv4]
method=auto
route-metric={_METRIC}

[ipv6]
method=auto
route-metric={_METRIC}
"""
    why = (
        f"without it NetworkManager takes {link.interface} for a second network cable, and may prefer it "
        "(a modem that is dialled has a profile of its own: nmcli connection add type gsm)"
    )
    return File(Path(f"etc/NetworkManager/system-connections/probefleet-{link.name}.nmconnection"), text, 0o600, why)


def _dispatcher(links: Sequence[Link], program: Path, config: Path) -> File:
    text = f"""#!/bin/sh
{_MARK}# NetworkManager calls it whenever an interface comes, goes, or gets another address.
case ${{DEVICE_IP_IFACE:-$1}} in
  {" | ".join(link.interface for link in links) or "''"}) ;;
  *) exit 0 ;;
esac
case $2 in
  up | down | reapply | dhcp4-change | dhcp6-change)
    exec {program} link setup --config {config} >/dev/null
    ;;
esac
"""
    return File(_DISPATCHER, text, 0o755, "the links' tables follow at every change of an address")
