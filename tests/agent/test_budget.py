"""The books of a SIM's plan: how long the operator's word holds, and whose books they are."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from agent import path
from agent.budget import Budget
from agent.ledger import Balance, Booking
from agent.plan import day_begins, plan_month
from agent.settings import Link, Plan, ProbeBroker, Settings, Site, ThroughputJob
from agent.spool import Spool
from wire.results import Clock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agent.meter import Meter

EVENING = datetime(2026, 11, 3, 13, 0, tzinfo=UTC)
"""20:00 of the third of November, local time."""


class Hands:
    """A clock whose hands the test holds."""

    wall = EVENING

    def now(self) -> datetime:
        return self.wall

    def monotonic_s(self) -> float:
        return self.wall.timestamp()

    def quality(self) -> Clock:
        return Clock(synchronised=True)


class Books:
    """A probe of one link, whose interface has counted what the test says."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.clock = Hands()
        self.meters: dict[str, Meter] = {}
        self.link = Link(name="vina", interface="wwan0", plan=plan)
        self.settings = Settings(
            probe_id="p1",
            site=Site(id="s1"),
            broker=ProbeBroker(host="b"),
            links=(self.link,),
            jobs=(ThroughputJob(name="light", runs_per_day=8),),
            data_dir=folder,
        )
        self.spool = Spool(folder / "spool.db", max_bytes=10**9)
        self.budget = Budget(self.settings, self.spool, self.clock)

    def operator_says_nothing_is_left(self) -> None:
        self.spool.keep_balance("vina", Balance(self.clock.wall.isoformat(), 0, None, "Con 0 MB"))

    def spend(self, megabytes: int) -> None:
        self.spool.book(Booking("vina", self.budget.day(self.link).isoformat(), megabytes * 1_000_000))


@pytest.fixture
def books(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Books]:
    found = Books(tmp_path, Plan())
    monkeypatch.setattr(path, "meter", lambda interface, _namespace: found.meters.get(interface))
    yield found
    found.spool.close()


def spent_on(books: Books, plan: Plan, at: datetime) -> bool:
    books.clock.wall = at
    return books.budget.is_spent(Link(name="vina", interface="wwan0", plan=plan))


@pytest.mark.parametrize("reset_at", ["00:00", "06:30"])
@pytest.mark.parametrize("quota_month_mb", [None, 60_000])
def test_what_is_left_of_a_daily_quota_is_no_word_of_the_next_plan_day(
    books: Books, quota_month_mb: int | None, reset_at: str
) -> None:
    plan = Plan(quota_day_mb=2000, quota_month_mb=quota_month_mb, reset_at=reset_at)
    books.operator_says_nothing_is_left()
    tomorrow = EVENING + timedelta(hours=4 if reset_at == "00:00" else 10.5)
    assert tomorrow == day_begins(plan, datetime(2026, 11, 4, tzinfo=UTC).date())
    assert spent_on(books, plan, EVENING + timedelta(hours=1))
    assert spent_on(books, plan, tomorrow - timedelta(seconds=1))
    assert not spent_on(books, plan, tomorrow)
    assert not any(spent_on(books, plan, tomorrow + timedelta(days=days)) for days in (1, 4, 8, 23))


def test_what_is_left_of_a_monthly_quota_is_the_operators_word_until_the_plan_month_ends(books: Books) -> None:
    plan = Plan(quota_month_mb=60_000, reset_day=15, reset_at="06:30")
    books.operator_says_nothing_is_left()
    ends = day_begins(plan, plan_month(plan, EVENING.date())[1])
    assert ends == datetime(2026, 11, 14, 23, 30, tzinfo=UTC)
    assert spent_on(books, plan, EVENING + timedelta(days=8))
    assert spent_on(books, plan, ends - timedelta(seconds=1))
    assert not spent_on(books, plan, ends)
