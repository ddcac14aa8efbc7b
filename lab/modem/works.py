"""What is inside a simulated modem: its power and port, its faults, the dialogue, data calls.

One thread serves one pseudo-terminal, and all state belongs to it; before it runs, to whoever has made the modem.
"""

from __future__ import annotations

import logging
import re
import select
import time
from typing import TYPE_CHECKING, Final, TypeVar

from lab.modem.commands import After, Answer, CommandLine
from lab.modem.data_call import DataCall
from lab.modem.faults import Fault, FaultKind, garbled, noise, storm_inside, unsolicited
from lab.modem.line import Line, Outbox
from lab.modem.loop import Loop
from lab.modem.scenario import Deed, Event, Scenario

if TYPE_CHECKING:
    import random
    import socket
    from collections.abc import Callable
    from pathlib import Path

    from lab.modem.dialect import Dialect
    from lab.modem.state import ModemState

T = TypeVar("T")

log = logging.getLogger(__name__)

_RETRY_S: Final = 0.02  # at the latest, when a reader left no room in the terminal's buffer
_STORM_EVERY_S: Final = 0.2
_SETTLE_S: Final = 0.15  # an answer is read before its modem goes: a hang-up throws away what was not
_SECRET: Final = re.compile(rb'(\+CPIN=|\+CLCK="SC",\d,)[^\r]*', re.IGNORECASE)


class Works:
    """One modem at `port`, speaking `dialect`; `line` is its pseudo-terminal while it is plugged in.

    Whatever is done to it after `start()` is done through `do()`.
    """

    def __init__(
        self,
        port: Path,
        state: ModemState,
        dialect: Dialect,
        *,
        chance: random.Random,
        clock: Callable[[], float],
        scenario: Scenario | None,
        on_data: Callable[[socket.socket], None] | None,
        boot_s: float,
        latency_s: float,
        gap_s: float,
    ) -> None:
        self._loop: Loop | None = None
        self.line: Line | None = None
        self._port = port
        self._state = state
        self._dialect = dialect
        self._chance = chance
        self._clock = clock
        self._scenario = scenario
        self._on_data = on_data
        self._boot_s, self._latency_s = boot_s, latency_s
        self._commands = CommandLine()
        self._outbox = Outbox(chance, gap_s)
        self._last_tty: str | None = None
        self._plugged = 0  # how often it was plugged in: deeds of an earlier time are void
        self._call: DataCall | None = None
        self._calls: list[DataCall] = []
        self._blocked = False
        self._started_s = self._told_s = self._settled_s = 0.0

    # --- its thread

    def start(self) -> None:
        """Begin the thread, booted and plugged in; raise RuntimeError if it runs already, OSError without a port."""
        if self._loop is not None:
            raise RuntimeError("this modem runs already")
        self._started_s, self._told_s = self._clock(), -1.0
        self._loop = Loop(f"modem {self._port.name}", self._turn, self._wait_s)
        try:
            self.do(self._plug_in)
        except OSError:
            self.stop()
            raise

    def stop(self) -> None:
        """Unplug and end the thread, if it runs."""
        if self._loop is None:
            return
        self.do(self.vanish)
        self._loop.stop()
        self._loop = None
        for call in self._calls:
            call.thread.join()
        self._calls.clear()

    @property
    def running(self) -> bool:
        """Whether the thread runs."""
        return self._loop is not None

    def do(self, deed: Callable[[], T]) -> T:
        """Have it done by the thread, if it runs; return its result or raise its exception."""
        return self._loop.call(deed) if self._loop else deed()

    @property
    def _thread(self) -> Loop:
        assert self._loop is not None  # noqa: S101  # only the loop calls who asks for it
        return self._loop

    def _turn(self, events: dict[int, int]) -> None:
        if self.line is not None:
            self._listen(self.line, events.get(self.line.master, 0))
        self._play_scenario()
        self._settled_s = self._clock()
        for line in self._dialect.settle():
            self._say(line)
        self._carry()
        self._write()

    def _wait_s(self) -> float | None:
        """How long nothing will happen by itself."""
        waits = []
        if self._outbox.due_s is not None:
            waits.append(_RETRY_S if self._blocked else self._outbox.due_s - time.monotonic())
        if self._state.registers_at_s > self._settled_s:
            waits.append(self._state.registers_at_s - self._clock())
        if self._scenario and (next_s := self._scenario.next_s(self._told_s)) is not None:
            waits.append(next_s - (self._clock() - self._started_s))
        return min(waits, default=None)

    def _later(self, delay_s: float, deed: Callable[[], None]) -> None:
        """Do it later, unless the modem was unplugged or plugged in between."""
        plugged = (self._plugged, self.line is None)

        def unless_replugged() -> None:
            if plugged == (self._plugged, self.line is None):
                deed()

        self._thread.later(delay_s, unless_replugged)

    # --- plug and power

    def _plug_in(self) -> None:
        self.line = Line(self._port, unlike=self._last_tty)
        self._last_tty = self.line.tty
        self._plugged += 1
        self._commands = CommandLine()
        self._thread.watch(self.line.master)
        self._thread.forget_events()  # a port that nobody has opened yet reports a hang-up
        log.info("%s is %s", self._port, self.line.tty)
        self._chatter()

    def vanish(self) -> None:
        """Pull the plug."""
        if self.line is None:
            return
        self._hang_up()
        self._thread.unwatch(self.line.master)
        line, self.line = self.line, None
        line.close()
        self._outbox.clear()
        log.info("%s is gone", self._port)

    def replug(self) -> None:
        """Plug in again what was pulled: it boots."""
        if self.line is None:
            self._state.restart(power_cycle=True)
            self._boot()

    def restart(self, *, power_cycle: bool) -> None:
        """Go, and come back after the boot."""
        self.vanish()
        self._state.restart(power_cycle=power_cycle)
        self._later(self._boot_s, self._boot)

    def _boot(self) -> None:
        self._state.search()
        self._plug_in()
        for delay_s, line in self._dialect.boot_lines():
            self._say_later(delay_s, line)

    # --- faults

    def add(self, fault: Fault) -> None:
        """Let a fault begin."""
        log.info("%s: %s begins", self._port.name, fault.kind.value)
        self._state.add(fault)
        if fault.kind in {FaultKind.SIM_PULLED, FaultKind.SIM_PIN}:
            self._dialect.say(*self._dialect.sim_lines())
        if self._call is not None and not self._state.registered:
            self._no_carrier()
        if fault.kind is FaultKind.URC_STORM:
            self._storm()

    def clear(self, kind: FaultKind | None) -> None:
        """End a fault, or all of them."""
        log.info("%s: %s ends", self._port.name, kind.value if kind else "every fault")
        sim_was_ready = self._state.sim_ready
        self._state.clear(kind)
        if self._state.sim_ready != sim_was_ready:
            self._dialect.say(*self._dialect.sim_lines())

    def _storm(self) -> None:
        if FaultKind.URC_STORM in self._state.faults and self.line is not None:
            self._say(self._chance.choice(self._dialect.storm()))
            self._later(_STORM_EVERY_S, self._storm)

    def _play_scenario(self) -> None:
        if self._scenario is not None:
            since_s, self._told_s = self._told_s, self._clock() - self._started_s
            for event in self._scenario.due(since_s, self._told_s):
                self._play(event)

    def _play(self, event: Event) -> None:
        if event.fault is not None:
            self.add(event.fault)
        if event.clear is not None:
            self.clear(event.clear)
        if event.cell is not None:
            log.info("%s: moves to cell %d", self._port.name, event.cell.cell_id)
            self._state.move_to(event.cell)
        if event.do is not None:
            deeds: dict[Deed, Callable[[], None]] = {
                Deed.UNPLUG: self.vanish,
                Deed.REPLUG: self.replug,
                Deed.POWER_CYCLE: lambda: self.restart(power_cycle=True),
                Deed.CLEAR_ALL: lambda: self.clear(None),
            }
            deeds[event.do]()

    # --- the dialogue

    def _listen(self, line: Line, events: int) -> None:
        if events & select.EPOLLHUP:
            self._port_closed(line)
        if self.line is line and (data := line.read()):
            if self._call is not None:
                self._to_network(data)
            else:
                self._hear(data)

    def _port_closed(self, line: Line) -> None:
        """Do what a modem does when DTR drops: end the data call, and forget what nobody will read.

        A close that is followed by an open within a moment cannot be seen on a pseudo-terminal.
        """
        self._outbox.clear()
        self._commands = CommandLine()
        self._hang_up()
        if line.open_elsewhere:  # by the next one already, who may have marked it exclusive
            return
        if line.free():
            self._thread.forget_events()
        else:
            log.info("%s stays exclusive after its last close: giving it a new terminal", self._port)
            self.vanish()
            self._plug_in()

    def _hear(self, data: bytes) -> None:
        log.debug("%s < %r", self._port.name, _SECRET.sub(rb"\1...", data))
        self._echo(data.replace(b"\n", b""))
        for text in self._commands.feed(data):
            self._answer(*self._dialect.run(text))
            if self.line is None:
                return

    def _echo(self, data: bytes) -> None:
        faults = self._state.faults
        if FaultKind.SILENCE in faults and faults[FaultKind.SILENCE].command is None:
            return
        if FaultKind.WRONG_ECHO in faults:
            self._outbox.put(garbled(data, self._chance), time.monotonic())
        elif self._state.settings.echo:
            self._outbox.put(data, time.monotonic())

    def _answer(self, names: list[str], reply: bytes, answer: Answer) -> None:
        faults = self._state.faults
        due_s = time.monotonic() + self._latency_s + answer.delay_s
        faults.take(FaultKind.WRONG_ECHO, names)
        if faults.take(FaultKind.SILENCE, names):
            return
        if slow := faults.take(FaultKind.SLOW, names):
            due_s += slow.delay_s
        if faults.take(FaultKind.URC_STORM, names):
            reply = storm_inside(reply, self._dialect.storm(), self._chance)
        if faults.take(FaultKind.GARBAGE, names):
            reply = noise(self._chance)
        if faults.take(FaultKind.HALF_LINE, names):
            reply = reply[: len(reply) // 2]
        if vanish := faults.take(FaultKind.VANISH, names):
            self._outbox.put(reply[: len(reply) // 2], due_s)
            self._outbox.then(lambda: self._later(_SETTLE_S, lambda: self._go_for(vanish.delay_s)))
            return
        log.debug("%s > %r", self._port.name, reply)
        self._outbox.put(reply, due_s)
        after: dict[After, Callable[[], None]] = {
            After.DATA: self._connect,
            After.RESTART: lambda: self._later(_SETTLE_S, lambda: self.restart(power_cycle=False)),
            After.POWER_OFF: lambda: self._later(_SETTLE_S, self.vanish),
        }
        if answer.after is not None:
            self._outbox.then(after[answer.after])

    def _go_for(self, absence_s: float) -> None:
        self.vanish()
        self._later(absence_s, self.replug)

    def _say(self, line: str) -> None:
        """Say it unasked, if anybody listens."""
        if self.line is not None and self._call is None and self.line.open_elsewhere:
            log.debug("%s ! %s", self._port.name, line)
            self._outbox.put(unsolicited(line), time.monotonic())

    def _say_later(self, delay_s: float, line: str) -> None:
        self._later(delay_s, lambda: self._say(line))

    def _chatter(self) -> None:
        if self._dialect.chatter_s is None:
            return
        if self._state.settings.chatter:
            for line in self._dialect.chatter():
                self._say(line)
        self._later(self._dialect.chatter_s, self._chatter)

    def _write(self) -> None:
        self._blocked = False
        while (item := self._outbox.take(time.monotonic())) is not None:
            if not isinstance(item, bytes):
                item()
            elif self.line is not None and self.line.open_elsewhere and (written := self.line.write(item)) < len(item):
                self._outbox.put_back(item[written:])
                self._blocked = True
                return

    # --- data calls

    def _connect(self) -> None:
        self._call = DataCall(self._on_data, self._port.name)
        self._calls = [*(call for call in self._calls if call.thread.is_alive()), self._call]
        self._thread.watch(self._call.socket.fileno())

    def _to_network(self, data: bytes) -> None:
        assert self._call is not None  # noqa: S101  # _listen looked
        if data == b"+++":
            self._hang_up()
            self._outbox.put(b"\r\nOK\r\n", time.monotonic() + self._latency_s)
        else:
            self._call.send(data)

    def _carry(self) -> None:
        """Carry from the network to the line what has room there; `_write` wakes us when more has."""
        while self._call is not None and self._outbox.due_s is None:
            data = self._call.receive()
            if data is None:
                self._no_carrier()
            elif not data:
                return
            else:
                self._outbox.put_whole(data, time.monotonic())
                self._write()

    def _no_carrier(self) -> None:
        self._hang_up()
        self._outbox.put(b"\r\nNO CARRIER\r\n", time.monotonic())

    def _hang_up(self) -> None:
        self._state.data_up = False
        if self._call is not None:
            self._thread.unwatch(self._call.socket.fileno())
            self._call.close()
            self._call = None
