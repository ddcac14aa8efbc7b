"""One day of a probe's schedule, as its agent.yaml has it: which results it makes when, and what it asks for. Pure.

Every run succeeds and every figure is filled in: the most expensive day, but for repetitions on a bad link. The looks
at the radio are thinned by the agent's own code.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, NamedTuple

from agent.plan import Spent
from agent.planner import Wish, plan_of_day
from agent.schedule import Periodic, instant_s
from agent.settings import LatencyJob, PingJob, RadioJob, ThroughputJob
from agent.thinning import Thinner
from lab.wire.results import Maker
from wire.events import PlanState
from wire.measured import Radio

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.settings import Job, Link, Settings
    from wire.results import Result

BEGIN: datetime = datetime(2026, 6, 14, 17, tzinfo=UTC)
"""Midnight of 15 June at UTC+7."""
DAY_S = 86_400.0

Kind = Literal["throughput", "latency", "radio", "plan", "look"]


class Event(NamedTuple):
    """Something that a probe does, `at_s` Unix seconds. `look` is one at the radio that is folded: no result.

    `leases`: how many servers are asked for; None: nobody is asked.
    """

    at_s: float
    kind: Kind
    result: Result | None
    leases: int | None = None


def events(settings: Settings, hours: float = 24.0, *, seed: int = 1) -> list[Event]:
    """Play the schedule from BEGIN on, all links; another odd `seed` fills the results with other figures."""
    found: list[Event] = []
    begin_s = BEGIN.timestamp()
    for number, link in enumerate(settings.links):
        maker = Maker(settings.probe_id, settings.site.id, link.name, seed=2 * number + seed)
        times = sorted(_times(settings, link, begin_s), key=lambda one: one[0])
        found += _of_link(settings, maker, [one for one in times if one[0] < begin_s + 3600 * hours])
    return sorted(found, key=lambda event: event.at_s)


def _times(settings: Settings, link: Link, begin_s: float) -> Iterator[tuple[float, Job | None]]:
    """Give the instants of every job on a link, and of the plan's hourly state (None)."""
    for job in settings.jobs:
        if link not in settings.links_of(job):
            continue
        if job.every_s is not None:
            what = Periodic(job.name, link.name, job.every_s)
            first = int(begin_s // job.every_s)
            slots = range(first, first + int(DAY_S // job.every_s) + 1)
            yield from ((at_s, job) for slot in slots if (at_s := instant_s(settings.probe_id, what, slot)) >= begin_s)
        elif isinstance(job, ThroughputJob):
            wish = Wish(job.name, job.runs_per_day or 0, job.options.duration_s, job.options.upload)
            names, day = (settings.probe_id, link.name), BEGIN.date()
            plan = plan_of_day(names, link.plan, day, wishes=[wish], spent=Spent(0, 0), visits=[])
            shift_s = begin_s - plan.begins.timestamp()
            yield from ((run.at_s + shift_s, job) for run in plan.runs)
    yield from ((begin_s + 3600 * hour + 1, None) for hour in range(24))


def _of_link(settings: Settings, maker: Maker, times: list[tuple[float, Job | None]]) -> Iterator[Event]:
    thinners = {job.name: Thinner(job.thin) for job in settings.jobs if isinstance(job, RadioJob) and job.thin}
    for at_s, job in times:
        match job:
            case ThroughputJob():
                leases = None if settings.servers else job.options.transfers
                yield Event(at_s, "throughput", maker.throughput(at_s, job.name), leases)
            case LatencyJob():
                leases = None if settings.servers or job.host is not None else 0
                yield Event(at_s, "latency", maker.latency(at_s, job.name), leases)
            case RadioJob():
                reading = maker.reading(at_s)
                thinner = thinners.get(job.name)
                record = thinner.look(reading, at_s) if thinner is not None else Radio(reading=reading)
                if record is None:
                    yield Event(at_s, "look", None)
                else:
                    yield Event(at_s, "radio", maker.radio(at_s, job.name, record))
            case None:
                yield Event(at_s, "plan", maker.of_the_link(at_s, _plan_state(at_s)))
            case _:
                measurement = str(type(job).__struct_config__.tag)
                leases = 0 if isinstance(job, PingJob) and job.host is None and not settings.servers else None
                yield Event(at_s, "latency", maker.other(at_s, job.name, measurement), leases)


def _plan_state(at_s: float) -> PlanState:
    spent = int((at_s - BEGIN.timestamp()) * 7919)
    return PlanState(
        day=f"{BEGIN:%Y-%m-%d}",
        quota_day_mb=4000,
        quota_month_mb=60_000,
        spent_day_bytes=spent,
        spent_month_bytes=9_876_543_210 + spent,
        left_bytes=3_495_145_631 - spent,
        left_by_hand_bytes=3_805_825_242 - spent,
        allowance_bytes=1_129_876_543,
        runs_planned=8,
        runs_made=spent // 90_000_000,
    )
