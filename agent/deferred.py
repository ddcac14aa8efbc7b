"""Telemetry that waits for its turn on the disk: kept in memory, and in a file that survives the process's death.

The file belongs on a tmpfs, so that it costs an SD card nothing: a kill loses nothing, a power cut what was deferred.
What is deferred has no number yet, so nothing that could be lost has ever been sent under one. A line is one deferred
result. The first line is the file's generation: the spool notes, in the transaction that takes the results over, up to
which generation it has them; a file of that generation or an older one has been taken over already.
"""

from __future__ import annotations

import logging
import os
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from agent.ledger import Visit  # noqa: TC001  # msgspec reads Run's types when it runs
from agent.timesync import Boot  # the same
from wire.results import Result

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

_MODE: Final = 0o600


class Run(NamedTuple):
    """A run of a job on a link, in its slot; one that the day's plan wants names its place there.

    `noted`: its begin is in the spool, and counted there as made.
    """

    job: str
    link: str
    slot: int
    visit: Visit | None = None
    noted: bool = True


class Account(NamedTuple):
    """Every slot of a job on a link up to this one is accounted for: run, or reported as missed.

    `every_s`: the length of a slot; 0 where the data plan makes the slots, `missed` are then those that were not run.
    """

    job: str
    link: str
    every_s: int
    slot: int
    missed: tuple[Visit, ...] = ()


class Deferred(msgspec.Struct, frozen=True):
    """A result without a number yet, and what its place in the spool will settle."""

    result: Result
    ends: Run | None = None
    account: Account | None = None
    began: Boot | None = None


class DeferredFile:
    """The file; raises OSError where it cannot be written. For one thread at a time."""

    def __init__(self, spool: Path, folder: Path) -> None:
        """Name the file of a spool in a folder that it may share with others; nothing is opened yet."""
        whose = zlib.crc32(os.fsencode(spool.absolute()))
        self._path = folder / f"{spool.name}-deferred-{whose:08x}"

    def left_behind(self, taken_over: int) -> list[Deferred]:
        """Read what a killed agent had deferred; `taken_over` is the generation that the spool has already."""
        try:
            head, *lines = self._path.read_bytes().split(b"\n")
        except OSError:
            return []
        if not head.isdigit() or int(head) <= taken_over:
            return []
        found = []
        for line in filter(None, lines):
            try:
                found.append(msgspec.json.decode(line, type=Deferred))
            except (msgspec.DecodeError, UnicodeDecodeError):
                log.warning("%s: a line was cut off and is given up", self._path)
        return found

    def forget(self) -> None:
        """Remove what was taken over."""
        with suppress(OSError):
            self._path.unlink()

    def begin(self, generation: int) -> None:
        """Begin a new generation, with nothing in it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path, "wb", opener=_private) as file:  # Path.open knows no opener
            file.write(b"%d\n" % generation)

    def add(self, one: Deferred) -> None:
        """Add a line; an error leaves at most a part of it, which is cut off again or skipped by the reader."""
        with self._path.open("ab") as file:
            size = file.tell()
            try:
                file.write(b"\n" + msgspec.json.encode(one) + b"\n")
                file.flush()
            except OSError:
                file.truncate(size)
                raise


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, _MODE)
