"""The throughput runs that are to come on a link, and what its plan will say to each if all goes as expected.

What others move over the link until then is not foreseen, nor what a run moves more or less than such runs did.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from agent.budget import Costs, Grant, allowed, costs_of
from agent.plan import Claim, Room, Spent, day_begins, room
from agent.planner import Visit
from agent.schedule import Periodic, instant_s
from agent.settings import ThroughputJob

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from agent.budget import Budget
    from agent.planner import Planned
    from agent.settings import Link, Settings


class Coming(NamedTuple):
    """A run to come at `at_s` (Unix seconds), with what the plan will say to it; a Room is a refusal."""

    at_s: float
    job: str
    wants_upload: bool
    said: Grant | Room
    costs: Costs

    @property
    def upload(self) -> bool:
        """Whether it will be made with its upload."""
        return self.wants_upload and isinstance(self.said, Grant) and self.said.upload

    @property
    def run_bytes(self) -> int:
        """What it is expected to move."""
        return 0 if isinstance(self.said, Room) else round(self.costs.both if self.upload else self.costs.down)


def foresee(
    settings: Settings,
    link: Link,
    budget: Budget,
    *,
    visits: list[Visit],
    last_slots: Mapping[tuple[str, str], int],
    now_s: float,
) -> Iterator[list[Coming]]:
    """Yield the runs of each plan day from `now_s` on, in order: first the rest of the present day. It never ends.

    `visits` are the link's so far, `last_slots` the last slot that each (job, link) ran.
    """
    jobs = {job.name: job for job in settings.jobs if isinstance(job, ThroughputJob) and link in settings.links_of(job)}
    day, spent, visits, from_s = budget.day(link), budget.spent(link), list(visits), now_s
    while True:
        ends_s = day_begins(link.plan, day + timedelta(days=1)).timestamp()
        wanted: list[tuple[float, str, bool, Planned | None]] = []
        if budget.wishes(link):
            begun = {(visit.job, visit.slot) for visit in visits if visit.made and visit.day == day}
            runs = budget.plan_of(link, day, spent, visits).runs
            to_come = [run for run in runs if run.at_s >= from_s and (run.job, run.slot) not in begun]
            wanted += [(run.at_s, run.job, run.upload, run) for run in to_come]
        for job in jobs.values():
            if job.every_s is not None:
                what, last = Periodic(job.name, link.name, job.every_s), last_slots.get((job.name, link.name))
                instants = _instants(settings.probe_id, what, last, from_s, ends_s)
                wanted += [(at_s, job.name, job.options.upload, None) for at_s in instants]
        found: list[Coming] = []
        for at_s, name, upload, run in sorted(wanted, key=lambda one: one[:2]):
            left = room(link.plan, spent, Claim.SCHEDULE)
            costs = costs_of(jobs[name], visits, day, left)
            found.append(coming := Coming(at_s, name, upload, allowed(left, costs, upload=upload), costs))
            spent = Spent(spent.day_bytes + coming.run_bytes, spent.month_bytes + coming.run_bytes, spent.before)
            if run is not None and coming.run_bytes:
                visits.append(Visit(name, day, run.slot, run.hour, coming.upload, coming.run_bytes))
        yield found
        from_s, (day, spent) = ends_s, budget.day_after(link, day, spent)


def _instants(probe_id: str, what: Periodic, last_slot: int | None, from_s: float, until_s: float) -> Iterator[float]:
    """Yield when a job with a period is due in [`from_s`, `until_s`)."""
    for slot in range(int(from_s // what.every_s), int(until_s // what.every_s) + 1):
        if slot != last_slot and from_s <= (at_s := instant_s(probe_id, what, slot)) < until_s:
            yield at_s
