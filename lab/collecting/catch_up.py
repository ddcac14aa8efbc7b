"""`probe-lab bench collector --catch-up`: 300 probes after two days without collector and database.

First the collector comes back: every probe sends its backlog in messages of 50, as agents do, until the collector has
acknowledged it all, while InfluxDB is still away. Then InfluxDB comes back, and one more probe goes on measuring: how
long its results take to be seen while the backlog is written says whether live results starve. Volumes are those of the
default schedule; the live probe sends faster than that whole fleet would.
"""

from __future__ import annotations

import statistics
import threading
import time
from typing import TYPE_CHECKING, Final, Self

import msgspec

from base.broker import BrokerSettings, make_client
from base.durable import StorageError
from base.table import render
from collector.journal import Journal
from lab.benches import Judged, say
from lab.collecting import content
from lab.collecting.contenders import DATABASE, Ours, running
from lab.collecting.watch import Load, StalledError, peak_rss_mb, stored, wait_until_stored
from lab.rundir import RunDir
from lab.servers import Influxd, Mosquitto, ServerError
from wire import topics

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GOAL_MINUTES: Final = 5.0
"""For each half: "in minutes"."""
GOAL_LIVE_S: Final = 10.0
"""19 of 20 live results are seen within this time."""
GOAL_RSS_MB: Final = 150
PER_MESSAGE: Final = 50
LIVE_PER_S: Final = 20.0
_LIVE_PROBE: Final = 9500
_LIVE_AT_LEAST: Final = 20
_LIVE_MAX: Final = 20_000
_STALLED_S: Final = 60.0
_LOOK_EVERY_S: Final = 0.1
_SAY_EVERY_S: Final = 5.0
_BROKER_LIMITS: Final = ("max_inflight_messages 1000", "set_tcp_nodelay true", "max_queued_messages 100000")


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What it took. `live_*`: from sending a result to seeing it in InfluxDB, while the backlog was written."""

    probes: int
    days: float
    backlog: int
    live: int
    journal_s: float
    acked: int
    database_s: float
    stored: int
    live_median_s: float
    live_95_s: float
    live_max_s: float
    rss_mb: float

    @property
    def missed(self) -> list[str]:
        """Name the goals that were missed."""
        minutes = max(self.journal_s, self.database_s) / 60
        goals = {
            f"{minutes:.1f} minutes, the goal is {GOAL_MINUTES:.0f} for each half": minutes <= GOAL_MINUTES,
            f"one in 20 live results was seen after more than {self.live_95_s:.1f} s, the goal is {GOAL_LIVE_S:.0f}": (
                self.live_95_s <= GOAL_LIVE_S
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
    return Judged(msgspec.to_builtins(found) | {"missed": found.missed}, _text(found), found.missed)


def measure(folder: Path, probes: int, days: float) -> Found:
    """Run both halves; raise ServerError, StalledError or StorageError."""
    backlog = round(probes * days * sum(content.PER_DAY.values()))
    broker = Mosquitto(folder / "broker", extra=_BROKER_LIMITS)
    influxd = Influxd(folder / "influxd")
    with broker, running(Ours(), folder, broker, influxd) as pid:
        say(f"writing {backlog} results of {probes} probes as agents pack them ...")
        with Load(broker.port, probes=probes, results=backlog, per_message=PER_MESSAGE) as load:
            _wait_until_listening(folder)
            say("the collector is back, the database is not: the probes send ...")
            begun_s = load.go()["begun_s"]
            journalled_s = _wait_until_journalled(folder / "journal.db", backlog)
            acks = load.stop()
        with influxd:
            say("the database is back ...")
            influxd.query(f"CREATE DATABASE {DATABASE}")
            back_s = time.monotonic()
            wait_until_stored(influxd, 1, stalled_s=_STALLED_S)
            with Live(broker, influxd) as live:
                wait_until_stored(influxd, backlog, stalled_s=_STALLED_S, seen=_progress(backlog))
                live.stop()
                done_s = wait_until_stored(influxd, backlog + live.sent, stalled_s=_STALLED_S)
                live.wait_until_seen()
            return Found(
                probes=probes,
                days=days,
                backlog=backlog,
                live=live.sent,
                journal_s=round(max(journalled_s, acks["acked_at_s"]) - begun_s, 1),
                acked=acks["acked"],
                database_s=round(done_s - back_s, 1),
                stored=stored(influxd),
                live_median_s=round(statistics.median(live.delays_s), 2),
                live_95_s=round(sorted(live.delays_s)[int(0.95 * len(live.delays_s))], 2),
                live_max_s=round(max(live.delays_s), 2),
                rss_mb=round(peak_rss_mb(pid), 1),
            )


class Live:
    """One more probe that measures and publishes while others catch up, and a look at the database beside it."""

    def __init__(self, broker: Mosquitto, influxd: Influxd) -> None:
        self._influxd = influxd
        self._topic = topics.topic(content.probe_id(_LIVE_PROBE), topics.RESULT)
        settings = BrokerSettings(host=broker.host, port=broker.port, tls=None)
        self._client = make_client(settings, client_id="live", clean_session=True)
        self._client.connect(broker.host, broker.port)
        self._sent_at_s: list[float] = []
        self.delays_s: list[float] = []
        self._stopping = threading.Event()
        self._closing = threading.Event()
        self._threads = [threading.Thread(target=self._send), threading.Thread(target=self._look)]

    @property
    def sent(self) -> int:
        """How many it has sent."""
        return len(self._sent_at_s)

    def stop(self) -> None:
        """Send no more, once there were some."""
        while self.sent < _LIVE_AT_LEAST:
            time.sleep(_LOOK_EVERY_S)
        self._stopping.set()
        self._threads[0].join()

    def wait_until_seen(self) -> None:
        """Wait until all of them were seen; raise StalledError."""
        self._threads[1].join(_STALLED_S)
        if len(self.delays_s) < self.sent or not self.delays_s:
            raise StalledError(f"{len(self.delays_s)} of {self.sent} live results were seen")

    def _send(self) -> None:
        for payload in content.results(_LIVE_PROBE, _LIVE_MAX):
            if self._stopping.wait(1 / LIVE_PER_S):
                return
            self._sent_at_s.append(time.monotonic())
            self._client.publish(self._topic, payload, qos=1)

    def _look(self) -> None:
        condition = f"WHERE probe = '{content.probe_id(_LIVE_PROBE)}'"
        while not self._closing.wait(_LOOK_EVERY_S):
            seen = stored(self._influxd, condition)
            now_s = time.monotonic()
            self.delays_s += [now_s - sent_s for sent_s in self._sent_at_s[len(self.delays_s) : seen]]
            if self._stopping.is_set() and len(self.delays_s) >= self.sent:
                return

    def __enter__(self) -> Self:
        self._client.loop_start()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._closing.set()
        for thread in self._threads:
            thread.join()
        self._client.disconnect()
        self._client.loop_stop()


def _wait_until_listening(folder: Path) -> None:
    deadline_s = time.monotonic() + _STALLED_S
    while "listening" not in (folder / "log").read_text(errors="replace"):
        if time.monotonic() > deadline_s:
            raise StalledError("the collector does not listen")
        time.sleep(0.05)


def _wait_until_journalled(path: Path, total: int) -> float:
    count, moved_s = -1, time.monotonic()
    report = _progress(total)
    with Journal(path, read_only=True) as journal:
        while count < total:
            time.sleep(0.2)
            last = journal.waiting(0)[1]  # ids have no holes: nothing here is sent twice
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
    return (
        f"{found.probes} probes were without a collector for {found.days:g} days: {found.backlog:,} results wait\n\n"
        f"{render(('', 'seconds', 'results/s'), rows)}\n"
        f"\nlive results meanwhile, from sent to seen: median {found.live_median_s} s, 19 of 20 within"
        f" {found.live_95_s} s, longest {found.live_max_s} s ({found.live} of them)"
        f"\ncollector: {found.rss_mb:.0f} MB at most; {found.stored:,} points, {found.acked:,} acknowledged"
    )
