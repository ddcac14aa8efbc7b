"""Keeps a probe's books: what each link's interface carried, what the plan leaves, and which runs that buys today.

The counting is in `agent.meter`, the plan in `agent.plan`, the choice of runs in `agent.planner`; here they meet the
clock, the counters and the spool. For the thread that measures, and no other.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from agent import path, run_cost
from agent.hindsight import book_again, note
from agent.ledger import Booking
from agent.meter import grown_bytes, same_counters
from agent.plan import Claim, Room, Spent, day_begins, nothing_left, plan_day, plan_month, room, still_holds
from agent.planner import Wish, next_of_day, plan_of_day
from agent.settings import ThroughputJob
from wire.events import PlanState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.clock import Clock
    from agent.hindsight import Noted
    from agent.meter import Meter
    from agent.planner import DayPlan, Planned, Visit
    from agent.settings import Job, Link, Settings
    from agent.spool import Spool

log = logging.getLogger(__name__)

WORTH_A_COMMIT_BYTES: Final = 1_000_000
"""Less than this is booked with the next result, to spare the card."""


class Grant(NamedTuple):
    """What the plan lets a run do: move so many bytes (None: any), with its upload or without."""

    left_bytes: int | None
    upload: bool


class Costs(NamedTuple):
    """What a run is expected to move, in bytes: without its upload, and with it."""

    down: float
    both: float


def costs_of(job: Job, visits: Sequence[Visit], day: date, found: Room | None) -> Costs:
    """Expect what a job's run moves on a day; a job that cannot be cut short has to find a byte.

    Of a planned job that was never run, `found` is enough for a first one: the planner learns from it.
    """
    if not isinstance(job, ThroughputJob):
        return Costs(1.0, 1.0)
    wish = Budget.wish(job)
    tried = found.left_bytes if found is not None and job.runs_per_day is not None else None
    return Costs(
        run_cost.expect(wish, visits, day, upload=False, room_bytes=tried),
        run_cost.expect(wish, visits, day, upload=True),
    )


def allowed(found: Room | None, costs: Costs, *, upload: bool) -> Grant | Room:
    """Let a run begin, without its upload where that has to be saved, or say what is used up."""
    if found is None:
        return Grant(None, upload)
    if found.left_bytes < costs.down:
        return found
    return Grant(found.left_bytes, upload and found.left_bytes >= costs.both)


class Budget:
    """The books of all links of a probe."""

    def __init__(self, settings: Settings, spool: Spool, clock: Clock) -> None:
        """Take what is needed; nothing is read yet."""
        self._settings = settings
        self._spool = spool
        self._clock = clock
        self._read: dict[str, Meter] = {}
        self._pending: defaultdict[str, int] = defaultdict(int)
        self._noted: dict[str, list[Noted]] = {}
        self._sims: dict[str, str] = {}

    # --- counting -----------------------------------------------------------------------------------------------------

    def observe(self, link: Link) -> Meter | None:
        """Read the link's counters and note what they have grown; raise StorageError at the first look."""
        now = path.meter(link.interface, link.namespace)
        if now is None:
            return None
        earlier = self._read.get(link.name) or self._spool.meter(link.name) or self._take_over(link, now)
        if earlier is not None:
            self._note(link, grown_bytes(earlier, now))
        else:
            booted_at = self._clock.now() - timedelta(seconds=now.uptime_s)
            if booted_at >= day_begins(link.plan, self._month(link)[0]):
                self._note(link, now.both_bytes)  # all of it was carried in this plan month
        self._read[link.name] = now
        return now

    def _take_over(self, link: Link, now: Meter) -> Meter | None:
        """Take over the books of a link that is no more and had these counters: it has another name now."""
        former = self._spool.metered() - {one.name for one in self._settings.links}
        found = [(one, name) for name in former if (one := self._spool.meter(name)) and same_counters(one, now)]
        if not found:
            return None
        reading, name = max(found, key=lambda one: one[0].uptime_s)
        self._spool.rename(name, link.name, self.day(link).isoformat())
        return reading

    def booking(self, link: Link) -> Booking:
        """Return what is to be booked now; when the disk has taken it, call `booked`."""
        self.observe(link)
        return self._unbooked(link)

    def _unbooked(self, link: Link) -> Booking:
        return Booking(link.name, self.day(link).isoformat(), self._pending[link.name], self._read.get(link.name))

    def booked(self, booking: Booking) -> None:
        """Take off what the disk has."""
        self._pending[booking.link] -= booking.grown_bytes

    def tick(self) -> None:
        """Look at every link's counters and book what is worth a commit; raise StorageError."""
        bookings = [self.booking(link) for link in self._settings.links]
        due = [
            one
            for one in bookings
            if one.grown_bytes >= WORTH_A_COMMIT_BYTES
            or (one.meter is not None and self._spool.meter(one.link) is None)
        ]
        if due:
            self._spool.book(*due)
            for one in due:
                self.booked(one)

    def close(self) -> None:
        """Book everything; raise StorageError."""
        bookings = [self.booking(link) for link in self._settings.links]
        self._spool.book(*bookings)
        for one in bookings:
            self.booked(one)

    def clock_was_set(self) -> None:
        """Book on its day as well what was carried today, or this month, and counts on another; raise StorageError."""
        now, now_s = self._clock.now(), self._clock.monotonic_s()
        bookings: list[Booking] = []
        after: dict[str, list[Noted]] = {}
        for link in self._settings.links:
            missing, after[link.name] = book_again(self._noted.get(link.name, ()), now, now_s, link.plan)
            bookings += [Booking(link.name, day.isoformat(), count) for day, count in missing.items()]
        if bookings:
            self._spool.book(*bookings)
        self._noted = after

    def sim_seen(self, link: Link, sim: str | None) -> bool:
        """Keep the books of the SIM that is there (`sim`: its hashed number, None: not known); raise StorageError.

        Return whether that changes the link's books: those of a SIM that is replaced are laid aside, those of this one
        come from where it was, or begin anew. What a link's counters have grown by since the last look at them is the
        next SIM's. No counters are read here: a look is made inside its link's namespace, others live elsewhere.
        """
        if sim is None or self._sims.get(link.name) == sim:
            return False
        bookings = [self._unbooked(one) for one in self._settings.links]
        changed = self._spool.change_sim(link.name, sim, self.day(link).isoformat(), *bookings)
        for one in bookings:
            self.booked(one)
        self._sims = {name: known for name, known in self._sims.items() if known != sim} | {link.name: sim}
        for name in changed:
            self._noted.pop(name, None)
        if link.name not in changed:
            return False
        spent_mb = self.spent(link).month_bytes / 1e6
        log.warning("%s: another SIM than before; in this month of its plan it has spent %.0f MB", link.name, spent_mb)
        return True

    def cut_off(self, link: Link, job: Job) -> None:
        """Charge a run that ended with the power: its counters are gone, so it is charged what such runs cost."""
        meter = self._spool.meter(link.name)
        if isinstance(job, ThroughputJob) and (meter is None or meter.boot_id != path.boot_id()):
            visits = self._spool.visits(link.name)
            self._note(link, round(run_cost.expect(self.wish(job), visits, self.day(link), upload=job.options.upload)))

    def _note(self, link: Link, grown: int) -> None:
        if grown:
            self._pending[link.name] += grown
            now_s = self._clock.monotonic_s()
            self._noted[link.name] = note(self._noted.get(link.name, ()), now_s, self.day(link), grown)

    # --- asking -------------------------------------------------------------------------------------------------------

    def spent(self, link: Link) -> Spent:
        """Tell what the link has carried in the present plan day and month, booked or not."""
        day = self.day(link)
        booked = self._spool.spent(link.name, day, self._month(link)[0])
        pending = self._pending[link.name]
        return Spent(booked.day_bytes + pending, booked.month_bytes + pending, booked.before)

    def room(self, link: Link, claim: Claim) -> Room | None:
        """Tell what a claim may spend; None without a quota."""
        return room(link.plan, self.spent(link), claim)

    def is_spent(self, link: Link) -> bool:
        """Whether the plan has nothing left now, by our books or the operator's last word, as long as that holds."""
        self.observe(link)
        if nothing_left(link.plan, self.spent(link)):
            return True
        said = self._spool.balance(link.name)
        if said is None or said.remaining_bytes != 0:
            return False
        return still_holds(link.plan, datetime.fromisoformat(said.at), self._clock.now())

    def grant(self, link: Link, job: Job, *, upload: bool, by_hand: bool) -> Grant | Room:
        """Let a run begin, or say what is used up. A test that would be cut short is not begun."""
        if job.claim is None:
            return Grant(None, upload)
        claim = Claim.BY_HAND if by_hand and job.claim is Claim.SCHEDULE else job.claim
        self.observe(link)
        found = self.room(link, claim)
        visits = self._spool.visits(link.name) if found is not None else []
        return allowed(found, costs_of(job, visits, self.day(link), found), upload=upload)

    def day_plan(self, link: Link) -> DayPlan | None:
        """Plan the link's present day; None if no job leaves its runs to the plan."""
        return self.plan_of(link, self.day(link), self.spent(link)) if self.wishes(link) else None

    def day_after(self, link: Link, day: date, spent: Spent) -> tuple[date, Spent]:
        """Name the plan day after a day, and what is spent as it begins, if so much is as the day ends."""
        following = day + timedelta(days=1)
        if following == plan_month(link.plan, day)[1]:
            return following, Spent(0, 0)
        return following, Spent(0, spent.month_bytes, (*spent.before, (day.isoformat(), spent.day_bytes)))

    def runs_of_day(self, link: Link, ordinal: int) -> tuple[Planned, ...]:
        """Return the runs that the link's plan has, or had, for a day given by its ordinal."""
        day = date.fromordinal(ordinal)
        booked = self._spool.spent(link.name, day, plan_month(link.plan, day)[0])
        return self.plan_of(link, day, booked).runs

    def plan_of(self, link: Link, day: date, spent: Spent, visits: Sequence[Visit] | None = None) -> DayPlan:
        """Plan any day of a link, by what is spent then and the visits until then (None: those that are noted)."""
        names, known = (self._settings.probe_id, link.name), visits or self._spool.visits(link.name)
        return plan_of_day(names, link.plan, day, wishes=self.wishes(link), spent=spent, visits=known, share=link.share)

    def made_on(self, link: Link, ordinal: int) -> list[Visit]:
        """List the planned runs that were begun on a day given by its ordinal."""
        return [visit for visit in self._spool.visits(link.name) if visit.made and visit.day.toordinal() == ordinal]

    def made(self, link: Link, plan: DayPlan) -> list[Visit]:
        """List the planned runs of the day that were begun."""
        return [visit for visit in self._spool.visits(link.name) if visit.made and visit.day == plan.day]

    def wishes(self, link: Link) -> list[Wish]:
        """List what jobs want of the link's plan."""
        return [
            self.wish(job)
            for job in self._settings.jobs
            if isinstance(job, ThroughputJob) and job.runs_per_day is not None and link in self._settings.links_of(job)
        ]

    def state(self, link: Link) -> PlanState | None:
        """Sum up for those who watch; None where there is neither a quota nor a plan of runs."""
        plan, day_plan = link.plan, self.day_plan(link)
        if day_plan is None and plan.quota_day_mb is None and plan.quota_month_mb is None:
            return None
        spent, left = self.spent(link), self.room(link, Claim.SCHEDULE)
        by_hand, balance = self.room(link, Claim.BY_HAND), self._spool.balance(link.name)
        return PlanState(
            day=self.day(link).isoformat(),
            quota_day_mb=plan.quota_day_mb,
            quota_month_mb=plan.quota_month_mb,
            spent_day_bytes=spent.day_bytes,
            spent_month_bytes=spent.month_bytes,
            left_bytes=left.left_bytes if left is not None else None,
            left_by_hand_bytes=by_hand.left_bytes if by_hand is not None else None,
            allowance_bytes=day_plan.allowance_bytes if day_plan is not None else None,
            runs_planned=len(day_plan.runs) if day_plan is not None else 0,
            runs_made=len(self.made(link, day_plan)) if day_plan is not None else 0,
            runs_dropped=sum(lost.runs for lost in day_plan.dropped) if day_plan is not None else 0,
            uploads_dropped=sum(lost.uploads for lost in day_plan.dropped) if day_plan is not None else 0,
            remaining_bytes=balance.remaining_bytes if balance is not None else None,
            balance_doubt=balance.doubt if balance is not None else None,
            next_run_at=self._next_run_at(link, day_plan) if day_plan is not None else None,
        )

    def _next_run_at(self, link: Link, plan: DayPlan) -> datetime | None:
        """Say when the next planned run is due that is paid for, today or tomorrow."""
        now_s = self._clock.now().timestamp()
        refused = {
            name
            for name in {run.job for run in plan.runs}
            if isinstance(self.grant(link, self._settings.job(name), upload=False, by_hand=False), Room)
        }
        passed = [(visit.job, visit.slot) for visit in self.made(link, plan)]
        passed += [(run.job, run.slot) for run in plan.runs if run.job in refused]
        run = next_of_day(plan, passed, now_s=now_s, since_s=now_s, share=link.share)
        if run is None:
            tomorrow = self.plan_of(link, *self.day_after(link, plan.day, self.spent(link)))
            run = next_of_day(tomorrow, [], now_s=now_s, since_s=now_s, share=link.share)
        return datetime.fromtimestamp(run.at_s, UTC) if run is not None else None

    def day(self, link: Link) -> date:
        """Name the link's present plan day."""
        return plan_day(link.plan, self._clock.now())

    @staticmethod
    def wish(job: ThroughputJob) -> Wish:
        """Say what a job asks of a plan."""
        options = job.options
        return Wish(job.name, job.runs_per_day or 1, options.omit_s + options.duration_s, options.upload)

    def _month(self, link: Link) -> tuple[date, date]:
        return plan_month(link.plan, self.day(link))
