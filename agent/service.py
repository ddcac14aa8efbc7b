"""The agent at work: waits for the next run that is due, makes it, and goes on until told to stop."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import logging
import os
import signal
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TextIO

from agent.archive import Bounds
from agent.nameplate import machine
from agent.publisher import Publisher
from agent.runner import AGENT_VERSION, Interrupted, Runner
from agent.seldom import Seldom
from agent.speeds import SPEEDS_FILE, Speeds
from agent.spool import Spool
from agent.time_repair import Timekeeper
from agent.timetable import Timetable
from base.durable import StorageError
from wire.status import LinkStatus, Status

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import FrameType

    from agent.balance import Balances
    from agent.bench import Modems
    from agent.clock import Clock
    from agent.settings import Settings
    from agent.timetable import Task
    from agent.upkeep import Upkeep

log = logging.getLogger(__name__)

SPOOL_FILE: Final = "spool.db"
FLUSH_S: Final = 5.0
"""How long the end of the agent waits for the last acknowledgements."""
_DISK_PAUSE_S: Final = 30.0
_BALANCE_NEEDS_S: Final = 20.0
_LONGEST_WAIT_S: Final = 60.0


class AlreadyRunningError(Exception):
    """Another agent works with the same data folder; the text says which and what to do."""


@contextlib.contextmanager
def sole_use(data_dir: Path) -> Iterator[None]:
    """Hold the data folder for one agent; raise AlreadyRunningError or StorageError."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        file = _lock_file(data_dir / "agent.lock")
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
        with contextlib.suppress(OSError):  # a card that takes no note of it has results to send all the same
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), str(os.getpid()).encode())
        yield


def _lock_file(path: Path) -> TextIO:
    """Open the file; on a card that is read-only by now, as it was left there."""
    try:
        return path.open("a+")
    except OSError as error:
        if error.errno == errno.EROFS and path.exists():
            return path.open("r")
        raise


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


def open_spool(settings: Settings) -> Spool:
    """Open a probe's spool; raise StorageError."""
    memory_dir = settings.spool.memory_dir
    return Spool(
        settings.data_dir / SPOOL_FILE,
        max_bytes=settings.spool.max_mb * 1_000_000,
        defer_s=settings.spool.telemetry_every_s,
        memory_dir=memory_dir if os.access(memory_dir, os.W_OK | os.X_OK) else None,
        archived=Bounds(settings.archive.days, settings.archive.max_mb * 1_000_000),
    )


class Service:
    """One probe's agent: spool, publisher and runner, built from settings."""

    def __init__(self, settings: Settings, clock: Clock, modems: Modems) -> None:
        """Open the spool; raise StorageError, or base.broker.CredentialsError."""
        self.settings = settings
        self._clock = clock
        self._started_at = clock.now()
        self.spool = open_spool(settings)
        self.publisher = Publisher(settings.broker, settings.probe_id, self.spool, self.status)
        self.publisher.habits.order = settings.responders
        self.publisher.habits.mbps = Speeds(settings.data_dir / SPEEDS_FILE)
        self.runner = Runner(settings, self.spool, clock, modems, self.publisher)
        self.runner.timekeeper = Timekeeper(clock, self.spool, settings.clock)
        self.runner.quiet = self.publisher.quiet
        self.upkeep: Upkeep | None = None
        """Who keeps the links up between runs; without one, nobody does."""
        self.balances: Balances | None = None
        """Who asks the operators what is left of the plans; without one, nobody does."""
        self._stop = threading.Event()
        self._seldom = Seldom()

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
            undated=self.spool.count_undated(),
            spool_error="the disk takes no results" if self.runner.storage_error else None,
            clock=self._clock.quality(),
            links=tuple(links),
            machine=machine(),
        )

    def run(self) -> bool:
        """Work until SIGTERM or SIGINT; then end what is measured, give the spool a moment to empty, and return.

        Return False if nobody said so, but the publisher has died: another process has to begin afresh.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        self.publisher.start()
        try:
            self.runner.recover()
            if self.upkeep is not None:
                self.upkeep.begin()
            self._work()
        finally:
            self._close()
        log.info("stopped")
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not turn this clean end into a kill
        return self._stop.is_set()

    def _close(self) -> None:
        """Give everything back; what one of them cannot do keeps none of the others from it."""
        stop_publisher = functools.partial(self.publisher.stop, flush_s=FLUSH_S)
        begun = () if self.upkeep is None else (self.upkeep.close,)
        runner = (self.runner.close, self.runner.budget.close)
        for step in (*begun, *runner, self.spool.flush, stop_publisher, self.spool.close):
            try:
                step()
            except StorageError as error:
                log.error("%s", error)  # noqa: TRY400  # the message says all; a traceback helps nobody
            except Exception:
                log.exception("while stopping")

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stop.set()
        self.runner.stop()

    def _work(self) -> None:
        log.info("%s at %s: %d links", self.settings.probe_id, self.settings.site.id, len(self.settings.links))
        timetable = Timetable(self.settings, self.spool, self.runner, self._clock)
        while not self._stop.is_set():
            if not self.publisher.alive:
                log.error("a thread of the publisher has ended, and nothing is sent any more; the agent ends as well")
                return
            try:
                self.date_results()
                now_s, due = timetable.next_run()
                passed = due is not None and due.at_s <= now_s and timetable.passes(due)
            except StorageError as error:
                timetable.roll_call.no_storage = True
                self._pause(error)
                continue
            if due is None or due.at_s > now_s:
                if self.upkeep is not None and self.upkeep.between_runs():
                    continue  # it took its time, and more may be due by now
                if self._asked_a_balance(due.at_s - now_s if due is not None else _LONGEST_WAIT_S):
                    continue
                self._stop.wait(min(due.at_s - now_s, _LONGEST_WAIT_S) if due is not None else _LONGEST_WAIT_S)
            elif not passed and not self._make(due):
                timetable.roll_call.no_storage = True

    def date_results(self) -> None:
        """Send on what waited for the clock, as far as it can be dated now; raise StorageError."""
        if self.runner.timekeeper is not None and self.runner.timekeeper.check():
            self.publisher.wake()

    def _make(self, due: Task) -> bool:
        """Make a run; return False if the disk took no note of it."""
        job, link = self.settings.job(due.job), self.settings.link(due.link)
        try:
            at = datetime.fromtimestamp(due.at_s, UTC)
            result = self.runner.run(job, link, slot=due.slot, due=at, visit=due.visit)
            if self.upkeep is not None:
                self.upkeep.after_run(link, job.name, result.outcome)
        except StorageError as error:
            self._pause(error)
            return False
        finally:
            self.publisher.wake()
        return True

    def _asked_a_balance(self, free_s: float) -> bool:
        """Ask for a balance if one is due and there is time before the next run."""
        if self.balances is None or free_s < _BALANCE_NEEDS_S:
            return False
        try:
            with self.runner.interruptible():
                return self.balances.check()
        except Interrupted:
            pass
        except StorageError as error:
            self._pause(error)
        except Exception:
            log.exception("the balance could not be asked for; the measuring goes on")
        return True

    def _pause(self, error: StorageError) -> None:
        if self._seldom.may_say(str(error)):
            log.error("%s; no test is made while its result cannot be kept", error)
        self._stop.wait(_DISK_PAUSE_S)
