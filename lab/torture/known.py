"""What the collector says of the probes, as `probe-collector stats` reads it: their last statuses in its journal."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from typing import TYPE_CHECKING, Final, Self

from wire import codec
from wire.status import Status

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from lab.torture.stand import Stand

TRUE_WITHIN_S: Final = 15.0
"""A few statuses of a probe in a hurry (`lab.torture.filler`)."""
_POLL_S: Final = 0.1
_WATCH_EVERY_S: Final = 0.02


def statuses(journal: Path) -> dict[str, Status]:
    """Read the last status of each probe; raise sqlite3.Error."""
    with contextlib.closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True, timeout=5)) as db:
        rows = db.execute("SELECT probe_id, status FROM probes").fetchall()
    return {probe_id: codec.decode(payload, Status) for probe_id, payload in rows}


def mistaken(stand: Stand) -> list[str]:
    """Wait until every probe at work is known to be online with nothing waiting; return what stays untrue."""
    deadline_s = time.monotonic() + TRUE_WITHIN_S
    while True:
        untrue = _untrue(stand)
        if not untrue or time.monotonic() > deadline_s:
            return [f"{one}, {TRUE_WITHIN_S:.0f} s after all was done" for one in untrue]
        time.sleep(_POLL_S)


def _untrue(stand: Stand) -> list[str]:
    try:
        known = statuses(stand.journal_file)
    except sqlite3.Error as error:
        return [f"what is known of the probes cannot be read: {error}"]
    said = []
    for probe_id in sorted({writer.probe_id for writer in stand.writers}):
        status = known.get(probe_id)
        if status is None:
            said.append(f"the collector knows nothing of {probe_id}")
        elif not status.online or status.backlog:
            state = "online" if status.online else "offline"
            said.append(f"the collector says that {probe_id} is {state} and {status.backlog} results wait there")
    return said


class Watch:
    """Looks at what is known, inside the context, whether an older status ever replaces a newer one: `went_back`."""

    def __init__(self, stand: Stand) -> None:
        self._journal = stand.journal_file
        self._newest: dict[str, datetime] = {}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.went_back: dict[str, str] = {}
        """By probe, the first time."""

    def see(self, known: dict[str, Status]) -> None:
        """Compare with what was known before."""
        for probe_id, status in known.items():
            if status.at is None:
                continue
            newest = self._newest.get(probe_id)
            if newest is not None and status.at < newest:
                text = f"what the collector knows of {probe_id} went back from {newest:%H:%M:%S.%f} to"
                self.went_back.setdefault(probe_id, f"{text} {status.at:%H:%M:%S.%f}")
            else:
                self._newest[probe_id] = status.at

    def _run(self) -> None:
        while not self._closing.wait(_WATCH_EVERY_S):
            with contextlib.suppress(sqlite3.Error):  # asked again at once
                self.see(statuses(self._journal))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join()
