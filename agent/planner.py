"""Which throughput runs a link makes on a plan day. Pure: the same answer for the same books, also after a restart.

A job asks for N runs a day. The plan day is cut into N slots, each slot into cells of about an hour. On each day a slot
is run in one of its cells, mostly the one that was served least in this plan month, so that every hour has its turn;
now and then another one, so that an hour at which the probe never has power does not hold up the rest. Within the cell
the instant is drawn evenly by probe and date, so that probes spread.

The day may spend what is left of the month for each of its remaining days. When that is short, uploads go first, then
runs of the shortest job, then of longer ones; of a job that is thinned the slots go whose runs were most often made,
so that no hour is lost for good.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from datetime import timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from agent.plan import Claim, day_begins, limit_bytes, plan_month

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import date, datetime

    from agent.plan import Spent
    from agent.settings import Plan

_CELL_S: Final = 3600.0
_STRAY: Final = 0.25
"""How often a slot is run in another cell than the one served least."""
_WITHOUT_FIGURES: Final = 0.5
"""What a run that came to no figures counts as service: its hour is tried again sooner, and not for ever."""
_SAMPLES: Final = 24
"""How many of the last runs tell what a run costs."""
_GOLDEN: Final = (math.sqrt(5) - 1) / 2
# Until runs have been made: 40 Mbit/s down, 15 up, headers, and what is still in the queue when a transfer ends.
_DOWN_BYTES_PER_S: Final = 40e6 / 8 * 1.05
_UP_BYTES_PER_S: Final = 15e6 / 8 * 1.05
_DRAIN_S: Final = 0.4


class Wish(NamedTuple):
    """What a job asks for on a link. `length_s`: one transfer, its start included."""

    job: str
    runs_per_day: int
    length_s: float
    upload: bool

    def usual_bytes(self, *, upload: bool) -> float:
        """Guess what a run moves, both directions, before any was made."""
        return (self.length_s + _DRAIN_S) * (_DOWN_BYTES_PER_S + (_UP_BYTES_PER_S if upload else 0))


class Visit(NamedTuple):
    """A planned run that was made. `run_bytes`: what it moved, None where it came to no full figures."""

    job: str
    day: date
    slot: int
    cell: int
    upload: bool
    run_bytes: int | None


class Planned(NamedTuple):
    """A run to make: from `at_s` (Unix seconds) until its slot ends at `until_s`."""

    at_s: float
    until_s: float
    job: str
    slot: int
    cell: int
    upload: bool
    run_bytes: int


class Dropped(NamedTuple):
    """What a job does not get today."""

    job: str
    runs: int
    uploads: int
    of_runs: int


class DayPlan(NamedTuple):
    """A link's plan day; `runs` are in order.

    `allowance_bytes` is what its tests may move, None without a quota; `day_binds`: by the quota of the day, not by the
    day's share of the month.
    """

    day: date
    begins: datetime
    ends: datetime
    days_left: int
    allowance_bytes: int | None
    day_binds: bool
    runs: tuple[Planned, ...]
    dropped: tuple[Dropped, ...]

    @property
    def planned_bytes(self) -> int:
        """What the runs of the day will move, made ones included."""
        return sum(run.run_bytes for run in self.runs)


def plan_of_day(
    names: tuple[str, str], plan: Plan, day: date, *, wishes: Sequence[Wish], spent: Spent, visits: Sequence[Visit]
) -> DayPlan:
    """Plan a day of a link; `names` are the probe's and the link's, `visits` those of the last weeks, oldest first.

    `spent` is of `day`; what that day itself has spent does not change its plan.
    """
    first, following = plan_month(plan, day)
    begins, ends = day_begins(plan, day), day_begins(plan, day + timedelta(days=1))
    days_left = (following - day).days
    allowance = _allowance(plan, spent, days_left)
    costs = {wish: (cost(wish, visits, upload=False), cost(wish, visits, upload=wish.upload)) for wish in wishes}
    day_binds = allowance is not None and allowance.day_binds
    exact = days_left == 1 or day_binds
    counts = _shrunk(
        costs,
        allowance.left_bytes if allowance is not None else None,
        lambda job, value: _rounded((*names, job), day, value, exact=exact),
    )
    runs: list[Planned] = []
    dropped: list[Dropped] = []
    for wish in wishes:
        count, uploads = counts[wish]
        before = [visit for visit in visits if visit.job == wish.job and first <= visit.day < day]
        key = (*names, wish.job, day.isoformat())
        for slot, cell, upload, at_s, until_s in _runs(
            key, wish, (count, uploads), before, (begins.timestamp(), ends.timestamp())
        ):
            runs.append(Planned(at_s, until_s, wish.job, slot, cell, upload, round(costs[wish][int(upload)])))
        lost = Dropped(wish.job, wish.runs_per_day - count, (count if wish.upload else 0) - uploads, wish.runs_per_day)
        if lost.runs or lost.uploads:
            dropped.append(lost)
    left_bytes = int(allowance.left_bytes) if allowance is not None else None
    return DayPlan(day, begins, ends, days_left, left_bytes, day_binds, tuple(sorted(runs)), tuple(dropped))


def next_of_day(plan: DayPlan, made: Iterable[tuple[str, int]], *, now_s: float, since_s: float) -> Planned | None:
    """Name the run to make next; None if the day has none left. `made` are the (job, slot) of the day's visits.

    A run whose instant passed before the agent began is let go; one kept waiting by another is made while its slot
    lasts.
    """
    done = set(made)
    for run in plan.runs:
        passed = run.until_s <= now_s or run.at_s < since_s <= now_s
        if (run.job, run.slot) not in done and not passed:
            return run
    return None


def cost(wish: Wish, visits: Sequence[Visit], *, upload: bool) -> float:
    """Expect what a run will move, in bytes: the mean of the last of its kind, else a guess scaled by the others."""
    of_job = [visit for visit in visits if visit.job == wish.job and visit.run_bytes is not None]
    usual = wish.usual_bytes(upload=upload)
    for kind in (upload, not upload):
        like = [visit.run_bytes or 0 for visit in of_job if visit.upload is kind][-_SAMPLES:]
        if like:
            return sum(like) / len(like) * usual / wish.usual_bytes(upload=kind)
    return usual


class _Allowance(NamedTuple):
    left_bytes: float
    day_binds: bool


def _allowance(plan: Plan, spent: Spent, days_left: int) -> _Allowance | None:
    shares = []
    if plan.quota_month_mb is not None:
        before_today = spent.month_bytes - spent.day_bytes
        left = max(0, limit_bytes(plan, plan.quota_month_mb, Claim.SCHEDULE) - before_today)
        shares.append(_Allowance(left / days_left, day_binds=False))
    if plan.quota_day_mb is not None:
        shares.append(_Allowance(limit_bytes(plan, plan.quota_day_mb, Claim.SCHEDULE), day_binds=True))
    return min(shares, default=None)


def _shrunk(
    costs: Mapping[Wish, tuple[float, float]], allowance: float | None, rounded: Callable[[str, float], int]
) -> dict[Wish, tuple[int, int]]:
    """Fit the wishes into the allowance; return runs and uploads of each. `costs`: without and with upload."""
    counts = {wish: (wish.runs_per_day, wish.runs_per_day if wish.upload else 0) for wish in costs}
    if allowance is None or allowance >= sum(wish.runs_per_day * both for wish, (_, both) in costs.items()):
        return counts
    left = allowance - sum(wish.runs_per_day * down for wish, (down, _) in costs.items())
    if left >= 0:
        share = left / sum(wish.runs_per_day * (both - down) for wish, (down, both) in costs.items())
        for wish, (runs, uploads) in counts.items():
            counts[wish] = (runs, min(uploads, rounded(wish.job, uploads * share)))
        return counts
    for wish in sorted(costs, key=lambda wish: (wish.length_s, wish.job)):
        down, _ = costs[wish]
        cut = min(float(wish.runs_per_day), max(0.0, -left) / down)
        left += cut * down
        counts[wish] = (min(wish.runs_per_day, rounded(wish.job, wish.runs_per_day - cut)), 0)
    return counts


def _rounded(key: tuple[str, ...], day: date, value: float, *, exact: bool) -> int:
    """Round so that the mean over days is `value` and the days that get more are spread evenly; `exact`: never up."""
    shift = 1e-9 if exact else (_GOLDEN * day.toordinal() + _draw(*key)) % 1
    return math.floor(value + shift)


def _runs(
    key: tuple[str, ...], wish: Wish, counts: tuple[int, int], before: Sequence[Visit], span: tuple[float, float]
) -> Iterator[tuple[int, int, bool, float, float]]:
    """Choose slots, cells and instants; yield slot, cell, upload, at_s, until_s. `key` names probe, link, job, day."""
    slot_s = (span[1] - span[0]) / wish.runs_per_day
    cells = max(1, round(slot_s / _CELL_S))
    served: defaultdict[int, float] = defaultdict(float)
    places: defaultdict[tuple[int, int], float] = defaultdict(float)
    uploads: defaultdict[int, float] = defaultdict(float)
    for visit in before:
        weight = 1.0 if visit.run_bytes is not None else _WITHOUT_FIGURES
        served[visit.slot] += weight
        places[visit.slot, visit.cell] += weight
        uploads[visit.slot] += visit.upload

    def least(slots: Iterable[int], times: Mapping[int, float], count: int) -> list[int]:
        return sorted(slots, key=lambda slot: (times.get(slot, 0), _draw(*key, "order", slot)))[:count]

    chosen = least(range(wish.runs_per_day), served, counts[0])
    with_upload = least(chosen, uploads, counts[1])
    for slot in chosen:
        fewest = min(places[slot, cell] for cell in range(cells))
        lean = [cell for cell in range(cells) if places[slot, cell] == fewest]
        rest = [cell for cell in range(cells) if places[slot, cell] > fewest]
        candidates = rest if rest and _draw(*key, "stray", slot) < _STRAY else lean
        cell = candidates[int(_draw(*key, "cell", slot) * len(candidates))]
        within = (cell + _draw(*key, "instant", slot)) / cells
        at_s = span[0] + (slot + within) * slot_s
        yield slot, cell, slot in with_upload, at_s, span[0] + (slot + 1) * slot_s


def _draw(*key: object) -> float:
    """Draw evenly from [0, 1), by the key alone."""
    text = "/".join(map(str, key)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") / 2**64
