"""Which throughput runs a link makes on a plan day. Pure: the same answer for the same books, also after a restart.

A job asks for N runs a day, and the plan day is cut into N slots. On each day a slot is run in one of its hours: that
which the link's jobs, all together, served least in this plan month, so that every hour has its turn even where few
runs a month can be paid for. Within the hour the instant is drawn evenly by probe and date, so that probes spread. A
run that was planned and not made counts half, so that an hour at which the probe never has power is tried again and
does not hold up the rest.

Links that share test servers may each have a place among them (`Share`). Time is then cut into turns, the same for all;
a turn belongs to every n-th place, so that no more links than the servers have room for ever have the same one. A run
begins at a turn of its own link, in the hour served least of those that have one. As n turns are no part of an hour, a
link's turns wander through all minutes of the hour.

The day may spend what is left of the month for each of its remaining days. When that is short, uploads go first, then
runs of the shortest job, then of longer ones; of a job that is thinned the slots go whose hours were served best, so
that no hour is lost for good.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from agent import run_cost
from agent.plan import Claim, day_begins, limit_bytes, plan_month, zone_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import date, tzinfo

    from agent.plan import Spent
    from agent.settings import Plan, Share

_HOUR_S: Final = 3600.0
_NOT_MADE: Final = 0.5
_WITHOUT_FIGURES: Final = 0.25
"""What a run counts that was not made, or came to no figures: its hour is tried again sooner, and not for ever."""
_TURNS_AN_HOUR: Final = 80
"""Of 45 s: guard, echoes, download, pause, upload, and what a slow link adds."""
TURN_S: Final = _HOUR_S / _TURNS_AN_HOUR
_LATE_S: Final = 10.0
"""By how much a run may begin after its turn did; later it would run into the next one."""
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
    """A planned run whose time has come: it was made, or not. `hour`: the local hour of the day that it was to serve.

    `run_bytes`: what it moved, None where it came to no figures; of one that was cut short what it would have moved.
    """

    job: str
    day: date
    slot: int
    hour: int
    upload: bool
    run_bytes: int | None
    made: bool = True
    cut_short: bool = False


class Planned(NamedTuple):
    """A run to make: from `at_s` (Unix seconds) until its slot ends at `until_s`; `hour` is the local one of `at_s`."""

    at_s: float
    until_s: float
    job: str
    slot: int
    hour: int
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
    day's share of the month. `beside_bytes` of it are left to what else crosses the link.
    """

    day: date
    begins: datetime
    ends: datetime
    days_left: int
    allowance_bytes: int | None
    day_binds: bool
    beside_bytes: int
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
    may_move = allowance.left_bytes if allowance is not None else None
    day_binds = allowance is not None and allowance.day_binds
    exact = may_move is not None and (days_left == 1 or day_binds)
    beside = _beside_tests(plan, spent, visits, may_move) if may_move is not None and exact else 0.0
    aim = may_move - beside if may_move is not None else None
    costs = {wish: run_cost.both(wish, visits, day, room_bytes=aim) for wish in wishes}
    if aim is not None and exact:
        aim = _careful(costs, aim, visits)
    counts = _shrunk(costs, aim, lambda job, value: _rounded((*names, job), day, value, exact=exact))
    if aim is not None and exact:
        counts = _topped_up(counts, costs, aim)
    served = _Served(visit for visit in visits if first <= visit.day < day)
    runs: list[Planned] = []
    dropped: list[Dropped] = []
    for wish in wishes:
        count, uploads = counts[wish]
        key = (*names, wish.job, day.isoformat())
        slots = _Slots(wish.runs_per_day, begins.timestamp(), ends.timestamp(), zone_of(plan))
        taken = {run.at_s for run in runs}
        instants = {slot: _instants((*key, slot), slots, slot, share, taken) for slot in range(wish.runs_per_day)}
        for slot, (hour, at_s), upload in _runs(key, instants, (count, uploads), served):
            run_bytes = round(costs[wish][int(upload)])
            runs.append(Planned(at_s, slots.begins_s(slot + 1), wish.job, slot, hour, upload, run_bytes))
        lost = Dropped(wish.job, wish.runs_per_day - count, (count if wish.upload else 0) - uploads, wish.runs_per_day)
        if lost.runs or lost.uploads:
            dropped.append(lost)
    return DayPlan(
        day,
        begins,
        ends,
        days_left,
        int(may_move) if may_move is not None else None,
        day_binds,
        int(beside),
        tuple(sorted(runs)),
        tuple(dropped),
    )


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


def _beside_tests(plan: Plan, spent: Spent, visits: Sequence[Visit], may_move: float) -> float:
    """Expect what else will cross the link on a day: telemetry's share, or what did on the usual day of this month.

    That is their median, and at most half of what the day may move: one day of something else must not end the tests
    of those that follow. Of a day on which a run was cut short it is not known what its tests moved.
    """
    tests: defaultdict[str, int] = defaultdict(int)
    unknown: set[str] = set()
    for visit in visits:
        tests[visit.day.isoformat()] += visit.run_bytes or 0
        if visit.cut_short:
            unknown.add(visit.day.isoformat())
    seen = sorted(moved - tests[name] for name, moved in spent.before if name not in unknown)
    share = (plan.quota_day_mb or 0) * 1e4 * plan.telemetry_percent
    return min(max(share, seen[(len(seen) - 1) // 2] if seen else 0.0), may_move / 2)


def _careful(costs: Mapping[Wish, tuple[float, float]], allowance: float, visits: Sequence[Visit]) -> float:
    """Return what a day that is held to its allowance should plan to move, so that its last run is seldom cut short.

    That is less by half a standard deviation of the sum of the runs, but not less than the longest run that fits.
    """
    whole = sum(wish.runs_per_day * both for wish, (_, both) in costs.items())
    variance = sum(wish.runs_per_day * (run_cost.spread(wish, visits) * both) ** 2 for wish, (_, both) in costs.items())
    margin = math.sqrt(variance * min(1.0, allowance / whole)) / 2
    longest = max((down for down, _ in costs.values() if down <= allowance), default=0.0)
    return max(allowance - margin, longest)


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


def _topped_up(
    counts: Mapping[Wish, tuple[int, int]], costs: Mapping[Wish, tuple[float, float]], allowance: float
) -> dict[Wish, tuple[int, int]]:
    """Spend what rounding down has left, the longest first: what does not buy one of these may buy a shorter one."""
    left = allowance - sum(
        runs * down + uploads * (both - down)
        for (runs, uploads), (down, both) in zip(counts.values(), costs.values(), strict=True)
    )
    found = dict(counts)
    for wish in sorted(costs, key=lambda wish: (wish.length_s, wish.job), reverse=True):
        runs, uploads = found[wish]
        more = min(wish.runs_per_day - runs, math.floor(max(0.0, left) / costs[wish][0]))
        left -= more * costs[wish][0]
        found[wish] = (runs + more, uploads)
    return found


def _rounded(key: tuple[str, ...], day: date, value: float, *, exact: bool) -> int:
    """Round so that the mean over days is `value` and the days that get more are spread evenly; `exact`: never up."""
    shift = 1e-9 if exact else (_GOLDEN * day.toordinal() + _draw(*key)) % 1
    return math.floor(value + shift)


class _Slots(NamedTuple):
    """A plan day cut into so many slots."""

    number: int
    day_begins_s: float
    day_ends_s: float
    zone: tzinfo

    def begins_s(self, slot: int) -> float:
        return self.day_begins_s + slot * (self.day_ends_s - self.day_begins_s) / self.number

    def hour(self, at_s: float) -> int:
        return datetime.fromtimestamp(at_s, self.zone).hour

    def hours(self, slot: int) -> Iterator[tuple[float, float]]:
        """Cut a slot where the local clock strikes; yield begin and end of each piece."""
        at_s, end_s = self.begins_s(slot), self.begins_s(slot + 1)
        while at_s < end_s:
            local = datetime.fromtimestamp(at_s, self.zone)
            strikes_s = at_s + _HOUR_S - (local.minute * 60 + local.second + local.microsecond / 1e6)
            yield at_s, min(strikes_s, end_s)
            at_s = strikes_s


class _Served:
    """How often hours, and each job's slots and hours, were served."""

    def __init__(self, visits: Iterable[Visit]) -> None:
        self.hours: defaultdict[int, float] = defaultdict(float)
        self.job_hours: defaultdict[tuple[str, int], float] = defaultdict(float)
        self.slots: defaultdict[tuple[str, int], float] = defaultdict(float)
        self.uploads: defaultdict[tuple[str, int], int] = defaultdict(int)
        for visit in visits:
            whole = visit.run_bytes is not None and not visit.cut_short
            weight = 1.0 if whole else _WITHOUT_FIGURES if visit.made else _NOT_MADE
            self.add(visit.job, visit.hour, weight)
            self.slots[visit.job, visit.slot] += weight
            self.uploads[visit.job, visit.slot] += visit.upload

    def add(self, job: str, hour: int, weight: float) -> None:
        """Count a run in an hour."""
        self.hours[hour] += weight
        self.job_hours[job, hour] += weight


class _Instant(NamedTuple):
    hour: int
    at_s: float


def _instants(
    key: tuple[object, ...], slots: _Slots, slot: int, share: Share | None, taken: Iterable[float]
) -> list[_Instant]:
    """List when a slot may be run: one instant drawn in each of its hours, or with a `share` the link's own turns.

    A slot without an own turn has the drawn ones: the lease has the last word.
    """
    own_s: list[float] = []
    if share is not None:
        at_s, end_s = _next_turn(share, slots.begins_s(slot)), slots.begins_s(slot + 1)
        while at_s < end_s:
            own_s += [at_s] if at_s not in taken else []
            at_s += period_s(share)
    drawn_s = own_s or [begin_s + _draw(*key, begin_s) * (end_s - begin_s) for begin_s, end_s in slots.hours(slot)]
    return [_Instant(slots.hour(at_s), at_s) for at_s in drawn_s]


def _runs(
    key: tuple[str, ...], instants: Mapping[int, Sequence[_Instant]], counts: tuple[int, int], served: _Served
) -> Iterator[tuple[int, _Instant, bool]]:
    """Choose slots and instants; yield slot, instant, upload. `key` names probe, link, job, day."""
    job = key[-2]

    def need(slot: int) -> tuple[float, float, float]:
        least = min(served.hours[hour] for hour, _ in instants[slot])
        return least, served.slots[job, slot], _draw(*key, "order", slot)

    chosen = sorted(instants, key=need)[: counts[0]]
    with_upload = sorted(chosen, key=lambda slot: (served.uploads[job, slot], _draw(*key, "order", slot)))[: counts[1]]
    for slot in chosen:
        found = min(
            instants[slot],
            key=lambda one: (served.hours[one.hour], served.job_hours[job, one.hour], _draw(*key, one.at_s)),
        )
        served.add(job, found.hour, 1.0)
        yield slot, found, slot in with_upload


def _draw(*key: object) -> float:
    """Draw evenly from [0, 1), by the key alone."""
    text = "/".join(map(str, key)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") / 2**64
