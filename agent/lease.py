"""Borrowing a test server: by lease from the responder, or one of the plain servers that the configuration names."""

from __future__ import annotations

import logging
import random
import threading
from typing import TYPE_CHECKING, Final, Protocol

from agent.measurements.base import MeasurementFailed
from wire.messages import Busy, Granted, LeaseReply, Reason, Server

if TYPE_CHECKING:
    from agent.clock import Clock

log = logging.getLogger(__name__)

ANSWER_WITHIN_S: Final = 15.0
WAIT_AT_MOST_S: Final = 120.0
"""How long a run stands in the queue of a busy responder before it gives up as `busy`."""

LONGEST_PAUSE_S: Final = 8.0
"""A lease usually ends long before it expires, so the responder is asked again sooner than it says."""


class Lender(Protocol):
    """Whoever carries lease requests: the publisher, over MQTT."""

    def request_lease(self, link: str, *, transfers: int, length_s: float, timeout_s: float) -> LeaseReply | None:
        """Ask once; None if nobody answers in time."""
        ...


class Borrowed(Server, frozen=True, kw_only=True):
    """A server and, where the responder has one, its echo port; what travels is the plain `Server`."""

    irtt_port: int | None = None

    def plain(self) -> Server:
        """Name the server as the wire does."""
        return Server(host=self.host, ports=self.ports, responder=self.responder, lease=self.lease)


def borrow(lender: Lender, clock: Clock, *, link: str, transfers: int, length_s: float) -> Borrowed:
    """Borrow servers from the responder, waiting in line while it is busy; raise MeasurementFailed."""
    give_up_s = clock.monotonic_s() + WAIT_AT_MOST_S
    while True:
        reply = lender.request_lease(link, transfers=transfers, length_s=length_s, timeout_s=ANSWER_WITHIN_S)
        if reply is None:
            raise MeasurementFailed(Reason.NO_LEASE, f"no responder answered within {ANSWER_WITHIN_S:.0f} s")
        if isinstance(reply, Granted):
            return Borrowed(
                host=reply.host,
                ports=reply.ports,
                responder=reply.responder,
                lease=reply.request_id,
                irtt_port=reply.irtt_port,
            )
        if not isinstance(reply, Busy):
            raise MeasurementFailed(Reason.REFUSED, f"{reply.responder} denied the lease: {reply.reason}")
        pause_s = min(max(reply.retry_in_s, 0.2), LONGEST_PAUSE_S) * random.uniform(1.0, 1.3)  # noqa: S311  # spreads, hides nothing
        if clock.monotonic_s() + pause_s > give_up_s:
            raise MeasurementFailed(Reason.BUSY, f"{reply.responder} was busy for {WAIT_AT_MOST_S:.0f} s")
        log.info("%s: responder busy, asking again in %.1f s", link, pause_s)
        threading.Event().wait(pause_s)
