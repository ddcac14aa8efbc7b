"""The journal: every result as it came, on disk before `append` returns, never changed afterwards. The truth.

A result is known by (probe_id, spool_id, seq). The same result again is ignored, also under another number if it says
which one it had first (`collector.renumbered`); another result under a number that is taken goes to quarantine, and
what stands stays. Databases behind the collector can be built anew from here.
One Journal belongs to one thread at a time; several Journals on one file (also read-only ones) may work side by side.
"""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, Self

import msgspec

from base import durable
from base.durable import StorageError
from collector import clashes, known, quarantine, renumbered
from collector.quarantine import Cause, Parked, Stage
from collector.renumbered import Place

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

FORMAT: Final = 1
MAX_ID: Final = 2**63 - 1
_MAX_SPOOLS_REMEMBERED: Final = 10_000
_MAX_GONE_RANGES: Final = 10_000
"""How many ranges of one spool a probe may give up before the rest is left open."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS spools (
  spool INTEGER PRIMARY KEY, probe_id TEXT NOT NULL, spool_id TEXT NOT NULL, UNIQUE (probe_id, spool_id));
CREATE TABLE IF NOT EXISTS results (
  id INTEGER PRIMARY KEY AUTOINCREMENT, spool INTEGER NOT NULL REFERENCES spools, seq INTEGER NOT NULL,
  kind TEXT NOT NULL, started_us INTEGER NOT NULL, received_us INTEGER NOT NULL, payload BLOB NOT NULL,
  UNIQUE (spool, seq));
CREATE TABLE IF NOT EXISTS probes (
  probe_id TEXT PRIMARY KEY, received_us INTEGER NOT NULL, status BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cursors (
  sink TEXT PRIMARY KEY, result_id INTEGER NOT NULL, updated_us INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS results_of_gaps ON results (spool) WHERE kind IN ('dropped', 'missed');
CREATE TABLE IF NOT EXISTS gone (
  spool INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, told_us INTEGER NOT NULL,
  PRIMARY KEY (spool, first, last)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS asked (
  spool INTEGER PRIMARY KEY, times INTEGER NOT NULL, last_us INTEGER NOT NULL, wished INTEGER NOT NULL);
"""

_IS_JOURNAL: Final = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'results'"
_SINCE_WHERE: Final = "id > ? AND started_us >= ? AND started_us < ? AND (? = '' OR probe_id = ?)"

_ROWS_AT_ONCE: Final = 100
"""Rows in one statement: sqlite3 lets go of Python's lock at every statement, and has to wait to get it back."""
_INSERT: Final = (
    "INSERT OR IGNORE INTO results (spool, seq, kind, started_us, received_us, payload) VALUES (?, ?, ?, ?, ?, ?)"
)
_INSERT_MANY: Final = _INSERT + ", (?, ?, ?, ?, ?, ?)" * (_ROWS_AT_ONCE - 1)


class Entry(NamedTuple):
    """A result ready for the journal: its identity, what it is found by, and its bytes as they came.

    `line`: the point it makes, where somebody asked for that; not stored. `formerly`: the number (spool_id, seq) that
    it had first, if that is another one.
    """

    probe_id: str
    spool_id: str
    seq: int
    kind: str
    started_us: int
    payload: bytes
    line: str = ""
    formerly: tuple[str, int] | None = None


class ProbeStatus(NamedTuple):
    """The last status of a probe, as it came."""

    probe_id: str
    payload: bytes


class ProbeGone(NamedTuple):
    """What a probe says it has no more: closed ranges of one of its spools."""

    probe_id: str
    spool_id: str
    ranges: tuple[tuple[int, int], ...]


class Batch(msgspec.Struct, kw_only=True):
    """What one transaction stores."""

    received_us: int
    results: Sequence[Entry] = ()
    parked: Sequence[Parked] = ()
    statuses: Sequence[ProbeStatus] = ()
    gone: Sequence[ProbeGone] = ()


class Row(NamedTuple):
    """A stored result: its place in the journal, and its bytes."""

    id: int
    payload: bytes


class Journal:
    """One connection to the journal file."""

    def __init__(
        self, path: Path, *, read_only: bool = False, quarantine_max_bytes: int = 64 * 1024 * 1024, fsync: bool = True
    ) -> None:
        """Open or create; raise StorageError. `fsync=False` is for what may be done again after a power cut."""
        self.path = path
        self._read_only = read_only
        self._quarantine_max_bytes = quarantine_max_bytes
        self._fsync = fsync
        self._spools: dict[tuple[str, str], int] = {}
        self._left: set[tuple[str, str]] = set()
        """Spools (probe_id, spool_id) of which results have come under numbers of others."""
        self._open: sqlite3.Connection | None = None
        self.new_ids = range(0)
        """The ids of the results of the last `append`, one after the other; none if it found some of them there."""
        self.news: set[ProbeStatus] = set()
        """Those statuses of the last `append` that were newer than what was known (`collector.known`)."""
        _ = self.connection

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection, opened anew if the last transaction failed; raise StorageError."""
        if self._open is None:
            if self._read_only:
                self._look()
            self._open = durable.open_database(
                self.path,
                _SCHEMA + quarantine.SCHEMA + clashes.SCHEMA + renumbered.SCHEMA + known.SCHEMA,
                user_version=FORMAT,
                read_only=self._read_only,
            )
            if self._read_only:
                self._refuse_other(self._open)
            self._left = set() if self._read_only else renumbered.left(self._open)
            if not self._fsync:
                self._open.execute("PRAGMA synchronous=NORMAL")
        return self._open

    def _look(self) -> None:
        """Raise StorageError if there is nothing to read: SQLite's own words would not say why.

        An empty file is not opened, not even to read: SQLite would delete the log beside it, which may hold everything.
        """
        log = self.path.with_name(self.path.name + "-wal")
        try:
            size = self.path.stat().st_size
            logged = log.stat().st_size if size == 0 and log.exists() else 0
        except (FileNotFoundError, NotADirectoryError) as error:
            raise StorageError(f"{self.path}: no journal there yet; has the collector run?") from error
        except OSError as error:
            raise durable.explain(self.path, error) from error
        if logged:
            raise StorageError(f"{self.path}: empty, beside a log that is not; `probe-collector salvage` reads the log")
        if size == 0:
            raise StorageError(_no_journal(self.path))

    def _refuse_other(self, connection: sqlite3.Connection) -> None:
        """Raise StorageError, the file closed, if it is a database of something else."""
        try:
            found = connection.execute(_IS_JOURNAL).fetchone()
        except sqlite3.Error as error:
            self.close()
            raise durable.explain(self.path, error) from error
        if found is None:
            self.close()
            raise StorageError(_no_journal(self.path))

    def append(self, batch: Batch) -> list[Entry]:
        """Store all of it, or nothing and raise StorageError; return the results whose number another one holds."""
        with self._transaction() as connection:
            conflicts = self._store(connection, batch)
            self._park(connection, batch.received_us, [*batch.parked, *map(_conflict, conflicts)])
            self.news = {one for one in batch.statuses if known.store(connection, *one, batch.received_us)}
            _note_gone(connection, batch)
        return conflicts

    def asked(self, spool: int, now_us: int) -> None:
        """Note that a probe was asked for what is missing of a spool; raise StorageError."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO asked VALUES (?1, 1, ?2, 0)"
                " ON CONFLICT DO UPDATE SET times = times + 1, last_us = ?2, wished = 0",
                (spool, now_us),
            )

    def wish(self, names: Iterable[tuple[str, str]]) -> None:
        """Note that these (probe_id, spool_id) shall be asked for what is missing, now; raise StorageError."""
        with self._transaction() as connection:
            connection.executemany(
                "INSERT INTO asked SELECT spool, 0, 0, 1 FROM spools WHERE probe_id = ? AND spool_id = ?"
                " ON CONFLICT DO UPDATE SET wished = 1",
                names,
            )

    def park(self, received_us: int, parked: Sequence[Parked], *, sink: str, cursor: int) -> None:
        """Move a sink's cursor and quarantine what it refused on the way; raise StorageError."""
        with self._transaction() as connection:
            self._park(connection, received_us, parked)
            connection.execute(
                "INSERT INTO cursors VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET result_id = ?2, updated_us = ?3",
                (sink, cursor, received_us),
            )

    def cursor(self, sink: str) -> int:
        """Return the id of the last result that this sink has taken; 0 for a new sink."""
        with self._reading() as connection:
            row = connection.execute("SELECT result_id FROM cursors WHERE sink = ?", (sink,)).fetchone()
        return 0 if row is None else int(row[0])

    def read(self, after: int, limit: int, *, until: int = MAX_ID) -> list[Row]:
        """Return stored results with ids up to `until`, in the order they came in; raise StorageError."""
        query = "SELECT id, payload FROM results WHERE id > ? AND id <= ? ORDER BY id LIMIT ?"
        with self._reading() as connection:
            return list(map(Row._make, connection.execute(query, (after, until, limit))))

    def waiting(self, after: int) -> tuple[int, int]:
        """Return when the first result after this id came in, in µs since 1970, and the id of the last; 0, 0: none."""
        query = "SELECT received_us, (SELECT MAX(id) FROM results) FROM results WHERE id > ? ORDER BY id LIMIT 1"
        with self._reading() as connection:
            row: tuple[int, int] | None = connection.execute(query, (after,)).fetchone()
        return row or (0, 0)

    def select(self, after: int, limit: int, *, since_us: int, until_us: int, probe_id: str = "") -> list[Row]:
        """Return stored results that began in [since, until), of one probe if given; raise StorageError."""
        query = f"SELECT id, payload FROM results NATURAL JOIN spools WHERE {_SINCE_WHERE} ORDER BY id LIMIT ?"  # noqa: S608  # a constant
        with self._reading() as connection:
            return [
                Row(*row) for row in connection.execute(query, (after, since_us, until_us, probe_id, probe_id, limit))
            ]

    def count(self, *, since_us: int, until_us: int, probe_id: str = "") -> int:
        """Return how many results `select` would find from the beginning; raise StorageError."""
        query = f"SELECT COUNT(*) FROM results NATURAL JOIN spools WHERE {_SINCE_WHERE}"  # noqa: S608  # a constant
        with self._reading() as connection:
            found: int = connection.execute(query, (0, since_us, until_us, probe_id, probe_id)).fetchone()[0]
        return found

    def close(self) -> None:
        """Close; what was appended is on disk already."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self.connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
        except BaseException as error:
            # Closing rolls back, whatever state the error left behind; the next use opens anew.
            self._spools.clear()
            self._open = None
            with contextlib.suppress(sqlite3.Error):
                connection.close()
            if isinstance(error, sqlite3.Error):
                raise durable.explain(self.path, error) from error
            raise

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        try:
            yield self.connection
        except sqlite3.Error as error:
            raise durable.explain(self.path, error) from error

    def _store(self, connection: sqlite3.Connection, batch: Batch) -> list[Entry]:
        entries, left = batch.results, self._left
        elsewhere = [
            entry
            for entry in entries
            if entry.formerly is not None or (left and (entry.probe_id, entry.spool_id) in left)
        ]
        if elsewhere:
            apart = set(elsewhere)
            entries = [entry for entry in entries if entry not in apart]
        rows = [
            (
                self._spool(connection, entry.probe_id, entry.spool_id),
                entry.seq,
                entry.kind,
                entry.started_us,
                batch.received_us,
                entry.payload,
            )
            for entry in entries
        ]
        self.new_ids = range(0)
        before = connection.total_changes
        whole = len(rows) - len(rows) % _ROWS_AT_ONCE
        for place in range(0, whole, _ROWS_AT_ONCE):
            connection.execute(_INSERT_MANY, [*itertools.chain.from_iterable(rows[place : place + _ROWS_AT_ONCE])])
        connection.executemany(_INSERT, rows[whole:])
        conflicts = []
        if connection.total_changes - before < len(rows):
            for entry, (spool, seq, *_) in zip(entries, rows, strict=True):
                query = "SELECT payload FROM results WHERE spool = ? AND seq = ?"
                (stored,) = connection.execute(query, (spool, seq)).fetchone()
                if not renumbered.same(stored, entry.payload):
                    conflicts.append(entry)
        elif not elsewhere:
            last: int = connection.execute("SELECT last_insert_rowid()").fetchone()[0]
            self.new_ids = range(last - len(rows) + 1, last + 1)
        return conflicts + [entry for entry in elsewhere if not self._take(connection, entry, batch.received_us)]

    def _take(self, connection: sqlite3.Connection, entry: Entry, received_us: int) -> bool:
        """Store a result that may be here under another number; return False if another result holds its number."""
        place = first = Place(self._spool(connection, entry.probe_id, entry.spool_id), entry.seq)
        if entry.formerly is not None:
            spool_id, seq = entry.formerly
            first = Place(self._spool(connection, entry.probe_id, spool_id), seq)
            self._left.add((entry.probe_id, spool_id))
        return renumbered.take(connection, entry, place, first, received_us)

    def _spool(self, connection: sqlite3.Connection, probe_id: str, spool_id: str) -> int:
        name = (probe_id, spool_id)
        spool = self._spools.get(name)
        if spool is None:
            connection.execute("INSERT OR IGNORE INTO spools (probe_id, spool_id) VALUES (?, ?)", name)
            query = "SELECT spool FROM spools WHERE probe_id = ? AND spool_id = ?"
            spool = int(connection.execute(query, name).fetchone()[0])
            if len(self._spools) >= _MAX_SPOOLS_REMEMBERED:
                self._spools.clear()
            self._spools[name] = spool
        return spool

    def _park(self, connection: sqlite3.Connection, now_us: int, parked: Sequence[Parked]) -> None:
        quarantine.park(connection, now_us, parked, max_bytes=self._quarantine_max_bytes)


def _no_journal(path: Path) -> str:
    return f"{path}: holds no journal; name the collector's (journal.path in collector.yaml), or let it run first"


def _note_gone(connection: sqlite3.Connection, batch: Batch) -> None:
    """Keep what probes have given up, of spools that are known and up to the numbers that have come."""
    for one in batch.gone:
        row = connection.execute(
            "SELECT spool, MAX(seq), (SELECT COUNT(*) FROM gone WHERE gone.spool = spools.spool)"
            " FROM spools NATURAL JOIN results WHERE probe_id = ? AND spool_id = ?",
            (one.probe_id, one.spool_id),
        ).fetchone()
        if row[0] is None or row[2] >= _MAX_GONE_RANGES:
            continue
        connection.executemany(
            "INSERT OR IGNORE INTO gone VALUES (?, ?, ?, ?)",
            [(row[0], first, min(last, row[1]), batch.received_us) for first, last in one.ranges if first <= row[1]],
        )


def _conflict(entry: Entry) -> Parked:
    detail = f"{entry.spool_id} {entry.seq} holds another result"
    return Parked(Stage.JOURNAL, entry.probe_id, Cause.CONFLICT, detail, entry.payload, len(entry.payload))
