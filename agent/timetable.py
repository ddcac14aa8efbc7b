"""What the agent does next: runs by period (`agent.schedule`) and runs that the data plan allows (`agent.planner`).

It also tells, once a day, what the plan leaves out, and every hour where the plan stands.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from agent.ledger import Visit
from agent.missed import SLOTS_A_DAY, Now, RollCall
from agent.plan import Room, plan_day
from agent.planner import next_of_day
from agent.schedule import Periodic, next_run
from wire.measured import Failed
from wire.reasons import Reason
from wire.results import Job

if TYPE_CHECKING:
    from agent.clock import Clock
    from agent.planner import DayPlan
    from agent.planner import Dropped as LeftOut
    from agent.runner import Runner
    from agent.settings import Link, Settings
    from agent.spool import Spool

log = logging.getLogger(__name__)

CLOCK_STEP_S: Final = 60.0


class Task(NamedTuple):
    """A run to make at `at_s` (Unix seconds); `visit` if the data plan asked for it. Ordered by time."""

    at_s: float
    job: str
    link: str
    slot: int
    visit: Visit | None = None


class Timetable:
    """Finds the next run. Knows when the wall clock was set, and forgets nothing that the spool remembers."""

    def __init__(self, settings: Settings, spool: Spool, runner: Runner, clock: Clock) -> None:
        """Begin now: runs whose instant has passed are let go."""
        self._settings = settings
        self._spool = spool
        self._runner = runner
        self._clock = clock
        self._periodic = [
            Periodic(job.name, link.name, job.every_s)
            for job in settings.jobs
            for link in settings.links_of(job)
            if job.every_s is not None
        ]
        self._since_s = clock.now().timestamp()
        self._began_steady_s = clock.monotonic_s()
        self._offset_s = self._since_s - self._began_steady_s
        self._passed: dict[tuple[str, str], int] = {}
        self._stated: dict[str, str] = {}
        self.roll_call = RollCall(settings, spool, runner)

    def next_run(self) -> tuple[float, Task | None]:
        """Return the time now and the run to make next, None if today has none left; raise StorageError."""
        now_s = self._now_s()
        self._runner.budget.tick()
        if self._runner.timekeeper is None or not self._runner.timekeeper.doubted():
            began_s = self._began_steady_s + self._offset_s
            self.roll_call.call(Now(now_s, began_s, self._since_s, self._passed))
        tasks = [task for link in self._settings.links if (task := self._planned(link, now_s)) is not None]
        if self._periodic:
            done = self._spool.last_slots() | self._passed | self._runner.ran  # what came last, last
            due = next_run(self._settings.probe_id, self._periodic, done, now_s=now_s, since_s=self._since_s)
            tasks.append(Task(due.at_s, due.job, due.link, due.slot))
        return now_s, min(tasks, default=None)

    def passes(self, task: Task) -> bool:
        """Whether a run is let go without a word, because the same quota stopped the same job today already."""
        job, link = self._settings.job(task.job), self._settings.link(task.link)
        grant = self._runner.budget.grant(link, job, upload=False, by_hand=False)
        if not isinstance(grant, Room):
            return False
        what, day = f"{job.name} {Reason.QUOTA_REACHED}", plan_day(link.plan, self._clock.now()).isoformat()
        if not self._spool.told(link.name, what, day):
            self._spool.tell(link.name, what, day)
            return False
        log.info("%s on %s: let go, %s", job.name, link.name, grant)
        self._passed[job.name, link.name] = task.slot
        self._runner.ran.pop((job.name, link.name), None)
        return True

    def _now_s(self) -> float:
        """Read the clock; a wall clock that was set makes us begin anew. Raise StorageError."""
        now_s = self._clock.now().timestamp()
        offset_s = now_s - self._clock.monotonic_s()
        if abs(offset_s - self._offset_s) > CLOCK_STEP_S:
            self._runner.budget.clock_was_set()  # first: while the disk takes no note of it, it is asked again
            log.warning("the clock was set by %+.0f s", offset_s - self._offset_s)
            self._since_s, self._offset_s = now_s, offset_s
        return now_s

    def _planned(self, link: Link, now_s: float) -> Task | None:
        plan = self._runner.budget.day_plan(link)
        self._tell(link, plan)
        if plan is None:
            return None
        made = [(visit.job, visit.slot) for visit in self._runner.budget.made(link, plan)]
        passed = [
            (job, slot % SLOTS_A_DAY)
            for (job, name), slot in self._passed.items()
            if name == link.name and slot // SLOTS_A_DAY == plan.day.toordinal()
        ]
        run = next_of_day(plan, [*made, *passed], now_s=now_s, since_s=self._since_s, share=link.share)
        if run is None:
            return None
        visit = Visit(plan.day.isoformat(), run.slot, run.hour, run.upload)
        return Task(run.at_s, run.job, link.name, plan.day.toordinal() * SLOTS_A_DAY + run.slot, visit)

    def _tell(self, link: Link, plan: DayPlan | None) -> None:
        """Spool what the day leaves out, once a day and job, and where the plan stands, once an hour."""
        now = self._clock.now()
        if plan is not None:
            for lost in plan.dropped:
                self._tell_left_out(link, lost, plan, now)
        hour = datetime.fromtimestamp(now.timestamp() // 3600 * 3600, UTC).isoformat()
        if self._stated.get(link.name) != hour and (state := self._runner.budget.state(link)) is not None:
            self._stated[link.name] = hour
            self._runner.keep(link.name, state, started_at=now, elapsed_s=0.0)

    def _tell_left_out(self, link: Link, lost: LeftOut, plan: DayPlan, now: datetime) -> None:
        what, day = f"{lost.job} {Reason.BUDGET_SHORT}", plan.day.isoformat()
        if self._spool.told(link.name, what, day):
            return
        self._spool.tell(link.name, what, day)
        outcome = Failed(reason=Reason.BUDGET_SHORT, detail=left_out(lost, plan))
        log.info("%s on %s: %s", lost.job, link.name, outcome.detail)
        job = Job(name=lost.job, measurement="throughput")
        self._runner.keep(link.name, outcome, started_at=now, elapsed_s=0.0, job=job)


def left_out(lost: LeftOut, plan: DayPlan) -> str:
    """Say for a person what a day leaves out, and why."""
    parts = [f"{lost.runs} of {lost.of_runs} runs"] if lost.runs else []
    parts += [f"{lost.uploads} uploads"] if lost.uploads else []
    may = (plan.allowance_bytes or 0) / 1e6
    if plan.day_binds:
        why = "by the quota of the day"
    else:
        days = f"the {plan.days_left} days left of the month" if plan.days_left > 1 else "the last day of the month"
        why = f"so that the plan lasts for {days}"
    beside = (
        f"; {plan.beside_bytes / 1e6:.0f} MB of it are left to what else crosses the link" if plan.beside_bytes else ""
    )
    return f"{' and '.join(parts)} left out today: tests may move {may:.0f} MB, {why}{beside}"
