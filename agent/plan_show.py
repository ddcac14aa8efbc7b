"""`probe-agent plan show`: what each SIM's plan leaves, which runs it buys, and what is left out today and why.

Reads a copy of the spool, so it may run beside the agent and changes nothing, damaged or not.
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
from contextlib import closing
from datetime import datetime
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agent.budget import Budget
from agent.plan import Claim, day_begins, plan_day, plan_month, zone_of
from agent.planner import cost
from agent.schedule import Periodic, next_run
from agent.service import SPOOL_FILE
from agent.settings import ThroughputJob
from agent.spool import Spool
from agent.timetable import left_out
from base.durable import StorageError, explain
from base.table import render

if TYPE_CHECKING:
    from agent.clock import Clock
    from agent.planner import DayPlan
    from agent.settings import Link, Settings

_LINKS: Final = (
    *("link", "plan day", "day MB", "of MB", "month MB", "of MB", "tests may MB", "by hand MB"),
    *("today may MB", "runs made", "of", "month ends"),
)
_RUNS: Final = ("at", "link", "job", "upload", "about MB")
_SHOWN: Final = 12
_MB: Final = 1e6


def show(settings: Settings, clock: Clock, *, as_json: bool) -> int:
    """Print the plan of every link and the next runs; return 0. Raise base.durable.StorageError."""
    with tempfile.TemporaryDirectory() as nowhere:
        copy = Path(nowhere) / SPOOL_FILE
        _copy(settings.data_dir / SPOOL_FILE, copy)
        spool = Spool(copy, max_bytes=settings.spool.max_mb * 1_000_000)
        try:
            facts = _facts(settings, spool, clock)
        finally:
            spool.close()
    if as_json:
        sys.stdout.write(msgspec.json.encode(facts).decode() + "\n")
        return 0
    sys.stdout.write(render(_LINKS, [_row(fact) for fact in facts["links"]]) + "\n\n")
    rows = [
        (run["at"][:16].replace("T", " "), run["link"], run["job"], "yes" if run["upload"] else "no", run["about_mb"])
        for run in facts["runs"][:_SHOWN]
    ]
    sys.stdout.write((render(_RUNS, rows) if rows else "no test is planned for the rest of this plan day") + "\n")
    for fact in facts["links"]:
        for reason in fact["left_out"]:
            sys.stdout.write(f"\n{fact['link']}: {reason}\n")
    order = ", then ".join(facts["drops_first"])
    sys.stdout.write(f"\nWhen a plan is short, left out are: {order}; no hour of the day for good.\n")
    return 0


def _copy(kept: Path, copy: Path) -> None:
    """Copy the spool's file as its last commit left it; a probe that has not begun yet has none, and spent nothing."""
    try:
        if not kept.exists():
            return
        with (
            closing(sqlite3.connect(f"{kept.absolute().as_uri()}?mode=ro", uri=True)) as source,
            closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
    except (OSError, sqlite3.Error) as error:
        if isinstance(error, PermissionError) or "readonly" in str(error) or "unable to open" in str(error):
            raise StorageError(f"{kept}: not for this user to read; run this as root or as the agent's user") from error
        raise explain(kept, error) from error


def _facts(settings: Settings, spool: Spool, clock: Clock) -> dict[str, Any]:
    budget = Budget(settings, spool, clock)
    links, runs = [], []
    for link in settings.links:
        budget.observe(link)
        day_plan = budget.day_plan(link)
        links.append(_link(link, budget, day_plan))
        if day_plan is not None:
            planned, unpaid = _planned(link, budget, day_plan, clock)
            runs += planned
            links[-1]["left_out"] += (
                [f"{unpaid} more runs were planned for today, and are not paid for"] if unpaid else []
            )
        for run in _periodic(settings, link, spool, clock):
            left_mb = links[-1]["left_for_tests_mb"]
            if left_mb is None or run["about_mb"] <= left_mb:
                runs.append(run)
            else:
                links[-1]["left_out"].append(f"{run['job']}: a run takes about {run['about_mb']:.0f} MB")
    lengths = {
        job.name: job.options.duration_s
        for job in settings.jobs
        if isinstance(job, ThroughputJob) and job.runs_per_day is not None
    }
    by_length = [f"runs of {name}" for name in sorted(lengths, key=lambda name: (lengths[name], name))]
    return {
        "probe": settings.probe_id,
        "at": clock.now().isoformat(),
        "links": links,
        "runs": sorted(runs, key=lambda run: float(run["at_utc"])),
        "drops_first": ["uploads", *by_length],
    }


def _link(link: Link, budget: Budget, day_plan: DayPlan | None) -> dict[str, Any]:
    plan, spent, state = link.plan, budget.spent(link), budget.state(link)
    day = budget.day(link)
    tests, by_hand = budget.room(link, Claim.SCHEDULE), budget.room(link, Claim.BY_HAND)
    lost = [f"{lost.job}: {left_out(lost, day_plan)}" for lost in day_plan.dropped] if day_plan is not None else []
    if tests is not None and tests.left_bytes == 0:
        lost.append(f"no test is made: {tests}, the reserves not counted")
    return {
        "link": link.name,
        "plan_day": day.isoformat(),
        "month_ends": day_begins(plan, plan_month(plan, day)[1]).astimezone(zone_of(plan)).isoformat(),
        "quota_day_mb": plan.quota_day_mb,
        "quota_month_mb": plan.quota_month_mb,
        "spent_day_mb": round(spent.day_bytes / _MB, 1),
        "spent_month_mb": round(spent.month_bytes / _MB, 1),
        "left_for_tests_mb": round(tests.left_bytes / _MB, 1) if tests is not None else None,
        "left_by_hand_mb": round(by_hand.left_bytes / _MB, 1) if by_hand is not None else None,
        "allowance_today_mb": round(day_plan.allowance_bytes / _MB, 1)
        if day_plan is not None and day_plan.allowance_bytes is not None
        else None,
        "planned_today_mb": round(day_plan.planned_bytes / _MB, 1) if day_plan is not None else None,
        "runs_made": state.runs_made if state is not None else 0,
        "runs_planned": len(day_plan.runs) if day_plan is not None else 0,
        "left_out": lost,
        "operator_says_left_mb": round(state.remaining_bytes / _MB, 1)
        if state is not None and state.remaining_bytes is not None
        else None,
        "balance_doubt": state.balance_doubt if state is not None else None,
    }


def _planned(link: Link, budget: Budget, day_plan: DayPlan, clock: Clock) -> tuple[list[dict[str, Any]], int]:
    """List the runs of the day that are to come and that what is left pays for; count the others."""
    now_s, left = clock.now().timestamp(), budget.room(link, Claim.SCHEDULE)
    made = {(visit.job, visit.slot) for visit in budget.made(link, day_plan)}
    to_come = [run for run in day_plan.runs if (run.job, run.slot) not in made and run.at_s >= now_s]
    costs = accumulate(run.run_bytes for run in to_come)
    paid = [run for run, moved in zip(to_come, costs, strict=True) if left is None or moved <= left.left_bytes]
    rows = [_run(link, run.job, run.at_s, upload=run.upload, run_bytes=run.run_bytes) for run in paid]
    return rows, len(to_come) - len(paid)


def _periodic(settings: Settings, link: Link, spool: Spool, clock: Clock) -> list[dict[str, Any]]:
    """List the link's next run of each throughput job that has a period."""
    now_s, done, found = clock.now().timestamp(), spool.last_slots(), []
    for job in settings.jobs:
        if not isinstance(job, ThroughputJob) or job.every_s is None or link not in settings.links_of(job):
            continue
        work = [Periodic(job.name, link.name, job.every_s)]
        due = next_run(settings.probe_id, work, done, now_s=now_s, since_s=now_s)
        expected = cost(
            Budget.wish(job), spool.visits(link.name), plan_day(link.plan, clock.now()), upload=job.options.upload
        )
        found.append(_run(link, job.name, due.at_s, upload=job.options.upload, run_bytes=expected))
    return found


def _run(link: Link, job: str, at_s: float, *, upload: bool, run_bytes: float) -> dict[str, Any]:
    at = datetime.fromtimestamp(at_s, zone_of(link.plan))
    about_mb = round(run_bytes / _MB, 1)
    return {"at": at.isoformat(), "at_utc": at_s, "link": link.name, "job": job, "upload": upload, "about_mb": about_mb}


def _row(fact: dict[str, Any]) -> tuple[object, ...]:
    keys = (
        *("link", "plan_day", "spent_day_mb", "quota_day_mb", "spent_month_mb", "quota_month_mb", "left_for_tests_mb"),
        *("left_by_hand_mb", "allowance_today_mb", "runs_made", "runs_planned"),
    )
    return (*(fact[key] for key in keys), fact["month_ends"][:16].replace("T", " "))
