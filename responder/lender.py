"""Leases made good: what the book lends gets servers, what the book ends loses them. Knows nothing of MQTT."""

from __future__ import annotations

import logging
import secrets
import time
from typing import TYPE_CHECKING, Final

from responder import servers
from responder.echo import Echo
from responder.leases import Book, Full, Lease, Lent, Refused
from responder.servers import PortTaken, Server, ServerError
from wire.messages import Busy, Denied, Granted, LeaseReply, LeaseRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from responder.settings import Settings

log = logging.getLogger(__name__)

SET_ASIDE_S: Final = 60.0
"""For how long a port that somebody else uses is not lent."""
_ATTEMPTS: Final = 4
_SHORTEST_WAIT_S: Final = 1.0


class Lender:
    """Answers lease requests and keeps the servers; all of it from one thread, with `tick` at least twice a second."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._book = Book(settings.ports.all, max_length_s=settings.max_length_s, max_transfers=settings.max_transfers)
        self._servers: dict[Lease, list[Server]] = {}
        self._echo = Echo(settings.irtt.port, settings.bind_address) if settings.irtt is not None else None

    @property
    def leases(self) -> tuple[Lease, ...]:
        """The leases that stand."""
        return self._book.leases

    def open(self) -> None:
        """Look which ports others use, and start the echo server."""
        now_s = self._clock()
        for port in self._settings.ports.all:
            if not servers.is_free(port, self._settings.bind_address):
                log.warning("port %d is in use by another program; not lent before it is free", port)
                self._book.set_aside(port, now_s + SET_ASIDE_S)
        self.tick()

    def answer(self, request: LeaseRequest) -> LeaseReply:
        """Lend, or say why not. Every server listens before Granted is returned."""
        self.tick()
        if request.transfers == 0:  # it only asks where the echo server is
            return self._granted(request, None)
        for _ in range(_ATTEMPTS):
            decision = self._book.ask(request, self._clock(), secrets.token_urlsafe(12))
            match decision:
                case Refused(why):
                    log.info("%s/%s: denied: %s", request.probe_id, request.link, why)
                    return self._denied(request, why)
                case Full(retry_in_s, ended):
                    self._drop(ended, "its link asks anew")
                    log.info("%s/%s: busy for %.0f s", request.probe_id, request.link, retry_in_s)
                    return self._busy(request, retry_in_s)
                case Lent(lease, fresh, ended):
                    self._drop(ended, "its link asks anew")
                    try:
                        if not fresh or self._serve(lease):
                            return self._granted(request, lease)
                    except ServerError as error:
                        log.error("%s", error)  # noqa: TRY400  # an operator's matter, not a defect
                        return self._denied(request, "this responder cannot start its servers; see its log")
        return self._busy(request, SET_ASIDE_S)

    def tick(self) -> None:
        """Free what has ended or expired."""
        now_s = self._clock()
        for lease in self._book.expire(now_s):
            self._drop(lease, "expired")
        for lease, held in list(self._servers.items()):
            ended = [server.ended() for server in held]  # each is asked: that also reads its output
            if all(ended):
                self._book.end(lease)
                self._drop(lease, "done")
        if self._echo is not None:
            self._echo.tick(now_s)

    def close(self) -> None:
        """End every server."""
        for lease in list(self._servers):
            self._book.end(lease)
            self._drop(lease, "the responder ends")
        if self._echo is not None:
            self._echo.close()

    def _serve(self, lease: Lease) -> bool:
        """Start a fresh lease's servers; take it back if a port is taken (False) or none can start (ServerError)."""
        try:
            self._servers[lease] = servers.start(lease.ports, self._settings.bind_address)
        except PortTaken as taken:
            log.warning("%s; not lent for %.0f s", taken, SET_ASIDE_S)
            self._book.set_aside(taken.port, self._clock() + SET_ASIDE_S)
        except ServerError:
            self._book.undo(lease)
            raise
        else:
            left_s = lease.expires_s - self._clock()
            log.info("%s/%s: lent ports %s for %.0f s", lease.probe_id, lease.link, _list(lease.ports), left_s)
            return True
        self._book.undo(lease)
        return False

    def _drop(self, lease: Lease | None, why: str) -> None:
        held = self._servers.pop(lease, ()) if lease is not None else ()
        if lease is None or not held:
            return
        left = [server for server in held if not server.ended()]
        for server in held:
            server.kill()
        killed = f", {len(left)} unfinished server{'s' * (len(left) > 1)} killed" if left else ""
        log.info("%s/%s: ports %s are free: %s%s", lease.probe_id, lease.link, _list(lease.ports), why, killed)

    def _granted(self, request: LeaseRequest, lease: Lease | None) -> Granted:
        return Granted(
            request_id=request.request_id,
            responder=self._settings.responder_id,
            host=self._settings.advertise_host,
            ports=lease.ports if lease is not None else (),
            token=lease.token if lease is not None else "",
            expires_in_s=round(lease.expires_s - self._clock(), 3) if lease is not None else 0.0,
            irtt_port=self._echo.port if self._echo is not None else None,
        )

    def _busy(self, request: LeaseRequest, retry_in_s: float) -> Busy:
        return Busy(
            request_id=request.request_id,
            responder=self._settings.responder_id,
            retry_in_s=round(max(retry_in_s, _SHORTEST_WAIT_S), 1),
        )

    def _denied(self, request: LeaseRequest, why: str) -> Denied:
        return Denied(request_id=request.request_id, responder=self._settings.responder_id, reason=why)


def _list(ports: tuple[int, ...]) -> str:
    return ", ".join(map(str, ports))
