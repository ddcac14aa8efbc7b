"""The SIM's data plan: its days and months, and what may still be spent. Pure; time comes as an argument.

Bytes are those that the interface counts, both directions. An operator counts somewhat differently (headers, rounding
per session): `overhead_percent` of the plan is what it may count more. Two shares of every quota are kept back: one for
telemetry, one for tests made by hand; what the schedule may spend is the rest.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from agent.settings import Plan

AHEAD: Final = timedelta(days=40)
"""What a clock that ran ahead booked on days to come counts today, unless it ran ahead by more than this."""


class Claim(StrEnum):
    """Who wants to spend: the schedule's tests stop first, then tests by hand, then everything."""

    SCHEDULE = "schedule"
    BY_HAND = "by hand"
    TELEMETRY = "telemetry"


class Spent(NamedTuple):
    """Bytes that the interface has carried in the present plan day, and in the plan month, that day included.

    `before`: in each earlier day of that month on which there were any, by its name (YYYY-MM-DD).
    """

    day_bytes: int
    month_bytes: int
    before: tuple[tuple[str, int], ...] = ()


class Room(NamedTuple):
    """What a claim may still spend, in bytes on the interface, and the period that sets the bound."""

    left_bytes: int
    period: str
    quota_mb: int
    spent_bytes: int

    def __str__(self) -> str:
        """Say it for a person."""
        return f"{self.spent_bytes / 1e6:.0f} MB of {self.quota_mb} MB of this {self.period} are spent"


def zone_of(plan: Plan) -> tzinfo:
    """Return the plan's zone: the named one, else the fixed offset."""
    if plan.time_zone is None:
        return timezone(timedelta(hours=plan.utc_offset_h))
    from zoneinfo import ZoneInfo  # noqa: PLC0415  # few plans name a zone, and it costs a quarter of a megabyte

    return ZoneInfo(plan.time_zone)


def day_begins(plan: Plan, day: date) -> datetime:
    """Return the instant (UTC) at which a plan day begins; a local time that a zone skips begins right after it."""
    hour, minute = map(int, plan.reset_at.split(":"))
    return datetime.combine(day, time(hour, minute), zone_of(plan)).astimezone(UTC)


def plan_day(plan: Plan, now: datetime) -> date:
    """Name the plan day that holds `now`, by the local date on which it began."""
    local = now.astimezone(zone_of(plan)).date()
    return next(day for back in (-1, 0, 1, 2) if day_begins(plan, day := local - timedelta(days=back)) <= now)


def plan_month(plan: Plan, day: date) -> tuple[date, date]:
    """Return the first day of the plan month that holds `day`, and of the next one.

    A month without the plan's reset day begins on its last day.
    """
    here = _first(plan, day.year, day.month)
    if day < here:
        before = date(day.year, day.month, 1) - timedelta(days=1)
        return _first(plan, before.year, before.month), here
    after = date(day.year, day.month, 1) + timedelta(days=31)
    return here, _first(plan, after.year, after.month)


def _first(plan: Plan, year: int, month: int) -> date:
    days = (date(year + month // 12, month % 12 + 1, 1) - date(year, month, 1)).days
    return date(year, month, min(plan.reset_day, days))


def limit_bytes(plan: Plan, quota_mb: int, claim: Claim) -> int:
    """Return how much the interface may have carried when this claim has to stop."""
    kept_percent = {
        Claim.SCHEDULE: plan.telemetry_percent + plan.by_hand_percent,
        Claim.BY_HAND: plan.telemetry_percent,
        Claim.TELEMETRY: 0,
    }[claim]
    return int(quota_mb * 10_000 * (100 - kept_percent) / (1 + plan.overhead_percent / 100))


def nothing_left(plan: Plan, spent: Spent) -> bool:
    """Whether the operator may have begun to slow the SIM down: a quota is spent, as he counts at the most."""
    return (found := room(plan, spent, Claim.TELEMETRY)) is not None and found.left_bytes == 0


def still_holds(plan: Plan, said_at: datetime, now: datetime) -> bool:
    """Whether no quota has begun anew since an operator said what is left.

    That is in the same plan day where the plan has a daily quota, else in the same plan month.
    """
    said_on, today = plan_day(plan, said_at), plan_day(plan, now)
    if plan.quota_day_mb is not None:
        return said_on == today
    return plan_month(plan, said_on) == plan_month(plan, today)


def room(plan: Plan, spent: Spent, claim: Claim) -> Room | None:
    """Say what a claim may still spend (never below 0); None where the plan has no quota."""
    rooms = [
        Room(max(0, limit_bytes(plan, quota_mb, claim) - used), period, quota_mb, used)
        for quota_mb, used, period in (
            (plan.quota_month_mb, spent.month_bytes, "month"),  # first: where both are spent, the longer wait is told
            (plan.quota_day_mb, spent.day_bytes, "day"),
        )
        if quota_mb is not None
    ]
    return min(rooms, key=lambda one: one.left_bytes, default=None)
