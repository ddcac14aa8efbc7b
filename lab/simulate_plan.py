"""`probe-lab simulate plan`: a month of a fleet's data plans in seconds, by the agent's own planner and books.

Planner, plan days and the reading of counters are the agent's; simulated are the links: how fast they are, what else
crosses them, when the power is away, and how their counters reboot, come anew and wrap. What is counted for the table
is the truth of the simulated links, not the agent's books.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import sys
from collections import Counter
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from agent import run_cost
from agent.meter import Meter, grown_bytes
from agent.plan import Claim, Spent, day_begins, limit_bytes, plan_day, plan_month, room, zone_of
from agent.planner import Visit, Wish, next_of_day, plan_of_day
from agent.settings import Plan, Share
from base.table import render
from lab.numbers import whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_EXAMPLES: Final = """\
examples:
  probe-lab simulate plan                          300 links, 30 days, one table
  probe-lab simulate plan --links 1000 --ports 12
  probe-lab simulate plan --drawn                  no link has a place in the group: all instants are drawn by hash
  probe-lab simulate plan --json --check           one object; exit 1 when a goal is missed
"""
_FIRST_DAY: Final = date(2026, 6, 1)
_RUN_S: Final = 24.0
"""How long a run keeps a port busy, down and up."""
_STEP_S: Final = 45
_ALL_HOURS_FROM: Final = 30
"""Runs with figures in a month from which on all 24 hours of the day must have their turn: one a day."""
_ALL_WEEKDAYS_FROM: Final = 14
"""The same for the seven weekdays: two a week."""
_LEAST_DAYS: Final = 14
_WISHES: Final = (Wish("light", 8, 6.0, upload=True), Wish("reference", 2, 10.0, upload=True))


class Kind(NamedTuple):
    """A kind of SIM plan that the fleet has, with what it is there to show."""

    name: str
    plan: Plan


KINDS: Final = (
    Kind("60 GB a month", Plan(quota_month_mb=60_000)),
    Kind("30 GB a month", Plan(quota_month_mb=30_000)),
    Kind("10 GB, from the 15th", Plan(quota_month_mb=10_000, reset_day=15)),
    Kind("4 GB, short", Plan(quota_month_mb=4_000)),
    Kind("2 GB a day, 07:00", Plan(quota_day_mb=2_000, reset_at="07:00")),
    Kind("0.3 GB a day, short", Plan(quota_day_mb=300)),
    Kind("0.2 GB a day, short", Plan(quota_day_mb=200)),
    Kind("10 GB, summer time", Plan(quota_month_mb=10_000, time_zone="Europe/Berlin")),
)


@dataclass
class Link:
    """A link with its truth (what crossed it) and the agent's books of it."""

    probe: str
    kind: Kind
    rng: random.Random
    share: Share | None = None
    bits: int = 64
    truth: Counter[date] = field(default_factory=Counter)
    books: Counter[date] = field(default_factory=Counter)
    visits: list[Visit] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    planned: int = 0
    boot: int = 1
    index: int = 3
    began_s: float = 0.0
    received: int = 0
    seen: Meter | None = None

    def __post_init__(self) -> None:
        """Draw the link's nature."""
        self.down_mbps = min(150.0, max(4.0, self.rng.lognormvariate(3.6, 0.6)))
        self.telemetry_mb = self.rng.uniform(1, 4)
        self.bits = self.rng.choice((32, 64))
        self.off = self.rng.randrange(3, 18) if self.rng.random() < 0.15 else None  # noqa: PLR2004  # a share of probes

    def is_off(self, number: int) -> bool:
        """Whether the power is away on this day of the simulation: nine days, for some."""
        return self.off is not None and self.off <= number < self.off + 9

    def carry(self, day: date, byte_count: int, now_s: float) -> None:
        """Let bytes cross the interface; now and then its counters begin anew before."""
        fate = self.rng.random()
        if fate < 0.01:  # noqa: PLR2004  # one time in a hundred each
            self.boot, self.began_s, self.received = self.boot + 1, now_s - 30, 0
        elif fate < 0.02:  # noqa: PLR2004  # the same
            self.index, self.received = self.index + 1, 0
        self.received += byte_count
        self.truth[day] += byte_count
        self.look(day, now_s)

    def look(self, day: date, now_s: float) -> None:
        """Read the counters into the books, as the agent does."""
        now = Meter(
            boot_id=str(self.boot),
            interface_index=self.index,
            uptime_s=now_s - self.began_s,
            received_bytes=self.received % 2**self.bits,
            sent_bytes=0,
        )
        self.books[day] += grown_bytes(self.seen, now) if self.seen is not None else now.both_bytes
        self.seen = now

    def spent(self, day: date) -> Spent:
        """Return what the agent believes."""
        return _sum(self.kind.plan, self.books, day)

    def overrun_bytes(self, day: date) -> int:
        """Return by how much the truth is past a quota, as the operator counts it; 0 where it is not."""
        spent = _sum(self.kind.plan, self.truth, day)
        found = 0
        for quota_mb, used in (
            (self.kind.plan.quota_day_mb, spent.day_bytes),
            (self.kind.plan.quota_month_mb, spent.month_bytes),
        ):
            if quota_mb is not None:
                found = max(found, used - limit_bytes(self.kind.plan, quota_mb, Claim.TELEMETRY))
        return found


def _sum(plan: Plan, counted: Counter[date], day: date) -> Spent:
    first = plan_month(plan, day)[0]
    before = tuple((one.isoformat(), count) for one, count in sorted(counted.items()) if first <= one < day)
    return Spent(counted[day], counted[day] + sum(count for _, count in before), before)


class Row(NamedTuple):
    """What came of one kind of plan. `fewest_made`, hours, weekdays and strata are each those of the worst link."""

    plan: str
    links: int
    wanted: int
    planned: int
    made: int
    with_upload: int
    spent_gb: float
    of_quota_percent: float
    fewest_made: int
    hours: int
    weekdays: int
    fewest_in_3_h: int
    most_in_3_h: int
    overrun_mb: float


class Collisions(NamedTuple):
    """How many runs found every port of the responder group taken when they were due: leases make them wait."""

    ports: int
    runs: int
    no_port_percent: float
    no_port_on_steps_percent: float
    most_at_once: int


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command `plan`; its parser sets `run`."""
    parser = subparsers.add_parser(
        "plan",
        help="a month of SIM plans of a whole fleet, by the agent's planner",
        description="Let a fleet spend its data plans through a month, and say what was measured and what it cost.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--links", type=whole(1, 100_000), default=300, metavar="N")
    parser.add_argument("--days", type=whole(1, 3660), default=30, metavar="N")
    parser.add_argument(
        "--ports", type=whole(1, 1000), default=4, metavar="N", help="ports of the one responder group (default: 4)"
    )
    parser.add_argument("--drawn", action="store_true", help="without places in the group")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--check", action="store_true", help="exit 1 if a quota was passed or an hour or weekday starved"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Simulate and print; return 1 where `--check` finds a goal missed."""
    links = simulate(options.links, options.days, options.seed, room=None if options.drawn else options.ports)
    rows = rows_of(links, options.days)
    collisions = collisions_of(links, options.ports)
    missed = goals_missed(links, options.days)
    if not options.drawn and collisions.no_port_percent:
        missed.append(
            f"{collisions.no_port_percent:.3f} % of the runs find no port free, though every link has its place"
        )
    if options.json:
        report = {
            "links": options.links,
            "days": options.days,
            "plans": [row._asdict() for row in rows],
            "responder": collisions._asdict(),
            "missed": missed,
        }
        sys.stdout.write(json.dumps(report) + "\n")
    else:
        head = [name.replace("_", " ") for name in Row._fields]
        sys.stdout.write(render(head, [tuple(row) for row in rows]) + "\n\n")
        sys.stdout.write(
            f"One responder group, room for {collisions.ports} at once, {collisions.runs} runs, "
            f"{'drawn by hash' if options.drawn else 'each link in its place'}:\n{collisions.most_at_once} at once at "
            f"most, {collisions.no_port_percent:.2f} % find no port free and wait for a lease.\n"
        )
        if options.drawn:
            on_steps = collisions.no_port_on_steps_percent
            sys.stdout.write(f"If all began on common steps of {_STEP_S} s, {on_steps:.2f} % would.\n")
        sys.stdout.write("".join(f"MISSED: {text}\n" for text in missed) or "All goals are met.\n")
    return 1 if options.check and missed else 0


def simulate(count: int, days: int, seed: int, *, room: int | None = None) -> list[Link]:
    """Live through the days; return the links. With `room` each has a place in a group with room for so many."""
    links = [
        Link(
            f"probe-{number}",
            KINDS[number % len(KINDS)],
            random.Random(f"{seed}/{number}"),
            Share(place=number, of=count, room=room) if room is not None else None,
        )
        for number in range(count)
    ]
    for done, link in enumerate(links):
        if sys.stderr.isatty() or done % 100 == 0:
            sys.stderr.write(f"\r{done} of {count} links ...")
        for number in range(days):
            if not link.is_off(number):
                _live(link, _FIRST_DAY + timedelta(days=number))
    sys.stderr.write(f"\r{count} links, {days} days.   \n")
    return links


def _live(link: Link, day: date) -> None:
    plan = link.kind.plan
    begins_s = day_begins(plan, day).timestamp()
    link.carry(day, int(link.telemetry_mb * 1e6), begins_s)
    now_s, planned = begins_s, set[tuple[str, int]]()
    while True:
        spent = link.spent(day)
        day_plan = plan_of_day(
            (link.probe, "sim"), plan, day, wishes=_WISHES, spent=spent, visits=link.visits[-400:], share=link.share
        )
        planned |= {(one.job, one.slot) for one in day_plan.runs}
        made = {(visit.job, visit.slot) for visit in link.visits[-20:] if visit.day == day}
        due = next_of_day(day_plan, made, now_s=now_s, since_s=begins_s, share=link.share)
        if due is None:
            break
        now_s = max(now_s, due.at_s)
        wish = next(wish for wish in _WISHES if wish.job == due.job)
        left = room(plan, spent, Claim.SCHEDULE)
        down = run_cost.expect(
            wish, link.visits[-400:], day, upload=False, room_bytes=left.left_bytes if left else None
        )
        both = run_cost.expect(wish, link.visits[-400:], day, upload=True)
        upload = due.upload and (left is None or left.left_bytes >= both)
        visit = Visit(due.job, day, due.slot, due.hour, upload, None)
        if left is None or left.left_bytes >= down:
            wants = _moves(link, wish, upload=upload)
            moved = wants if left is None else min(wants, left.left_bytes)
            link.carry(day, moved, now_s + _RUN_S)
            visit = visit._replace(
                run_bytes=wants, cut_short=moved < wants
            )  # the agent foresees what was still to come
            if not visit.cut_short:
                link.starts.append(now_s)
        link.visits.append(visit)
        now_s += _RUN_S
    link.planned += len(planned)


def _moves(link: Link, wish: Wish, *, upload: bool) -> int:
    """Draw what a run moves: the link's speed on this day, both directions."""
    mbps = min(150.0, link.down_mbps * link.rng.lognormvariate(0, 0.4))
    return int((wish.length_s + 0.4) * mbps * 1e6 / 8 * 1.05 * (1.35 if upload else 1.0))


def rows_of(links: Iterable[Link], days: int) -> list[Row]:
    """Sum up by kind of plan."""
    of_kind: dict[Kind, list[Link]] = {}
    for link in links:
        of_kind.setdefault(link.kind, []).append(link)
    return [_row(kind, members, days) for kind, members in of_kind.items()]


def _row(kind: Kind, links: Sequence[Link], days: int) -> Row:
    wanted = days * sum(wish.runs_per_day for wish in _WISHES)
    truth = sum(sum(link.truth.values()) for link in links)
    strata = [Counter(hour // 3 for hour in _hours(link)) for link in links]
    quota_mb = (kind.plan.quota_day_mb or 0) * days or (kind.plan.quota_month_mb or 0) * _months(kind.plan, days)
    return Row(
        plan=kind.name,
        links=len(links),
        wanted=wanted * len(links),
        planned=sum(link.planned for link in links),
        made=sum(len(link.starts) for link in links),
        with_upload=sum(
            visit.upload and visit.run_bytes is not None and not visit.cut_short
            for link in links
            for visit in link.visits
        ),
        spent_gb=round(truth / 1e9, 1),
        of_quota_percent=round(100 * truth / (quota_mb * 1e6 * len(links)), 1),
        fewest_made=min(len(link.starts) for link in links),
        hours=min(len(set(_hours(link))) for link in links),
        weekdays=min(len(_weekdays(link)) for link in links),
        fewest_in_3_h=min(min(found[number] for number in range(8)) for found in strata),
        most_in_3_h=max(max(found.values(), default=0) for found in strata),
        overrun_mb=round(max(_overrun(link) for link in links) / 1e6, 3),
    )


def _months(plan: Plan, days: int) -> int:
    return len({plan_month(plan, _FIRST_DAY + timedelta(days=number)) for number in range(days)})


def _hours(link: Link) -> list[int]:
    """Tell the local hour of each run that came to figures."""
    zone = zone_of(link.kind.plan)
    return [datetime.fromtimestamp(at_s, zone).hour for at_s in link.starts]


def _weekdays(link: Link) -> set[int]:
    zone = zone_of(link.kind.plan)
    return {datetime.fromtimestamp(at_s, zone).weekday() for at_s in link.starts}


def _overrun(link: Link) -> int:
    return max((link.overrun_bytes(day) for day in link.truth), default=0)


def goals_missed(links: Iterable[Link], days: int) -> list[str]:
    """Say what went wrong, link by link and plan month by plan month."""
    missed = []
    for link in links:
        here = f"{link.probe} ({link.kind.name})"
        if _overrun(link):
            missed.append(f"{here}: {_overrun(link) / 1e6:.1f} MB past the quota")
        unread = sum(link.truth.values()) - sum(link.books.values())
        if unread > 0:
            missed.append(f"{here}: {unread / 1e6:.1f} MB crossed the link and are not in the books")
        lived = [_FIRST_DAY + timedelta(days=number) for number in range(days) if not link.is_off(number)]
        for month, lived_of_month in Counter(plan_month(link.kind.plan, day)[0] for day in lived).items():
            if lived_of_month >= _LEAST_DAYS:
                missed += [f"{here}: {text}" for text in _starved(link, month)]
    return missed


def _starved(link: Link, month: date) -> list[str]:
    """Name hours and weekdays without a run in a plan month; with fewer runs than hours, at most one hour has two."""
    zone, plan = zone_of(link.kind.plan), link.kind.plan
    starts = [datetime.fromtimestamp(at_s, zone) for at_s in link.starts]
    starts = [start for start in starts if plan_month(plan, plan_day(plan, start))[0] == month]
    made, hours = len(starts), len({start.hour for start in starts})
    weekdays = len({start.weekday() for start in starts})
    found = []
    if weekdays < 7 and made >= _ALL_WEEKDAYS_FROM:  # noqa: PLR2004  # days of the week
        found.append(f"only {weekdays} weekdays have one of {made} runs")
    if hours < (24 if made >= _ALL_HOURS_FROM else min(made, 24) - 1):
        found.append(f"only {hours} hours have one of {made} runs")
    return found


def collisions_of(links: Sequence[Link], ports: int) -> Collisions:
    """Count runs that find no port free when they are due, if all links share one responder group."""
    starts = sorted(at_s for link in links for at_s in link.starts)
    on_steps = [at_s // _STEP_S * _STEP_S for at_s in starts]
    refused, most = _refused(starts, ports)
    refused_on_steps, _ = _refused(on_steps, ports)
    total = max(1, len(starts))
    return Collisions(ports, len(starts), 100 * refused / total, 100 * refused_on_steps / total, most)


def _refused(starts: Iterable[float], ports: int) -> tuple[int, int]:
    """Count starts that find `ports` runs under way, and the most that would run at once if all were let in."""
    busy: list[float] = []
    wanted: list[float] = []
    refused = most = 0
    for at_s in starts:
        while busy and busy[0] <= at_s:
            heapq.heappop(busy)
        while wanted and wanted[0] <= at_s:
            heapq.heappop(wanted)
        heapq.heappush(wanted, at_s + _RUN_S)
        most = max(most, len(wanted))
        if len(busy) >= ports:
            refused += 1
        else:
            heapq.heappush(busy, at_s + _RUN_S)
    return refused, most
