"""The path MTU to a host: ICMP echoes that must not be fragmented, of one size after another, over one link.

Routers that say "fragmentation needed" (RFC 1191) shorten the search; where they are silent (a black hole, RFC 2923) it
goes by what comes back and what does not, as RFC 4821 does. Uses the kernel's ICMP sockets (icmp(7)), which
net.ipv4.ping_group_range opens to users.
"""

from __future__ import annotations

import errno
import fcntl
import select
import socket
import struct
import time
from typing import TYPE_CHECKING, Final

from agent.measurements import bound, icmp_errors
from agent.measurements.base import MeasurementFailed
from wire.measured import PathMtu
from wire.reasons import Reason

if TYPE_CHECKING:
    from agent.path import LinkPath

LEAST_BYTES: Final = 576
"""What every host must take (RFC 791 section 3.1, "Total Length"); smaller ways are not looked for."""
_MOST_BYTES: Final = 9000
_HEADERS: Final = 28  # IPv4 and ICMP
_ECHO: Final = struct.Struct("!BBHHH")
_ECHO_REQUEST: Final = 8
_SIOCGIFMTU: Final = 0x8921  # linux/sockios.h
_SENDINGS: Final = 3
_PAUSE_S: Final = 0.25
_USUAL: Final = (1492, 1460, 1440, 1428, 1420, 1400, 1358, 1280)
"""Sizes worth a try before halving: PPPoE, tunnels of operators, IPv6's least."""
LONGEST_S: Final = 20.0


class _Search:
    """One search. `passes` is the largest size that came back, `fails` the smallest that did not."""

    def __init__(self, door: socket.socket, interface_mtu: int, deadline_s: float) -> None:
        self._door = door
        self._deadline_s = deadline_s
        self._number = 0
        self._rtt_s = 1.0
        self.passes = 0
        self.fails = min(interface_mtu, _MOST_BYTES) + 1
        self.told = False
        """Whether a router said that a packet was too large."""

    def run(self) -> bool:
        """Search until the two meet (true), or time is up."""
        if not self._try(LEAST_BYTES):
            return False
        self._try(self.fails - 1)
        for size in _USUAL:
            if self.passes + 1 < self.fails and self.passes < size < self.fails and not self._is_up():
                self._try(size)
        while self.passes + 1 < self.fails and not self._is_up():
            self._try((self.passes + self.fails) // 2)
        return self.passes + 1 == self.fails

    def _is_up(self) -> bool:
        return time.monotonic() >= self._deadline_s

    def _try(self, size: int) -> bool:
        """Send up to three packets of a size; whether one came back. Silence is three packets and their time."""
        for _ in range(_SENDINGS):
            self._number += 1
            begun_s = time.monotonic()
            try:
                self._door.send(_ECHO.pack(_ECHO_REQUEST, 0, 0, 0, self._number) + bytes(size - _HEADERS))
            except OSError as error:
                if error.errno != errno.EMSGSIZE:
                    raise
                self._hear()
                self.fails = min(self.fails, size)
                return False
            came = self._answered(size, begun_s + min(max(_PAUSE_S, 3 * self._rtt_s), 1.0))
            if came is not None:
                self._rtt_s = time.monotonic() - begun_s if came and not self.passes else self._rtt_s
                break
            if self._is_up():
                break
        if came:
            self.passes = max(self.passes, size)
        else:
            self.fails = min(self.fails, size)
        return bool(came)

    def _answered(self, size: int, until_s: float) -> bool | None:
        """Wait: true for an echo of this size, false for a router's no, None for silence."""
        poll = select.poll()
        poll.register(self._door, select.POLLIN)
        while (left_s := min(until_s, self._deadline_s) - time.monotonic()) > 0:
            for _, events in poll.poll(left_s * 1e3):
                if events & select.POLLERR and self._hear(size):
                    return False
                if events & select.POLLIN and len(self._door.recv(_MOST_BYTES)) == size - _HEADERS + _ECHO.size:
                    return True
        return None

    def _hear(self, size: int = 0) -> bool:
        """Take complaints; whether one says that a packet was too large. Its MTU, if any, bounds the search."""
        too_large = False
        while (error := icmp_errors.heard(self._door)) is not None:
            if (error.kind, error.code) == (icmp_errors.UNREACHABLE, icmp_errors.FRAGMENTATION_NEEDED):
                too_large = self.told = True
                if self.passes <= error.mtu_bytes < size:
                    self.fails = min(self.fails, error.mtu_bytes + 1)
            elif error.kind == icmp_errors.UNREACHABLE and error.offender is not None:
                raise OSError(errno.EHOSTUNREACH, f"{error.offender} says that the host is unreachable")
        return too_large


def find(path: LinkPath, address: str, *, longest_s: float = LONGEST_S) -> PathMtu:
    """Find the largest packet that `address` (IPv4) echoes; raise MeasurementFailed.

    Reasons: TIMEOUT where not even small packets come back, TOOL_MISSING without the right to ICMP sockets.
    """
    try:
        with bound.open_socket(
            path.interface, path.source_address, socket.SOCK_DGRAM, protocol=socket.IPPROTO_ICMP
        ) as door:
            interface_mtu = _mtu_of(door, path.interface)
            door.setsockopt(socket.IPPROTO_IP, icmp_errors.IP_MTU_DISCOVER, icmp_errors.IP_PMTUDISC_PROBE)
            icmp_errors.listen(door)
            door.connect((address, 0))
            door.setblocking(False)  # noqa: FBT003  # the socket's own signature
            search = _Search(door, interface_mtu, time.monotonic() + longest_s)
            exact = search.run()
    except PermissionError as error:
        raise MeasurementFailed(
            Reason.TOOL_MISSING, "ICMP sockets are closed to this user; see net.ipv4.ping_group_range in icmp(7)"
        ) from error
    except OSError as error:
        raise MeasurementFailed(Reason(bound.trouble(error)), f"{address}: {error.strerror or error}") from error
    if not search.passes:
        raise MeasurementFailed(Reason.TIMEOUT, f"{address} echoes no packet of {LEAST_BYTES} bytes")
    return PathMtu(
        mtu_bytes=search.passes,
        interface_mtu_bytes=interface_mtu,
        exact=exact,
        black_hole=search.passes < min(interface_mtu, _MOST_BYTES) and not search.told,
    )


def _mtu_of(door: socket.socket, interface: str) -> int:
    """Ask the device for its MTU (netdevice(7))."""
    request = struct.pack("16si", interface.encode(), 0)
    mtu: int = struct.unpack("16si", fcntl.ioctl(door, _SIOCGIFMTU, request))[1]
    return mtu
