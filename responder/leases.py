"""The book of leases: which ports are lent to whom from when to when. Pure: no process, no socket; time is an argument.

Rules. A port is in at most one lease at a time; the tests of one moment never ask more of the server's link than it
has; a cell never carries two tests; a probe never holds more leases at once than it may, a link never more than one.
The same request asked twice gets the same lease; a new request of the same link ends the old one. What does not fit now
is booked, at the first moment inside the request's window where it fits if everybody else stays to the last second. A
booking starts earlier when others end earlier, in the order of asking, and never later (conservative backfilling).
Times are seconds of one monotonic clock.

Fair: who was turned away goes before who was not. While links are known that were turned away more often than the one
that asks, the last part of its window is not for it: it may book into the first half of its window, after one refusal
into the first three quarters, and so on; whoever was turned away most often may book into the whole of it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from wire.leases import LeaseRequest

_REMEMBER_S: Final = 600.0
"""How long a link's last served request is known: a copy delivered late must not lend ports to nobody."""

OWED_S: Final = 4 * 3600.0
"""How long a refusal gives its link precedence: long enough for a probe that measures every three hours."""

_HOUR_S: Final = 3600.0

GUARD_S: Final = 1.0
"""Kept between two tests of one cell at different servers: what they know of each other is as old as a message."""

_Link = tuple[str, str]
_Known = TypeVar("_Known")


class Limits(NamedTuple):
    """What one request, one probe and all together may have."""

    max_length_s: float = 120.0
    max_transfers: int = 2
    link_mbps: float = 1000.0
    default_mbps: float = 50.0
    max_mbps: float = 1000.0
    leases_per_probe: int = 2
    leases_per_hour: int = 60


class Lease(NamedTuple):
    """Ports lent to one link of one probe from `starts_s` to `expires_s`; `running` once its servers are due."""

    token: str
    probe_id: str
    link: str
    request_id: str
    ports: tuple[int, ...]
    starts_s: float
    expires_s: float
    mbps: float
    cell: str | None = None
    running: bool = True

    @property
    def length_s(self) -> float:
        """How long it lasts."""
        return self.expires_s - self.starts_s

    @property
    def link_name(self) -> str:
        """Name the link among all probes' links."""
        return f"{self.probe_id}/{self.link}"


class Taken(NamedTuple):
    """A cell that another server tests in, for a link, from `starts_s` to `expires_s`."""

    link: str
    cell: str
    starts_s: float
    expires_s: float

    def excludes(self, link: str, cell: str | None, starts_s: float, expires_s: float) -> bool:
        """Whether a test of this link in this cell would meet it. What a link itself holds elsewhere it has left."""
        apart = expires_s <= self.starts_s - GUARD_S or starts_s >= self.expires_s + GUARD_S
        return cell == self.cell and link != self.link and not apart


class Lent(NamedTuple):
    """The request has a lease. `fresh`: it was made just now. `ended`: the link's former lease, which is over."""

    lease: Lease
    fresh: bool
    ended: Lease | None = None


class Full(NamedTuple):
    """Nothing fits the window; in `retry_in_s` it will, at the latest."""

    retry_in_s: float
    ended: Lease | None = None


class Refused(NamedTuple):
    """The request breaks a limit, or was served before."""

    why: str


class _TurnedAway(NamedTuple):
    times: int
    last_s: float


class _Before(NamedTuple):
    """What the book knew of a link before it lent to it, and when that was."""

    served: tuple[str, float] | None
    turned_away: _TurnedAway | None
    lent_at_s: float


class Book:
    """All leases of one responder. `elsewhere`: what others of its group hold, to be kept up by whoever hears of it."""

    def __init__(self, ports: Iterable[int], limits: Limits) -> None:
        self._ports = tuple(dict.fromkeys(ports))
        self._limits = limits._replace(max_transfers=min(limits.max_transfers, len(self._ports)))
        self._leases: dict[_Link, Lease] = {}
        self._set_aside: dict[int, float] = {}
        self._served: dict[_Link, tuple[str, float]] = {}
        self._turned_away: dict[_Link, _TurnedAway] = {}
        self._lent_at_s: dict[str, deque[float]] = {}
        self._before: dict[_Link, _Before] = {}
        self._next = 0
        self.elsewhere: tuple[Taken, ...] = ()

    @property
    def leases(self) -> tuple[Lease, ...]:
        """Those that stand, running and booked, in the order of asking."""
        return tuple(self._leases.values())

    @property
    def owed(self) -> int:
        """How many links were turned away and not served since."""
        return len(self._turned_away)

    def ask(self, request: LeaseRequest, now_s: float, token: str) -> Lent | Full | Refused:
        """Lend or book ports for a request, under `token` if it is a new lease. Call `expire` first."""
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
        wish = self._wish(request, token)
        if (wait_s := self._hourly_wait_s(request.probe_id, now_s)) > 0:
            return Full(wait_s, ended=held)  # it has had its share: that is no refusal to make good
        place = next(self._places(wish, now_s), None)
        if place is None:
            raise AssertionError("when everybody has left, every wish within the limits fits")
        if place.starts_s - now_s > request.window_s * self._share(link):
            if request.window_s > 0:  # who only asks whether it is free now is owed nothing
                times = self._turned_away[link].times if link in self._turned_away else 0
                self._turned_away[link] = _TurnedAway(times + 1, now_s)
            return Full(place.starts_s - now_s, ended=held)
        lease = place._replace(running=place.starts_s <= now_s)
        self._next = self._ports.index(lease.ports[-1]) + 1
        self._before[link] = _Before(self._served.get(link), self._turned_away.pop(link, None), now_s)
        self._leases[link] = lease
        self._served[link] = (request.request_id, now_s)
        self._lent_at_s.setdefault(request.probe_id, deque()).append(now_s)
        return Lent(lease, fresh=True, ended=held)

    def due(self, now_s: float, may_start: Callable[[Lease], bool] = lambda _: True) -> list[Lease]:
        """Start every booking whose time has come or that fits already, those that asked first first; return them.

        `may_start` is asked before each; who says no leaves it booked.
        """
        started = []
        for booked in [lease for lease in self._leases.values() if not lease.running]:
            ahead = self._place(booked, now_s, now_s)
            if booked.starts_s <= now_s:  # the hour it was promised: nobody else counts on its place
                lease = booked._replace(running=True)
            elif ahead is not None:
                lease = ahead._replace(running=True)
            else:
                continue
            if not may_start(booked):
                continue
            self._leases[booked.probe_id, booked.link] = lease
            started.append(lease)
        return started

    def rebook(self, lease: Lease, now_s: float, *, within_s: float) -> Lease | None:
        """Find another place for a lease whose ports turned out to be taken; None, and it is over, if there is none."""
        place = next(self._places(lease, now_s), None)
        if place is None or place.starts_s - now_s > within_s:
            self.undo(lease)
            return None
        moved = place._replace(running=place.starts_s <= now_s)
        self._leases[lease.probe_id, lease.link] = moved
        self._served[lease.probe_id, lease.link] = (lease.request_id, now_s)
        return moved

    def end(self, lease: Lease) -> None:
        """Free the ports of a lease. Does nothing if it is over already."""
        if self._stands(lease):
            del self._leases[lease.probe_id, lease.link]
            del self._before[lease.probe_id, lease.link]

    def undo(self, lease: Lease) -> None:
        """Take back a lease that could not be honoured, as if it had never been asked for.

        It may be asked for again, costs nothing of the probe's hour, and the link keeps the precedence it had. Does
        nothing if the lease is over already.
        """
        if not self._stands(lease):
            return
        link = (lease.probe_id, lease.link)
        before = self._before[link]
        self.end(lease)
        _put_back(self._served, link, before.served)
        _put_back(self._turned_away, link, before.turned_away)
        lent_at_s = self._lent_at_s.get(lease.probe_id, deque())
        if before.lent_at_s in lent_at_s:  # else that was more than an hour ago
            lent_at_s.remove(before.lent_at_s)

    def expire(self, now_s: float) -> list[Lease]:
        """End every lease whose time is over; return them."""
        over = [lease for lease in self._leases.values() if lease.expires_s <= now_s]
        for lease in over:
            self.end(lease)
        self._set_aside = {port: until_s for port, until_s in self._set_aside.items() if until_s > now_s}
        self._served = {link: last for link, last in self._served.items() if last[1] + _REMEMBER_S > now_s}
        self._turned_away = {link: last for link, last in self._turned_away.items() if last.last_s + OWED_S > now_s}
        for probe_id, lent_at_s in list(self._lent_at_s.items()):
            while lent_at_s and lent_at_s[0] + _HOUR_S <= now_s:
                lent_at_s.popleft()
            if not lent_at_s:
                del self._lent_at_s[probe_id]
        return over

    def set_aside(self, port: int, until_s: float) -> None:
        """Do not lend a port until then: somebody else uses it."""
        self._set_aside[port] = until_s

    # --- finding a place ----------------------------------------------------------------------------------------------

    def _stands(self, lease: Lease) -> bool:
        held = self._leases.get((lease.probe_id, lease.link))
        return held is not None and held.token == lease.token

    def _limit_broken(self, request: LeaseRequest) -> str | None:
        limits = self._limits
        if request.length_s > limits.max_length_s:
            return f"length_s {request.length_s:g} is over this responder's limit of {limits.max_length_s:g} s"
        if request.transfers > limits.max_transfers:
            return f"{request.transfers} transfers are over this responder's limit of {limits.max_transfers}"
        return None

    def _wish(self, request: LeaseRequest, token: str) -> Lease:
        """Write the request as a lease that has no place yet."""
        limits = self._limits
        mbps = min(request.expected_mbps or limits.default_mbps, limits.max_mbps, limits.link_mbps)
        cell = f"{request.operator} {request.cell}" if request.operator and request.cell else None
        no_ports = (0,) * request.transfers
        return Lease(
            token, request.probe_id, request.link, request.request_id, no_ports, 0.0, request.length_s, mbps, cell
        )

    def _share(self, link: _Link) -> float:
        """Say how much of its window a link may use."""
        own = self._turned_away[link].times if link in self._turned_away else 0
        most = max((others.times for others in self._turned_away.values()), default=0)
        return 1.0 if own >= most else 1.0 - 0.5 ** (own + 1)

    def _hourly_wait_s(self, probe_id: str, now_s: float) -> float:
        lent_at_s = self._lent_at_s.get(probe_id, ())
        if len(lent_at_s) < self._limits.leases_per_hour:
            return 0.0
        return max(lent_at_s[-self._limits.leases_per_hour] + _HOUR_S - now_s, 0.0)

    def _places(self, wish: Lease, now_s: float) -> Iterator[Lease]:
        """Go through the places where it fits, the earliest first: now, or a moment when something becomes free."""
        moments = {now_s} | {lease.expires_s for lease in self._leases.values()} | set(self._set_aside.values())
        moments |= {taken.expires_s + GUARD_S for taken in self.elsewhere if taken.cell == wish.cell}
        for moment_s in sorted(moments):
            if moment_s >= now_s and (place := self._place(wish, moment_s, now_s)) is not None:
                yield place

    def _place(self, wish: Lease, starts_s: float, now_s: float) -> Lease | None:
        """Put the wish at that moment, if it fits to its end whatever the others do."""
        expires_s = starts_s + wish.length_s
        beside = [
            lease
            for lease in self._leases.values()
            if lease.starts_s < expires_s and lease.expires_s > max(starts_s, now_s) and lease.token != wish.token
        ]
        if wish.cell is not None and any(lease.cell == wish.cell for lease in beside):
            return None
        if any(taken.excludes(wish.link_name, wish.cell, starts_s, expires_s) for taken in self.elsewhere):
            return None
        if sum(lease.probe_id == wish.probe_id for lease in beside) >= self._limits.leases_per_probe:
            return None
        if wish.mbps + _peak_mbps(beside, starts_s) > self._limits.link_mbps:
            return None
        taken = {port for lease in beside for port in lease.ports}
        taken |= {port for port, until_s in self._set_aside.items() if until_s > starts_s}
        in_turn = self._ports[self._next :] + self._ports[: self._next]  # a port rests as long as possible
        free = [port for port in in_turn if port not in taken]
        if len(free) < len(wish.ports):
            return None
        return wish._replace(ports=tuple(free[: len(wish.ports)]), starts_s=starts_s, expires_s=expires_s)


def _put_back(known: dict[_Link, _Known], link: _Link, value: _Known | None) -> None:
    if value is None:
        known.pop(link, None)
    else:
        known[link] = value


def _peak_mbps(leases: list[Lease], from_s: float) -> float:
    """Add up what is promised at the fullest moment from then on; it is one at which a lease starts."""
    moments = {from_s} | {lease.starts_s for lease in leases if lease.starts_s > from_s}
    return max(
        (sum(lease.mbps for lease in leases if lease.starts_s <= at_s < lease.expires_s) for at_s in moments),
        default=0.0,
    )
