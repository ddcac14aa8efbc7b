"""Which runs are due when. Pure: no clock, no disk; time and what has been done come as arguments.

Each job's time is cut into slots of `every_s` seconds, counted from the Unix epoch, so that they do not drift. In each
slot, every link's run has one instant, drawn evenly over the slot from (probe, job, link, slot): stratified in time,
spread across probes, the same after a restart, and different from slot to slot so that it cannot beat with something
that happens every hour.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Periodic(NamedTuple):
    """One job on one link."""

    job: str
    link: str
    every_s: int


class Due(NamedTuple):
    """A run and its instant, in Unix seconds; ordered by time."""

    at_s: float
    job: str
    link: str
    slot: int


def instant_s(probe_id: str, what: Periodic, slot: int) -> float:
    """Draw the instant of a slot: evenly distributed over it, a pure function of its arguments."""
    key = f"{probe_id}/{what.job}/{what.link}/{slot}".encode()
    draw = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") / 2**64
    return (slot + draw) * what.every_s


def next_run(
    probe_id: str,
    work: Iterable[Periodic],
    done: Mapping[tuple[str, str], int],
    *,
    now_s: float,
    since_s: float,
) -> Due:
    """Name the run to make next; it is due when its `at_s` is not after `now_s`.

    `done` maps (job, link) to the slot that was run last; that slot is not run again. Instants before `since_s` (the
    start of the agent) are let go, so that a restart neither repeats nor bunches. A run kept waiting by another stays
    due as long as its slot lasts. A last slot other than the present one does not matter: the wall clock may step
    either way and work goes on.
    """
    return min(_next_of(probe_id, what, done.get((what.job, what.link)), now_s, since_s) for what in work)


def _next_of(probe_id: str, what: Periodic, last_slot: int | None, now_s: float, since_s: float) -> Due:
    slot = int(now_s // what.every_s)
    at_s = instant_s(probe_id, what, slot)
    if last_slot == slot or (at_s < since_s and at_s < now_s):
        slot += 1
        at_s = instant_s(probe_id, what, slot)
    return Due(at_s, what.job, what.link, slot)
