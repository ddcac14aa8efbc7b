"""`probe-lab bench sdcard`: what a probe's day writes to its card, by the kernel's own count.

A day of agent.yaml's schedule goes through the agent's own spool on a real file system, with acknowledgements, books
and speeds, and beside it through the ways that come to mind first: they keep results and nothing else. Before and
after, /proc/self/io says how many bytes this process has caused to be written to storage (proc(5), `write_bytes`). A
day takes seconds here, so what would have been written back by Linux within half a minute is written back by hand after
each event: a page that two events change is written twice.
What a file system adds for itself (its journal, the inode's times) is not in the count, on any side.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from agent import settings
from agent.budget import WORTH_A_COMMIT_BYTES
from agent.deferred import Account, Run
from agent.ledger import Booking, Visit
from agent.meter import Meter
from agent.rank import is_telemetry
from agent.run_cost import Cost
from agent.speeds import Speeds
from agent.spool import Spool
from base.table import render
from lab.benches import Complaint, Judged, add_bench, say
from lab.numbers import real
from lab.wire import day
from wire.codec import encode
from wire.measured import Latency, Throughput

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from lab.benches import Parts
    from lab.wire.day import Event
    from wire.results import Result

GOAL_RATIO: Final = 0.2
_LARGE: Final = 10**9
_EXAMPLE: Final = Path(__file__).parents[2] / "config/agent.yaml"

_EXAMPLES: Final = """examples:
  probe-lab bench sdcard                       a day of config/agent.yaml; half a minute
  probe-lab bench sdcard --folder /mnt/card    on the card itself
  probe-lab bench sdcard --json --check        exit status 1 unless ours writes at most a fifth of SQLite as it comes
"""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One way to keep results until they are acknowledged, and what a day of it writes."""

    way: str
    results: int
    written_bytes: int
    flushes: int
    loses: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The object printed with --json. `flushes`: how often a way waited for the card to have everything."""

    rows: list[Row]
    ratio: float
    goal_ratio: float = GOAL_RATIO
    goal_met: bool = False


class Way(Protocol):
    """A way to keep results. `files`: what it writes, whatever of it exists now."""

    flushes: int

    def take(self, event: Event, result: Result) -> None:
        """Keep a result, then let go of it as if its acknowledgement had come."""
        ...

    def close(self) -> None:
        """End the day."""
        ...


def add_parser(parts: Parts) -> None:
    """Add `sdcard` to the benches."""
    parser = add_bench(
        parts,
        "sdcard",
        run,
        summary="bytes that a probe's day writes to its card",
        description="Put a day of results through the spool, and count what is written to storage.",
        examples=_EXAMPLES,
        check="if the goal is missed",
        failures=(OSError,),
    )
    parser.add_argument("--config", type=Path, default=_EXAMPLE, metavar="FILE", help="an agent.yaml (%(default)s)")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("/var/tmp"),  # noqa: S108  # a temporary folder is made in it
        metavar="DIR",
        help="where to write (%(default)s)",
    )
    parser.add_argument(
        "--hours", type=real(0.05, 24), default=24.0, metavar="N", help="how much of the day (default all)"
    )


def run(arguments: argparse.Namespace) -> Judged:
    """Write, count and judge; raise Complaint, ConfigError or OSError."""
    report = measure(settings.load(arguments.config), arguments.folder, arguments.hours)
    if not all(row.written_bytes for row in report.rows):
        raise Complaint(f"{arguments.folder}: the kernel counts nothing here; name a folder on a disk with --folder")
    return Judged(report, show(report), () if report.goal_met else ["the goal is missed"])


def show(report: Report) -> str:
    """Write the table for people."""
    rows = [[row.way, row.results, round(row.written_bytes / 1e6, 1), row.flushes, row.loses] for row in report.rows]
    head = ["a day", "results", "MB written", "flushes", "a power cut costs"]
    return f"""{render(head, rows)}

counted for ours: results and their acknowledgements, the archive of throughput results, the begin and the end of every
run, the data plan's books (bytes, counters, planned runs), the links' last speeds; not the system's log,
nor what changes rarely (modems' profiles, operators' words)
ours writes {report.ratio:.2f} of SQLite as it comes
goal: at most {report.goal_ratio}: {"met" if report.goal_met else "MISSED"}"""


def measure(config: settings.Settings, folder: Path, hours: float) -> Report:
    """Go through the day once for each way; raise OSError."""
    events, all_looks = day.events(config, hours), day.events(_without_thinning(config), hours)
    cadence_s = config.spool.telemetry_every_s
    memory_dir = Path("/dev/shm")  # noqa: S108  # the tmpfs that every Linux has
    with tempfile.TemporaryDirectory(dir=folder) as name, tempfile.TemporaryDirectory(dir=memory_dir) as held:
        home = Path(name)
        ways: list[tuple[str, str, list[Event], Callable[[], Way]]] = [
            (
                "ours",
                f"telemetry of {cadence_s} s",
                events,
                lambda: Ours(config, home / "ours.db", cadence_s, Path(held)),
            ),
            ("ours, each result at once", "nothing", events, lambda: Ours(config, home / "at-once.db", 0, None)),
            ("the same, every look a result", "nothing", all_looks, lambda: Ours(config, home / "looks.db", 0, None)),
            ("SQLite as it comes", "nothing", all_looks, lambda: Plain(home / "plain.db")),
        ]
        rows = [
            Row(way=way, results=_results(some), written_bytes=written, flushes=flushes, loses=loses)
            for way, loses, some, make in ways
            for written, flushes in [_written(make, home, some, way)]
        ]
    ratio = rows[0].written_bytes / max(1, rows[-1].written_bytes)
    return Report(
        rows=rows,
        ratio=ratio,
        goal_met=ratio <= GOAL_RATIO,
    )


class Ours:
    """The agent's spool, books and speeds, driven through the calls of runner, timetable, publisher and collector."""

    def __init__(self, config: settings.Settings, path: Path, cadence_s: int, memory_dir: Path | None) -> None:
        self._config = config
        self._spool = Spool(path, max_bytes=_LARGE, defer_s=1e9 if cadence_s else 0.0, memory_dir=memory_dir)
        self._speeds_file = path.with_suffix(".json")
        self._speeds = Speeds(self._speeds_file)
        self._cadence_s = cadence_s
        self._held_since_s: float | None = None
        self._pending: Counter[str] = Counter()
        self._carried: Counter[str] = Counter()
        self.flushes = 0

    def take(self, event: Event, result: Result) -> None:
        """Hold telemetry until its cadence, commit a throughput result at once; the ack follows each commit."""
        if self._held_since_s is not None and event.at_s >= self._held_since_s + self._cadence_s:
            self._spool.flush()
            self._committed()
        self._tick(event)
        if result.job is None:
            self._defer(event, result, None, None)
            return
        job, link = self._config.job(result.job.name), result.link or ""
        run = Run(job.name, link, int(event.at_s), _visit(event, job), noted=job.claim is not None)
        account = Account(job.name, link, job.every_s or 0, run.slot)
        if run.noted:
            fsync = isinstance(job, settings.ThroughputJob)
            self._spool.begin(run, result.started_at, account=account, fsync=fsync)
            self.flushes += fsync
        self._carry(link, result)
        if is_telemetry(result):
            self._defer(event, result, run, account)
        else:
            booking = self._booking(event, link)
            self._spool.append(
                result, ends=run, booking=booking, cost=Cost(booking.grown_bytes, upload=False, cut_short=False)
            )
            self._pending[link] = 0
            self._committed()

    def close(self) -> None:
        """Commit the rest."""
        self._spool.close()

    def _defer(self, event: Event, result: Result, run: Run | None, account: Account | None) -> None:
        self._spool.defer(result, ends=run, account=account)
        if not self._cadence_s:
            self._committed()
        elif self._held_since_s is None:
            self._held_since_s = event.at_s

    def _carry(self, link: str, result: Result) -> None:
        """Let the interface carry what a run says that it carried, and remember how fast it was."""
        match result.outcome:
            case Throughput(download=download, upload=upload):
                grown = sum(one.interface_bytes or one.payload_bytes for one in (download, upload) if one is not None)
                before = self._speeds_file.stat().st_mtime_ns if self._speeds_file.exists() else 0
                self._speeds[link] = download.steady_mbps
                if self._speeds_file.stat().st_mtime_ns != before:
                    self.flushes += 2  # the file and its folder
            case Latency(interface_bytes=interface_bytes):
                grown = interface_bytes or 0
            case _:
                grown = 0
        self._pending[link] += grown
        self._carried[link] += grown

    def _tick(self, event: Event) -> None:
        """Book what is worth a commit, as agent.budget does before each run."""
        due = [
            self._booking(event, link.name)
            for link in self._config.links
            if self._pending[link.name] >= WORTH_A_COMMIT_BYTES or self._spool.meter(link.name) is None
        ]
        if due:
            self._spool.book(*due)
            self.flushes += 1
            for one in due:
                self._pending[one.link] = 0

    def _booking(self, event: Event, link: str) -> Booking:
        meter = Meter(
            boot_id="9b1f0c2e-4d5a-6877-8695-a4b3c2d1e0f0",
            interface_index=4,
            uptime_s=round(event.at_s - day.BEGIN.timestamp(), 2),
            received_bytes=self._carried[link],
            sent_bytes=self._carried[link] // 10,
        )
        return Booking(link, f"{day.BEGIN:%Y-%m-%d}", self._pending[link], meter)

    def _committed(self) -> None:
        self._held_since_s = None
        self.flushes += 1
        self._spool.acknowledge(self._spool.spool_id, [(1, 2**62)])


def _visit(event: Event, job: settings.Job) -> Visit | None:
    """Place a planned run in its day; the slot's number is made up and as long as a real one."""
    if not isinstance(job, settings.ThroughputJob) or job.runs_per_day is None:
        return None
    minute = int(event.at_s - day.BEGIN.timestamp()) // 60
    return Visit(f"{day.BEGIN:%Y-%m-%d}", minute, minute // 60, job.options.upload)


class Plain:
    """A table in an SQLite file with the defaults: a row in for each result, and out for each acknowledgement."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("CREATE TABLE results (seq INTEGER PRIMARY KEY, payload BLOB)")
        self.flushes = 0

    def take(self, event: Event, result: Result) -> None:  # noqa: ARG002  # every way is told the same
        """Put it in and take it out, a transaction each."""
        row = self._db.execute("INSERT INTO results (payload) VALUES (?)", (encode(result),)).lastrowid
        self._db.execute("DELETE FROM results WHERE seq = ?", (row,))
        self.flushes += 2

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def _without_thinning(config: settings.Settings) -> settings.Settings:
    jobs = [
        msgspec.structs.replace(job, thin=None) if isinstance(job, settings.RadioJob) else job for job in config.jobs
    ]
    return msgspec.structs.replace(config, jobs=tuple(jobs))


def _results(events: list[Event]) -> int:
    return sum(event.result is not None for event in events)


def _written(make: Callable[[], Way], home: Path, events: list[Event], name: str) -> tuple[int, int]:
    """Play the day; return the bytes written and how often the way waited for the disk."""
    begun_s = time.monotonic()
    before = _write_bytes()
    way = make()
    for event in events:
        if event.result is not None:
            way.take(event, event.result)
            _write_back(home)
    way.close()
    _write_back(home)
    say(f"{name}: {time.monotonic() - begun_s:.1f} s")
    return _write_bytes() - before, way.flushes


def _write_back(home: Path) -> None:
    """Do what the kernel does with every page that stays dirty for 30 s (vm.dirty_expire_centisecs)."""
    for path in home.iterdir():
        file = os.open(path, os.O_RDONLY)
        try:
            os.fdatasync(file)
        finally:
            os.close(file)


def _write_bytes() -> int:
    for line in Path("/proc/self/io").read_text().splitlines():
        name, _, count = line.partition(":")
        if name == "write_bytes":
            return int(count)
    return 0
