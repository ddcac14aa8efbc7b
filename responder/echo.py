"""The echo server for latency measurements: one irtt, kept running."""

from __future__ import annotations

import logging
from typing import Final

from responder.servers import Child, ServerError

log = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0


class Echo:
    """An irtt server, started again when it ends, after a pause that doubles and is short again after a good minute."""

    def __init__(self, port: int, bind_address: str | None) -> None:
        address = f"[{bind_address}]" if ":" in (bind_address or "") else bind_address or ""
        self._port = port
        self._command = ["irtt", "server", "-b", f"{address}:{port}", "-d", "2m", "-i", "10ms", "-l", "1472"]
        self._child: Child | None = None
        self._started_s = 0.0
        self._pause_s = FIRST_PAUSE_S
        self._next_s = 0.0

    @property
    def port(self) -> int | None:
        """The UDP port, while somebody answers there."""
        return self._port if self._child is not None and not self._child.ended() else None

    @property
    def pid(self) -> int | None:
        """The running process."""
        return self._child.pid if self._child is not None else None

    def tick(self, now_s: float) -> None:
        """Start it if it is time to."""
        if self._child is not None and self._child.ended():
            if now_s - self._started_s > LONGEST_PAUSE_S:
                self._pause_s = FIRST_PAUSE_S
            log.warning("irtt ended (%s); again in %.0f s", self._child.last_words(), self._pause_s)
            self._child.kill()
            self._child = None
            self._postpone(now_s)
        if self._child is None and now_s >= self._next_s:
            try:
                self._child = Child(self._command)
                self._started_s = now_s
            except ServerError as error:
                log.warning("irtt cannot be started: %s; again in %.0f s", error, self._pause_s)
                self._postpone(now_s)

    def close(self) -> None:
        """End it."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def _postpone(self, now_s: float) -> None:
        self._next_s = now_s + self._pause_s
        self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
