"""One job end to end: link → lease → measure → Result → spool. Whatever goes wrong becomes a result with a reason."""

from __future__ import annotations

import functools
import logging
import threading
from collections import Counter
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import date, datetime
from typing import TYPE_CHECKING, Final

import msgspec

from agent import jobs, path, run_cost, worn
from agent.bench import Bench
from agent.budget import Budget, Grant
from agent.deferred import Account, Run
from agent.describe import describe_service
from agent.held import AT_MOST, Unspooled, give_up
from agent.measurements.base import MeasurementFailed
from agent.namespace import inside
from agent.plan import Room
from agent.rank import is_telemetry
from agent.seldom import Seldom
from agent.settings import RadioJob, ThroughputJob
from agent.thinning import Thinner, Thinning
from base.durable import StorageError
from base.version import VERSION
from wire import results
from wire.events import Dropped, Recovery
from wire.measured import Failed, Latency, Radio, Throughput
from wire.reasons import Reason
from wire.results import Outcome, Result, Route

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agent.bench import Look, Modems
    from agent.clock import Clock
    from agent.lease import Lender
    from agent.ledger import Booking, Visit
    from agent.router import Keeper
    from agent.run_cost import Cost
    from agent.settings import Job, Link, Settings
    from agent.spool import Spool
    from agent.time_repair import Timekeeper
    from agent.timesync import Boot

log = logging.getLogger(__name__)

AGENT_VERSION: Final = VERSION


class Interrupted(BaseException):
    """The agent is told to stop while it measures."""


class Runner:
    """Runs one job at a time, so that the links of a probe never measure each other."""

    def __init__(self, settings: Settings, spool: Spool, clock: Clock, modems: Modems, lender: Lender) -> None:
        """Take what a run needs; nothing is opened yet."""
        self._settings = settings
        self._spool = spool
        self._clock = clock
        self._modems = modems
        self._lender = lender
        self.budget = Budget(settings, spool, clock)
        """The books of the SIMs' plans."""
        self.keeper: Keeper | None = None
        """Who keeps the links' routing tables; without one, nobody does."""
        self._unspooled: list[Unspooled] = []
        self._given_up = Counter[str]()
        self._seldom = Seldom()
        self._thinners: dict[tuple[str, str], Thinner] = {}
        self.ran: dict[tuple[str, str], int] = {}
        """For each (job, link): the slot of its last run by the schedule, be it a result by now or folded into one."""
        self._measuring = False
        self._stopped = threading.Event()
        self.timekeeper: Timekeeper | None = None
        """Who dates results while the clock is not set; without one the clock is believed."""
        self.quiet: Callable[[], AbstractContextManager[None]] = nullcontext
        """Keeps the agent's own uploads off the links while a throughput test runs."""
        self.last: dict[str, tuple[Look | None, str]] = {}
        """For each link: the last look at its radio, and the kind of its last outcome."""

    @property
    def storage_error(self) -> bool:
        """Whether results wait in memory because the disk does not take them."""
        return bool(self._unspooled)

    def stop(self) -> None:
        """Interrupt what is being measured; called from a signal handler on the thread that measures."""
        self._stopped.set()
        if self._measuring:
            raise Interrupted

    def recover(self) -> None:
        """Turn every run that a power cut or a kill left unfinished into a failed result.

        All are charged before any is stored: with the first result of a link its counters of this boot are booked, and
        show no power cut any more. Tests come first, so that the commit that charges a link's test ends it as well.
        """
        known = {job.name: job for job in self._settings.jobs}
        unfinished = self._spool.under_way()
        unfinished.sort(key=lambda one: not isinstance(known.get(one[0].job), ThroughputJob))
        for link in self._settings.links:
            for run, _ in unfinished:
                if run.link == link.name and run.job in known:
                    self.budget.cut_off(link, known[run.job])
        for run, started_at in unfinished:
            measurement = measurement_of(known[run.job]) if run.job in known else "unknown"  # it has left agent.yaml
            log.warning("%s on %s was cut off before it ended", run.job, run.link)
            result = self._result(
                results.Job(name=run.job, measurement=measurement),
                run.link,
                started_at=worn.moment(started_at) or self._clock.now(),
                elapsed_s=0.0,
                used=None,
                outcome=Failed(reason=Reason.INTERRUPTED, detail="the agent ended during the run"),
            )
            self._store(Unspooled(result, run, began=self._spool.run_began(run)))

    def run(
        self,
        job: Job,
        link: Link,
        *,
        slot: int,
        due: datetime | None,
        visit: Visit | None = None,
        by_hand: bool = False,
    ) -> Result:
        """Make one run and spool its result; raise StorageError if not even its begin can be noted (it is not made).

        `visit`: the run's place in the day's plan. `by_hand` may spend what the schedule may not.
        """
        self._flush_memory()
        run = Run(job.name, link.name, slot, visit, noted=job.claim is not None)
        account = None if by_hand else Account(job.name, link.name, job.every_s or 0, slot)
        started_at, begun_s = self._clock.now(), self._clock.monotonic_s()
        start = self.timekeeper.start() if self.timekeeper is not None else None
        upload = visit is None or visit.upload
        ask = functools.partial(self.budget.grant, link, job, upload=upload, by_hand=by_hand)
        grant = ask()
        slot_left_s = self._slot_left_s(link, job, visit, started_at) if visit is not None else None
        if run.noted:
            begun_at = start.began if start is not None else None
            fsync = isinstance(job, ThroughputJob)
            self._spool.begin(run, started_at, begun_at, account=account, fsync=fsync)
        if not by_hand:
            self.ran[job.name, link.name] = slot
        carried = path.carried(link.interface, link.namespace)
        bench = Bench(link, self._settings.servers, self._clock, self._modems, self._lender)
        bench.slot_ends_s = begun_s + slot_left_s if slot_left_s is not None else None
        bench.sim_seen = lambda sim: self._sim_seen(bench, sim, ask)
        outcome = self._outcome(bench, job, grant)
        now_carried = path.carried(link.interface, link.namespace)
        spent_bytes = (now_carried - carried).both_bytes if carried is not None and now_carried is not None else None
        if isinstance(outcome, Failed) and job.claim is not None:
            outcome = msgspec.structs.replace(outcome, interface_bytes=spent_bytes)
        result = self._result(
            results.Job(name=job.name, measurement=measurement_of(job), due=due),
            link.name,
            started_at=started_at,
            elapsed_s=round(self._clock.monotonic_s() - begun_s, 3),
            used=bench.used(),
            outcome=outcome,
        )
        self.last[link.name] = (bench.seen, str(type(outcome).__struct_config__.tag))
        log.info("%s on %s: %s", job.name, link.name, describe(outcome))
        if isinstance(job, RadioJob) and job.thin is not None and not by_hand:
            record = self._thinned(job, link, outcome, begun_s)
            if record is None:
                return result
            result = msgspec.structs.replace(result, outcome=record)
        began: Boot | None = None
        if self.timekeeper is not None and start is not None:
            result, began = self.timekeeper.date(result, start)
        cost = self._cost(job, outcome, spent_bytes, bench.pace_bytes_per_s)
        at_once = by_hand or not is_telemetry(result)
        self._store(Unspooled(result, run, cost, began, account, at_once))
        return result

    def close(self) -> None:
        """Spool what is folded: the last looks before the end."""
        for (job, link), thinner in self._thinners.items():
            if (record := thinner.rest()) is not None:
                measured = results.Job(name=job, measurement="radio")
                slot, every_s = self.ran.get((job, link)), self._settings.job(job).every_s
                account = Account(job, link, every_s, slot) if slot is not None and every_s is not None else None
                self.keep(link, record, started_at=self._clock.now(), elapsed_s=0.0, job=measured, account=account)

    def keep(
        self,
        link: str,
        outcome: Outcome,
        *,
        started_at: datetime,
        elapsed_s: float,
        job: results.Job | None = None,
        account: Account | None = None,
    ) -> None:
        """Spool what is no run of a job: a step of the recovery ladder, the state of a plan, runs not made."""
        result = self._result(job, link, started_at=started_at, elapsed_s=elapsed_s, used=None, outcome=outcome)
        measuring, self._measuring = self._measuring, False  # an interruption between commit and memory would double it
        began = self.timekeeper.began_at(started_at) if self.timekeeper else None
        at_once = not is_telemetry(result)
        self._store(Unspooled(result, None, began=began, account=account, at_once=at_once))
        self._measuring = measuring
        if measuring and self._stopped.is_set():
            raise Interrupted

    @staticmethod
    def _cost(job: Job, outcome: Outcome, spent_bytes: int | None, pace_bytes_per_s: float | None) -> Cost | None:
        if not isinstance(job, ThroughputJob):
            return None
        length_s = job.options.omit_s + job.options.duration_s
        return run_cost.of(outcome, spent_bytes, length_s=length_s, pace_bytes_per_s=pace_bytes_per_s)

    def _thinned(self, job: RadioJob, link: Link, outcome: Outcome, at_s: float) -> Outcome | None:
        """Return what is to be spooled of a look; None if it is folded into the next record."""
        thinner = self._thinners.setdefault((job.name, link.name), Thinner(job.thin or Thinning()))
        if isinstance(outcome, Radio):
            return thinner.look(outcome.reading, at_s)
        thinner.failed()
        return outcome

    # --- measuring ----------------------------------------------------------------------------------------------------

    def _outcome(self, bench: Bench, job: Job, grant: Grant | Room) -> Outcome:
        if isinstance(grant, Grant):
            bench.left_bytes, bench.upload_saved = grant.left_bytes, not grant.upload
        bench.quiet, bench.plan_spent = self.quiet, lambda: self._plan_is_spent(bench.link)
        bench.offset_s = self.timekeeper.offset_s if self.timekeeper is not None else None
        bench.tracing = self._settings.trace
        try:
            with self.interruptible():
                if isinstance(grant, Room):
                    _find_another_sim(bench, grant)
                if self.keeper is not None and job.claim is not None:
                    self.keeper.keep()
                with inside(bench.link.namespace):
                    return jobs.run(bench, job)
        except MeasurementFailed as failure:
            bench.pace_bytes_per_s = failure.pace_bytes_per_s
            reading = bench.seen.reading if bench.seen is not None else None
            return Failed(reason=failure.reason, detail=failure.detail[:300], radio=reading, trace=failure.trace)
        except Interrupted:
            return Failed(reason=Reason.INTERRUPTED, detail="the agent was told to stop")
        except Exception as error:
            log.exception("%s on %s: a defect of the agent", job.name, bench.link.name)
            return Failed(reason=Reason.AGENT_ERROR, detail=f"{type(error).__name__}: {error}"[:300])

    def _slot_left_s(self, link: Link, job: Job, visit: Visit, now: datetime) -> float | None:
        """Tell how long a planned run's slot still lasts; raise StorageError."""
        runs = self.budget.runs_of_day(link, date.fromisoformat(visit.day).toordinal())
        until_s = (run.until_s for run in runs if (run.job, run.slot) == (job.name, visit.slot))
        return next((one - now.timestamp() for one in until_s), None)

    def _plan_is_spent(self, link: Link) -> bool:
        try:
            return self.budget.is_spent(link)
        except StorageError as error:
            log.warning("%s: whether the plan is spent cannot be read: %s", link.name, error)
            return False

    def _sim_seen(self, bench: Bench, sim: str | None, ask: Callable[[], Grant | Room]) -> None:
        """Keep the books of the SIM that is there; a run that began on another's asks again what it may move."""
        try:
            if self.budget.sim_seen(bench.link, sim):
                said = ask()
                if isinstance(said, Room):
                    raise MeasurementFailed(Reason.QUOTA_REACHED, str(said))
                bench.left_bytes, bench.upload_saved = said.left_bytes, not said.upload
        except StorageError as error:
            log.warning("%s: which SIM it has cannot be noted: %s", bench.link.name, error)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let `stop` raise Interrupted inside; raise it at once after `stop`."""
        if self._stopped.is_set():
            raise Interrupted
        self._measuring = True
        try:
            yield
        finally:
            self._measuring = False

    # --- storing ------------------------------------------------------------------------------------------------------

    def _result(
        self,
        job: results.Job | None,
        link: str | None,
        *,
        started_at: datetime,
        elapsed_s: float,
        used: Route | None,
        outcome: Outcome,
    ) -> Result:
        return Result(
            probe_id=self._settings.probe_id,
            site=self._settings.site.id,
            link=link,
            job=job,
            used=used,
            started_at=started_at,
            elapsed_s=elapsed_s,
            clock=self._clock.quality(),
            agent_version=AGENT_VERSION,
            outcome=outcome,
        )

    def _store(self, one: Unspooled) -> None:
        self._unspooled.append(one)
        self._flush_memory(quiet=True)

    def _flush_memory(self, *, quiet: bool = False) -> None:
        """Spool what waits in memory, in order, and what was given up of it; raise StorageError unless `quiet`."""
        while self._unspooled or self._given_up:
            if not self._unspooled:
                self._unspooled.append(self._told_of_given_up())
            waiting = self._unspooled[0]
            booking = None
            try:
                if waiting.at_once:
                    booking = self._booking(waiting.result.link)
                    self._spool.append(
                        waiting.result,
                        ends=waiting.ends,
                        booking=booking,
                        cost=waiting.cost,
                        began=waiting.began,
                    )
                else:  # what it carried is booked with the next one
                    self._spool.defer(waiting.result, ends=waiting.ends, account=waiting.account, began=waiting.began)
            except StorageError as error:
                if self._seldom.may_say(str(error)):
                    log.error("%s (%d results wait in memory)", error, len(self._unspooled))  # noqa: TRY400
                if give_up(self._unspooled, self._given_up) and self._seldom.may_say("given up"):
                    log.error("more than %d results wait in memory; given up: %s", AT_MOST, dict(self._given_up))  # noqa: TRY400
                if quiet:
                    return
                raise
            del self._unspooled[0]
            if booking is not None:
                self.budget.booked(booking)

    def _told_of_given_up(self) -> Unspooled:
        """Say what was given up in memory, where nothing has a number yet."""
        now, outcome = self._clock.now(), Dropped(counts=dict(self._given_up), first_seq=0, last_seq=0)
        self._given_up.clear()
        result = self._result(None, None, started_at=now, elapsed_s=0.0, used=None, outcome=outcome)
        return Unspooled(result, None, began=self.timekeeper.began_at(now) if self.timekeeper else None)

    def _booking(self, name: str | None) -> Booking | None:
        """Book what the link has carried with its result: one commit for both."""
        link = next((link for link in self._settings.links if link.name == name), None)
        return self.budget.booking(link) if link is not None else None


def _find_another_sim(bench: Bench, spent: Room) -> None:
    """Raise MeasurementFailed, unless the SIM whose quota is spent was replaced by one that has some left."""
    bench.left_bytes = 0
    if bench.link.modem is not None:
        with suppress(MeasurementFailed), inside(bench.link.namespace):  # where a HiLink stick's address is
            bench.look()
    if bench.left_bytes == 0:
        raise MeasurementFailed(Reason.QUOTA_REACHED, str(spent))


def measurement_of(job: Job) -> str:
    """Name the measurement of a job, as agent.yaml and the wire spell it."""
    return str(type(job).__struct_config__.tag)


def describe(outcome: Outcome) -> str:
    """Say an outcome in one line, for the log and for a technician."""
    match outcome:
        case Throughput(download=download, upload=upload):
            text = f"{download.mbps or download.steady_mbps:.1f} Mbps down"
            text += f", {upload.mbps or upload.steady_mbps:.1f} Mbps up" if upload is not None else ""
            text += f", no upload ({outcome.upload_failure})" if outcome.upload_failure is not None else ""
            return text + (f"; not a sample: {', '.join(outcome.invalid)}" if outcome.invalid else "")
        case Latency(udp=udp):
            rtt = f"RTT {udp.rtt_mean_ms:.1f} ms, " if udp.rtt_mean_ms is not None else ""
            return f"{rtt}loss {udp.loss_percent:.1f} %"
        case Radio(reading=reading):
            level = f"RSRP {reading.rsrp_dbm:.0f} dBm" if reading.rsrp_dbm is not None else "no RSRP"
            return f"{reading.operator or 'no operator'}, {reading.technology or 'no technology'}, {level}"
        case Recovery(rung=rung, action=action, before=before, after=after):
            now = f", then {after.condition}" if after is not None else ""
            return f"rung {rung}, {action}: was {before.condition}{now}"
        case Failed(reason=reason, detail=detail):
            way = " > ".join(hop.address or "?" for hop in outcome.trace)
            return f"failed: {reason}" + (f" ({detail})" if detail else "") + (f"; the way: {way}" if way else "")
        case _:
            return describe_service(outcome)
