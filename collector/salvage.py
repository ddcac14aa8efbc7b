"""A damaged journal: every result that can still be read goes into a new one, the damaged file stays as it is.

Read page by page (base.carve), by no index and no tree. The collector does not start on a journal whose log breaks off
in the middle: SQLite would leave out what follows without a word, and that was acknowledged.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
from itertools import groupby
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from base import carve, durable
from base.durable import StorageError, explain
from collector.intake import entry_of
from collector.journal import Batch, Entry, Journal
from wire.codec import Undecodable, decode_result

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SAY_EVERY: Final = 10_000


class Saved(msgspec.Struct):
    """How many rows of results were found, how many different results they are, and how many rows are none any more."""

    rows: int = 0
    results: int = 0
    unreadable: int = 0


class _Found(NamedTuple):
    received_us: int
    entry: Entry


def refuse_damaged(journal: Path) -> None:
    """Raise StorageError if opening this journal would lose what its log holds."""
    if durable.log_is_damaged(journal, "results", "SELECT seq FROM sqlite_sequence WHERE name='results'"):
        raise StorageError(
            f"{journal}: damaged, or its log is; keep both, run: probe-collector salvage {journal} {journal}.rescued,"
            " and put the rescued file in their place"
        )


def salvage(damaged: Path, new: Path) -> Saved:
    """Write what can be read of one journal into a new one; raise StorageError, and nothing of the new one is left."""
    files = [new.with_name(new.name + suffix) for suffix in ("", "-wal", "-shm")]
    for file in files:
        if os.path.lexists(file):
            raise StorageError(f"{file}: exists; name a file that does not, nothing is written over")
    try:
        saved = _copy(damaged, new)
    except BaseException:
        for file in files:
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)
        raise
    print(file=sys.stderr)  # noqa: T201  # the progress line ends
    return saved


def text(saved: Saved, new: Path) -> str:
    """Say it for people."""
    return (
        f"{saved.results} results saved in {new}, {saved.unreadable} rows cannot be read;"
        f" holes are listed by: probe-collector stats --journal {new}"
    )


def _copy(damaged: Path, new: Path) -> Saved:
    saved = Saved()
    with Journal(new, fsync=False) as journal:
        for received_us, found in groupby(_results(damaged, saved), key=lambda one: one.received_us):
            journal.append(Batch(received_us=received_us, results=[one.entry for one in found]))
        (saved.results,) = journal.connection.execute("SELECT COUNT(*) FROM results").fetchone()
    if not saved.results:
        raise StorageError(f"{damaged}: no result can be read in it; is it the journal, with its log beside it?")
    return saved


def _results(damaged: Path, saved: Saved) -> Iterator[_Found]:
    """Find the rows of the table of results: spool, seq, kind, started_us, received_us, payload behind the id."""
    for row in _rows(damaged):
        match row.columns:
            case (None, int(), int(), str(), int(), int(received_us), bytes(payload)):
                saved.rows += 1
                if saved.rows % _SAY_EVERY == 0:
                    print(f"\r{saved.rows} results", end="", file=sys.stderr, flush=True)  # noqa: T201  # progress
                try:
                    result = decode_result(payload)
                except Undecodable:
                    saved.unreadable += 1
                    continue
                yield _Found(received_us, entry_of(result, payload))


def _rows(path: Path) -> Iterator[carve.Row]:
    wal = path.with_name(path.name + "-wal")
    try:
        log = wal.read_bytes() if wal.exists() else b""
        if not log:
            path.stat()
        if not path.exists() or path.stat().st_size == 0:
            yield from carve.rows(b"", log)
            return
        with path.open("rb") as file, contextlib.closing(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) as whole:
            yield from carve.rows(whole, log)
    except OSError as error:
        raise explain(path, error) from error
