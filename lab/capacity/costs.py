"""What one message and one result cost here: measured on the real parts, a few thousand of each.

The collector is loaded twice, with one result in a message and with many; the two runs tell the price of a message from
that of a result. The journal's growth is read from the disk afterwards. What InfluxDB keeps is what it has once nothing
is left in its log: a whole week, the span of its files, of a few links, whose values are noisier than a modem's, and
of what the probes say of themselves.
"""

from __future__ import annotations

import contextlib
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec

from collector import points
from collector.influx import open_sink
from collector.instants import microseconds
from collector.settings import SinkSettings
from collector.writer import BATCH_RESULTS
from lab.collecting.bench import sample
from lab.collecting.contenders import DATABASE, Ours
from lab.servers import Influxd, ServerError
from lab.wire import bench as wire
from wire import codec

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lab.collecting.bench import Sample
    from lab.collecting.content import Content
    from lab.rundir import RunDir

_MANY: Final = 20
_PROBES: Final = 200
_WIRE_HOURS: Final = 24.0
"""All of it: the first hours have fewer throughput tests than a day has on average."""
_SETTLES_WITHIN_S: Final = 60.0
_SAME_FOR_S: Final = 4.0
_LINKS: Final = 5
_DAYS: Final = 7
_MONDAY: Final = datetime(2026, 6, 29, tzinfo=UTC)
"""InfluxDB 1.x cuts its files at Mondays, where points are kept for ever ("shard group duration")."""


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """Prices: CPU in microseconds of one core of this machine, disk and wire in bytes."""

    collector_us_per_message: float
    collector_us_per_result: float
    broker_us_per_message: float
    influxd_us_per_result: float
    collector_rss_mb: float
    results_per_s: float  # sustained by one collector with many results in a message, InfluxDB on the same machine
    journal_bytes_per_result: float
    influxd_bytes_per_point: float
    series_per_link: float
    wire_bytes_per_link_day: float


class _ColdInfluxd(Influxd):
    """InfluxDB that puts what it has into its final form a second after the last write, not after hours."""

    def configure(self) -> list[str]:
        arguments = super().configure()
        config = self.data_dir / "influxdb.conf"
        cold = '[data]\ncache-snapshot-write-cold-duration = "1s"\ncompact-full-write-cold-duration = "1s"\n'
        config.write_text(config.read_text().replace("[data]\n", cold))
        return arguments


def measure(made: Content, place: RunDir, results: int, say: Callable[[str], None]) -> Costs:
    """Measure all; raise ServerError, StalledError, and what `probe-lab bench wire` raises."""
    say(f"the collector, {results} results by themselves ...")
    single = sample(Ours(), place.folder("single"), _PROBES, results, 1, config=made.path)
    say(f"the collector, {results} results, {_MANY} in a message ...")
    folder = place.folder("many")
    many = sample(Ours(), folder, _PROBES, results, _MANY, config=made.path)
    stored = _count(folder, results)
    say(f"what the database keeps of a week of {_LINKS} links ...")
    point_bytes, series = _database(made, place.folder("week"))
    say(f"the wire, {_WIRE_HOURS:g} hours of a link ...")
    day = wire.measure(made.settings, _WIRE_HOURS)
    collector_message, collector_result = _told_apart(single, many, "contender")
    broker_message, _ = _told_apart(single, many, "broker")
    return Costs(
        collector_us_per_message=collector_message,
        collector_us_per_result=collector_result,
        broker_us_per_message=broker_message,
        influxd_us_per_result=many.cpu_ms["influxd"] * 1e3,
        collector_rss_mb=max(single.rss_mb, many.rss_mb),
        results_per_s=many.results_per_s,
        journal_bytes_per_result=_bytes_of(folder, "journal.db*") / stored,
        influxd_bytes_per_point=point_bytes,
        series_per_link=series,
        wire_bytes_per_link_day=day.bytes_a_link_day,
    )


def _told_apart(single: Sample, many: Sample, who: str) -> tuple[float, float]:
    """Return microseconds per message and per result: a + b of one, a / n + b of the other."""
    one_us, many_us = single.cpu_ms[who] * 1e3, many.cpu_ms[who] * 1e3
    message_us = max((one_us - many_us) * _MANY / (_MANY - 1), 0.0)
    return message_us, max(one_us - message_us, 0.0)


def _count(folder: Path, results: int) -> int:
    """Count what the journal holds: the results and those that warmed the collector up."""
    from collector.journal import Journal  # noqa: PLC0415  # only this one question is asked of it

    with Journal(folder / "journal.db", read_only=True) as journal:
        return max(results, journal.count(since_us=-(2**62), until_us=2**62))


def _database(made: Content, folder: Path) -> tuple[float, float]:
    """Write a week, wait until the files have their final form; return bytes a point, and series a link."""
    lines = week(made, range(_LINKS), _DAYS)
    with _ColdInfluxd(folder) as influxd:
        sink = open_sink(SinkSettings(kind="influxdb1", url=influxd.url, database=DATABASE))
        with contextlib.closing(sink):
            for some in range(0, len(lines), BATCH_RESULTS):
                sink.write(lines[some : some + BATCH_RESULTS])
        size = _settled(folder)
        series = len(influxd.query("SHOW SERIES", DATABASE))
    return size / len(lines), series / _LINKS


def week(made: Content, probes: range, days: int) -> list[str]:
    """Write all points that probes with one link each make in so many days, in the order in which they come in."""
    lines = [
        line
        for probe in probes
        for line in (
            *(
                points.line(codec.decode_result(one))
                for one in made.results(probe, round(days * made.per_day), start=_MONDAY)
            ),
            *(
                points.status_line(status, microseconds(status.at or _MONDAY))
                for status in made.statuses(probe, days, start=_MONDAY)
            ),
        )
    ]
    return sorted(lines, key=lambda line: int(line.rpartition(" ")[2]))


def _settled(folder: Path) -> int:
    """Return the size of the database's files once they stay the same; raise ServerError."""
    deadline_s = time.monotonic() + _SETTLES_WITHIN_S
    size, since_s = -1, time.monotonic()
    while size < 0 or time.monotonic() - since_s < _SAME_FOR_S:
        now = _bytes_of(folder / "data", "**/*.tsm") + _bytes_of(folder / "wal", "**/*.wal")
        if now != size:
            size, since_s = now, time.monotonic()
        if time.monotonic() > deadline_s:
            raise ServerError(f"influxd still moves its files after {_SETTLES_WITHIN_S:.0f} s")
        time.sleep(0.2)
    return size


def _bytes_of(folder: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in folder.glob(pattern) if path.is_file())
