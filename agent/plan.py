"""What a SIM may still spend on tests. Pure. Bytes are those counted on the interface, both ways."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from agent.settings import Plan


class Spent(NamedTuple):
    """Bytes that tests have spent in the present plan day and month."""

    day_bytes: int
    month_bytes: int


def plan_day(plan: Plan, now: datetime) -> str:
    """Name the local day that the plan counts, as YYYY-MM-DD; its first seven characters name the month."""
    return now.astimezone(timezone(timedelta(hours=plan.utc_offset_h))).date().isoformat()


def exhausted(plan: Plan, spent: Spent) -> str | None:
    """Say which quota is used up; None while both last."""
    for quota_mb, used, period in (
        (plan.quota_day_mb, spent.day_bytes, "day"),
        (plan.quota_month_mb, spent.month_bytes, "month"),
    ):
        if quota_mb is not None and used >= quota_mb * 1_000_000:
            return f"{used / 1e6:.0f} MB of {quota_mb} MB of this {period} are spent"
    return None
