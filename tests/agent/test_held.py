"""The disk takes nothing for long: what matters least is given up in memory, and the collector learns how much."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from agent.clock import SystemClock
from agent.held import AT_MOST
from agent.lease import Habits
from agent.modems import SerialModems
from agent.runner import Runner
from agent.settings import Link, RadioJob, Settings, Site
from agent.spool import Spool
from base.broker import BrokerSettings
from wire.codec import decode_result
from wire.events import Diagnosis, Dropped, Recovery
from wire.measured import Failed
from wire.reasons import Condition, Reason
from wire.results import Job, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from agent.lease import Wish

NOW = datetime(2026, 6, 15, 8, 0, tzinfo=UTC)
STEP = Recovery(rung=1, action="dial again", before=Diagnosis(condition=next(iter(Condition))))
THROUGHPUT = Job(name="light", measurement="throughput")


class NoLender:
    habits = Habits()

    def ask(self, wish: Wish) -> AbstractContextManager[object]:
        raise AssertionError(wish)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "spool.db", max_bytes=10**9)
    spool._db.execute("PRAGMA synchronous=OFF")
    yield spool
    spool.close()


@pytest.fixture
def runner(tmp_path: Path, spool: Spool) -> Runner:
    settings = Settings(
        probe_id="p1",
        site=Site(id="s1"),
        broker=BrokerSettings(host="nowhere"),
        links=(Link(name="viettel", interface="lo", modem=None),),
        jobs=(RadioJob(name="radio", every_s=60),),
        data_dir=tmp_path,
    )
    return Runner(settings, spool, SystemClock(), SerialModems(), NoLender())  # type: ignore[arg-type]  # never asked


def keep(runner: Runner, outcome: Outcome, job: Job | None = None) -> None:
    runner.keep("viettel", outcome, started_at=NOW, elapsed_s=1.0, job=job)


def refuses(spool: Spool, *, refuses: bool) -> None:
    spool._db.execute(f"PRAGMA query_only={int(refuses)}")


def outcomes(spool: Spool) -> list[Outcome]:
    return [decode_result(row.payload).outcome for row in spool.oldest(1000)]


def test_what_is_too_much_in_memory_goes_by_its_rank_and_is_told(
    spool: Spool, runner: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    refuses(spool, refuses=True)
    keep(runner, Failed(reason=Reason.TIMEOUT, detail="the oldest, and a verdict stands on it"), THROUGHPUT)
    for _ in range(AT_MOST + 50):
        keep(runner, STEP)
    keep(runner, Failed(reason=Reason.TIMEOUT, detail="the newest"), THROUGHPUT)
    assert caplog.text.count("given up") == 1
    refuses(spool, refuses=False)
    keep(runner, STEP)
    found = outcomes(spool)
    failed = [outcome.detail for outcome in found if isinstance(outcome, Failed)]
    assert failed == ["the oldest, and a verdict stands on it", "the newest"]
    told = [outcome for outcome in found if isinstance(outcome, Dropped)]
    assert told == [Dropped(counts={"recovery": 52}, first_seq=0, last_seq=0)]
    assert len(found) == AT_MOST + 2
    keep(runner, STEP)
    assert len(outcomes(spool)) == AT_MOST + 3, "once"
    assert not runner.storage_error


def test_a_report_that_the_disk_refuses_too_is_not_lost(spool: Spool, runner: Runner) -> None:
    refuses(spool, refuses=True)
    for _ in range(AT_MOST + 10):
        keep(runner, STEP)
    runner._unspooled.clear()  # as if the disk took these, and not the report
    for _ in range(AT_MOST + 10):
        keep(runner, STEP)
    refuses(spool, refuses=False)
    runner._flush_memory()
    counts = [outcome.counts["recovery"] for outcome in outcomes(spool) if isinstance(outcome, Dropped)]
    assert sum(counts) == 20


def test_a_full_spool_that_gives_up_this_report_joins_no_numbers_to_it(tmp_path: Path, runner: Runner) -> None:
    spool = Spool(tmp_path / "small.db", max_bytes=20_000)
    runner._spool = spool
    runner._given_up.update({"recovery": 500})
    runner._flush_memory()
    for _ in range(150):
        keep(runner, Failed(reason=Reason.TIMEOUT, detail="x" * 300), THROUGHPUT)
    told = [outcome for outcome in outcomes(spool) if isinstance(outcome, Dropped)]
    assert {(one.counts.get("recovery"), one.first_seq, one.last_seq) for one in told if one.last_seq == 0} == {
        (500, 0, 0)
    }
    assert all("recovery" not in one.counts and one.first_seq > 0 for one in told if one.last_seq)
    assert any(one.last_seq for one in told)
    spool.close()
