"""A modem to plug in: the hands that do things to it. What they do is done by its own thread (lab.modem.works).

All state belongs to the modem's own thread; every public method may be called from any thread, and returns when the
modem has done it. Nothing is left behind after `stop()`: no thread, no file descriptor, no link.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any, Self

from lab.modem.dialects import DIALECTS
from lab.modem.faults import Fault, FaultKind
from lab.modem.state import ModemState, Sim
from lab.modem.works import Works

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from lab.modem.cells import Cell
    from lab.modem.scenario import Scenario
    from wire.radio import RadioReading


class SimulatedModem:
    """A modem of `dialect` camping on `cell`, reachable at `port`: a link that follows the pseudo-terminal's name.

    `clock` drives signal and registration (seconds, monotonic). After a search `register_s` pass until registration,
    after a restart `boot_s` until the port is back. Answers begin after `latency_s` and leave in slices, `gap_s` apart
    on average. `on_data` takes data calls: a stream socket, at end of file after hang-up; without it the bytes go
    nowhere. Raises ValueError for an unknown dialect.
    """

    def __init__(
        self,
        dialect: str,
        cell: Cell,
        *,
        link: Path,
        seed: int = 0,
        clock: Callable[[], float] = time.monotonic,
        sim: Sim | None = None,
        scenario: Scenario | None = None,
        on_data: Callable[[socket.socket], None] | None = None,
        register_s: float = 1.0,
        boot_s: float = 2.0,
        latency_s: float = 0.01,
        gap_s: float = 0.0005,
    ) -> None:
        if dialect not in DIALECTS:
            raise ValueError(f"unknown dialect '{dialect}': use one of {', '.join(DIALECTS)}")
        kind = DIALECTS[dialect]
        self.port = link
        card = sim or Sim.of(cell.plmn, seed)
        self._state = ModemState(cell, card, seed=seed, clock=clock, register_s=register_s, factory=kind.factory)
        self._works = Works(
            link,
            self._state,
            kind(self._state),
            chance=random.Random(seed),
            clock=clock,
            scenario=scenario,
            on_data=on_data,
            boot_s=boot_s,
            latency_s=latency_s,
            gap_s=gap_s,
        )

    def start(self) -> Self:
        """Plug in: returns when `port` can be opened. The modem has booted and registered already."""
        self._works.start()
        return self

    def stop(self) -> None:
        """Unplug and end the thread; a modem that was stopped can be started again."""
        self._works.stop()

    def __enter__(self) -> Self:
        return self if self._works.running else self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def unplug(self) -> None:
        """Pull the plug: whoever has the port open is hung up on, the link disappears."""
        self._works.do(self._works.vanish)

    def replug(self) -> None:
        """Plug in again: a new port under the same link, a modem that boots and registers."""
        self._works.do(self._works.replug)

    def power_cycle(self) -> None:
        """Cut the power and give it back: what cures a hung baseband. The port is back after `boot_s`."""
        self._works.do(lambda: self._works.restart(power_cycle=True))

    def fault(self, kind: FaultKind | str | Fault, **parameters: Any) -> None:  # noqa: ANN401  # the fields of Fault
        """Let a fault happen: its kind and fields of Fault (`command`, `times`, `delay_s`, `code`), or a Fault."""
        fault = kind if isinstance(kind, Fault) else Fault(kind=FaultKind(kind), **parameters)
        self._works.do(lambda: self._works.add(fault))

    def clear(self, kind: FaultKind | str | None = None) -> None:
        """End a fault, or all of them."""
        which = FaultKind(kind) if kind is not None else None
        self._works.do(lambda: self._works.clear(which))

    def move_to(self, cell: Cell) -> None:
        """Hand over to another cell."""
        self._works.do(lambda: self._state.move_to(cell))

    def radio_now(self) -> RadioReading:
        """Return the truth: what a perfect reader would see at this moment."""
        return self._works.do(self._state.radio)

    @property
    def imei(self) -> str:
        """The made-up serial number of this modem."""
        return self._state.imei

    @property
    def sim(self) -> Sim:
        """The SIM in it."""
        return self._state.sim

    @property
    def cell(self) -> Cell:
        """The cell it camps on."""
        return self._state.cell

    @property
    def tty(self) -> str | None:
        """The pseudo-terminal behind `port` just now; None while unplugged."""
        line = self._works.line
        return line.tty if line else None
