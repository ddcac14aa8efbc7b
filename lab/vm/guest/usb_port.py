"""One serial port of a USB gadget: what the host writes goes to a terminal, what comes from there goes to the host.

The terminal is open while the host holds DTR, so that a simulated modem behind it sees its port opened and closed.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import tty
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_TRANSFER_BYTES: Final = 4096  # whole packets: FunctionFS takes no shorter buffer
_ROOM_WITHIN_S: Final = 0.5


class UsbPort:
    """Two threads from `plugged_in` to `unplugged`, which end by themselves when the device leaves the bus."""

    def __init__(self, endpoints: tuple[Path, Path], terminal: Path) -> None:
        self._to_host, self._from_host = endpoints
        self._path = terminal
        self._terminal: int | None = None
        self._lock = threading.Lock()  # held to use the terminal, and to close it
        self._wake_read, self._wake_write = os.pipe()
        self._threads: list[threading.Thread] = []
        self._off_the_bus = threading.Event()

    def plugged_in(self) -> None:
        """Serve the device; to be called before the host can open its port."""
        self._off_the_bus.clear()
        for work in (self._carry_from_host, self._carry_to_host):
            thread = threading.Thread(target=_until_shutdown, args=(work,), name=f"{work.__name__} {self._path.name}")
            thread.start()
            self._threads.append(thread)

    def unplugged(self) -> None:
        """Return when nothing is open or running any more; the device must be off the bus."""
        self._off_the_bus.set()
        self.dtr(False)  # noqa: FBT003  # a level
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def dtr(self, level: bool) -> None:  # noqa: FBT001  # a level, as the host sends it
        """Open the terminal or close it; where no modem is behind it, the port is dead."""
        with self._lock:
            if self._terminal is not None:
                os.close(self._terminal)
                self._terminal = None
            if level:
                with contextlib.suppress(OSError):
                    self._terminal = os.open(self._path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
                    tty.setraw(self._terminal)
        os.write(self._wake_write, b"!")

    def _carry_from_host(self) -> None:
        with self._from_host.open("rb", buffering=0) as endpoint:
            while True:
                data = endpoint.read(_TRANSFER_BYTES) or b""
                while data:
                    with self._lock:
                        terminal = self._terminal
                        written = _write(terminal, data) if terminal is not None else len(data)
                    data = data[written:]
                    if data and terminal is not None:
                        select.select([], [terminal], [], _ROOM_WITHIN_S)

    def _carry_to_host(self) -> None:
        with self._to_host.open("wb", buffering=0) as endpoint:
            while not self._off_the_bus.is_set():
                terminal = self._terminal
                ready, _, _ = select.select([self._wake_read, *([] if terminal is None else [terminal])], [], [])
                if self._wake_read in ready:
                    os.read(self._wake_read, _TRANSFER_BYTES)
                    continue
                with self._lock:
                    data = self._read()
                if data:
                    endpoint.write(data)

    def _read(self) -> bytes:
        """Read what is there; the modem may have gone meanwhile."""
        if self._terminal is None:
            return b""
        try:
            return os.read(self._terminal, _TRANSFER_BYTES)
        except BlockingIOError:
            return b""
        except OSError:
            os.close(self._terminal)
            self._terminal = None
            return b""


def _write(terminal: int, data: bytes) -> int:
    try:
        return os.write(terminal, data)
    except BlockingIOError:
        return 0
    except OSError:
        return len(data)  # the modem has gone


def _until_shutdown(work: Callable[[], None]) -> None:
    """Work until the device leaves the bus: then its endpoints answer with ESHUTDOWN."""
    with contextlib.suppress(OSError):
        work()
