"""How much one probe may bring: a bucket each, filled by time. Pure: time comes as an argument.

A probe whose backlog is large, or that has gone mad, cannot fill the disk or starve the others: what is over its limit
is left out before it is stored, without an acknowledgement, so that an honest probe sends it again later.
"""

from __future__ import annotations

from typing import Final, NamedTuple

_MOST_BUCKETS: Final = 50_000
_BURST_S: Final = 60.0


class Rate(NamedTuple):
    """What a probe may bring on the mean, per second; a minute of it at once."""

    results_per_s: float
    bytes_per_s: float


class Limits:
    """The buckets of all probes. Memory is bounded: full buckets say nothing and are forgotten first."""

    def __init__(self, rate: Rate) -> None:
        """Begin with full buckets."""
        self._rate = rate
        self._owed: dict[str, tuple[float, float, float]] = {}  # probe → (when, results owed, bytes owed)

    def admit(self, probe_id: str, *, size_bytes: int, now_s: float) -> bool:
        """Say whether a probe may bring a message now, and count it if so.

        A bucket that holds anything at all lets one message through, however large: messages are bounded elsewhere.
        """
        then_s, owed_results, owed_bytes = self._owed.get(probe_id, (now_s, 0.0, 0.0))
        passed_s = max(0.0, now_s - then_s)
        owed_results = max(0.0, owed_results - passed_s * self._rate.results_per_s)
        owed_bytes = max(0.0, owed_bytes - passed_s * self._rate.bytes_per_s)
        admitted = owed_results < _BURST_S * self._rate.results_per_s and owed_bytes < _BURST_S * self._rate.bytes_per_s
        self._owed[probe_id] = (now_s, owed_results, owed_bytes + size_bytes * admitted)
        if len(self._owed) > _MOST_BUCKETS:
            self._forget(now_s)
        return admitted

    def count(self, probe_id: str, results: int) -> None:
        """Count what a message that was admitted turned out to hold."""
        if (owed := self._owed.get(probe_id)) is not None:
            self._owed[probe_id] = (owed[0], owed[1] + results, owed[2])

    def _forget(self, now_s: float) -> None:
        """Drop the buckets that are full again; if all are in use, the oldest half."""
        self._owed = {
            probe: owed
            for probe, owed in self._owed.items()
            if (now_s - owed[0]) < _BURST_S and (owed[1] > 0 or owed[2] > 0)
        }
        if len(self._owed) > _MOST_BUCKETS:
            oldest_first = sorted(self._owed, key=lambda probe: self._owed[probe][0])
            for probe in oldest_first[: len(oldest_first) // 2]:
                del self._owed[probe]
