"""A worn card changes a value in a small table, where SQLite sees nothing: the agent goes on, and says so once."""

from __future__ import annotations

import functools
import logging
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import pytest

from agent import plan_show, salvage, worn
from agent.deferred import Account, Run
from agent.ledger import Balance, Booking, Visit
from agent.meter import Meter
from agent.modems import SerialModems
from agent.plan import Claim
from agent.service import SPOOL_FILE, Service
from agent.settings import Link, Plan, RadioJob, Settings, Site, ThroughputJob
from agent.spool import Spool
from agent.timesync import Boot, boot_now
from agent.timetable import Timetable
from base.broker import BrokerSettings
from base.durable import StorageError
from wire.codec import check, decode_result, encode
from wire.delivery import CONFLICT, Refusal
from wire.events import Damaged
from wire.measured import Failed, Throughput, Transfer
from wire.reasons import Reason
from wire.results import Clock, Job, Result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NOW = datetime(2026, 6, 15, 8, 0, tzinfo=UTC)
DAY = NOW.date().isoformat()
LINK, JOB = "viettel", "daily"
SIM = "0123456789abcdef" * 4
SPENT_TODAY, SPENT_BEFORE = 300_000_000, 400_000_000
SMALL: Final = (
    *("meta", "lives", "runs", "accounts", "untimed", "untimed_runs", "refused", "archive"),
    *("spent", "meters", "planned_runs", "told", "balances", "sims"),
)
RUBBISH: Final = (
    *("NULL", "''", "'rubbish'", "'2026-07-p1'", "CAST(x'32C3FF' AS TEXT)", "x'FF00'", "x'7B7D'"),
    *("0", "-1", "4611686018427387904", "9223372036854775807", "1e300"),
)


@dataclass
class FixedClock:
    wall: datetime = NOW
    steady_s: float = 1000.0

    def now(self) -> datetime:
        return self.wall

    def monotonic_s(self) -> float:
        return self.steady_s

    def quality(self) -> Clock:
        return Clock(synchronised=True)


def settings_of(data_dir: Path) -> Settings:
    plan = Plan(quota_day_mb=2000, quota_month_mb=30_000)
    return Settings(
        probe_id="p1",
        site=Site(id="s1"),
        broker=BrokerSettings(host="nowhere", tls=None),
        links=(Link(name=LINK, interface="lo", modem=None, plan=plan),),
        jobs=(
            ThroughputJob(name=JOB, runs_per_day=12),
            ThroughputJob(name="often", every_s=3600),
            RadioJob(name="radio", every_s=60, thin=None),
        ),
        data_dir=data_dir,
    )


def result(detail: str = "", *, throughput: bool = False) -> Result:
    measured = Throughput(download=Transfer(steady_mbps=41.5, payload_bytes=26_000_000, elapsed_s=5.0))
    return Result(
        probe_id="p1",
        site="s1",
        link=LINK,
        job=Job(name=JOB, measurement="throughput"),
        started_at=NOW,
        agent_version="0",
        outcome=measured if throughput else Failed(reason=Reason.BUSY, detail=detail),
    )


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a spool that has something in every table, and close it."""
    path = tmp_path_factory.mktemp("template") / SPOOL_FILE
    spool = Spool(path, max_bytes=10**8)
    for number in range(6):
        spool.append(result(f"old {number}", throughput=number > 3))
    spool.acknowledge(spool.spool_id, [(5, 6)])
    spool.refuse(spool.spool_id, [Refusal(seq=1, reason="not understood"), Refusal(seq=2, reason=CONFLICT)])
    for number, began in enumerate((None, Boot(boot_now().boot_id, 12.5), None)):
        spool.append(result(f"new {number}"), began=began)
    last = spool.append(result(throughput=True)).seq
    spool.acknowledge(spool.spool_id, [(last, last)])
    for slot, day in enumerate(("2026-06-13", "2026-06-14", DAY)):
        run = Run(JOB, LINK, slot, Visit(day, slot, slot, upload=True))
        spool.begin(run, NOW, Boot("an-earlier-boot", 3.0) if slot == 2 else None, account=Account(JOB, LINK, 0, slot))
    spool.begin(Run("often", LINK, 7), NOW)
    spool.account(Account("radio", LINK, 60, int(NOW.timestamp()) // 60 - 5), Account("often", LINK, 3600, 3))
    spool._db.execute("UPDATE planned_runs SET bytes = 90000000")
    meter = Meter(boot_id="b", interface_index=1, uptime_s=1.0, received_bytes=5, sent_bytes=7)
    spool.book(Booking(LINK, "2026-06-14", SPENT_BEFORE), Booking(LINK, DAY, SPENT_TODAY, meter))
    spool.change_sim(LINK, SIM, DAY)
    spool.tell(LINK, "asked for the balance", NOW.isoformat())
    spool.keep_balance(LINK, Balance(NOW.isoformat(), 0, "the operator says less", "Con lai 0 MB"))
    with spool._transaction() as db:
        db.execute("INSERT INTO meta VALUES (?, ?)", (salvage.DAMAGE, encode(Damaged(saved=1, unreadable=2))))
    spool.close()
    return path


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    worn.say.cache_clear()
    with caplog.at_level(logging.ERROR):  # thousands of lines help nobody
        yield


def change(path: Path, table: str, column: str, rowid: int, value: str) -> bool:
    """Change one value as a card does; return whether SQLite lets a test do so."""
    with closing(sqlite3.connect(path)) as db:
        keys = [row[1] for row in db.execute(f"PRAGMA table_info({table})") if row[5]]
        key = db.execute(f"SELECT {', '.join(keys)} FROM {table} LIMIT 1 OFFSET {rowid}").fetchone()  # noqa: S608  # the test's own words
        where = " AND ".join(f"{name} IS ?" for name in keys)
        try:
            db.execute(f"UPDATE OR REPLACE {table} SET {column} = {value} WHERE {where}", key)  # noqa: S608  # as above
        except sqlite3.IntegrityError:  # a NULL where none may be is seen by quick_check
            return False
        db.commit()
    return True


def all_values(path: Path) -> Iterator[tuple[str, str, int]]:
    with closing(sqlite3.connect(path)) as db:
        names = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type='table'")}
        assert names == {*SMALL, "results"}, "a new table belongs into this test"
        for table in SMALL:
            count = db.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]  # noqa: S608  # as above
            assert count, table
            for row in db.execute(f"PRAGMA table_info({table})"):
                yield from ((table, row[1], number) for number in range(count))


def insisting(work: Callable[[], object]) -> None:
    """Do it as the agent does: what the disk refuses is tried again."""
    try:
        work()
    except StorageError:
        work()


def goes_on(service: Service) -> None:
    """Do what a service does, with every reader of the notebook, the spool and the planner."""
    spool, runner, link = service.spool, service.runner, service.settings.links[0]
    budget, timetable = runner.budget, Timetable(service.settings, spool, runner, FixedClock())
    runner.keep(LINK, Failed(reason=Reason.BUSY, detail="made after"), started_at=NOW, elapsed_s=1.0)
    steps: list[Callable[[], object]] = [
        service.status,
        runner.recover,
        service.date_results,
        timetable.next_run,
        lambda: timetable.passes(timetable.next_run()[1]) if timetable.next_run()[1] is not None else None,  # type: ignore[arg-type]  # it was looked at
        lambda: [budget.cut_off(link, job) for job in service.settings.jobs],
        lambda: [
            budget.grant(link, job, upload=True, by_hand=by_hand)
            for job in service.settings.jobs
            for by_hand in (False, True)
        ],
        lambda: budget.room(link, Claim.TELEMETRY),
        lambda: budget.is_spent(link),
        lambda: encode(state) if (state := budget.state(link)) is not None else None,
        lambda: budget.sim_seen(link, SIM),
        budget.clock_was_set,
        budget.tick,
        lambda: plan_show._facts(service.settings, spool, FixedClock()),
        lambda: (spool.accounts(), spool.last_slots(), spool.under_way(), spool.last_began(), spool.visits(LINK)),
        lambda: (spool.meter(LINK), spool.balance(LINK), spool.told(LINK, "x", DAY), spool.told_when(LINK, "x")),
        lambda: (spool.count_undated(), spool.undated(), spool.run_began(Run(JOB, LINK, 1))),
        lambda: spool.resend(spool.spool_id, [(1, 100)]),
        lambda: spool.begin(Run(JOB, LINK, 11, Visit(DAY, 11, 23, upload=False)), NOW),
        lambda: spool.append(result("the last"), ends=Run(JOB, LINK, 11), booking=Booking(LINK, DAY, 1000)),
        lambda: spool.defer(result("deferred")),
        spool.flush,
        budget.close,
        service.status,
    ]
    for step in steps:
        insisting(step)
    insisting(runner._flush_memory)
    waiting = {row.seq: decode_result(row.payload) for row in spool.oldest(1000)}
    details = [one.outcome.detail for one in waiting.values() if isinstance(one.outcome, Failed)]
    assert {"made after", "the last", "deferred"} <= set(details)
    for _ in range(2):  # the first time, what cannot be let go may show that the file has to be rebuilt
        for row in spool.oldest(1000):
            one = decode_result(row.payload)
            insisting(functools.partial(spool.acknowledge, one.spool_id, [(one.seq, one.seq)], check(row.payload)))
    assert spool.oldest(1000) == [], "what the collector names is let go"


@pytest.mark.parametrize("when", ["before the start", "at work"])
@pytest.mark.parametrize("table", SMALL)
def test_any_value_may_become_rubbish(tmp_path: Path, template: Path, table: str, when: str) -> None:
    tried = 0
    for number, (name, column, rowid) in enumerate(all_values(template)):
        if name != table:
            continue
        for value in RUBBISH[:: 1 if when == "before the start" else 3]:
            case = f"{table}.{column} of row {rowid} = {value}, {when}"
            folder = tmp_path / f"{number}-{tried}"
            folder.mkdir()
            path = folder / SPOOL_FILE
            shutil.copy(template, path)
            changed = when == "at work" or change(path, table, column, rowid, value)
            try:
                service = Service(settings_of(folder), FixedClock(), SerialModems())
                if when == "at work":
                    changed = change(path, table, column, rowid, value)
                if changed:
                    tried += 1
                    goes_on(service)
                service.spool.close()
                Service(settings_of(folder), FixedClock(), SerialModems()).spool.close()
                rebuilt = sorted(file.name for file in folder.glob("*.damaged-?"))
                assert len(rebuilt) <= 1
                Service(settings_of(folder), FixedClock(), SerialModems()).spool.close()
                assert sorted(file.name for file in folder.glob("*.damaged-?")) == rebuilt, "mended once"
            except BaseException as error:
                error.add_note(case)
                raise
            shutil.rmtree(folder)
    assert tried
