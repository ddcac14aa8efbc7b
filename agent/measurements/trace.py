"""The way to a host, router by router: UDP packets that live for one, two, three ... hops. Needs no privilege.

Made after a failure, so it is short, bounded and never fails: what does not answer is a hop without an address.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from agent.measurements import bound, icmp_errors
from wire.measured import Hop

if TYPE_CHECKING:
    from agent.path import LinkPath

_FIRST_PORT: Final = 33_434  # as traceroute(8): nobody listens there
_ROUNDS: Final = 2
_PAYLOAD: Final = bytes(16)


class TraceOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far and how long to look; some 100 bytes per hop."""

    max_hops: Annotated[int, msgspec.Meta(ge=1, le=30)] = 15
    max_s: Annotated[float, msgspec.Meta(ge=1, le=20)] = 5


class _Search:
    """What is known of the way so far."""

    def __init__(self, address: str, max_hops: int) -> None:
        self.address = address
        self.sent_s: dict[int, float] = {}
        self.found: dict[int, Hop] = {}
        self.last = max_hops

    def hear(self, error: icmp_errors.IcmpError) -> None:
        """Enter a complaint; the destination's own ends the way, and so does "unreachable"."""
        ttl = error.port - _FIRST_PORT
        if ttl not in self.sent_s or ttl in self.found or error.offender is None:
            return
        rtt_ms = round((time.monotonic() - self.sent_s[ttl]) * 1e3, 1)
        self.found[ttl] = Hop(ttl=ttl, address=error.offender, rtt_ms=rtt_ms)
        if error.kind == icmp_errors.UNREACHABLE or error.offender == self.address:
            self.last = min(self.last, ttl)

    def missing(self) -> list[int]:
        return [ttl for ttl in range(1, self.last + 1) if ttl not in self.found]

    def hops(self) -> tuple[Hop, ...]:
        """List the hops to the last one that answered; where none did, the first, silent."""
        furthest = max((ttl for ttl in self.found if ttl <= self.last), default=1)
        return tuple(self.found.get(ttl, Hop(ttl=ttl)) for ttl in range(1, furthest + 1))


def trace(path: LinkPath, address: str, options: TraceOptions) -> tuple[Hop, ...]:
    """Look for the routers towards an IPv4 address over the link; takes `options.max_s` at most, never raises OSError.

    Every distance is tried at once, those that stay silent once more after half the time.
    """
    search = _Search(address, options.max_hops)
    begun_s = time.monotonic()
    try:
        with bound.open_socket(path.interface, path.source_address, socket.SOCK_DGRAM) as door:
            icmp_errors.listen(door)
            for number in range(1, _ROUNDS + 1):
                _send(door, search)
                _wait(door, search, begun_s + options.max_s * number / _ROUNDS)
                if not search.missing():
                    break
    except OSError:
        return search.hops() if search.found else ()
    return search.hops()


def _send(door: socket.socket, search: _Search) -> None:
    for ttl in search.missing():
        door.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
        search.sent_s[ttl] = time.monotonic()
        _hear_all(door, search)  # a complaint that waits would make the next packet fail in its place
        with contextlib.suppress(ConnectionError):
            door.sendto(_PAYLOAD, (search.address, _FIRST_PORT + ttl))


def _wait(door: socket.socket, search: _Search, until_s: float) -> None:
    poll = select.poll()
    poll.register(door, 0)  # errors are always told (poll(2), POLLERR)
    while search.missing() and (left_s := until_s - time.monotonic()) > 0:
        if poll.poll(left_s * 1e3):
            _hear_all(door, search)


def _hear_all(door: socket.socket, search: _Search) -> None:
    while (error := icmp_errors.heard(door)) is not None:
        search.hear(error)
