"""What was noted since the agent's start, and when, by the steady clock. Pure.

Where the wall clock proves to have been wrong, this tells what is booked on no day that counts.
"""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from agent.plan import AHEAD, plan_day, plan_month

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date, datetime

    from agent.settings import Plan

_KEPT_S: Final = 32 * 86_400.0
"""Longer than any plan month."""
_RECENT_S: Final = 25 * 3600.0
"""Longer than any plan day."""
_RECENT_SPAN_S: Final = 1800.0
_SPAN_S: Final = 6 * 3600.0
"""Of what is older than a day only the month matters: less is told apart, to spare memory."""


class Noted(NamedTuple):
    """Bytes noted from one instant to another, and the plan days that they are booked on."""

    since_s: float
    until_s: float
    days: tuple[date, ...]
    grown_bytes: int


def note(noted: Sequence[Noted], now_s: float, day: date, grown_bytes: int) -> list[Noted]:
    """Add bytes that are booked on a day; what is near in time goes together, what is too old is forgotten."""
    kept: list[Noted] = []
    for one in (*noted, Noted(now_s, now_s, (day,), grown_bytes)):
        span_s = _SPAN_S if one.until_s < now_s - _RECENT_S else _RECENT_SPAN_S
        if kept and kept[-1].days == one.days and one.until_s - kept[-1].since_s < span_s:
            kept[-1] = one._replace(since_s=kept[-1].since_s, grown_bytes=kept[-1].grown_bytes + one.grown_bytes)
        elif one.until_s >= now_s - _KEPT_S:
            kept.append(one)
    return kept


def book_again(noted: Sequence[Noted], now: datetime, now_s: float, plan: Plan) -> tuple[dict[date, int], list[Noted]]:
    """Return what is to be booked as well, by the day on which it was carried, and all that was noted, by then.

    That is what was carried today and counts on an earlier day only, and what was carried earlier in this plan month
    and counts in another one. What was noted together is of its end: rather too much of today than too little.
    """
    today = plan_day(plan, now)
    month_began = plan_month(plan, today)[0]
    missing: Counter[date] = Counter()
    after: list[Noted] = []
    for one in noted:
        day = plan_day(plan, now - timedelta(seconds=now_s - one.until_s))
        since = today if day == today else month_began
        if day >= month_began and not any(since <= known <= today + AHEAD for known in one.days):
            missing[day] += one.grown_bytes
            one = one._replace(days=(*one.days, day))  # noqa: PLW2901  # as it is booked from now on
        after.append(one)
    return missing, after
