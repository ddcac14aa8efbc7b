"""The SIM's plan: local days, and a stop when a quota is spent."""

from datetime import UTC, datetime

from agent.plan import Spent, exhausted, plan_day
from agent.settings import Plan


def test_a_plan_day_is_a_local_day() -> None:
    assert plan_day(Plan(), datetime(2026, 6, 30, 17, 0, tzinfo=UTC)) == "2026-07-01"
    assert plan_day(Plan(), datetime(2026, 6, 30, 16, 59, 59, tzinfo=UTC)) == "2026-06-30"


def test_each_quota_stops_by_itself_and_says_so() -> None:
    plan = Plan(quota_day_mb=100, quota_month_mb=1000)
    assert exhausted(plan, Spent(99_999_999, 0)) is None
    assert exhausted(plan, Spent(100_000_000, 0)) == "100 MB of 100 MB of this day are spent"
    assert exhausted(plan, Spent(0, 1_000_000_000)) == "1000 MB of 1000 MB of this month are spent"
    assert exhausted(Plan(), Spent(10**15, 10**15)) is None
