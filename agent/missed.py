"""Runs that were wanted and never begun become results too: a gap in the figures is a fact with a reason.

Before anything is run, every turn that has ended since the last look is called up. It was run, or it is missed: the
probe had no power, another run took too long, the quota was spent. How far the calling has come is kept in the spool
(`agent.deferred.Account`) in the commits of the results themselves, so that after a power cut the results that it took
with it are among the missed.
"""

from __future__ import annotations

import logging
import math
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from typing import TYPE_CHECKING, Final, NamedTuple

from agent.deferred import Account
from agent.ledger import Visit
from agent.plan import day_begins
from agent.schedule import Periodic, instant_s
from wire.events import Missed
from wire.reasons import Unmade
from wire.results import Job

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from agent.planner import Planned, Wish
    from agent.runner import Runner
    from agent.settings import Link, Settings
    from agent.spool import Spool

log = logging.getLogger(__name__)

SLOTS_A_DAY: Final = 1000
"""Numbers kept free for the planned slots of one day: a slot's number is the day's ordinal times this, plus its own."""
_LONGEST_S: Final = 400 * 86_400.0
"""A longer absence is a clock that was far off: nobody wanted runs all that time."""
_TOLD_EVERY_S: Final = 3600.0
_PLANS_EVERY_S: Final = 60.0

Key = tuple[str, str]


class Now(NamedTuple):
    """The present, in Unix seconds by today's clock: now, when the agent began, since when its clock has been right."""

    now_s: float
    began_s: float
    right_since_s: float
    passed: Mapping[Key, int]
    """For each (job, link): the last slot that was let go because the quota was spent."""


class RollCall:
    """Calls up what should have been run. For the thread that measures."""

    def __init__(self, settings: Settings, spool: Spool, runner: Runner) -> None:
        self._settings = settings
        self._spool = spool
        self._runner = runner
        self._called: dict[Key, int] = {}
        self._planned_at_s = 0.0
        self.no_storage = False
        """Whether runs were given up because the disk took no note of them."""

    def call(self, now: Now) -> None:
        """Spool a `Missed` for what was missed since the last call; raise StorageError."""
        noted = self._spool.accounts() if not self._called else {}
        fresh: list[Account] = []
        for job in self._settings.jobs:
            for link in self._settings.links_of(job):
                if job.every_s is not None:
                    fresh += self._call_periodic(Periodic(job.name, link.name, job.every_s), now, noted)
        if fresh:
            self._spool.account(*fresh)
        if abs(now.now_s - self._planned_at_s) >= _PLANS_EVERY_S:
            self._planned_at_s = now.now_s
            for link in self._settings.links:
                self._call_planned(link, now, noted)

    def _call_periodic(self, what: Periodic, now: Now, noted: Mapping[Key, Account]) -> list[Account]:
        """Call one job's slots; return where the calling begins for a job that is new."""
        key, present = (what.job, what.link), int(now.now_s // what.every_s)
        called, fresh = self._called.get(key), list[Account]()
        if called is None:
            called = _resumed(noted.get(key), what.every_s)
        if called is None or (present - called) * what.every_s > _LONGEST_S:
            called = self._first_slot(now.began_s, what) - 1
            fresh = [Account(*key, what.every_s, called)]
        ran = self._runner.ran.get(key)
        if ran is not None and called < ran <= present:
            self._tell_periodic(what, called + 1, ran, now)
            called = ran
        if called + 1 < present and not self._may_wait(what, called, present, now):
            self._tell_periodic(what, called + 1, present, now)
            called = present - 1
        self._called[key] = min(called, present)
        return fresh

    @staticmethod
    def _may_wait(what: Periodic, called: int, present: int, now: Now) -> bool:
        """While the quota keeps a job from running, that is told once an hour and not with every slot."""
        passing = now.passed.get((what.job, what.link), -1) >= present - 1
        return passing and (present - 1 - called) * what.every_s < _TOLD_EVERY_S

    def _tell_periodic(self, what: Periodic, first: int, end: int, now: Now) -> None:
        """Tell the slots from `first` until before `end`, cut where the reason changes."""
        off = min(max(self._first_slot(now.began_s, what), first), end)
        wrong = min(max(self._first_slot(now.right_since_s, what), off), end)
        spent = now.passed.get((what.job, what.link), -1) >= wrong
        for begin, until, reason in (
            (first, off, Unmade.AGENT_OFF),
            (off, wrong, Unmade.CLOCK_SET),
            (wrong, end, self._reason(spent=spent)),
        ):
            if begin < until:
                account = Account(what.job, what.link, what.every_s, until - 1)
                self._tell(account, until - begin, (begin * what.every_s, until * what.every_s), reason, now)

    def _call_planned(self, link: Link, now: Now, noted: Mapping[Key, Account]) -> None:
        """Call the runs that the link's data plan wanted, day by day."""
        budget = self._runner.budget
        today = budget.day(link).toordinal()
        for wish in budget.wishes(link):
            key = (wish.job, link.name)
            called = self._called.get(key)
            if called is None:
                called = _resumed(noted.get(key), 0)
            if called is None or not 0 <= today - called // SLOTS_A_DAY <= _LONGEST_S / 86_400:
                runs = self._runs(link, wish.job, today)
                called = max(
                    (number for number, run in runs if run.at_s < now.began_s), default=today * SLOTS_A_DAY - 1
                )
            missed: list[tuple[int, Planned]] = []
            for day in range((called + 1) // SLOTS_A_DAY, today + 1):
                made = {visit.slot for visit in budget.made_on(link, day) if visit.job == wish.job}
                for number, run in self._runs(link, wish.job, day):
                    if number > called and run.until_s <= now.now_s:
                        called = number
                        missed += [(day, run)] if run.slot not in made else []
            over = _last_over(link, wish, today, now.now_s)
            self._called[key] = max(called, over)
            if over > called and not missed:
                self._spool.account(Account(*key, 0, over))
            self._tell_planned(link, key, missed, now)

    def _runs(self, link: Link, job: str, day: int) -> Iterator[tuple[int, Planned]]:
        runs = [run for run in self._runner.budget.runs_of_day(link, day) if run.job == job]
        return ((day * SLOTS_A_DAY + run.slot, run) for run in sorted(runs, key=lambda run: run.slot))

    def _tell_planned(self, link: Link, key: Key, missed: list[tuple[int, Planned]], now: Now) -> None:
        def reason(one: tuple[int, Planned]) -> Unmade:
            run = one[1]
            if run.at_s < now.began_s:
                return Unmade.AGENT_OFF
            if run.at_s < now.right_since_s:
                return Unmade.CLOCK_SET
            day = now.passed.get(key, -1) // SLOTS_A_DAY
            return self._reason(spent=day == self._runner.budget.day(link).toordinal())

        for why, group in groupby(missed, reason):
            days, runs = zip(*group, strict=True)
            gone = tuple(
                Visit(date.fromordinal(day).isoformat(), run.slot, run.hour, run.upload)
                for day, run in zip(days, runs, strict=True)
            )
            account = Account(*key, 0, self._called[key], gone)
            self._tell(account, len(runs), (runs[0].at_s, runs[-1].until_s), why, now)

    def _reason(self, *, spent: bool) -> Unmade:
        if spent:
            return Unmade.PLAN_SPENT
        if self.no_storage:
            self.no_storage = False
            return Unmade.NO_STORAGE
        return Unmade.TURN_MISSED

    def _tell(self, account: Account, count: int, span: tuple[float, float], reason: Unmade, now: Now) -> None:
        first, last = (datetime.fromtimestamp(second, UTC) for second in span)
        log.info("%s on %s: %d runs not made, %s", account.job, account.link, count, reason)
        measurement = str(type(self._settings.job(account.job)).__struct_config__.tag)
        self._runner.keep(
            account.link,
            Missed(count=count, first=first, last=last, reason=reason),
            started_at=datetime.fromtimestamp(now.now_s, UTC),
            elapsed_s=0.0,
            job=Job(name=account.job, measurement=measurement),
            account=account,
        )

    def _first_slot(self, from_s: float, what: Periodic) -> int:
        """Find the first slot whose instant is not before `from_s`."""
        slot = int(from_s // what.every_s)
        return slot + 1 if instant_s(self._settings.probe_id, what, slot) < from_s else slot


def _last_over(link: Link, wish: Wish, today: int, now_s: float) -> int:
    """Give the number of the day's last slot that is over, planned or not.

    What was called is not asked of the books again: they may be another SIM's by then. A second is left for rounding.
    """
    day = date.fromordinal(today)
    begins_s = day_begins(link.plan, day).timestamp()
    length_s = day_begins(link.plan, day + timedelta(days=1)).timestamp() - begins_s
    return today * SLOTS_A_DAY + math.floor((now_s - 1.0 - begins_s) / length_s * wish.runs_per_day) - 1


def _resumed(account: Account | None, every_s: int) -> int | None:
    """Read a slot that was noted, in slots of `every_s`: the job's period may have been changed since."""
    if account is None or (account.every_s == 0) != (every_s == 0):
        return None
    if account.every_s == every_s:
        return account.slot
    return (account.slot + 1) * account.every_s // every_s - 1
