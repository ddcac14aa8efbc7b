"""The way a link's packets take, as the kernel tells it: interface, address, gateway, byte counters, policy routes.

Everything is read from the caller's own network namespace, or from the one that is named. Nothing is changed here.
"""

from __future__ import annotations

import ipaddress
import json
import socket
import struct
import subprocess
import time
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import psutil

from agent.measurements.base import MeasurementFailed
from agent.meter import Meter
from agent.namespace import inside

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_TOOL_TIMEOUT_S: Final = 15.0
_RTF_GATEWAY: Final = 0x2  # linux/route.h
_DEFAULT_ROUTE_MASK: Final = "00000000"
_TUNNELS: Final = {"DEVTYPE=vxlan", "DEVTYPE=geneve"}  # those that name a device below them


class LinkPath(msgspec.Struct, frozen=True, kw_only=True):
    """A link's interface as found. `up`: administratively up and able to carry packets (IFF_UP and IFF_RUNNING).

    A modem that is unplugged has `exists` false; one that lost its bearer is down or has no address.
    """

    interface: str
    exists: bool = True
    up: bool = True
    source_address: str | None = None
    gateway: str | None = None
    resolvers: tuple[str, ...] = ()
    """The link's name servers, where agent.yaml names them."""
    ipv6_address: str | None = None
    """The first one that is valid beyond the link itself."""


class Counters(NamedTuple):
    """What an interface has carried since it came up, in bytes, headers of its layer included."""

    received_bytes: int
    sent_bytes: int

    def __sub__(self, earlier: Counters) -> Counters:
        """Count what was carried since `earlier`; an interface that came anew since then counts from 0."""
        if self.received_bytes < earlier.received_bytes or self.sent_bytes < earlier.sent_bytes:
            return self
        return Counters(self.received_bytes - earlier.received_bytes, self.sent_bytes - earlier.sent_bytes)

    @property
    def both_bytes(self) -> int:
        """Both directions: what a data plan is charged."""
        return self.received_bytes + self.sent_bytes


def look(interface: str) -> LinkPath:
    """Read the path of an interface now. Never fails: what is not there is None or False."""
    stats = psutil.net_if_stats().get(interface)
    if stats is None:
        return LinkPath(interface=interface, exists=False, up=False)
    addresses = [
        address.address
        for address in psutil.net_if_addrs().get(interface, ())
        if address.family == socket.AF_INET and address.address
    ]
    return LinkPath(
        interface=interface,
        up=stats.isup,
        source_address=addresses[0] if addresses else None,
        gateway=_gateway(interface),
        ipv6_address=_ipv6_address(interface),
    )


def counters() -> dict[str, Counters]:
    """Read the byte counters of every interface, raw: after an interface came anew they begin at 0."""
    found = psutil.net_io_counters(pernic=True, nowrap=False)
    return {name: Counters(nic.bytes_recv, nic.bytes_sent) for name, nic in found.items()}


def carried(interface: str, namespace: str | None = None) -> Counters | None:
    """Read the byte counters of one interface; None while it, or its namespace, is not there."""
    try:
        with inside(namespace):
            return counters().get(interface)
    except MeasurementFailed:
        return None


def boot_id() -> str:
    """Name this boot of the machine (proc(5), /proc/sys/kernel/random/boot_id)."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def meter(interface: str, namespace: str | None = None) -> Meter | None:
    """Read the books of an interface; None while it does not exist."""
    try:
        with inside(namespace):
            found = counters().get(interface)
            index = socket.if_nametoindex(interface)
    except (OSError, MeasurementFailed):
        return None
    if found is None:
        return None
    return Meter(
        boot_id=boot_id(),
        interface_index=index,
        uptime_s=time.clock_gettime(time.CLOCK_BOOTTIME),
        received_bytes=found.received_bytes,
        sent_bytes=found.sent_bytes,
    )


def stacked_with(interface: str) -> set[str]:
    """Name the interfaces above and below this one (VLAN, QMAP multiplexing, bridge): they count the same bytes.

    Not those that a tunnel names: its packets are routed like all others, and what carries them is another way.
    """
    if _TUNNELS.intersection(_lines(Path("/sys/class/net", interface, "uevent"))):
        return set()
    try:
        names = [entry.name for entry in Path("/sys/class/net", interface).iterdir()]
    except FileNotFoundError:  # it was unplugged
        return set()
    return {name.partition("_")[2] for name in names if name.startswith(("lower_", "upper_"))}


def route_device(destination: str, source: str, *, udp_port: int | None = None) -> str | None:
    """Ask which interface packets from `source` to `destination` (numeric) leave by; None: by none.

    This is what a program of ours gets that binds only its address; policy rules (`ip rule`) are part of the answer,
    with `udp_port` (the destination's) those by protocol and port too.
    """
    asked = ["ip", "-j", "route", "get", destination, "from", source]
    if udp_port is not None:
        asked += ["ipproto", "udp", "dport", str(udp_port)]
    try:
        done = subprocess.run(asked, capture_output=True, timeout=_TOOL_TIMEOUT_S, check=True)
        routes = json.loads(done.stdout)
        return str(routes[0]["dev"])
    except (OSError, subprocess.SubprocessError, ValueError, LookupError, TypeError):
        return None


def resolve(host: str, *, timeout_s: float = 10.0) -> str | None:
    """Find a host's IPv4 address; None if it has none or nobody answers in time.

    A numeric address is returned as it is. A name is looked up by the system's resolver over the default route, not
    over the link: a name says where to test to, the test itself is bound. The look-up is a process because it cannot
    be interrupted.
    """
    try:
        return str(ipaddress.IPv4Address(host))
    except ValueError:
        pass
    if host.startswith("-"):
        return None
    try:
        done = subprocess.run(["getent", "ahostsv4", host], capture_output=True, timeout=timeout_s, check=True)
        return str(ipaddress.IPv4Address(done.stdout.decode("ascii", "replace").split()[0]))
    except (OSError, subprocess.SubprocessError, ValueError, LookupError):
        return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []


def _ipv6_address(interface: str) -> str | None:
    for address in psutil.net_if_addrs().get(interface, ()):
        if address.family == socket.AF_INET6 and "%" not in address.address:
            found = ipaddress.IPv6Address(address.address)
            if not (found.is_link_local or found.is_loopback):
                return str(found)
    return None


def _gateway(interface: str) -> str | None:
    """Read the gateway of the interface's default route in the main table (proc(5), /proc/net/route)."""
    try:
        rows = Path("/proc/self/net/route").read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return None
    for row in rows:
        device, destination, gateway, flags, *_, mask, _mtu, _window, _irtt = row.split()
        if device == interface and destination == mask == _DEFAULT_ROUTE_MASK and int(flags, 16) & _RTF_GATEWAY:
            return socket.inet_ntoa(struct.pack("=I", int(gateway, 16)))
    return None
