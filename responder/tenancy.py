"""One running lease: its servers, who may use them, and whether its client is still there."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from responder import servers
from responder.watch import Patience, Seen, State

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from responder.leases import Lease
    from responder.servers import Login
    from responder.watch import Traffic

log = logging.getLogger(__name__)


class Tenancy:
    """The servers of one lease. Raises ServerError or PortTaken if they cannot be started, and leaves none."""

    def __init__(
        self,
        lease: Lease,
        bind_address: str | None,
        login: Login | None,
        max_mbps: float | None,
        clock: Callable[[], float],
    ) -> None:
        self.lease = lease
        self.login = login
        self.strangers = 0
        """How often a server was started anew because somebody else had used it up or held it."""
        self._bind_address = bind_address
        self._max_mbps = max_mbps
        self._servers = servers.start(lease.ports, bind_address, login, max_mbps)
        self._patience = Patience(clock())
        self._done: set[int] = set()

    @property
    def clients(self) -> tuple[str, ...]:
        """Where the admitted clients came from."""
        return tuple(dict.fromkeys(server.client for server in self._servers if server.client is not None))

    @property
    def unfinished(self) -> int:
        """How many servers have not ended by themselves."""
        return sum(not server.ended() for server in self._servers)

    def tick(self, now_s: float) -> bool:
        """Notice servers that have ended, start those anew that a stranger used up; whether all have done their work.

        Raise ServerError if one cannot be started anew.
        """
        for index, server in enumerate(self._servers):
            if not server.ended() or server.port in self._done:
                continue
            if server.client is not None:
                self._done.add(server.port)
                self._patience.go_on(now_s)
            elif not self._patience.is_over(now_s):
                self._again(index)
        return len(self._done) == len(self._servers)

    def look(self, traffic: Mapping[int, Traffic], now_s: float) -> State:
        """Judge by the kernel's counters; a stranger who holds a port is thrown out here. Raise ServerError."""
        seen = {
            server.port: Seen(traffic.get(server.port), server.client is not None)
            for server in self._servers
            if server.port not in self._done
        }
        state, strangers = self._patience.look(seen, now_s)
        if state is State.FINE:
            for index, server in enumerate(self._servers):
                if server.port in strangers:
                    self._again(index)
        return state

    def close(self) -> None:
        """Kill what is left. Can be repeated."""
        for server in self._servers:
            server.kill()

    def _again(self, index: int) -> None:
        old = self._servers[index]
        self.strangers += 1
        log.warning(
            "%s/%s: a stranger on port %d (%s); its server is started anew",
            self.lease.probe_id,
            self.lease.link,
            old.port,
            old.last_words() if old.ended() else "who says nothing",
        )
        old.kill()
        self._servers[index] = servers.start([old.port], self._bind_address, self.login, self._max_mbps)[0]
