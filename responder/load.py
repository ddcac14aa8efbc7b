"""How much of this machine's network is in use. Tests may take `link_mbps` together, and that is 70 % of it.

So at 70 % the whole of what tests may take is in use, by them or by others, and one more test measures the server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_SHARE_OF_TESTS: Final = 0.7
_SHORTEST_S: Final = 0.5
_LONGEST_S: Final = 10.0


def carried_bytes() -> dict[str, tuple[int, int]]:
    """Read received and sent bytes of every interface but the loopback."""
    found = psutil.net_io_counters(pernic=True, nowrap=False)
    return {name: (nic.bytes_recv, nic.bytes_sent) for name, nic in found.items() if name != "lo"}


class NetworkLoad:
    """Measured from one look to the next; ticks tell the time. `link_mbps`: what tests may take together."""

    def __init__(self, link_mbps: float, read: Callable[[], Mapping[str, tuple[int, int]]] = carried_bytes) -> None:
        """Take what may be carried, and who counts it."""
        self.percent: float | None = None
        """Of the last span; None before the second look."""
        self._network_mbps = link_mbps / _SHARE_OF_TESTS
        self._read = read
        self._last: tuple[float, Mapping[str, tuple[int, int]]] | None = None

    def tick(self, now_s: float) -> None:
        """Look at the counters, if some time has gone by; the busier direction of the busiest interface counts."""
        if self._last is not None and now_s - self._last[0] < _SHORTEST_S:
            return
        counted = self._read()
        if self._last is not None and now_s - self._last[0] <= _LONGEST_S:
            then_s, before = self._last
            grown = [
                max(now - then for now, then in zip(ways, before[name], strict=True))
                for name, ways in counted.items()
                if name in before
            ]
            self.percent = round(max(grown, default=0) * 8 / 1e6 / (now_s - then_s) / self._network_mbps * 100, 1)
        self._last = (now_s, counted)
