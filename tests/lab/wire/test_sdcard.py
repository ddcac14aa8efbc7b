"""What the bench of the card writes is what an agent writes: results, and the books beside them."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec

from agent import settings
from lab.collecting.content import EXAMPLE
from lab.wire import day, sdcard
from wire.measured import Latency, Throughput

if TYPE_CHECKING:
    from pathlib import Path


def test_a_day_of_ours_keeps_runs_books_and_speeds_as_an_agent_does(tmp_path: Path) -> None:
    config = settings.load(EXAMPLE)
    events = day.events(config)
    ours = sdcard.Ours(config, tmp_path / "spool.db", config.spool.telemetry_every_s, None)
    for event in events:
        if event.result is not None:
            ours.take(event, event.result)
    (link,) = config.links
    spool, date = ours._spool, (day.BEGIN + timedelta(hours=7)).date()

    runs = [event.result.outcome for event in events if event.kind == "throughput" and event.result is not None]
    assert len(spool.visits(link.name)) == len(runs) == 18
    assert all(visit.made and visit.run_bytes for visit in spool.visits(link.name))
    carried = sum(
        transfer.interface_bytes or 0
        for outcome in runs
        if isinstance(outcome, Throughput)
        for transfer in (outcome.download, outcome.upload)
        if transfer is not None
    )
    booked = spool.spent(link.name, day.BEGIN.date(), date).day_bytes
    assert booked > carried, "what latencies carried is booked too"
    meter = spool.meter(link.name)
    assert meter is not None
    assert meter.received_bytes >= booked
    assert {job for job, _ in spool.accounts()} == {job.name for job in config.jobs}
    kept = msgspec.json.decode((tmp_path / "spool.json").read_bytes())
    assert kept["mbps"][link.name] > 0
    ours.close()


def test_a_latency_carries_what_echoes_carry() -> None:
    carried = [
        event.result.outcome.interface_bytes
        for event in day.events(settings.load(EXAMPLE))
        if event.result is not None and isinstance(event.result.outcome, Latency)
    ]
    assert all(10_000 < (one or 0) < 30_000 for one in carried)
