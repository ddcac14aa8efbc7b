"""The recovery ladder at work: between runs it looks at a link in trouble, does one rung, and tells what came of it.

What is to be done is decided by agent.modem.recovery; what has been done is on disk before it is done. Where the disk
does not take it, nothing is done.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from agent.modem import recovery
from agent.modem.durable_file import read_json, write_json
from agent.modem.hands import RungFailed
from agent.modem.recovery import HOST_REBOOT, RUNGS, Memory, Moment, Verb
from base.durable import StorageError
from base.table import render
from wire.events import Diagnosis, Recovery
from wire.measured import Failed, Latency, Radio, Throughput
from wire.radio import Registration
from wire.reasons import Condition, Reason
from wire.results import Service

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from agent.clock import Clock
    from agent.settings import Link
    from wire.results import Outcome

log = logging.getLogger(__name__)

MEMORY_FILE: Final = "recovery.json"
SETTLE_S: Final = {1: 90.0, 2: 90.0, 3: 180.0, 4: 90.0, 5: 180.0, HOST_REBOOT: 120.0}
"""How long a link may take to work again after a rung; the modem notes, section 5, for what a reboot takes."""
_LOOK_EVERY_S: Final = 5.0
_DISK_S: Final = 300.0
# Failures that a link in trouble has; others are the responder's, the plan's or the agent's own.
_TROUBLE: Final = frozenset(
    {
        Reason.LINK_DOWN,
        Reason.LINK_LOST,
        Reason.NO_ADDRESS,
        Reason.NO_MODEM,
        Reason.MODEM_SILENT,
        Reason.MODEM_ERROR,
        Reason.NO_REGISTRATION,
        Reason.SIM_ABSENT,
        Reason.SIM_LOCKED,
        Reason.UNREACHABLE,
        Reason.TIMEOUT,
        Reason.NAME_NOT_RESOLVED,  # asked over the link: where nothing flows, nobody answers
        Reason.NO_LEASE,
    }
)
# What bringing the link up may cure without a rung: a data call that ended, a SIM that asks for its PIN.
_BRING_UP: Final = {Condition.NO_ADDRESS, Condition.SIM_LOCKED}


class Rungs(Protocol):
    """Whoever has hands."""

    def act(self, link: Link, rung: int) -> str:
        """Do a rung, return what was done; raise RungFailed."""
        ...

    def mend(self, link: Link, rung: int) -> None:
        """Do the second half of a rung that was cut off; raise RungFailed."""
        ...


class Step(NamedTuple):
    """A step to report: when it began, and how long it took."""

    link: str
    recovery: Recovery
    started_at: datetime
    elapsed_s: float


class Ladder:
    """One probe's ladder. `diagnose` looks at a link; `bring_up` dials or unlocks; `report` takes each step."""

    def __init__(
        self,
        memory_file: Path,
        clock: Clock,
        hands: Rungs,
        diagnose: Callable[[Link], Diagnosis],
        report: Callable[[Step], None],
        *,
        bring_up: Callable[[Link], str | None] = lambda _: None,
        boot_id: str | None = None,
        settle_s: dict[int, float] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Read nothing yet; `boot_id`, `settle_s` and `sleep` are there for tests."""
        self._file = memory_file
        self._clock = clock
        self._hands = hands
        self._diagnose = diagnose
        self._report = report
        self._bring_up = bring_up
        self._boot = boot_id or _boot_id()
        self._settle_s = settle_s or SETTLE_S
        self._sleep = sleep
        self._failures: dict[tuple[str, str], int] = {}
        self._not_before_s: dict[str, float] = {}

    # --- what the service calls ---------------------------------------------------------------------------------------

    def note(self, link: Link, job: str, outcome: Outcome) -> None:
        """Count the failed runs of each job in a row; a run that worked ends its count."""
        if _in_trouble(outcome):
            self._failures[link.name, job] = self._failures.get((link.name, job), 0) + 1
        elif isinstance(outcome, Throughput | Latency | Radio | Service):
            self._failures.pop((link.name, job), None)

    def recover(self, links: tuple[Link, ...]) -> None:
        """At the start of the agent: report the rungs that were cut off, and do their second halves."""
        try:
            memory = self._memory()
            if not memory.links:  # a memory that survives restarts is what allows rung 6
                write_json(self._file, memory)
            for link in links:
                if (under_way := memory.link(link.name).under_way) is not None:
                    self._resume(link, under_way)
        except StorageError as error:
            log.error("%s; the ladder stands still meanwhile", error)  # noqa: TRY400  # says it all

    def consult(self, link: Link) -> None:
        """Between runs: look at a link in trouble, and do at most one rung. Cheap where there is nothing to do."""
        if self._clock.monotonic_s() < self._not_before_s.get(link.name, 0.0):
            return
        try:
            if self._troubled(link):
                self._consult(link)
        except StorageError as error:
            log.error("%s; the ladder stands still meanwhile", error)  # noqa: TRY400  # says it all
            self._not_before_s[link.name] = self._clock.monotonic_s() + _DISK_S

    def at_once(self, link: Link) -> Diagnosis:
        """Look at a link by hand, whatever has failed before, and do at most one rung; raise StorageError."""
        self._consult(link)
        return self._diagnose(link)

    def explain(self, link: Link) -> str:
        """Say what would be done now, and why. Nothing is done and nothing is written."""
        diagnosis = self._diagnose(link)
        now = self._now()
        memory = recovery.observe(self._memory(), link.name, diagnosis, now)
        decision = recovery.decide(link.recovery, memory, link.name, diagnosis, now, testing=False)
        chosen = (
            f"would do rung {decision.rung}" if decision.verb is Verb.ACT else f"would {decision.verb.name.lower()}"
        )
        lines = [f"{link.name}: {diagnosis.condition}: {diagnosis.detail}", f"  {chosen}: {decision.why}"]
        if decision.verb is not Verb.ACT:
            lines.append(f"  would look again in {decision.retry_in_s:.0f} s")
        standing = dict(decision.rungs)
        rows = [
            [
                rung,
                name,
                "yes" if rung in link.recovery.rungs else "no",
                f"{len(memory.rung(link.name, rung).within_a_day(now))} of {link.recovery.cap(rung)}",
                standing.get(rung, ""),
            ]
            for rung, name in RUNGS.items()
        ]
        table = render(("rung", "what", "allowed", "tries in 24 h", "now"), rows)
        return "\n".join([*lines, *(f"  {row}" for row in table.splitlines())])

    # --- one consultation ---------------------------------------------------------------------------------------------

    def _troubled(self, link: Link) -> bool:
        """Whether a job has failed often enough, or trouble noted earlier has not been seen to end."""
        counts = (count for (name, _), count in self._failures.items() if name == link.name)
        if max(counts, default=0) >= link.recovery.after_failures:
            return True
        return self._memory().link(link.name).trouble is not None

    def _consult(self, link: Link) -> None:
        diagnosis = self._diagnose(link)
        if diagnosis.condition in _BRING_UP:
            diagnosis = self._brought_up(link, diagnosis)
        now = self._now()
        before = self._memory()
        memory = recovery.observe(before, link.name, diagnosis, now)
        decision = recovery.decide(link.recovery, memory, link.name, diagnosis, now, testing=False)
        log.info("%s is %s (%s): %s", link.name, diagnosis.condition, diagnosis.detail, decision.why)
        if decision.verb is Verb.ACT and decision.rung is not None:
            self._act(link, decision.rung, diagnosis, recovery.begin(memory, link.name, decision.rung, diagnosis, now))
            return
        if decision.verb is Verb.ALERT and recovery.alert_due(memory, link.name, diagnosis.condition, now):
            memory = recovery.alerted(memory, link.name, diagnosis.condition, now)
            alert = Recovery(rung=0, action="alert", before=diagnosis, detail=decision.why)
            log.warning("%s: %s: %s", link.name, diagnosis.condition, decision.why)
            self._report(Step(link.name, alert, self._clock.now(), 0.0))
        if memory != before:
            write_json(self._file, memory)
        if diagnosis.condition is Condition.HEALTHY:
            self._forget(link)
        self._not_before_s[link.name] = self._clock.monotonic_s() + decision.retry_in_s

    def _act(self, link: Link, rung: int, before: Diagnosis, begun: Memory) -> None:
        write_json(self._file, begun)
        log.warning("%s: rung %d, %s, because it is %s", link.name, rung, RUNGS[rung], before.condition)
        started_at, began_s = self._clock.now(), self._clock.monotonic_s()
        try:
            detail = self._hands.act(link, rung)
            after = self._settled(link, rung)
        except RungFailed as error:
            detail, after = f"could not be done: {error}", self._diagnose(link)
        step = Recovery(rung=rung, action=RUNGS[rung], before=before, after=after, detail=detail[:300])
        self._ended(link, step, after, started_at, began_s)

    def _resume(self, link: Link, under_way: recovery.UnderWay) -> None:
        """Finish what a restart, a kill or a power cut has cut off."""
        rung = under_way.rung
        rebooted = rung == HOST_REBOOT and under_way.began.boot != self._boot
        detail = "the machine was restarted" if rebooted else "the agent ended during this rung"
        log.warning("%s: rung %d, %s: %s", link.name, rung, RUNGS[rung], detail)
        started_at, began_s = self._clock.now(), self._clock.monotonic_s()
        try:
            self._hands.mend(link, rung)
        except RungFailed as error:
            detail = f"{detail}; {error}"
        after = self._settled(link, rung)
        step = Recovery(rung=rung, action=RUNGS[rung], before=under_way.before, after=after, detail=detail[:300])
        self._ended(link, step, after, started_at, began_s)

    def _settled(self, link: Link, rung: int) -> Diagnosis:
        """Look again and again until the link works, or has had the time that this rung may take."""
        until_s = self._clock.monotonic_s() + self._settle_s[rung]
        brought_up = False
        while True:
            self._sleep(_LOOK_EVERY_S)
            diagnosis = self._diagnose(link)
            if diagnosis.condition in _BRING_UP and not brought_up:
                brought_up = True
                diagnosis = self._brought_up(link, diagnosis)
            if diagnosis.condition is Condition.HEALTHY or self._clock.monotonic_s() >= until_s:
                return diagnosis

    def _brought_up(self, link: Link, diagnosis: Diagnosis) -> Diagnosis:
        """Bring the link up, where that is allowed, and look again."""
        told = self._bring_up(link)
        if told is None:
            return diagnosis
        log.info("%s: %s", link.name, told)
        return self._diagnose(link)

    def _ended(self, link: Link, step: Recovery, after: Diagnosis, started_at: datetime, began_s: float) -> None:
        """Report a step, then note its end: cut off in between, it is reported twice rather than never."""
        elapsed_s = round(self._clock.monotonic_s() - began_s, 3)
        self._report(Step(link.name, step, started_at, elapsed_s))
        write_json(self._file, recovery.finish(self._memory(), link.name, after, self._now()))
        log.info("%s: after rung %d it is %s", link.name, step.rung, after.condition)
        if step.cured:
            self._forget(link)

    def _forget(self, link: Link) -> None:
        self._failures = {key: count for key, count in self._failures.items() if key[0] != link.name}

    # --- memory and time ----------------------------------------------------------------------------------------------

    def _memory(self) -> Memory:
        return read_json(self._file, Memory) or Memory(kept_since=self._now())

    def _now(self) -> Moment:
        return Moment(
            wall_s=self._clock.now().timestamp(),
            up_s=self._clock.monotonic_s(),
            boot=self._boot,
            synchronised=bool(self._clock.quality().synchronised),
        )


def _in_trouble(outcome: Outcome) -> bool:
    if isinstance(outcome, Failed):
        return outcome.reason in _TROUBLE
    registered = {Registration.HOME, Registration.ROAMING, None}
    return isinstance(outcome, Radio) and outcome.reading.registration not in registered


def _boot_id() -> str:
    """Name this boot of the machine (proc(5), /proc/sys/kernel/random/boot_id)."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"
