"""A busy hour at a responder, simulated: its own book of leases, a clock that jumps, and as many probes as asked."""

from __future__ import annotations

import heapq
import random
from typing import Final

import msgspec

from agent.lease import LONGEST_WINDOW_S
from responder.leases import Book, Lease, Lent, Limits
from wire.leases import LeaseRequest

LEASE_S: Final = 45.0
TEST_S: Final = (16.0, 30.0)
"""How long a test really takes: the lease is made for the worst case."""
_HOUR_S: Final = 3600.0


class Rush(msgspec.Struct, frozen=True, kw_only=True):
    """What one busy hour brought. Waits are those of all who were served, most of them 0."""

    asked: int
    at_once_percent: float
    refused: int
    wait_mean_s: float
    wait_max_s: float
    most_at_once: int


def busy_hour(asks: int, *, ports: int, link_mbps: float, mbps: float, seed: int = 1) -> Rush:
    """Let so many probes ask at random instants of one hour."""
    dice = random.Random(seed)
    book = Book(range(ports), Limits(link_mbps=link_mbps, default_mbps=mbps))
    events: list[tuple[float, int, Lease | None]] = [(dice.uniform(0, _HOUR_S), number, None) for number in range(asks)]
    heapq.heapify(events)
    asked_s: dict[str, float] = {}
    waits_s: list[float] = []
    refused = most = 0

    def begin(lease: Lease, now_s: float) -> None:
        waits_s.append(now_s - asked_s[lease.token])
        heapq.heappush(events, (now_s + dice.uniform(*TEST_S), len(asked_s) + asks, lease))

    while events:
        now_s, number, ended = heapq.heappop(events)
        if ended is not None:
            book.end(ended)
        else:
            token = str(number)
            asked_s[token] = now_s
            wish = LeaseRequest(
                request_id=token, probe_id=f"p{number}", link="l", length_s=LEASE_S, window_s=LONGEST_WINDOW_S
            )
            answer = book.ask(wish, now_s, token)
            if not isinstance(answer, Lent):
                refused += 1
            elif answer.lease.running:
                begin(answer.lease, now_s)
        for lease in book.due(now_s):
            begin(lease, now_s)
        most = max(most, sum(lease.running for lease in book.leases))
    return Rush(
        asked=asks,
        at_once_percent=round(100 * sum(wait_s <= 0 for wait_s in waits_s) / max(asks, 1), 1),
        refused=refused,
        wait_mean_s=round(sum(waits_s) / max(len(waits_s), 1), 2),
        wait_max_s=round(max(waits_s, default=0.0), 1),
        most_at_once=most,
    )
