"""SQLite files: a refusal says what to do, whatever the file is called."""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from pathlib import Path

import pytest

from base.durable import StorageError, explain, open_database


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (sqlite3.OperationalError("database or disk is full"), "free some space"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/x"), "free some space"),
        (sqlite3.OperationalError("attempt to write a readonly database"), "make it writable"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "/x"), "make it writable"),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/x"), "as the service's user or as root"),
        (sqlite3.DatabaseError("file is not a database"), "the file is damaged"),
        (sqlite3.OperationalError("database is locked"), "is the service running twice?"),
        (sqlite3.OperationalError("unable to open database file"), "check that the folder exists"),
    ],
)
def test_each_refusal_has_its_remedy(error: Exception, remedy: str) -> None:
    assert remedy in str(explain(Path("/srv/full/readonly/locked.db"), error))


def test_a_commit_is_fsynced(tmp_path: Path) -> None:
    db = open_database(tmp_path / "x.db", "CREATE TABLE IF NOT EXISTS t (x)", user_version=1)
    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert db.execute("PRAGMA synchronous").fetchone() == (2,), "2 is FULL"
    db.close()


def test_a_schema_that_fails_leaves_no_connection_open(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        open_database(tmp_path / "x.db", "CREATE NONSENSE", user_version=1)


def test_a_file_is_opened_while_another_commits_to_it_all_the_time(tmp_path: Path) -> None:
    """A transaction that reads before it writes is told "locked" at once if somebody commits in between."""
    schema = "CREATE TABLE IF NOT EXISTS t (x PRIMARY KEY); INSERT OR IGNORE INTO t VALUES (1)"
    busy, stop = open_database(tmp_path / "x.db", schema, user_version=1), threading.Event()

    def commit() -> None:
        busy.execute("PRAGMA synchronous=OFF")  # more often than any disk would allow
        while not stop.is_set():
            busy.execute("UPDATE t SET x = x + 1")

    thread = threading.Thread(target=commit)
    thread.start()
    try:
        for _ in range(200):
            open_database(tmp_path / "x.db", schema, user_version=1).close()
    finally:
        stop.set()
        thread.join()
        busy.close()
