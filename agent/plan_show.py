"""`probe-agent plan show`: what each SIM's plan leaves, which runs it buys, and what is left out today and why.

Reads a copy of the spool, so it may run beside the agent and changes nothing, damaged or not.
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agent.budget import Budget
from agent.forecast import foresee
from agent.plan import Claim, Room, day_begins, limit_bytes, plan_month, zone_of
from agent.service import SPOOL_FILE
from agent.settings import ThroughputJob
from agent.spool import Spool
from agent.timetable import left_out
from base.durable import StorageError, explain
from base.table import render

if TYPE_CHECKING:
    from agent.clock import Clock
    from agent.forecast import Coming
    from agent.ledger import Balance
    from agent.settings import Link, Settings

_LINKS: Final = (
    *("link", "plan day", "day MB", "of MB", "month MB", "of MB", "tests may MB", "by hand MB"),
    *("today may MB", "planned MB", "to come MB", "runs made", "of", "month ends"),
)
_KEYS: Final = (
    *("link", "plan_day", "spent_day_mb", "quota_day_mb", "spent_month_mb", "quota_month_mb", "left_for_tests_mb"),
    *("left_by_hand_mb", "allowance_today_mb", "planned_today_mb", "to_come_today_mb", "runs_made", "runs_planned"),
)
_RUNS: Final = ("at", "link", "job", "upload", "about MB")
_SHOWN: Final = 12
_DAYS: Final = 32
"""So many plan days are looked at for runs to show: a month whose quota is spent ends within."""
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
    sys.stdout.write(_text(facts) + "\n")
    return 0


def _text(facts: dict[str, Any]) -> str:
    """Lay out for people what `_facts` found."""
    links, runs = facts["links"], facts["runs"]
    ends = [_minute(fact["month_ends"]) for fact in links]
    table = render(_LINKS, [(*(fact[key] for key in _KEYS), end) for fact, end in zip(links, ends, strict=True)])
    rows = [
        (_minute(run["at"]), run["link"], run["job"], "yes" if run["upload"] else "no", run["about_mb"])
        for run in runs[:_SHOWN]
    ]
    parts = [table, render(_RUNS, rows) if rows else f"no test is planned for the next {_DAYS} plan days"]
    if len(runs) > _SHOWN:
        parts.append(f"{_SHOWN} of {len(runs)} runs shown; --json has them all")
    remarks = [[f"{fact['link']}: {text}" for text in (*fact["left_out"], *_operator(fact))] for fact in links]
    parts += ["\n".join(lines) for lines in remarks if lines]
    order = ", then ".join(facts["drops_first"])
    parts.append(f"When a plan is short, left out are: {order}; no hour of the day for good.")
    return "\n\n".join(parts)


def _operator(fact: dict[str, Any]) -> list[str]:
    """Say what the operator said, and what speaks against our count."""
    if fact["operator_said_at"] is None:
        return []
    left_mb, at = fact["operator_says_left_mb"], _minute(fact["operator_said_at"])
    said = f"{left_mb} MB are left" if left_mb is not None else "something without a figure of what is left"
    doubt = f"; in doubt: {fact['balance_doubt']}" if fact["balance_doubt"] is not None else ""
    void = "; tests are no samples until a quota is new" if fact["no_samples"] else ""
    return [f"the operator said on {at}: {said}{doubt}{void}"]


def _minute(at: str) -> str:
    return at[:16].replace("T", " ")


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
    budget, now_s, last_slots = Budget(settings, spool, clock), clock.now().timestamp(), spool.last_slots()
    for link in settings.links:
        budget.observe(link)
    ahead = [
        (link, foresee(settings, link, budget, visits=spool.visits(link.name), last_slots=last_slots, now_s=now_s))
        for link in settings.links
    ]
    links: list[dict[str, Any]] = []
    runs: list[dict[str, Any]] = []
    for _ in range(_DAYS):
        of_day = [(link, next(days)) for link, days in ahead]
        links = links or [_link(link, budget, today, spool.balance(link.name)) for link, today in of_day]
        runs += [_run(link, run) for link, coming in of_day for run in coming if run.run_bytes]
        if len(runs) >= _SHOWN:
            break
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


def _link(link: Link, budget: Budget, today: list[Coming], said: Balance | None) -> dict[str, Any]:
    plan, spent, day_plan = link.plan, budget.spent(link), budget.day_plan(link)
    day, zone = budget.day(link), zone_of(plan)
    tests, by_hand = budget.room(link, Claim.SCHEDULE), budget.room(link, Claim.BY_HAND)
    lost = [f"{lost.job}: {left_out(lost, day_plan)}" for lost in day_plan.dropped] if day_plan is not None else []
    if tests is not None and tests.left_bytes == 0:
        stops_mb = limit_bytes(plan, tests.quota_mb, Claim.SCHEDULE) / _MB
        lost.append(f"no test is made: {tests}, and the schedule stops at {stops_mb:.0f} MB")
    return {
        "link": link.name,
        "plan_day": day.isoformat(),
        "month_ends": day_begins(plan, plan_month(plan, day)[1]).astimezone(zone).isoformat(),
        "quota_day_mb": plan.quota_day_mb,
        "quota_month_mb": plan.quota_month_mb,
        "spent_day_mb": _mb(spent.day_bytes),
        "spent_month_mb": _mb(spent.month_bytes),
        "left_for_tests_mb": _mb(tests.left_bytes) if tests is not None else None,
        "left_by_hand_mb": _mb(by_hand.left_bytes) if by_hand is not None else None,
        "allowance_today_mb": _mb(day_plan.allowance_bytes) if day_plan is not None else None,
        "planned_today_mb": _mb(day_plan.planned_bytes) if day_plan is not None else None,
        "to_come_today_mb": _mb(sum(run.run_bytes for run in today)),
        "runs_made": len(budget.made(link, day_plan)) if day_plan is not None else 0,
        "runs_planned": len(day_plan.runs) if day_plan is not None else 0,
        "left_out": lost + _unpaid(today),
        "no_samples": budget.is_spent(link),
        "operator_says_left_mb": _mb(said.remaining_bytes) if said is not None else None,
        "operator_said_at": datetime.fromisoformat(said.at).astimezone(zone).isoformat() if said is not None else None,
        "balance_doubt": said.doubt if said is not None else None,
    }


def _unpaid(today: list[Coming]) -> list[str]:
    """Say which of today's runs to come are not paid for, and which are made without their upload."""
    lines = []
    for name in dict.fromkeys(run.job for run in today):
        of_job = [run for run in today if run.job == name]
        refused = [run for run in of_job if isinstance(run.said, Room)]
        saved = [run for run in of_job if run.wants_upload and not run.upload and run.run_bytes]
        if refused:
            down_mb = _mb(refused[0].costs.down)
            left_mb = _mb(min(run.said.left_bytes for run in refused if isinstance(run.said, Room)))
            why = f"a run without upload takes about {down_mb} MB, and tests may move {left_mb} MB by then"
            lines.append(f"{name}: not made of today's runs to come: {len(refused)}; {why}")
        if saved:
            why = f"with it a run takes about {_mb(saved[0].costs.both)} MB"
            lines.append(f"{name}: made without upload of today's runs to come: {len(saved)}; {why}")
    return lines


def _run(link: Link, run: Coming) -> dict[str, Any]:
    at = datetime.fromtimestamp(run.at_s, zone_of(link.plan)).isoformat()
    about_mb = _mb(run.run_bytes)
    return {"at": at, "at_utc": run.at_s, "link": link.name, "job": run.job, "upload": run.upload, "about_mb": about_mb}


def _mb(count: float | None) -> float | None:
    return round(count / _MB, 1) if count is not None else None
