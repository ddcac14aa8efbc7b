"""How often one probe may ask: a bucket each, filled by time. Pure: time comes as an argument.

A probe that has gone mad asks thousands of times a second. What is over its pace is left out before anybody looks at
it, so that it costs the others neither their place in the queue nor their answer.
"""

from __future__ import annotations

from typing import Final

REQUESTS_PER_S: Final = 2.0
BURST: Final = 60
"""So many at once: more than all links of a probe ask for when they come back from an outage together."""
_MOST_KNOWN: Final = 10_000


class Pace:
    """The buckets of all probes; memory is bounded."""

    def __init__(self) -> None:
        """Begin with full buckets."""
        self._paid_until_s: dict[str, float] = {}
        """When the bucket will be full again, by probe (the generic cell rate algorithm, ITU-T I.371, annex A)."""

    def admit(self, who: str, now_s: float) -> bool:
        """Whether somebody may ask now; counts it if so."""
        until_s = max(self._paid_until_s.get(who, now_s), now_s) + 1 / REQUESTS_PER_S
        if until_s - now_s > BURST / REQUESTS_PER_S:
            return False
        self._paid_until_s[who] = until_s
        if len(self._paid_until_s) > _MOST_KNOWN:
            self._forget(now_s)
        return True

    def _forget(self, now_s: float) -> None:
        """Drop full buckets; if all are in use, the half that is full soonest."""
        self._paid_until_s = {who: until_s for who, until_s in self._paid_until_s.items() if until_s > now_s}
        if len(self._paid_until_s) > _MOST_KNOWN:
            soonest_first = sorted(self._paid_until_s.items(), key=lambda one: one[1])
            self._paid_until_s = dict(soonest_first[len(soonest_first) // 2 :])
