"""The books of a SIM's plan: how long the operator's word holds, and whose books they are."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING

import msgspec
import pytest

from agent import path
from agent.budget import Budget, Grant
from agent.deferred import Run
from agent.forecast import foresee
from agent.ledger import Balance, Booking, Visit
from agent.measurements.throughput_options import ThroughputOptions
from agent.meter import Meter
from agent.plan import Claim, day_begins, plan_month
from agent.run_cost import Cost
from agent.settings import Link, Plan, ProbeBroker, Settings, Site, ThroughputJob
from agent.spool import Spool
from wire.measured import Failed
from wire.reasons import Reason
from wire.results import Clock, Result

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agent.forecast import Coming
EVENING = datetime(2026, 11, 3, 13, 0, tzinfo=UTC)
"""20:00 of the third of November, local time."""


class Hands:
    """A clock whose hands the test holds; `set_by`: how far the wall clock alone was set."""

    wall = EVENING
    set_by = timedelta()

    def now(self) -> datetime:
        return self.wall + self.set_by

    def monotonic_s(self) -> float:
        return self.wall.timestamp()

    def quality(self) -> Clock:
        return Clock(synchronised=True)


class Books:
    """A probe of one link, whose interface has counted what the test says."""

    def __init__(self, folder: Path, plan: Plan, *jobs: ThroughputJob) -> None:
        self.clock = Hands()
        self.meters: dict[str, Meter] = {}
        self.link = Link(name="vina", interface="wwan0", plan=plan)
        self.settings = Settings(
            probe_id="p1",
            site=Site(id="s1"),
            broker=ProbeBroker(host="b"),
            links=(self.link,),
            jobs=jobs or (ThroughputJob(name="light", runs_per_day=8),),
            data_dir=folder,
        )
        self.spool = Spool(folder / "spool.db", max_bytes=10**9)
        self.budget = Budget(self.settings, self.spool, self.clock)

    def start(self, plan: Plan, *others: Link) -> None:
        """Begin like an agent that was just started."""
        self.link = Link(name="vina", interface="wwan0", plan=plan)
        self.settings = msgspec.structs.replace(self.settings, links=(self.link, *others))
        self.budget = Budget(self.settings, self.spool, self.clock)
        self.budget.tick()

    def operator_says_nothing_is_left(self) -> None:
        self.spool.keep_balance("vina", Balance(self.clock.wall.isoformat(), 0, None, "Con 0 MB"))

    def spend(self, count: int) -> None:
        self.spool.book(Booking("vina", self.budget.day(self.link).isoformat(), count))

    def make(self, run: Coming) -> None:
        """Make a run as it was foreseen."""
        visit = None
        if self.settings.job(run.job).every_s is None:
            plan = self.budget.day_plan(self.link)
            assert plan is not None
            (found,) = [one for one in plan.runs if (one.at_s, one.job) == (run.at_s, run.job)]
            assert found.upload is run.wants_upload
            visit = Visit(plan.day.isoformat(), found.slot, found.hour, found.upload)
        under_way = Run(run.job, "vina", int(run.at_s), visit)
        self.spool.begin(under_way, self.clock.wall, fsync=False)
        now, outcome = self.clock, Failed(reason=Reason.TIMEOUT)
        result = Result(
            probe_id="p1", site="s1", started_at=now.wall, clock=now.quality(), agent_version="0", outcome=outcome
        )
        cost = Cost(run.run_bytes, run.upload, cut_short=False) if run.run_bytes else None
        self.spool.append(result, ends=under_way, cost=cost)
        self.spend(run.run_bytes)

    def foreseen(self, days: int) -> list[Coming]:
        found = foresee(
            self.settings,
            self.link,
            self.budget,
            visits=self.spool.visits("vina"),
            last_slots=self.spool.last_slots(),
            now_s=self.clock.wall.timestamp(),
        )
        return [run for day in islice(found, days) for run in day]


@pytest.fixture
def books(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Books]:
    found = Books(tmp_path, Plan())
    monkeypatch.setattr(path, "meter", lambda interface, _namespace: found.meters.get(interface))
    yield found
    found.spool.close()


def counted(boot: int, count: int) -> Meter:
    return Meter(boot_id=str(boot), interface_index=1, uptime_s=100.0, received_bytes=count, sent_bytes=0)


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


LIGHT = ThroughputJob(name="light", runs_per_day=8)
LONG = ThroughputJob(name="long", runs_per_day=2, options=ThroughputOptions(duration_s=10))
HOURLY = ThroughputJob(name="hourly", every_s=3600)


@pytest.mark.parametrize("begins", [EVENING, EVENING.replace(hour=18), EVENING.replace(day=29, hour=12)])
@pytest.mark.parametrize(
    ("plan", "jobs"),
    [
        (Plan(quota_day_mb=50), (HOURLY,)),
        (Plan(quota_day_mb=40), (LIGHT, HOURLY)),
        (Plan(quota_day_mb=250), (LONG, HOURLY)),
        (Plan(quota_day_mb=400, quota_month_mb=3000, reset_day=5), (LIGHT, LONG)),
        (Plan(quota_month_mb=1500, reset_day=31), (LIGHT, LONG, HOURLY)),
        (Plan(), (LIGHT, HOURLY)),
    ],
)
def test_every_run_to_come_is_told_what_the_plan_then_says_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: Plan, jobs: tuple[ThroughputJob, ...], begins: datetime
) -> None:
    monkeypatch.setattr(path, "meter", lambda _interface, _namespace: None)
    books = Books(tmp_path, plan, *jobs)
    books.clock.wall = begins
    runs = books.foreseen(days=3)
    said: set[tuple[bool, bool]] = set()
    for run in runs:
        books.clock.wall = datetime.fromtimestamp(run.at_s, UTC)
        job = books.settings.job(run.job)
        grant = books.budget.grant(books.link, job, upload=run.wants_upload, by_hand=False)
        assert grant == run.said
        if isinstance(grant, Grant):
            books.make(run)
        said.add((isinstance(grant, Grant), run.upload))
    assert runs
    assert (plan == Plan()) == (said == {(True, True)})
    books.spool.close()


def test_the_next_run_of_a_plan_is_tomorrows_where_nothing_pays_for_those_of_today(books: Books) -> None:
    books.start(Plan(quota_day_mb=500))

    def next_run_at() -> datetime:
        state = books.budget.state(books.link)
        assert state is not None
        assert state.next_run_at is not None
        return state.next_run_at

    today, midnight = books.budget.day_plan(books.link), datetime(2026, 11, 3, 17, 0, tzinfo=UTC)
    assert today is not None
    to_come = [run.at_s for run in today.runs if run.at_s > EVENING.timestamp()]
    assert to_come
    assert next_run_at() == datetime.fromtimestamp(to_come[0], UTC)
    books.clock.wall = datetime.fromtimestamp(to_come[-1] + 1, UTC)
    assert midnight <= next_run_at() < midnight + timedelta(hours=12), "after the last one"
    books.clock.wall = EVENING
    books.spend(450_000_000)
    assert midnight <= next_run_at() < midnight + timedelta(hours=12), "where the day's quota is spent"


# --- a SIM that is replaced -------------------------------------------------------------------------------------------

MONTH = Plan(quota_month_mb=1000, overhead_percent=0, telemetry_percent=0, by_hand_percent=10)


@pytest.fixture
def month(books: Books) -> Books:
    books.meters["wwan0"] = counted(1, 0)
    books.start(MONTH)
    return books


def left_mb(books: Books) -> float:
    books.budget.observe(books.link)
    found = books.budget.room(books.link, Claim.SCHEDULE)
    assert found is not None
    return found.left_bytes / 1e6


def test_another_sim_has_its_whole_quota_and_one_that_is_put_back_what_it_had_left(
    month: Books, caplog: pytest.LogCaptureFixture
) -> None:
    assert not month.budget.sim_seen(month.link, "a")
    month.meters["wwan0"] = counted(1, 400_000_000)
    assert left_mb(month) == 500
    month.operator_says_nothing_is_left()
    month.clock.wall += timedelta(days=3)
    assert month.budget.sim_seen(month.link, "b")
    assert left_mb(month) == 900
    assert not month.budget.is_spent(month.link), "what the operator said was of the other one"
    month.meters["wwan0"] = counted(1, 430_000_000)
    assert left_mb(month) == 870
    month.start(MONTH)
    assert not month.budget.sim_seen(month.link, "b")
    assert left_mb(month) == 870
    assert month.budget.sim_seen(month.link, "a")
    assert left_mb(month) == 500
    assert month.budget.is_spent(month.link)
    assert month.budget.sim_seen(month.link, "b")
    assert left_mb(month) == 870
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        "vina: another SIM than before; in this month of its plan it has spent 0 MB",
        "vina: another SIM than before; in this month of its plan it has spent 400 MB",
        "vina: another SIM than before; in this month of its plan it has spent 30 MB",
    ]


def test_a_sim_that_is_not_known_changes_nothing(month: Books) -> None:
    month.spend(400_000_000)
    for sim in (None, "a", None, "a", None):
        assert not month.budget.sim_seen(month.link, sim)
        assert left_mb(month) == 500
    month.start(MONTH)
    assert not month.budget.sim_seen(month.link, None)
    assert left_mb(month) == 500


def test_what_was_carried_before_another_sim_is_seen_is_the_first_ones_and_counted_once(month: Books) -> None:
    month.budget.sim_seen(month.link, "a")
    month.meters["wwan0"] = counted(1, 100_000_000)
    month.budget.observe(month.link)  # not booked yet
    month.meters["wwan0"] = counted(2, 7_000_000)
    assert month.budget.sim_seen(month.link, "b")
    assert left_mb(month) == 893
    month.start(MONTH)
    assert left_mb(month) == 893
    month.clock.set_by = timedelta(days=1)
    month.budget.clock_was_set()
    assert left_mb(month) == 886, "where the clock was wrong its own count on the right day too, not the other one's"
    month.budget.close()
    assert month.budget.sim_seen(month.link, "a")
    assert left_mb(month) == 800


def test_a_file_of_an_agent_that_knew_no_sims_is_taken_over(month: Books) -> None:
    month.spend(250_000_000)
    month.spool.close()
    with closing(sqlite3.connect(month.settings.data_dir / "spool.db")) as db:
        db.execute("DROP TABLE sims")
        db.commit()
    month.spool = Spool(month.settings.data_dir / "spool.db", max_bytes=10**9)
    month.start(MONTH)
    assert not month.budget.sim_seen(month.link, "a")
    assert left_mb(month) == 650
    assert month.budget.sim_seen(month.link, "b")
    assert left_mb(month) == 900


def test_two_links_that_change_their_sims_change_their_books(month: Books) -> None:
    other = Link(name="viettel", interface="wwan1", plan=MONTH)
    month.start(MONTH, other)
    for link, sim, count in ((month.link, "a", 100), (other, "b", 200)):
        month.budget.sim_seen(link, sim)
        month.spool.book(Booking(link.name, month.budget.day(link).isoformat(), count * 1_000_000))
    month.spool.keep_balance("viettel", Balance(EVENING.isoformat(), 5_000_000, None, "of b, once"))
    assert month.budget.sim_seen(month.link, "b")
    month.clock.wall += timedelta(hours=1)
    month.operator_says_nothing_is_left()
    month.spend(1_000_000)
    assert month.budget.sim_seen(other, "a")
    assert month.budget.spent(other).month_bytes == 100_000_000
    assert month.budget.spent(month.link).month_bytes == 201_000_000
    assert month.budget.is_spent(month.link), "of the operator's words of one SIM the last one holds"
    assert not month.budget.is_spent(other)
