"""Watches a test from beside it: the radio, the computer, the wall clock; and keeps the agent's own uploads quiet.

A thread asks the modem one short question every second or two. It can neither delay a transfer (that is a process of
its own) nor fail it: what it cannot see is not known, and that is all. It ends, and lets go of the port, before the
witness is left.
"""

from __future__ import annotations

import logging
import threading
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import TYPE_CHECKING, Final, Protocol, Self, runtime_checkable

import msgspec

from agent import machine
from agent.measurements.base import MeasurementFailed

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from agent.machine import Computer
    from agent.settings import Link
    from wire.measured import Machine
    from wire.radio import RadioReading

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 1.5
_LET_GO_WITHIN_S: Final = 6.0
"""One question that is not answered, and the port closed; a thread that takes longer is left behind."""


@runtime_checkable
class Watchable(Protocol):
    """Whoever can keep an eye on a modem."""

    def watch(self, link: Link) -> AbstractContextManager[Callable[[], RadioReading]]:
        """Hold the modem's port; inside, each call is a short look. Entering and calling raise MeasurementFailed."""
        ...


class Witness:
    """Watches while it is entered; what it saw can be asked afterwards."""

    def __init__(
        self,
        link: Link,
        *,
        modems: object = None,
        computer: Computer | None = None,
        offset_s: Callable[[], float] | None = None,
        quiet: Callable[[], AbstractContextManager[None]] = nullcontext,
        every_s: float | None = None,
    ) -> None:
        """Take what is to be watched; `offset_s` gives the wall clock less a steady one."""
        self.radio: list[RadioReading] = []
        self.machine: Machine | None = None
        self.clock_step_s: float | None = None
        self._link = link
        self._modems = modems if isinstance(modems, Watchable) and link.modem is not None else None
        self._computer = computer or machine.Computer()
        self._offset_s = offset_s
        self._quiet = quiet
        self._every_s = LOOK_EVERY_S if every_s is None else every_s
        self._flags: list[int] = []
        self._ended = threading.Event()
        self._open = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            opened.enter_context(self._quiet())
            self._first_offset_s = self._offset_s() if self._offset_s is not None else 0.0
            self._first_cores = self._computer.cores()
            self._look_at_computer()
            opened.callback(self._sum_up)
            threads = [threading.Thread(target=self._watch_computer, name="witness of the computer", daemon=True)]
            if self._modems is not None:
                threads.append(threading.Thread(target=self._watch_radio, name="witness of the radio", daemon=True))
            for thread in threads:
                opened.callback(thread.join, _LET_GO_WITHIN_S)
                thread.start()
            opened.callback(self._ended.set)
            self._open = opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._open.close()

    def _sum_up(self) -> None:
        self._look_at_computer()
        load = machine.load(self._first_cores, self._computer.cores())
        self.machine = msgspec.structs.replace(load, throttled=machine.was_throttled(self._flags))
        if self._offset_s is not None:
            self.clock_step_s = self._offset_s() - self._first_offset_s

    def _look_at_computer(self) -> None:
        if (flags := self._computer.throttled()) is not None:
            self._flags.append(flags)

    def _watch_computer(self) -> None:
        while not self._ended.wait(self._every_s) and self._flags:
            self._look_at_computer()

    def _watch_radio(self) -> None:
        if self._modems is None:
            return
        try:
            with self._modems.watch(self._link) as look:
                while not self._ended.is_set():
                    self.radio.append(look())
                    self._ended.wait(self._every_s)
        except MeasurementFailed as failure:
            log.info("%s: the radio is not seen during the test: %s", self._link.name, failure)
        except Exception:
            log.exception("%s: a defect of the agent while it watched a test; the test goes on", self._link.name)
