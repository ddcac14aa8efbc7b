"""The SIM's plan: its own days and months, in any zone, and what each claim may still spend."""

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.plan import Claim, Spent, day_begins, limit_bytes, plan_day, plan_month, room
from agent.settings import Plan

BARE = {"overhead_percent": 0, "telemetry_percent": 0, "by_hand_percent": 0}
ZONES = ["Asia/Ho_Chi_Minh", "Europe/Berlin", "Australia/Lord_Howe", "America/St_Johns", "Africa/Casablanca"]

plans = st.builds(
    Plan,
    time_zone=st.sampled_from([None, *ZONES]),
    utc_offset_h=st.sampled_from([-12.0, -3.5, 0.0, 5.75, 7.0, 14.0]),
    reset_at=st.builds(
        lambda minutes: f"{minutes // 60:02}:{minutes % 60:02}", st.one_of(st.integers(0, 1439), st.just(150))
    ),
    reset_day=st.integers(1, 31),
)
instants = st.integers(1_577_836_800, 2_051_222_400).map(lambda second: datetime.fromtimestamp(second, UTC))


def test_a_plan_day_is_a_local_day() -> None:
    assert plan_day(Plan(), datetime(2026, 6, 30, 17, 0, tzinfo=UTC)) == date(2026, 7, 1)
    assert plan_day(Plan(), datetime(2026, 6, 30, 16, 59, 59, tzinfo=UTC)) == date(2026, 6, 30)


def test_a_plan_day_begins_at_its_reset_time() -> None:
    plan = Plan(reset_at="07:30", time_zone="Asia/Ho_Chi_Minh")
    assert plan_day(plan, datetime(2026, 6, 30, 0, 29, tzinfo=UTC)) == date(2026, 6, 29)
    assert plan_day(plan, datetime(2026, 6, 30, 0, 30, tzinfo=UTC)) == date(2026, 6, 30)


@pytest.mark.parametrize(
    ("day", "reset_day", "wanted"),
    [
        (date(2026, 6, 14), 15, (date(2026, 5, 15), date(2026, 6, 15))),
        (date(2026, 6, 15), 15, (date(2026, 6, 15), date(2026, 7, 15))),
        (date(2027, 2, 27), 31, (date(2027, 1, 31), date(2027, 2, 28))),
        (date(2027, 2, 28), 31, (date(2027, 2, 28), date(2027, 3, 31))),
        (date(2026, 12, 31), 1, (date(2026, 12, 1), date(2027, 1, 1))),
        (date(2027, 1, 1), 29, (date(2026, 12, 29), date(2027, 1, 29))),
    ],
)
def test_a_plan_month_begins_on_its_day_or_on_the_last_of_a_short_month(
    day: date, reset_day: int, wanted: tuple[date, date]
) -> None:
    assert plan_month(Plan(reset_day=reset_day), day) == wanted


@given(plan=plans, now=instants)
def test_every_instant_lies_in_exactly_one_plan_day_even_where_clocks_change(plan: Plan, now: datetime) -> None:
    day = plan_day(plan, now)
    assert day_begins(plan, day) <= now < day_begins(plan, day + timedelta(days=1))
    assert timedelta(hours=22) < day_begins(plan, day + timedelta(days=1)) - day_begins(plan, day) < timedelta(hours=26)


@given(plan=plans, day=st.dates(date(2020, 1, 1), date(2035, 1, 1)))
def test_plan_months_follow_each_other_without_a_gap(plan: Plan, day: date) -> None:
    first, following = plan_month(plan, day)
    assert first <= day < following
    assert plan_month(plan, following)[0] == following
    assert plan_month(plan, following - timedelta(days=1)) == (first, following)


def test_each_quota_stops_by_itself_and_says_so() -> None:
    plan = Plan(quota_day_mb=100, quota_month_mb=1000, **BARE)
    found = room(plan, Spent(40_000_000, 500_000_000), Claim.SCHEDULE)
    assert found is not None
    assert (found.left_bytes, found.period) == (60_000_000, "day")
    found = room(plan, Spent(0, 1_000_000_001), Claim.SCHEDULE)
    assert found is not None
    assert (found.left_bytes, str(found)) == (0, "1000 MB of 1000 MB of this month are spent")
    found = room(plan, Spent(100_000_001, 1_000_000_001), Claim.SCHEDULE)
    assert found is not None
    assert found.period == "month", "where both are spent, the day's is of no use"
    assert room(Plan(), Spent(10**15, 10**15), Claim.SCHEDULE) is None


@given(
    quota=st.integers(1, 10**6),
    overhead=st.integers(0, 50),
    telemetry=st.integers(0, 50),
    by_hand=st.integers(0, 50),
)
def test_the_reserves_are_kept_in_their_order_and_nothing_passes_the_quota(
    quota: int, overhead: int, telemetry: int, by_hand: int
) -> None:
    plan = Plan(overhead_percent=overhead, telemetry_percent=telemetry, by_hand_percent=by_hand)
    limits = [limit_bytes(plan, quota, claim) for claim in (Claim.SCHEDULE, Claim.BY_HAND, Claim.TELEMETRY)]
    assert 0 <= limits[0] <= limits[1] <= limits[2]
    assert limits[2] * (100 + overhead) <= quota * 1_000_000 * 100
    assert abs((limits[2] - limits[1]) - limits[2] * telemetry / 100) <= 2
    assert abs((limits[1] - limits[0]) - limits[2] * by_hand / 100) <= 2
