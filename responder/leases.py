"""The book of leases: which port is lent to whom until when. Pure: no process, no socket; time is an argument.

Rules. A port is in at most one lease. A probe's link holds at most one lease. The same request asked twice gets the
same lease; a new request of the same link ends the old one. Expiry frees. Times are seconds of one monotonic clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wire.messages import LeaseRequest

_REMEMBER_S: Final = 600.0
"""How long a link's last served request is known: a copy delivered late must not lend ports to nobody."""


class Lease(NamedTuple):
    """Ports lent to one link of one probe, until `expires_s`."""

    token: str
    probe_id: str
    link: str
    request_id: str
    ports: tuple[int, ...]
    expires_s: float


class Lent(NamedTuple):
    """The request has a lease. `fresh`: it was made just now. `ended`: the link's former lease, which is over."""

    lease: Lease
    fresh: bool
    ended: Lease | None = None


class Full(NamedTuple):
    """Too few ports are free; in `retry_in_s` enough will be, at the latest."""

    retry_in_s: float
    ended: Lease | None = None


class Refused(NamedTuple):
    """The request breaks a limit, or was served before."""

    why: str


class Book:
    """All leases of one responder."""

    def __init__(self, ports: Iterable[int], *, max_length_s: float, max_transfers: int) -> None:
        self._ports = tuple(dict.fromkeys(ports))
        self._max_length_s = max_length_s
        self._max_transfers = min(max_transfers, len(self._ports))
        self._leases: dict[tuple[str, str], Lease] = {}
        self._set_aside: dict[int, float] = {}
        self._served: dict[tuple[str, str], tuple[str, float]] = {}
        self._next = 0

    @property
    def leases(self) -> tuple[Lease, ...]:
        """Those that stand."""
        return tuple(self._leases.values())

    def ask(self, request: LeaseRequest, now_s: float, token: str) -> Lent | Full | Refused:
        """Lend ports for a request, under `token` if it is a new lease. Call `expire` first."""
        refusal = self._limit_broken(request)
        if refusal is not None:
            return Refused(refusal)
        link = (request.probe_id, request.link)
        held = self._leases.get(link)
        if held is not None and held.request_id == request.request_id:
            return Lent(held, fresh=False)
        if link in self._served and self._served[link][0] == request.request_id:
            return Refused("this request was served before; ask with a new request_id")
        if held is not None:
            self.end(held)
        free = self._free_ports(now_s)
        if len(free) < request.transfers:
            return Full(self._wait_s(request.transfers - len(free), now_s), ended=held)
        ports = tuple(free[: request.transfers])
        self._next = self._ports.index(ports[-1]) + 1
        lease = Lease(token, *link, request.request_id, ports, now_s + request.length_s)
        self._leases[link] = lease
        self._served[link] = (request.request_id, now_s)
        return Lent(lease, fresh=True, ended=held)

    def end(self, lease: Lease) -> None:
        """Free the ports of a lease. Does nothing if it is over already."""
        link = (lease.probe_id, lease.link)
        if self._leases.get(link) == lease:
            del self._leases[link]

    def undo(self, lease: Lease) -> None:
        """Take back a lease that could not be honoured, as if it had never been asked for."""
        self.end(lease)
        self._served.pop((lease.probe_id, lease.link), None)

    def expire(self, now_s: float) -> list[Lease]:
        """End every lease whose time is over; return them."""
        over = [lease for lease in self._leases.values() if lease.expires_s <= now_s]
        for lease in over:
            self.end(lease)
        self._set_aside = {port: until_s for port, until_s in self._set_aside.items() if until_s > now_s}
        self._served = {link: last for link, last in self._served.items() if last[1] + _REMEMBER_S > now_s}
        return over

    def set_aside(self, port: int, until_s: float) -> None:
        """Do not lend a port until then: somebody else uses it."""
        self._set_aside[port] = until_s

    def _limit_broken(self, request: LeaseRequest) -> str | None:
        if request.length_s > self._max_length_s:
            return f"length_s {request.length_s:g} is over this responder's limit of {self._max_length_s:g} s"
        if request.transfers > self._max_transfers:
            return f"{request.transfers} transfers are over this responder's limit of {self._max_transfers}"
        return None

    def _free_ports(self, now_s: float) -> list[int]:
        """Name the free ports, those after the last one lent first: a port rests as long as possible."""
        taken = {port for lease in self._leases.values() for port in lease.ports}
        taken |= {port for port, until_s in self._set_aside.items() if until_s > now_s}
        in_turn = self._ports[self._next :] + self._ports[: self._next]
        return [port for port in in_turn if port not in taken]

    def _wait_s(self, missing: int, now_s: float) -> float:
        """Say when `missing` more ports are free, if nobody ends early."""
        free_at_s = {port: until_s for port, until_s in self._set_aside.items() if until_s > now_s}
        for lease in self._leases.values():
            for port in lease.ports:
                free_at_s[port] = max(free_at_s.get(port, 0.0), lease.expires_s)
        return sorted(free_at_s.values())[missing - 1] - now_s
