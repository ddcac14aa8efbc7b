"""The spool's file: its tables, how it is opened and mended, and its transactions. What they hold is others' affair.

Commits that may be done again after a power cut (an acknowledgement, the begin of a telemetry run) are not fsynced by
themselves: SQLite writes its log in order, so a later fsync covers them, and a power cut takes a tail of them and never
a part.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from agent import archive, ledger, lives, salvage, time_repair, worn
from agent.owed import Owed
from agent.rank import rank
from base.durable import StorageError, explain
from wire.codec import check

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agent.deferred import Deferred

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS results (seq INTEGER PRIMARY KEY, rank INTEGER NOT NULL, kind TEXT NOT NULL,
                                    payload BLOB NOT NULL, crc TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS results_by_rank ON results (rank, seq);
CREATE TABLE IF NOT EXISTS refused (seq INTEGER PRIMARY KEY, reason TEXT NOT NULL, payload BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS runs (job TEXT, link TEXT, slot INTEGER NOT NULL, started_at TEXT NOT NULL,
                                 under_way INTEGER NOT NULL, PRIMARY KEY (job, link)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS accounts (job TEXT, link TEXT, every_s INTEGER NOT NULL, slot INTEGER NOT NULL,
                                     PRIMARY KEY (job, link)) WITHOUT ROWID;
"""
_VERSION: Final = 2
_COUNTERS: Final = ("last_seq", "made", "refiled", "deferred")


class SpoolFile:
    """The open file, for several threads; whoever uses it may meet a StorageError, and then nothing has changed."""

    def __init__(self, path: Path) -> None:
        """Open the file or create it; of one that is damaged the rest is saved."""
        self._path = path
        self._lock = threading.RLock()
        self._generation = 0
        self.spool_id = ""
        self._before = 0
        self._bytes = 0
        self._deferred: list[Deferred] = []
        """What is made, and not in the file yet."""
        self._owed = Owed()
        """What is delivered, and still in the file."""
        self._db = self._open()

    def _open(self) -> sqlite3.Connection:
        db = salvage.open_spool(
            self._path,
            _SCHEMA + lives.SCHEMA + ledger.SCHEMA + time_repair.SCHEMA + archive.SCHEMA,
            version=_VERSION,
            rank=rank,
        )
        db.text_factory = worn.text
        try:
            db.execute("BEGIN")  # it becomes a writer where something is missing, and only there
            _upgrade(db)
            meta: dict[str, Any] = dict(db.execute("SELECT key, value FROM meta").fetchall())
            for key in (key for key in _COUNTERS if not worn.is_whole(meta.get(key))):
                if key in meta:
                    worn.say(f"the counter {key!r}")
                db.execute("INSERT OR REPLACE INTO meta VALUES (?, 0)", (key,))
                meta[key] = 0
            self.spool_id = meta.get("spool_id") or lives.begin(db, meta["last_seq"])
            self._before = lives.before(db, self.spool_id)
            self._generation = meta["deferred"]
            self._weigh(db)
            db.execute("COMMIT")
        except BaseException as error:
            db.close()
            if isinstance(error, sqlite3.Error):
                raise explain(self._path, error) from error
            raise
        return db

    def _opened_too_early(self, error: sqlite3.Error) -> bool:
        """Whether the disk was read-only as the file was opened, and is no more: SQLite never looks again."""
        return (
            "readonly" in str(error)
            and os.access(self._path, os.W_OK)
            and not self._db.execute("PRAGMA query_only").fetchone()[0]
        )

    def _weigh(self, db: sqlite3.Connection) -> None:
        """Add up the bytes of what waits."""
        self._bytes = db.execute("SELECT COALESCE(SUM(LENGTH(payload)), 0) FROM results").fetchone()[0]

    @contextmanager
    def _transaction(self, *, fsync: bool = True) -> Iterator[sqlite3.Connection]:
        with self._lock:
            identity = self.spool_id, self._before
            try:
                self._db.execute(f"PRAGMA synchronous={'FULL' if fsync else 'NORMAL'}")
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except BaseException as error:
                self.spool_id, self._before = identity
                if isinstance(error, sqlite3.Error):
                    self._roll_back()
                    raise self._explained(error) from error
                self._roll_back()
                raise

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._db
            except sqlite3.Error as error:
                raise self._explained(error) from error

    def _roll_back(self) -> None:
        with suppress(sqlite3.Error):
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def _explained(self, error: sqlite3.Error) -> StorageError:
        """Say what is wrong; a file that proves to be damaged while it is used is rebuilt at once."""
        explained = explain(self._path, error)
        # closed: rebuilding it did not work the last time
        if salvage.is_damage(error) or "closed" in str(error) or self._opened_too_early(error):
            self._db.close()
            self._owed.clear()  # numbers may be others' in a rebuilt file
            self._db = self._open()
        return explained


def _upgrade(db: sqlite3.Connection) -> None:
    """Bring a file of format 1 up to date: results without a check, and one life that is not written down."""
    if not any(column[1] == "crc" for column in db.execute("PRAGMA table_info(results)")):
        db.execute("ALTER TABLE results ADD COLUMN crc TEXT NOT NULL DEFAULT ''")
        rows = db.execute("SELECT seq, payload FROM results").fetchall()
        db.executemany(
            "UPDATE results SET crc=? WHERE seq=?",
            [(check(payload), seq) for seq, payload in rows if isinstance(payload, bytes)],
        )
        db.execute("INSERT INTO lives SELECT value, 0 FROM meta WHERE key='spool_id'")
