"""Bytes booked while the clock was wrong: none that was carried today or this month is missing once it is right."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.hindsight import book_again, note
from agent.plan import AHEAD, plan_day, plan_month
from agent.settings import Plan

if TYPE_CHECKING:
    from agent.hindsight import Noted

DAY_S = 86_400.0
TEN_O_CLOCK = datetime(2026, 11, 1, 3, 0, tzinfo=UTC)  # at UTC+7


class Books:
    """Books kept by a wall clock that stands `ahead_s` beside the true time, and what they should say."""

    def __init__(self, plan: Plan, ahead_s: float = 0.0) -> None:
        self.plan, self.ahead_s, self.steady_s = plan, ahead_s, 1000.0
        self.noted: list[Noted] = []
        self.booked: Counter[date] = Counter()
        self.truth: Counter[date] = Counter()

    def true_time(self) -> datetime:
        return TEN_O_CLOCK + timedelta(seconds=self.steady_s - 1000)

    def wall(self) -> datetime:
        return self.true_time() + timedelta(seconds=self.ahead_s)

    def carry(self, count: int) -> None:
        day = plan_day(self.plan, self.wall())
        self.noted = note(self.noted, self.steady_s, day, count)
        self.booked[day] += count
        self.truth[plan_day(self.plan, self.true_time())] += count

    def live(self, days: float, *, every_s: float) -> None:
        for _ in range(int(days * DAY_S / every_s)):
            self.steady_s += every_s
            self.carry(1000)

    def set_clock(self, ahead_s: float) -> None:
        self.ahead_s = ahead_s
        missing, self.noted = book_again(self.noted, self.wall(), self.steady_s, self.plan)
        self.booked.update(missing)

    def spent(self, books: Counter[date]) -> tuple[int, int]:
        """Add up as `agent.ledger.spent` does: the bytes of today, and of this month."""
        today = plan_day(self.plan, self.true_time())
        of_day, of_month = (
            sum(books[day] for day in books if first <= day <= today + AHEAD)
            for first in (today, plan_month(self.plan, today)[0])
        )
        return of_day, of_month


_steps = st.floats(-3000, 3000) | st.floats(-3 * DAY_S, 3 * DAY_S) | st.floats(-70 * DAY_S, 70 * DAY_S)


@settings(max_examples=300)
@given(
    plan=st.builds(Plan, reset_day=st.integers(1, 31), reset_at=st.sampled_from(("00:00", "06:30", "17:15"))),
    lives=st.lists(
        st.tuples(_steps, st.lists(st.tuples(st.floats(0, 2 * DAY_S), st.integers(1, 10**9)), max_size=12)),
        min_size=1,
        max_size=5,
    ),
)
def test_nothing_of_today_or_of_this_month_is_missing_once_the_clock_is_right(
    plan: Plan, lives: list[tuple[float, list[tuple[float, int]]]]
) -> None:
    books = Books(plan, lives[0][0])
    for ahead_s, carried in lives:
        books.set_clock(ahead_s)
        for after_s, count in carried:
            books.steady_s += after_s
            books.carry(count)
    books.set_clock(0.0)
    assert all(map(int.__ge__, books.spent(books.booked), books.spent(books.truth)))


@pytest.mark.parametrize("step_s", [61.0, -61.0, 1200.0, -1200.0])
def test_a_clock_that_is_set_by_a_little_charges_at_most_what_was_carried_about_midnight(step_s: float) -> None:
    books = Books(Plan())
    books.live(20, every_s=60.0)
    right = books.spent(books.truth)
    assert books.spent(books.booked) == right
    for ahead_s in (step_s, 0.0, step_s, 0.0):
        books.set_clock(ahead_s)
    most = 1000 * (30 + abs(step_s) / 60)
    assert all(0 <= found - true <= most for found, true in zip(books.spent(books.booked), right, strict=True))


def test_days_that_a_clock_was_behind_count_where_they_belong() -> None:
    books = Books(Plan(), ahead_s=-9 * DAY_S)
    books.live(3, every_s=600.0)
    books.set_clock(0.0)
    today, month = books.spent(books.booked)
    truly_today, truly_month = books.spent(books.truth)
    assert truly_today <= today <= truly_today + 3000
    assert month == truly_month == 432_000, "nine days ago it was another month"
    books.set_clock(-9 * DAY_S)
    books.set_clock(0.0)
    assert books.spent(books.booked) == (today, month), "and once"


def test_what_is_remembered_has_a_bound() -> None:
    books = Books(Plan())
    books.live(70, every_s=300.0)
    assert len(books.noted) < 200
    kept_bytes = sum(one.grown_bytes for one in books.noted)
    assert kept_bytes >= 31 * 288_000, "a plan month of it"
