"""Which throughput runs a link makes on a plan day. Pure: the same answer for the same books, also after a restart.

A job asks for N runs a day. The plan day is cut into N slots, each slot into cells of about an hour. On each day a slot
is run in one of its cells, mostly the one that was served least in this plan month, so that every hour has its turn;
now and then another one, so that an hour at which the probe never has power does not hold up the rest. Within the cell
the instant is drawn evenly by probe and date, so that probes spread.

Links that share test servers may each have a place among them (`Share`). Time is then cut into turns, the same for all;
a turn belongs to every n-th place, so that no more links than the servers have room for ever have the same one. A run
begins at a turn of its own link, whatever slot and cell it was given. As n turns are no part of an hour, a link's turns
wander through all minutes of the hour.

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
    from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
    from datetime import date, datetime

    from agent.plan import Spent
    from agent.settings import Plan, Share

_CELL_S: Final = 3600.0
_STRAY: Final = 0.25
"""How often a slot is run in another cell than the one served least."""
_WITHOUT_FIGURES: Final = 0.5
"""What a run that came to no figures counts as service: its hour is tried again sooner, and not for ever."""
_TURNS_AN_HOUR: Final = 80
"""Of 45 s: guard, echoes, download, pause, upload, and what a slow link adds."""
TURN_S: Final = _CELL_S / _TURNS_AN_HOUR
_LATE_S: Final = 10.0
"""By how much a run may begin after its turn did; later it would run into the next one."""
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
    names: tuple[str, str],
    plan: Plan,
    day: date,
    *,
    wishes: Sequence[Wish],
    spent: Spent,
    visits: Sequence[Visit],
    share: Share | None = None,
) -> DayPlan:
    """Plan a day of a link; `names` are the probe's and the link's, `visits` those of the last weeks, oldest first.

    `spent` is of `day`; what that day itself has spent does not change its plan. With a `share` runs begin at turns.
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
        slots = _Slots(wish.runs_per_day, begins.timestamp(), ends.timestamp())
        for slot, cell, upload, drawn_s in _runs(key, slots, (count, uploads), before):
            taken = {run.at_s for run in runs}
            at_s, cell_then = _own_turn(share, slots, (slot, cell), drawn_s, taken) if share else (drawn_s, cell)
            run_bytes = round(costs[wish][int(upload)])
            runs.append(Planned(at_s, slots.ends_s(slot), wish.job, slot, cell_then, upload, run_bytes))
        lost = Dropped(wish.job, wish.runs_per_day - count, (count if wish.upload else 0) - uploads, wish.runs_per_day)
        if lost.runs or lost.uploads:
            dropped.append(lost)
    left_bytes = int(allowance.left_bytes) if allowance is not None else None
    return DayPlan(day, begins, ends, days_left, left_bytes, day_binds, tuple(sorted(runs)), tuple(dropped))


def period_s(share: Share) -> float:
    """Tell how often a link has a turn: so many turns that no more links than there is room for have the same one.

    The number is prime to that of an hour, so that its turns come at every minute.
    """
    count = math.ceil(share.of / share.room)
    while math.gcd(count, _TURNS_AN_HOUR) > 1:
        count += 1
    return count * TURN_S


def next_of_day(
    plan: DayPlan, made: Iterable[tuple[str, int]], *, now_s: float, since_s: float, share: Share | None = None
) -> Planned | None:
    """Name the run to make next; None if the day has none left. `made` are the (job, slot) of the day's visits.

    A run whose instant passed before the agent began is let go; one kept waiting by another is made while its slot
    lasts, with a `share` at the link's next turn.
    """
    done = set(made)
    left = [run for run in plan.runs if (run.job, run.slot) not in done and run.until_s > now_s]
    left = [run for run in left if not run.at_s < since_s <= now_s]
    if share is not None:
        left = [run if run.at_s >= now_s - _LATE_S else run._replace(at_s=_next_turn(share, now_s)) for run in left]
    return min((run for run in left if run.at_s < run.until_s), default=None)


def _next_turn(share: Share, since_s: float) -> float:
    """Say when the link's next turn begins: place p has all turns p * TURN_S + n * period since 1970."""
    first_s, every_s = share.place * TURN_S, period_s(share)
    return first_s + math.ceil((since_s - first_s) / every_s) * every_s


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


class _Slots(NamedTuple):
    """A plan day cut into so many slots, and each of them into cells."""

    number: int
    day_begins_s: float
    day_ends_s: float

    @property
    def slot_s(self) -> float:
        return (self.day_ends_s - self.day_begins_s) / self.number

    @property
    def cells(self) -> int:
        return max(1, round(self.slot_s / _CELL_S))

    def begins_s(self, slot: int, cell: float = 0) -> float:
        """Say when a cell of a slot begins; parts of a cell count."""
        return self.day_begins_s + (slot + cell / self.cells) * self.slot_s

    def ends_s(self, slot: int) -> float:
        return self.begins_s(slot + 1)


def _runs(
    key: tuple[str, ...], slots: _Slots, counts: tuple[int, int], before: Sequence[Visit]
) -> Iterator[tuple[int, int, bool, float]]:
    """Choose slots, cells and instants; yield slot, cell, upload, at_s. `key` names probe, link, job, day."""
    served: defaultdict[int, float] = defaultdict(float)
    places: defaultdict[tuple[int, int], float] = defaultdict(float)
    uploads: defaultdict[int, float] = defaultdict(float)
    for visit in before:
        weight = 1.0 if visit.run_bytes is not None else _WITHOUT_FIGURES
        served[visit.slot] += weight
        places[visit.slot, visit.cell] += weight
        uploads[visit.slot] += visit.upload

    def least(candidates: Iterable[int], times: Mapping[int, float], count: int) -> list[int]:
        return sorted(candidates, key=lambda slot: (times.get(slot, 0), _draw(*key, "order", slot)))[:count]

    chosen = least(range(slots.number), served, counts[0])
    with_upload = least(chosen, uploads, counts[1])
    for slot in chosen:
        fewest = min(places[slot, cell] for cell in range(slots.cells))
        lean = [cell for cell in range(slots.cells) if places[slot, cell] == fewest]
        rest = [cell for cell in range(slots.cells) if places[slot, cell] > fewest]
        candidates = rest if rest and _draw(*key, "stray", slot) < _STRAY else lean
        cell = candidates[int(_draw(*key, "cell", slot) * len(candidates))]
        yield slot, cell, slot in with_upload, slots.begins_s(slot, cell + _draw(*key, "instant", slot))


def _own_turn(
    share: Share, slots: _Slots, place: tuple[int, int], drawn_s: float, taken: Container[float]
) -> tuple[float, int]:
    """Find the link's own turn that is nearest to what was drawn, in its cell, else in its slot; also name the cell.

    A slot without one keeps the drawn instant: the lease has the last word.
    """
    slot, cell = place
    begins_s, every_s = slots.begins_s(slot), period_s(share)
    first_s = _next_turn(share, begins_s)
    own = (first_s + number * every_s for number in range(math.ceil((slots.ends_s(slot) - first_s) / every_s)))
    turns = [turn_s for turn_s in own if turn_s not in taken]
    if not turns:
        return drawn_s, cell

    def rank(turn_s: float) -> tuple[bool, float]:
        within = slots.begins_s(slot, cell) <= turn_s < slots.begins_s(slot, cell + 1)
        return not within, abs(turn_s - drawn_s)

    best_s = min(turns, key=rank)
    return best_s, min(int((best_s - begins_s) / (slots.slot_s / slots.cells)), slots.cells - 1)


def _draw(*key: object) -> float:
    """Draw evenly from [0, 1), by the key alone."""
    text = "/".join(map(str, key)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") / 2**64
