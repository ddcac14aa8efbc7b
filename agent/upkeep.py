"""Keeps the probe's links up between runs: brings them up at the start, dials again, and climbs the recovery ladder.

Everything happens on the thread that measures, so nothing is ever done to a modem while a test runs.
"""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Final

import psutil

from agent import path
from agent.measurements.base import MeasurementFailed
from agent.modem.diagnose import diagnose
from agent.modem.hands import Hands
from agent.modem.ladder import MEMORY_FILE, Ladder
from agent.namespace import inside
from agent.runner import Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.clock import Clock
    from agent.modem.bringup import Bringer, Step
    from agent.modem.ladder import Rungs
    from agent.modem.ladder import Step as LadderStep
    from agent.modems import SerialModems
    from agent.runner import Runner
    from agent.settings import Link, Settings
    from wire.events import Diagnosis
    from wire.results import Outcome

log = logging.getLogger(__name__)

_LONG_S: Final = 1.0


class Upkeep:
    """One probe's upkeep. It reports its steps through the runner, into the same spool as every result."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        modems: SerialModems,
        runner: Runner,
        *,
        hands: Rungs | None = None,
        look: Callable[[Link], Diagnosis] | None = None,
    ) -> None:
        """Take what is needed; nothing is opened. `hands` and `look` are there for tests."""
        self._links = settings.links
        self._clock = clock
        self._runner = runner
        self._bringer = _bringer(settings, modems)
        self.ladder = Ladder(
            settings.data_dir / MEMORY_FILE,
            clock,
            hands or Hands(modems),
            look or (lambda link: diagnose(link, modems, others=other_uplinks(link.interface))),
            self._report,
            bring_up=self._again,
        )

    def begin(self) -> None:
        """Bring up the links that are ours to bring up, and finish what was cut off when the agent ended."""
        self._guarded(self._bring_up)

    def after_run(self, link: Link, job: str, outcome: Outcome) -> None:
        """Count what came of a run, and look after its link where that is due."""
        self.ladder.note(link, job, outcome)
        self._look_after(link)

    def between_runs(self) -> bool:
        """Look after every link where that is due; return whether it took long."""
        begun_s = self._clock.monotonic_s()
        for link in self._links:
            self._look_after(link)
        return self._clock.monotonic_s() - begun_s > _LONG_S

    def close(self) -> None:
        """End the data calls."""
        if self._bringer is not None:
            self._bringer.close()

    def _bring_up(self) -> None:
        for link in self._links:
            if self._bringer is not None and link.bring_up is not None:
                with inside(link.namespace):
                    self._bringer.up(link, dry_run=False, tell=functools.partial(_tell, link.name))
        self.ladder.recover(self._links)

    def _again(self, link: Link) -> str | None:
        return self._bringer.again(link) if self._bringer is not None else None

    def _look_after(self, link: Link) -> None:
        def work() -> None:
            with inside(link.namespace):
                if self._bringer is not None and self._bringer.due(link):
                    log.info("%s: brought up again: %s", link.name, self._bringer.again(link))
                self.ladder.consult(link)

        self._guarded(work)

    def _report(self, step: LadderStep) -> None:
        self._runner.keep(step.link, step.recovery, started_at=step.started_at, elapsed_s=step.elapsed_s)

    def _guarded(self, work: Callable[[], None]) -> None:
        """Work, but end when the agent is told to stop; a rung that is cut off is finished at the next start."""
        try:
            with self._runner.interruptible():
                work()
        except Interrupted:
            log.info("told to stop while looking after a link")
        except MeasurementFailed as failure:
            log.warning("a link cannot be looked after: %s", failure)
        except Exception:
            log.exception("a defect of the agent while looking after a link; measuring goes on")


def _bringer(settings: Settings, modems: SerialModems) -> Bringer | None:
    """Make who brings links up, where agent.yaml lets the agent do so for any."""
    if all(link.bring_up is None and link.pin_file is None for link in settings.links):
        return None
    from agent.modem.bringup import Bringer, Tools  # noqa: PLC0415  # most agents only measure

    return Bringer(Tools(modems=modems, data_dir=settings.data_dir))


def other_uplinks(interface: str) -> list[str]:
    """Name the interfaces besides this one by which a default route leaves."""
    return [name for name in psutil.net_if_addrs() if name != interface and path.look(name).gateway is not None]


def _tell(name: str, step: Step) -> None:
    level = logging.WARNING if step.state == "failed" else logging.INFO
    log.log(level, "%s: %s %s: %s", name, step.name, step.state, step.told)
