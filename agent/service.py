"""The agent at work: waits for the next run that is due, makes it, and goes on until told to stop."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from agent.publisher import Publisher
from agent.runner import AGENT_VERSION, Runner
from agent.schedule import Due, Periodic, next_run
from agent.spool import Spool
from base.durable import StorageError
from wire.messages import LinkStatus, Status

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import FrameType

    from agent.bench import Modems
    from agent.clock import Clock
    from agent.settings import Settings
    from agent.upkeep import Upkeep

log = logging.getLogger(__name__)

SPOOL_FILE: Final = "spool.db"
FLUSH_S: Final = 5.0
"""How long the end of the agent waits for the last acknowledgements."""
_CLOCK_STEP_S: Final = 60.0
_DISK_PAUSE_S: Final = 30.0
_LONGEST_WAIT_S: Final = 60.0


class AlreadyRunningError(Exception):
    """Another agent works with the same data folder; the text says which and what to do."""


@contextlib.contextmanager
def sole_use(data_dir: Path) -> Iterator[None]:
    """Hold the data folder for one agent; raise AlreadyRunningError or StorageError."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        file = (data_dir / "agent.lock").open("a+")
    except OSError as error:
        raise StorageError(f"{data_dir}: {error.strerror}; data_dir must be writable for the agent's user") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise AlreadyRunningError(
                f"{data_dir}: in use by another agent (process {holder}); stop it first, "
                "for example: systemctl stop probefleet-agent"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def running_agent(data_dir: Path) -> str | None:
    """Name the process that works with the data folder, if one does."""
    try:
        with (data_dir / "agent.lock").open("r") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return file.read().strip() or "unknown"
    except OSError:
        pass
    return None


class Service:
    """One probe's agent: spool, publisher and runner, built from settings."""

    def __init__(self, settings: Settings, clock: Clock, modems: Modems) -> None:
        """Open the spool; raise StorageError, or base.broker.CredentialsError."""
        self.settings = settings
        self._clock = clock
        self._started_at = clock.now()
        self.spool = Spool(settings.data_dir / SPOOL_FILE, max_bytes=settings.spool.max_mb * 1_000_000)
        self.publisher = Publisher(settings.broker, settings.probe_id, self.spool, self.status)
        self.runner = Runner(settings, self.spool, clock, modems, self.publisher)
        self.upkeep: Upkeep | None = None
        """Who keeps the links up between runs; without one, nobody does."""
        self._stop = threading.Event()

    def status(self) -> Status:
        """Tell what the birth message tells; raise StorageError."""
        counts = self.spool.counts()
        links = []
        for link in self.settings.links:
            look, outcome = self.runner.last.get(link.name, (None, None))
            links.append(
                LinkStatus(
                    name=link.name,
                    interface=link.interface,
                    operator=look.reading.operator if look is not None else None,
                    technology=look.reading.technology if look is not None else None,
                    rsrp_dbm=look.reading.rsrp_dbm if look is not None else None,
                    last_outcome=outcome,
                )
            )
        return Status(
            probe_id=self.settings.probe_id,
            online=True,
            site=self.settings.site.id,
            at=self._clock.now(),
            started_at=self._started_at,
            agent_version=AGENT_VERSION,
            spool_id=self.spool.spool_id,
            spooled=counts.spooled,
            backlog=counts.waiting,
            spool_error="the disk takes no results" if self.runner.storage_error else None,
            clock=self._clock.quality(),
            links=tuple(links),
        )

    def run(self) -> None:
        """Work until SIGTERM or SIGINT; then end what is measured, give the spool a moment to empty, and return."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        self.publisher.start()
        try:
            self.runner.recover()
            if self.upkeep is not None:
                self.upkeep.begin()
            self._work()
        finally:
            if self.upkeep is not None:
                self.upkeep.close()
            self.publisher.stop(flush_s=FLUSH_S)
            self.spool.close()
        log.info("stopped")
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not turn this clean end into a kill

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stop.set()
        self.runner.stop()

    def _work(self) -> None:
        work = [
            Periodic(job.name, link.name, job.every_s)
            for job in self.settings.jobs
            for link in self.settings.links_of(job)
        ]
        log.info("%s at %s: %d jobs on links", self.settings.probe_id, self.settings.site.id, len(work))
        since_s = self._clock.now().timestamp()
        offset_s = since_s - self._clock.monotonic_s()
        while not self._stop.is_set():
            now_s = self._clock.now().timestamp()
            if abs(now_s - self._clock.monotonic_s() - offset_s) > _CLOCK_STEP_S:
                log.warning("the clock was set by %+.0f s", now_s - self._clock.monotonic_s() - offset_s)
                since_s, offset_s = now_s, now_s - self._clock.monotonic_s()
            due = next_run(self.settings.probe_id, work, self.spool.last_slots(), now_s=now_s, since_s=since_s)
            if due.at_s > now_s:
                if self.upkeep is not None and self.upkeep.between_runs():
                    continue  # it took its time, and more may be due by now
                self._stop.wait(min(due.at_s - now_s, _LONGEST_WAIT_S))
            else:
                self._make(due)

    def _make(self, due: Due) -> None:
        job, link = self.settings.job(due.job), self.settings.link(due.link)
        try:
            result = self.runner.run(job, link, slot=due.slot, due=datetime.fromtimestamp(due.at_s, UTC))
            if self.upkeep is not None:
                self.upkeep.after_run(link, job.name, result.outcome)
        except StorageError as error:
            log.error("%s; no test is made while its result cannot be kept", error)  # noqa: TRY400  # says it all
            self._stop.wait(_DISK_PAUSE_S)
        self.publisher.wake()
