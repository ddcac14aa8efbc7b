"""A probe gets another name while results wait: they cannot travel under it, and they hold up nothing."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from agent.spool import Spool
from collector.acks import Acks
from collector.intake import Arrival, Intake
from collector.journal import Batch, Journal
from wire import topics
from wire.measured import Failed
from wire.reasons import Reason
from wire.results import Result

if TYPE_CHECKING:
    from pathlib import Path


def made_by(probe_id: str, number: int) -> Result:
    return Result(
        probe_id=probe_id,
        site="tan-phong",
        link="viettel",
        started_at=datetime(2026, 6, 1, 0, 0, number, tzinfo=UTC),
        elapsed_s=1.0,
        agent_version="0.1.0",
        outcome=Failed(reason=Reason.NO_MODEM),
    )


def test_results_of_the_old_name_are_kept_by_the_collector_and_leave_the_spool(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db", max_bytes=10**8)
    with Journal(tmp_path / "journal.db") as journal:
        for number in range(3):
            spool.append(made_by("lc-old-1", number))
        for number in range(3, 5):
            spool.append(made_by("lc-new-1", number))
        waiting = [row.payload for row in spool.oldest(10)]
        intake = Intake()
        for payload in waiting:  # the broker lets a probe speak on its own branch alone
            intake.take(Arrival(topics.topic("lc-new-1", topics.RESULT), payload, len(payload)))
        unsaid = Acks()
        unsaid.note(intake, journal.append(Batch(received_us=1, results=intake.results, parked=intake.parked)))
        for probe_id, ack in unsaid.take():
            assert probe_id == "lc-new-1"
            spool.acknowledge(ack.spool_id, ack.stored, ack.checks)
            spool.refuse(ack.spool_id, ack.refused)
        kept = {payload for (payload,) in journal.connection.execute("SELECT payload FROM quarantine")}
        stored = {row.payload for row in journal.read(0, 10)}
    assert kept == set(waiting[:3]), "whole, whatever becomes of the card"
    assert stored == set(waiting[3:])
    assert (spool.counts().waiting, spool.counts().refused) == (0, 3)
    spool.close()
