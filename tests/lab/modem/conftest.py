"""Simulated modems that are gone when the test is, and a caller that speaks to them through pyserial."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import serial

from lab.modem import SimulatedModem, cell_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_FINALS = ("OK", "ERROR", "+CME ERROR", "+CMS ERROR", "CONNECT", "NO CARRIER")
_SIM = ("+SIMCARD:", "^SIMST:", "^RSSI:", "^SYSSTART", "^SRVST:", "+QUSIM:", "+QIND:", "+CPIN: NOT READY")
_BOOT = ("RDY", "*ATREADY:", "+CFUN: 1", "SMS DONE", "PB DONE")


class HandClock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Caller:
    """A serial port, asked and read with patience: nothing here depends on how fast the machine is."""

    def __init__(self, modem: SimulatedModem) -> None:
        self.serial = serial.Serial(str(modem.port), 115200, timeout=0.05)

    def write(self, data: bytes) -> None:
        self.serial.write(data)

    def read_until(self, done: Callable[[bytes], bool], patience_s: float = 8.0) -> bytes:
        heard = b""
        end_s = time.monotonic() + patience_s
        while not done(heard) and time.monotonic() < end_s:
            heard += self.serial.read(self.serial.in_waiting or 1)
        return heard

    def ask(self, command: str, patience_s: float = 8.0) -> bytes:
        """Everything up to the final result, as it came."""
        self.write(command.encode() + b"\r")
        return self.read_until(ended, patience_s)

    def lines(self, command: str) -> list[str]:
        """Information lines and final result, without echo, blank lines, and what is said unasked about the SIM."""
        lines = texts(self.ask(command))
        return [line for line in lines if line.upper() != command.upper() and not line.startswith(_SIM + _BOOT)]

    def final(self, command: str) -> str:
        """Return the final result alone."""
        return next((line for line in self.lines(command) if line.startswith(_FINALS)), "")

    def listen_until_hung_up(self) -> bytes:
        """Return what is heard until the port is gone."""
        heard = b""
        with contextlib.suppress(OSError):
            while True:
                heard += self.serial.read(1)
        return heard

    def quiet_for(self, seconds: float) -> bytes:
        """Return what is heard in so many seconds."""
        return self.read_until(lambda _: False, seconds)


def texts(heard: bytes) -> list[str]:
    return [line.strip() for line in heard.decode("latin-1").replace("\r", "\n").split("\n") if line.strip()]


def ended(heard: bytes) -> bool:
    return heard.endswith(b"\r\n") and any(line.startswith(_FINALS) for line in texts(heard))


def eventually(true: Callable[[], bool], patience_s: float = 8.0) -> bool:
    """Poll until it is true, or patience ends."""
    end_s = time.monotonic() + patience_s
    while not true():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.01)
    return True


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.fixture(name="eventually")
def _eventually() -> Callable[..., bool]:
    return eventually


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def plug_in(tmp_path: Path) -> Iterator[Callable[..., SimulatedModem]]:
    """Make a running modem; the tests' modems answer at once and boot fast."""
    modems: list[SimulatedModem] = []

    def make(dialect: str = "quectel-ec25", **changes: Any) -> SimulatedModem:  # noqa: ANN401  # a modem's arguments
        cell = changes.pop("cell", None) or cell_of("viettel")
        quick = {"link": tmp_path / f"modem{len(modems)}", "boot_s": 0.1, "register_s": 0.1, "latency_s": 0.0}
        modem = SimulatedModem(dialect, cell, **{**quick, "gap_s": 0.0, **changes})
        modems.append(modem.start())
        return modem

    yield make
    for modem in modems:
        modem.stop()


@pytest.fixture
def call() -> Iterator[Callable[[SimulatedModem], Caller]]:
    callers: list[Caller] = []

    def dial(modem: SimulatedModem) -> Caller:
        callers.append(Caller(modem))
        return callers[-1]

    yield dial
    for caller in callers:
        caller.serial.close()


@pytest.fixture
def nothing_left_behind() -> Iterator[None]:
    """No thread and no file descriptor may outlive the test."""
    before = open_descriptors(), threading.active_count()
    yield
    assert eventually(lambda: (open_descriptors(), threading.active_count()) == before)
