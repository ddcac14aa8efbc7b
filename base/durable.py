"""SQLite opened so that a commit that returned survives power loss.

`journal_mode=WAL` with `synchronous=FULL` fsyncs the log at every commit (sqlite.org/pragma.html#pragma_synchronous);
the file system and the disk must honour fsync.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Final

from base import carve

if TYPE_CHECKING:
    from pathlib import Path


class StorageError(Exception):
    """The disk said no (full, read-only, damaged, not permitted); nothing was stored. The text says what to do."""


_LOG_KEPT_BYTES: Final = 4 * 1024 * 1024


def open_database(
    path: Path, schema: str, *, user_version: int, read_only: bool = False, cache_kib: int = 2000
) -> sqlite3.Connection:
    """Open or create a database file; raise StorageError.

    The log is emptied into the file when it has 4 MiB, and cut back to that after a transaction that needed more.
    `cache_kib`: pages kept in this process's own memory, besides the kernel's cache of the file (SQLite's default).
    A file that has all of `schema` is not written: on a disk that takes nothing it can be read, with its log there.
    Transactions are explicit (`isolation_level=None`). The connection may be used from any thread, one at a time.
    """
    connection: sqlite3.Connection | None = None
    try:
        if read_only:
            connection = sqlite3.connect(
                f"file:{path}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
            )
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
            connection.execute("PRAGMA journal_mode=WAL")
            page: int = connection.execute("PRAGMA page_size").fetchone()[0]
            connection.execute(f"PRAGMA wal_autocheckpoint={_LOG_KEPT_BYTES // page}")
            connection.execute(f"PRAGMA journal_size_limit={_LOG_KEPT_BYTES}")
            connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA cache_size=-{cache_kib}")
        found = _refuse_newer(path, connection, user_version)
        if not read_only and found == user_version:  # where nothing is missing, nothing is written
            connection.executescript(schema)
        elif not read_only:
            connection.executescript(f"BEGIN IMMEDIATE; {schema}; PRAGMA user_version={user_version}; COMMIT;")
    except BaseException as error:
        if connection is not None:
            connection.close()
        if isinstance(error, sqlite3.Error | OSError | UnicodeDecodeError):
            raise explain(path, error) from error
        raise
    return connection


def sync_folder(path: Path) -> None:
    """Make durable which names a folder holds (fsync(2), "Calling fsync() does not necessarily ensure")."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def log_is_damaged(path: Path, counter: str, query: str) -> bool:
    """Whether opening this database would silently leave out what a power cut alone cannot have taken.

    `counter` is a row (name, integer) that every fsynced commit which matters makes larger, `query` reads it. A power
    cut can spoil such a commit only while it is fsynced, so two of its values behind a wrong checksum were safe once.
    Reads the files and changes nothing; raise StorageError.
    """
    log = path.with_name(path.name + "-wal")
    try:
        wal = log.read_bytes() if log.exists() else b""
        if wal and (not path.exists() or path.stat().st_size == 0):
            return True  # SQLite would take it for a new file and delete the log
        broken = carve.counter_at_break(wal, counter)
    except OSError as error:
        raise explain(path, error) from error
    if broken is None:
        return False
    before = broken.before
    if before is None:
        try:
            with closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as db:
                row = db.execute(query).fetchone()
        except (sqlite3.Error, UnicodeDecodeError):
            return True
        before = row[0] if row is not None and isinstance(row[0], int) else 0
    return len([value for value in broken.behind if value > before]) > 1


def _refuse_newer(path: Path, connection: sqlite3.Connection, user_version: int) -> int:
    found: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if found > user_version:
        raise StorageError(f"{path}: written by a newer version (format {found}, this one knows {user_version})")
    return found


def explain(path: Path, error: Exception) -> StorageError:
    """Turn a foreign exception into one line that says where, what, and what to do."""
    if os.path.isdir(path):  # noqa: PTH112  # Path.is_dir raises where a folder above may not be entered
        return StorageError(f"{path}: a folder; name the file in it")
    text = (error.strerror or "") if isinstance(error, OSError) else str(error)
    if isinstance(error, UnicodeDecodeError):  # of sqlite3: its message names a table that is no text any more
        text = "malformed database schema"
    if isinstance(error, PermissionError):
        remedy = "run this as the service's user or as root, or let that user read and write it"
    elif "full" in text or "No space" in text:
        remedy = "free some space; nothing is lost meanwhile"
    elif "readonly" in text or "read-only" in text.lower() or "ermission" in text:
        remedy = "make it writable for this service's user"
    elif "I/O error" in text:
        remedy = "the disk fails or has turned read-only (dmesg says which): if it stays so, replace the card"
    elif "malformed" in text or "not a database" in text:
        remedy = "the file is damaged: move it aside and keep it for repair"
    elif "locked" in text:
        remedy = "another process holds it: is the service running twice?"
    else:
        remedy = "check that the folder exists and belongs to this service's user"
    return StorageError(f"{path}: {text}; {remedy}")
