"""`probe-lab bench collector --catch-up`: 300 probes after two days without collector and database.

First the collector comes back: every probe sends its backlog in messages of 100, with at most 400 results that are not
acknowledged, as agents do, until the collector has acknowledged it all, while InfluxDB is still away. Then InfluxDB
comes back. All the time one more probe measures on, faster than the whole fleet would: how long its results take to be
acknowledged, and to be seen once there is a database, says whether live results starve. Volumes are those of the
default schedule.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from typing import TYPE_CHECKING, Final

import msgspec

from agent.publisher import BATCH, WINDOW
from base.durable import StorageError
from base.table import render
from lab.benches import Judged, say
from lab.collecting import content
from lab.collecting.contenders import DATABASE, Ours, running
from lab.collecting.content import Content
from lab.collecting.live import Delays, Live, Look
from lab.collecting.watch import Load, StalledError, peak_rss_mb, stored, wait_until_stored
from lab.rundir import RunDir
from lab.servers import Influxd, Mosquitto, ServerError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GOAL_MINUTES: Final = 5.0
"""For each half: "in minutes"."""
GOAL_LIVE_S: Final = 10.0
"""19 of 20 live results are acknowledged, and seen where there is a database, within this time."""
GOAL_RSS_MB: Final = 150
_FIRST_LIVE_PROBE: Final = 9500
_STALLED_S: Final = 60.0
_SAY_EVERY_S: Final = 5.0
_BROKER_LIMITS: Final = ("max_inflight_messages 1000", "set_tcp_nodelay true", "max_queued_messages 100000")


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What it took. `live_to_journal`: while the probes sent; `live_to_database`: while the backlog was written."""

    probes: int
    days: float
    backlog: int
    journal_s: float
    acked: int
    database_s: float
    stored: int
    live_to_journal: Delays
    live_to_database: Delays
    rss_mb: float

    @property
    def live(self) -> int:
        """How many results were no backlog."""
        return self.live_to_journal.results + self.live_to_database.results

    @property
    def missed(self) -> list[str]:
        """Name the goals that were missed."""
        minutes = max(self.journal_s, self.database_s) / 60
        first, second = self.live_to_journal, self.live_to_database
        slow = f"s for one in 20 live results, the goal is {GOAL_LIVE_S:.0f}"
        goals = {
            f"{minutes:.1f} minutes, the goal is {GOAL_MINUTES:.0f} for each half": minutes <= GOAL_MINUTES,
            f"while the probes send, to the acknowledgement over {first.acked_95_s:.1f} {slow}": (
                first.acked_95_s <= GOAL_LIVE_S
            ),
            f"while the backlog is written, to the acknowledgement over {second.acked_95_s:.1f} {slow}": (
                second.acked_95_s <= GOAL_LIVE_S
            ),
            f"while the backlog is written, to InfluxDB over {second.seen_95_s:.1f} {slow}": (
                second.seen_95_s <= GOAL_LIVE_S
            ),
            f"{self.rss_mb:.0f} MB, the goal is {GOAL_RSS_MB}": self.rss_mb <= GOAL_RSS_MB,
            f"{self.acked} of {self.backlog} results were acknowledged": self.acked == self.backlog,
            f"{self.stored} of {self.backlog + self.live} are in InfluxDB": self.stored == self.backlog + self.live,
        }
        return [text for text, reached in goals.items() if not reached]


def run(probes: int, days: float) -> Judged:
    """Measure and judge; raise ServerError, StalledError or OSError."""
    with RunDir() as place:
        try:
            found = measure(place.folder("catch-up"), probes, days)
        except StorageError as error:
            raise ServerError(str(error)) from error
    return Judged(msgspec.to_builtins(found) | {"live": found.live, "missed": found.missed}, _text(found), found.missed)


def measure(folder: Path, probes: int, days: float) -> Found:
    """Run both halves; raise ServerError, StalledError or StorageError."""
    made = Content()
    backlog = round(probes * days * made.per_day)
    broker = Mosquitto(folder / "broker", extra=_BROKER_LIMITS)
    influxd = Influxd(folder / "influxd")
    with broker, running(Ours(), folder, broker, influxd) as pid:
        say(f"writing {backlog} results of {probes} probes as agents pack them ...")
        with Load(broker.port, probes=probes, results=backlog, per_message=BATCH, window=WINDOW) as load:
            _wait_until_listening(folder)
            say("the collector is back, the database is not: the probes send ...")
            with Live(broker, made, _FIRST_LIVE_PROBE) as first:
                begun_s = load.go()["begun_s"]
                journalled_s = _wait_until_journalled(folder / "journal.db", backlog)
                first.stop()
            acks = load.stop()
        with influxd:
            say("the database is back ...")
            influxd.query(f"CREATE DATABASE {DATABASE}")
            back_s = time.monotonic()
            wait_until_stored(influxd, 1, stalled_s=_STALLED_S)
            with Live(broker, made, _FIRST_LIVE_PROBE + 1) as second, Look(influxd, (first, second)) as look:
                wait_until_stored(influxd, backlog + first.sent, stalled_s=_STALLED_S, seen=_progress(backlog))
                second.stop()
                done_s = wait_until_stored(influxd, backlog + first.sent + second.sent, stalled_s=_STALLED_S)
                look.wait_until_seen()
            return Found(
                probes=probes,
                days=days,
                backlog=backlog,
                journal_s=round(max(journalled_s, acks["acked_at_s"]) - begun_s, 1),
                acked=acks["acked"],
                database_s=round(done_s - back_s, 1),
                stored=stored(influxd),
                live_to_journal=first.delays(back_s),
                live_to_database=second.delays(back_s),
                rss_mb=round(peak_rss_mb(pid), 1),
            )


def _wait_until_listening(folder: Path) -> None:
    deadline_s = time.monotonic() + _STALLED_S
    while "listening" not in (folder / "log").read_text(errors="replace"):
        if time.monotonic() > deadline_s:
            raise StalledError("the collector does not listen")
        time.sleep(0.05)


def _wait_until_journalled(path: Path, total: int) -> float:
    """Wait for so many results of the backlog; ids have no holes, since nothing here is sent twice."""
    query = """SELECT (SELECT COALESCE(MAX(id), 0) FROM results) -
        (SELECT COUNT(*) FROM results NATURAL JOIN spools WHERE probe_id = ?)"""
    count, moved_s = -1, time.monotonic()
    report = _progress(total)
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=_STALLED_S)) as journal:
        while count < total:
            time.sleep(0.2)
            (last,) = journal.execute(query, (content.probe_id(_FIRST_LIVE_PROBE),)).fetchone()
            if last != count:
                count, moved_s = last, time.monotonic()
                report(count)
            elif time.monotonic() - moved_s > _STALLED_S:
                raise StalledError(f"{count} of {total} results are in the journal, and no more come")
    return moved_s


def _progress(total: int) -> Callable[[int], None]:
    """Return what says now and then how far it is."""
    said_at_s = time.monotonic()

    def report(count: int) -> None:
        nonlocal said_at_s
        if time.monotonic() - said_at_s > _SAY_EVERY_S:
            said_at_s = time.monotonic()
            say(f"  {count} of {total}")

    return report


def _text(found: Found) -> str:
    rows = [
        ("from the probes to the journal, acknowledged", found.journal_s, round(found.backlog / found.journal_s)),
        ("from the journal to InfluxDB", found.database_s, round(found.backlog / found.database_s)),
    ]
    first, second = found.live_to_journal, found.live_to_database
    live = [
        ("while the probes send, to the ack", first.acked_median_s, first.acked_95_s, first.acked_max_s),
        ("the same results, from the database's return to InfluxDB", *_seen(first)),
        ("while the backlog is written, to the ack", second.acked_median_s, second.acked_95_s, second.acked_max_s),
        ("the same results, to InfluxDB", *_seen(second)),
    ]
    return (
        f"{found.probes} probes were without a collector for {found.days:g} days: {found.backlog:,} results wait\n\n"
        f"{render(('', 'seconds', 'results/s'), rows)}\n\n"
        f"{render(('live results meanwhile, from sent', 'median s', '19 of 20 within s', 'longest s'), live)}\n"
        f"\n{first.results} and {second.results} live results; the goal, {GOAL_LIVE_S:.0f} s, is not for the second row"
        f"\ncollector: {found.rss_mb:.0f} MB at most; {found.stored:,} points, {found.acked:,} acknowledged"
    )


def _seen(delays: Delays) -> tuple[float, float, float]:
    return delays.seen_median_s, delays.seen_95_s, delays.seen_max_s
