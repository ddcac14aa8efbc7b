"""InfluxDB 1.x shows what it has acknowledged, at once and ever after: what the torture counts on when it counts."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

import pytest

from collector import points
from collector.influx import Busy, InfluxDB1
from collector.settings import SinkSettings
from lab.servers import Influxd
from lab.torture import filler
from lab.torture.stand import DATABASE
from wire.results import Job, Result

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.journey

SNAPSHOTS = 4
PATIENCE_S = 60.0
ELAPSED = "SELECT elapsed_s, seq FROM /.*/"


class BusyInfluxd(Influxd):
    """One that moves points from its cache to a file every second."""

    def configure(self) -> list[str]:
        command = super().configure()
        config = self.data_dir / "influxdb.conf"
        often = 'cache-snapshot-memory-size = 16384\ncache-snapshot-write-cold-duration = "1s"\n[http]'
        config.write_text(config.read_text().replace("[http]", often).replace('level = "warn"', 'level = "info"'))
        return command

    def snapshots(self) -> int:
        return self.log_file.read_text().count("Snapshot for path written")


class Feed:
    """Writes as the collector's writer does, a few results at a time, and knows what was acknowledged."""

    def __init__(self, influxd: Influxd) -> None:
        settings = SinkSettings(kind="influxdb1", url=influxd.url, database=DATABASE)
        self._sink = InfluxDB1(settings)
        self._acknowledged = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def acknowledged(self) -> set[int]:
        return set(range(1, self._acknowledged + 1))

    def _run(self) -> None:
        while not self._stopping.wait(0.02):
            tokens = range(self._acknowledged + 1, self._acknowledged + 9)
            lines = [points.line(made(token)) for token in tokens]
            try:
                self._sink.write(lines)
            except Busy:
                continue
            self._acknowledged = tokens[-1]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        self._sink.close()


def made(token: int) -> Result:
    return Result(
        probe_id=f"probe-{token % 3}",
        site="torture",
        link="viettel",
        job=Job(name="light", measurement="throughput"),
        seq=token,
        spool_id="s",
        started_at=datetime.now(UTC),
        elapsed_s=float(token),
        agent_version="0",
        outcome=filler.outcome_of(token),
    )


def missing(influxd: Influxd, feed: Feed) -> set[int]:
    known = feed.acknowledged()
    if not known:
        return set()
    rows = influxd.query(ELAPSED, DATABASE)
    return known - {int(row["elapsed_s"]) for row in rows if row["elapsed_s"] is not None}  # of one under way, a part


def test_an_acknowledged_point_is_seen_while_points_are_moved_to_a_file_and_after_a_kill(tmp_path: Path) -> None:
    with BusyInfluxd(tmp_path / "influxd") as influxd, Feed(influxd) as feed:
        deadline_s = time.monotonic() + PATIENCE_S
        looks = 0
        for snapshots in (SNAPSHOTS, 2 * SNAPSHOTS):
            while influxd.snapshots() < snapshots:
                assert missing(influxd, feed) == set()
                looks += 1
                assert time.monotonic() < deadline_s, f"only {influxd.snapshots()} snapshots"
            influxd.kill()
            influxd.start()
            assert missing(influxd, feed) == set()
        assert looks > 2 * SNAPSHOTS
