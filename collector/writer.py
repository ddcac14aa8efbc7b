"""Journal → database: in order, in batches, from where it stopped. A database that is down costs time and nothing else.

The cursor moves after the database has taken a batch, so that after a crash some points are written twice, which
changes nothing. What the database will never take is found by halving the batch, and parked with its reason.

After an outage the news come first: the writer leaps to the journal's end, goes on there, and between two looks at the
news writes a batch of what it leapt over. The cursor stays behind until all of that is written; where the writer is
ahead of it, only the writer knows. If it dies, the next one writes that part again.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from base.durable import StorageError
from collector import points
from collector.handover import Handover
from collector.influx import Busy, Rejected, SinkError
from collector.journal import MAX_ID
from collector.quarantine import Cause, Parked, Stage
from wire import codec
from wire.codec import Undecodable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from collector.influx import Sink
    from collector.journal import Journal, Row

log = logging.getLogger(__name__)

Item = TypeVar("Item")

BATCH_RESULTS: Final = 5000
"""Results per request: what InfluxData recommends for line protocol ("Optimize writes to InfluxDB")."""
GATHER_S: Final = 0.1
"""How long a fresh result waits for company."""
_IDLE_S: Final = 1.0
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 10.0
_SAY_AGAIN_AFTER_S: Final = 600.0
_MAX_STATUS_LINES: Final = 2000
LATE_S: Final = 10.0
"""A result that has waited so long belongs to an outage: what comes in now goes first."""


class Refused(NamedTuple):
    """A result, by its id, that the database will not take, or that makes no point, and why."""

    id: int
    reason: str


class Ahead(NamedTuple):
    """The part of the journal, (first, last], that is written though something before it is not."""

    first: int
    last: int


class Portion(NamedTuple):
    """Results in the order of the journal: how many, the last one's id, the lines by id, and those that make none."""

    size: int
    last: int
    lines: Sequence[tuple[int, str]]
    refused: Sequence[Refused]


class Writer:
    """A thread that keeps the sink level with the journal until it is stopped."""

    def __init__(self, journal: Journal, sink: Sink) -> None:
        """Take over `journal`, a connection of its own, and `sink`. What is put into `handover` is not read again."""
        self.handover = Handover()
        self._journal = journal
        self._sink = sink
        self._stopping = threading.Event()
        self._fresh = threading.Event()
        self._ahead: Ahead | None = None
        self._next: tuple[int, int, Portion] | None = None
        self._poster = ThreadPoolExecutor(1, "database")
        self._status_lines: deque[str] = deque(maxlen=_MAX_STATUS_LINES)
        self._trouble = ""
        self._said_at_s = 0.0
        self._refused_said_at_s = -_SAY_AGAIN_AFTER_S
        self._thread = threading.Thread(target=self._run, name="writer")

    def start(self) -> None:
        """Begin where the cursor stands; raise StorageError. From now on `stats` says how far behind this sink is."""
        name = self._sink.name
        self._journal.park(_now_us(), [], sink=name, cursor=self._journal.cursor(name))
        self._thread.start()

    def stop(self) -> None:
        """Finish the request under way, then close journal and sink."""
        self._stopping.set()
        self._fresh.set()
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def wake(self) -> None:
        """Say that the journal has something new; cheap, from any thread."""
        self._fresh.set()

    def add_status(self, line: str) -> None:
        """Write a status point with the next batch; best effort: not journalled, lost if the database is long away."""
        self._status_lines.append(line)
        self._fresh.set()

    def _run(self) -> None:
        try:
            pause_s = 0.0
            while not self._stopping.is_set():
                try:
                    busy = self._step()
                    pause_s = 0.0
                except (SinkError, StorageError) as error:
                    pause_s = self._pause_s(error, pause_s)
                    self._stopping.wait(pause_s)
                    continue
                if not busy:
                    self._fresh.wait(_IDLE_S)
                    self._fresh.clear()
                    self._stopping.wait(GATHER_S)
        except Exception:
            log.exception("the writer stopped on an error of its own")
        finally:
            self._poster.shutdown()
            self._journal.close()
            self._sink.close()

    def _step(self) -> bool:
        """Write one batch; whether there may be more. Raise Misconfigured, Busy or StorageError with nothing moved."""
        statuses = list(self._status_lines)
        if statuses:
            self._say_refused(write_sorted(self._sink, [(line, line) for line in statuses]))
            for _ in statuses:
                self._status_lines.popleft()
        cursor = self._journal.cursor(self._sink.name)
        self._leap_if_late(cursor)
        if self._ahead is None:
            size = self._level(cursor)
        else:
            size = self._news(cursor, self._ahead) or self._backlog(cursor, self._ahead)
        if self._trouble and (size or statuses):
            log.info("%s: writing again", self._sink.name)
            self._trouble = ""
        return self._ahead is not None or size == BATCH_RESULTS

    def _leap_if_late(self, cursor: int) -> None:
        """Go on at the journal's end if what is next has waited too long; what was ahead is then written again."""
        first_us, last_id = self._journal.waiting(self._ahead.last if self._ahead else cursor)
        if first_us and _now_us() - first_us > LATE_S * 1e6:
            log.info("%s: %d results behind; the newest go first", self._sink.name, last_id - cursor)
            self._ahead = Ahead(last_id, last_id)

    def _level(self, cursor: int) -> int:
        """Write what follows; return how many."""
        portion = self._handed(cursor)
        if portion is not None:
            self._write(portion, cursor=portion.last)
            return portion.size
        until = self.handover.first - 1  # what begins there need not be read
        portion = self._read(cursor, until)
        if not portion.size:  # ids may have gaps
            portion = self._handed(until) or portion
        self._write(portion, cursor=portion.last, then_until=until if portion.size == BATCH_RESULTS else None)
        return portion.size

    def _news(self, cursor: int, ahead: Ahead) -> int:
        """Write what came in since the last look; after a whole batch look again at once."""
        portion = self._handed(ahead.last) or self._read(ahead.last, MAX_ID)
        if portion.size:
            self._write(portion, cursor=cursor)
            self._ahead = ahead._replace(last=portion.last)
        return portion.size if portion.size == BATCH_RESULTS else 0

    def _backlog(self, cursor: int, ahead: Ahead) -> int:
        """Write a batch of what was leapt over; after the last one cursor and news meet."""
        portion = self._read(cursor, ahead.first)
        done = portion.size < BATCH_RESULTS
        self._write(portion, cursor=ahead.last if done else portion.last, then_until=None if done else ahead.first)
        if done:
            log.info("%s: level with the journal again", self._sink.name)
            self._ahead = None
        return portion.size

    def _handed(self, after: int) -> Portion | None:
        """Take what follows from the journal's thread, if that has it."""
        lines = self.handover.after(after, BATCH_RESULTS)
        return Portion(len(lines), after + len(lines), [*enumerate(lines, after + 1)], []) if lines else None

    def _read(self, after: int, until: int) -> Portion:
        """Read what follows from the journal; it may have been done while the database worked."""
        if self._next is not None and self._next[:2] == (after, until):
            portion, self._next = self._next[2], None
            return portion
        rows = self._journal.read(after, BATCH_RESULTS, until=until)
        return Portion(len(rows), rows[-1].id if rows else after, *lines_of(rows))

    def _write(self, portion: Portion, *, cursor: int, then_until: int | None = None) -> None:
        """Write, park what is refused, and move the cursor. Meanwhile read on if there is more, up to `then_until`."""
        if not portion.size and self._ahead is None:
            return
        posting = self._poster.submit(write_sorted, self._sink, portion.lines)
        if then_until is not None:
            self._next = portion.last, then_until, self._read(portion.last, then_until)
        refused = [*portion.refused, *(Refused(row_id, reason) for row_id, reason in posting.result())]
        self._journal.park(_now_us(), [*map(self._parked, refused)], sink=self._sink.name, cursor=cursor)
        if refused:
            log.warning("%s: %d results parked, the first: %s", self._sink.name, len(refused), refused[0].reason)

    def _parked(self, refused: Refused) -> Parked:
        [row] = self._journal.read(refused.id - 1, 1)
        return Parked(Stage.SINK, self._sink.name, Cause.REJECTED, refused.reason, row.payload, len(row.payload))

    def _say_refused(self, statuses: Sequence[tuple[str, str]]) -> None:
        """Say which status points the database will not take; now and then."""
        now_s = time.monotonic()
        if statuses and now_s - self._refused_said_at_s > _SAY_AGAIN_AFTER_S:
            line, reason = statuses[0]
            log.warning(
                "%s: %d status points refused, the first: %s: %.300s", self._sink.name, len(statuses), reason, line
            )
            self._refused_said_at_s = now_s

    def _pause_s(self, error: SinkError | StorageError, last_s: float) -> float:
        """Say what is wrong, once and then rarely; return how long to wait: longer each time, never in step.

        The database may wish for more, never for less.
        """
        now_s = time.monotonic()
        if str(error) != self._trouble or now_s - self._said_at_s > _SAY_AGAIN_AFTER_S:
            log.warning("%s; the journal keeps everything, trying again", error)
            self._trouble, self._said_at_s = str(error), now_s
        longest_s = min(max(last_s * 2, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
        wish_s = error.retry_after_s or 0.0 if isinstance(error, Busy) else 0.0
        return max(wish_s, longest_s * random.uniform(0.5, 1.0))  # noqa: S311  # jitter, not a secret


def write_rows(sink: Sink, rows: Sequence[Row]) -> list[Refused]:
    """Write what can be written, return the rest with reasons; raise Misconfigured or Busy."""
    lines, refused = lines_of(rows)
    return refused + [Refused(row_id, reason) for row_id, reason in write_sorted(sink, lines)]


def lines_of(rows: Sequence[Row]) -> tuple[list[tuple[int, str]], list[Refused]]:
    """Build the line of each row, with the row's id; return those that make none with reasons."""
    lines: list[tuple[int, str]] = []
    refused: list[Refused] = []
    for row in rows:
        try:
            lines.append((row.id, points.line(codec.decode_result(row.payload))))
        except (Undecodable, ValueError, OverflowError) as error:
            refused.append(Refused(row.id, f"makes no point: {error}"))
    return lines, refused


def write_sorted(sink: Sink, items: Sequence[tuple[Item, str]]) -> list[tuple[Item, str]]:
    """Write the lines, halving what is rejected until the culprits stand alone; return them with reasons.

    Items are (anything, line). Raises Misconfigured or Busy.
    """
    if not items:
        return []
    try:
        sink.write([line for _, line in items])
    except Rejected as error:
        if len(items) == 1:
            return [(items[0][0], str(error))]
        half = len(items) // 2
        return write_sorted(sink, items[:half]) + write_sorted(sink, items[half:])
    return []


def _now_us() -> int:
    return time.time_ns() // 1000
