"""One collector a journal: a lock that the system takes back when the process ends."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING, Self

from base import durable
from base.durable import StorageError

if TYPE_CHECKING:
    from pathlib import Path


class JournalLock:
    """Keeps a second collector off the journal (flock on a file beside it, gone with the process)."""

    def __init__(self, journal: Path) -> None:
        """Take the lock; raise StorageError if another process has it."""
        path = journal.with_name(journal.name + ".lock")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise durable.explain(path, error) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise StorageError(f"{journal}: another collector is writing it; only one may run on a journal") from error

    def release(self) -> None:
        """Let the next one in."""
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
