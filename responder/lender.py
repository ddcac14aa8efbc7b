"""Leases made good: what the book lends gets servers when it is due, what ends loses them. Knows nothing of MQTT."""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

from responder import servers, watch
from responder.echo import Echo
from responder.group import SETTLE_S, Group
from responder.leases import Book, Full, Lease, Lent, Refused
from responder.load import NetworkLoad
from responder.servers import Gate, Login, PortTaken, ServerError
from responder.tenancy import Tenancy
from responder.watch import State, WatchError
from wire.leases import Busy, Denied, Granted, LeaseReply, LeaseRequest
from wire.status import ResponderStatus

if TYPE_CHECKING:
    from collections.abc import Callable

    from responder.settings import Settings
    from wire.leases import GroupWord

log = logging.getLogger(__name__)

SET_ASIDE_S: Final = 60.0
"""For how long a port that somebody else uses is not lent."""
LOOK_EVERY_S: Final = 0.5
_ATTEMPTS: Final = 4
_SHORTEST_WAIT_S: Final = 1.0
_WHY: Final = {State.STUCK: "its client has vanished", State.NOBODY: "nobody came"}
_COUNT: Final = {State.STUCK: "stuck_freed", State.NOBODY: "nobody_came"}
COUNTS: Final = (
    "asked",
    "granted",
    "booked",
    "busy",
    "denied",
    "done",
    "expired",
    "stuck_freed",
    "nobody_came",
    "strangers",
    "ports_taken",
    "ignored",
    "claims_lost",
)
"""What is counted from the start of the responder on."""


class News(NamedTuple):
    """Something to tell a probe that did not just ask."""

    probe_id: str
    reply: LeaseReply


class Lender:
    """Answers lease requests and keeps the servers; all of it from one thread, with `tick` at least twice a second."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        """Make the key that guards the servers; raise ServerError."""
        self.counts: Counter[str] = Counter(dict.fromkeys(COUNTS, 0))
        self._settings = settings
        self._clock = clock
        self._book = Book(settings.ports.all, settings.limits)
        self._tenants: dict[str, Tenancy] = {}
        self._claimed: dict[str, LeaseRequest] = {}
        """Requests whose lease depends on a claim in the group that is not settled yet, by the lease's token."""
        self.group = Group(settings.responder_id, secrets.token_hex(4)) if settings.group is not None else None
        """With whom cells are shared; without one, with nobody."""
        self._news: list[News] = []
        self._looked_s = clock()
        self._blind = ""
        self._load = NetworkLoad(settings.link_mbps)
        self._gate = Gate() if settings.authenticate else None
        self._echo = Echo(settings.irtt.port, settings.bind_address) if settings.irtt is not None else None

    @property
    def leases(self) -> tuple[Lease, ...]:
        """The leases that stand, running and booked."""
        return self._book.leases

    def clients(self, lease: Lease) -> tuple[str, ...]:
        """Where the clients of a running lease came from: the operator's address, behind a carrier's NAT."""
        return self._tenants[lease.token].clients if lease.token in self._tenants else ()

    def status(self) -> ResponderStatus:
        """Say what is lent now and what was counted."""
        leases = self._book.leases
        running = [lease for lease in leases if lease.running]
        return ResponderStatus(
            responder=self._settings.responder_id,
            ports=len(self._settings.ports.all),
            link_mbps=self._settings.link_mbps,
            lent_mbps=round(sum(lease.mbps for lease in running), 1),
            testing=len(running),
            waiting=len(leases) - len(running),
            turned_away=self._book.owed,
            counts=dict(self.counts),
            group=self._settings.group,
        )

    def open(self) -> None:
        """Look which ports others use, and start the echo server."""
        now_s = self._clock()
        for port in self._settings.ports.all:
            if not servers.is_free(port, self._settings.bind_address):
                log.warning("port %d is in use by another program; not lent before it is free", port)
                self._set_aside(port, now_s)
        self.tick()

    def answer(self, request: LeaseRequest) -> LeaseReply | None:
        """Lend, book, or say why not. Servers that start now listen before Granted is returned.

        None: the group has to be asked for the cell; the answer will be in `take_news`.
        """
        self.tick()
        if request.transfers == 0:  # it only asks where the echo server is
            return self._granted(request.request_id, None)
        self.counts["asked"] += 1
        if self.group is not None and request.operator and request.cell and not self.group.ready(self._clock()):
            return self._busy(request, SETTLE_S)
        return self._decide(request)

    def hear(self, word: GroupWord) -> None:
        """Take in a word of the group's topic, our own ones among them."""
        if self.group is None:
            return
        now_s = self._clock()
        settled = self.group.hear(word, now_s)
        self._book.elsewhere = self.group.elsewhere(now_s)
        for token, won in settled:
            self._settle(token, won=won)
        self.tick()

    def tick(self) -> None:
        """Free what has ended, expired or lost its client; start what is due. What is to be told is in `take_news`."""
        now_s = self._clock()
        for lease in self._book.expire(now_s):
            self._drop(lease, "expired", count="expired")
        for tenant in list(self._tenants.values()):
            self._judge(tenant, lambda tenant=tenant: tenant.tick(now_s))  # type: ignore[misc]  # bound at once
        if now_s - self._looked_s >= LOOK_EVERY_S:
            self._looked_s = now_s
            self._load.tick(now_s)
            self._look(now_s)
        if self.group is not None:
            for token, won in self.group.late(now_s):
                self._settle(token, won=won)
            self._book.elsewhere = self.group.elsewhere(now_s)
        for lease in self._book.due(now_s, self._may_start):
            self._start_booked(lease)
        if self._echo is not None:
            self._echo.tick(now_s)

    def take_news(self) -> list[News]:
        """Hand over what probes are to be told without having asked again."""
        news, self._news = self._news, []
        return news

    def close(self) -> None:
        """End every server."""
        for lease in self._book.leases:
            self._book.end(lease)
            self._drop(lease, "the responder ends")
        if self._echo is not None:
            self._echo.close()
        if self._gate is not None:
            self._gate.close()

    def _decide(self, request: LeaseRequest) -> LeaseReply | None:
        for _ in range(_ATTEMPTS):
            decision = self._book.ask(request, self._clock(), secrets.token_urlsafe(12))
            if isinstance(decision, Refused):
                return self._denied(request, decision.why)
            self._drop(decision.ended, "its link asks anew")
            if isinstance(decision, Full):
                return self._busy(request, decision.retry_in_s)
            lease = decision.lease
            if decision.fresh and self.group is not None and lease.cell is not None:
                self._claimed[lease.token] = request
                self.group.claim(lease, self._clock())
            if lease.token in self._claimed:
                return None
            if (reply := self._honour(request, decision)) is not None:
                return reply
        return self._busy(request, SET_ASIDE_S)

    def _settle(self, token: str, *, won: bool) -> None:
        """Go on with a request whose cell the group has decided about."""
        request = self._claimed.pop(token, None)
        lease = next((lease for lease in self._book.leases if lease.token == token), None)
        if request is None or lease is None:
            return
        if won:
            reply = self._honour(request, Lent(lease, fresh=True))
        else:
            self.counts["claims_lost"] += 1
            self._undo(lease)
            reply = None
        if reply is None:
            reply = self._decide(request)
        if reply is not None:
            self._news.append(News(request.probe_id, reply))

    def _may_start(self, lease: Lease) -> bool:
        return self.group is None or lease.cell is None or self.group.may_start(lease, self._clock())

    def _undo(self, lease: Lease) -> None:
        """Take back a lease that could not be honoured."""
        self._book.undo(lease)
        self._give_back(lease)

    def _give_back(self, lease: Lease) -> None:
        self._claimed.pop(lease.token, None)
        if self.group is not None:
            self.group.give_back(lease.token)

    def _honour(self, request: LeaseRequest, lent: Lent) -> LeaseReply | None:
        """Answer with what the book lends; None if a port turned out to be taken, and the book is to be asked again."""
        lease = lent.lease
        if not lent.fresh:
            return self._granted(request.request_id, lease)
        if not lease.running:
            return self._booked(lease)
        try:
            self._serve(lease)
        except PortTaken as taken:
            self._set_aside(taken.port, self._clock())
            self._undo(lease)
            return None
        except ServerError as error:
            self._undo(lease)
            log.error("%s", error)  # noqa: TRY400  # an operator's matter, not a defect
            return self._denied(request, "this responder cannot start its servers; see its log")
        self.counts["granted"] += 1
        return self._granted(request.request_id, lease)

    # --- servers ------------------------------------------------------------------------------------------------------

    def _judge(self, tenant: Tenancy, ask: Callable[[], bool | State]) -> None:
        """Free a lease whose tenant is done or gone."""
        strangers = tenant.strangers
        try:
            said = ask()
        except ServerError as error:
            log.error("%s", error)  # noqa: TRY400  # an operator's matter, not a defect
            said = State.NOBODY
        self.counts["strangers"] += tenant.strangers - strangers
        if said is True:
            self._free(tenant.lease, "done", count="done")
        elif isinstance(said, State) and said in _WHY:
            self._free(tenant.lease, _WHY[said], count=_COUNT[said])

    def _look(self, now_s: float) -> None:
        """Ask the kernel whose client still moves bytes."""
        if not self._tenants:
            return
        try:
            traffic = watch.look(self._settings.ports.first, self._settings.ports.last, self._settings.bind_address)
        except WatchError as error:
            if str(error) != self._blind:
                self._blind = str(error)
                log.error("%s: vanished clients are noticed at expiry only", error)  # noqa: TRY400  # as above
            return
        self._blind = ""
        for tenant in list(self._tenants.values()):
            self._judge(tenant, lambda tenant=tenant: tenant.look(traffic, now_s))  # type: ignore[misc]  # as above

    def _start_booked(self, lease: Lease) -> None:
        """Keep a promise; if a port is taken meanwhile, find another place or say that there is none."""
        for _ in range(_ATTEMPTS):
            try:
                self._serve(lease)
            except PortTaken as taken:
                self._set_aside(taken.port, self._clock())
                claimed = self.group is not None and lease.cell is not None  # for this time, and no other
                moved = self._book.rebook(lease, self._clock(), within_s=lease.length_s) if not claimed else None
                if moved is None or not moved.running:
                    break
                lease = moved
            except ServerError as error:
                log.error("%s", error)  # noqa: TRY400  # as above
                moved = None
                break
            else:
                if self.group is not None:
                    self.group.started(lease, self._clock())
                self._news.append(News(lease.probe_id, self._granted(lease.request_id, lease)))
                return
        else:
            moved = None
        if moved is not None:
            self._news.append(News(moved.probe_id, self._granted(moved.request_id, moved)))
            return
        self._undo(lease)
        self.counts["busy"] += 1
        gone = Busy(request_id=lease.request_id, responder=self._settings.responder_id, retry_in_s=SET_ASIDE_S)
        self._news.append(News(lease.probe_id, gone))

    def _serve(self, lease: Lease) -> None:
        """Start a lease's servers; raise PortTaken or ServerError."""
        login: Login | None = self._gate.admit(_user(lease), lease.token) if self._gate is not None else None
        try:
            tenant = Tenancy(lease, self._settings.bind_address, login, self._settings.max_mbps, self._clock)
        except ServerError:
            if self._gate is not None and login is not None:
                self._gate.shut_out(login)
            raise
        self._tenants[lease.token] = tenant
        left_s = lease.expires_s - self._clock()
        log.info("%s/%s: lent ports %s for %.0f s", lease.probe_id, lease.link, _list(lease.ports), left_s)

    def _set_aside(self, port: int, now_s: float) -> None:
        self.counts["ports_taken"] += 1
        log.warning("port %d is in use by another program; not lent for %.0f s", port, SET_ASIDE_S)
        self._book.set_aside(port, now_s + SET_ASIDE_S)

    def _free(self, lease: Lease, why: str, *, count: str) -> None:
        self._book.end(lease)
        self._drop(lease, why, count=count)

    def _drop(self, lease: Lease | None, why: str, *, count: str | None = None) -> None:
        if lease is not None:
            self._give_back(lease)
        tenant = self._tenants.pop(lease.token, None) if lease is not None else None
        if lease is None or tenant is None:
            return
        if count is not None:
            self.counts[count] += 1
        left = tenant.unfinished
        tenant.close()
        if self._gate is not None and tenant.login is not None:
            self._gate.shut_out(tenant.login)
        killed = f", {left} unfinished server{'s' * (left > 1)} killed" if left else ""
        came = f" ({', '.join(tenant.clients)})" if tenant.clients else ""
        log.info("%s/%s%s: ports %s are free: %s%s", lease.probe_id, lease.link, came, _list(lease.ports), why, killed)

    # --- answers ------------------------------------------------------------------------------------------------------

    def _booked(self, lease: Lease) -> Granted:
        self.counts["booked"] += 1
        reply = self._granted(lease.request_id, lease)
        log.info("%s/%s: booked ports %s in %.0f s", lease.probe_id, lease.link, _list(lease.ports), reply.starts_in_s)
        return reply

    def _granted(self, request_id: str, lease: Lease | None) -> Granted:
        now_s = self._clock()
        guarded = self._gate is not None and lease is not None
        return Granted(
            request_id=request_id,
            responder=self._settings.responder_id,
            host=self._settings.advertise_host,
            ports=lease.ports if lease is not None else (),
            token=lease.token if lease is not None else "",
            expires_in_s=round(lease.expires_s - now_s, 3) if lease is not None else 0.0,
            irtt_port=self._echo.port if self._echo is not None else None,
            starts_in_s=round(max(lease.starts_s - now_s, 0.0), 3) if lease is not None and not lease.running else 0.0,
            load_percent=self._load.percent,
            user=_user(lease) if guarded and lease is not None else "",
            public_key=self._gate.public_key if guarded and self._gate is not None else "",
        )

    def _busy(self, request: LeaseRequest, retry_in_s: float) -> Busy:
        self.counts["busy"] += 1
        log.info("%s/%s: busy for %.0f s", request.probe_id, request.link, retry_in_s)
        return Busy(
            request_id=request.request_id,
            responder=self._settings.responder_id,
            retry_in_s=round(max(retry_in_s, _SHORTEST_WAIT_S), 1),
        )

    def _denied(self, request: LeaseRequest, why: str) -> Denied:
        self.counts["denied"] += 1
        log.info("%s/%s: denied: %s", request.probe_id, request.link, why)
        return Denied(request_id=request.request_id, responder=self._settings.responder_id, reason=why)


def _user(lease: Lease) -> str:
    """Name the lease's user: one per lease, so that no password ever opens two of them."""
    return f"lease-{lease.token}"


def _list(ports: tuple[int, ...]) -> str:
    return ", ".join(map(str, ports))
