"""The door to pyserial: opens a port for this process alone, reads with a timeout, translates foreign errors.

Run the agent unprivileged, in the group that owns the port (dialout): ModemManager keeps others out by TIOCEXCL, which
does not bind root, and the lock taken here (flock) does not bind ModemManager.
"""

from __future__ import annotations

import errno
import select
import termios
from typing import TYPE_CHECKING, Final, Protocol

import serial

from agent.modem.errors import ModemError, ModemTimeout, NoModem, NotAModem, PortBusy, PortForbidden, PortLost

if TYPE_CHECKING:
    from collections.abc import Iterator

_READ_BYTES: Final = 4096
_WRITE_TIMEOUT_S: Final = 3.0


class Port(Protocol):
    """What a session needs of a port."""

    @property
    def name(self) -> str:
        """The port as errors name it."""
        ...

    def read(self, timeout_s: float) -> bytes:
        """Wait up to `timeout_s` for bytes and return what is there, at most 4096; empty when none came. PortLost."""
        ...

    def write(self, data: bytes) -> None:
        """Write all of it; raise PortLost, ModemTimeout when the port takes nothing for three seconds."""
        ...

    def close(self) -> None:
        """Close; never raises, may be called twice."""
        ...


class SerialPort:
    """A tty, opened by `open_port`."""

    def __init__(self, name: str, door: serial.Serial) -> None:
        self.name = name
        self._door = door

    def read(self, timeout_s: float) -> bytes:
        """See Port."""
        try:
            ready, _, _ = select.select([self._door.fileno()], [], [], max(0.0, timeout_s))
            return bytes(self._door.read(_READ_BYTES)) if ready else b""
        except (OSError, termios.error, ValueError, TypeError) as error:
            raise _lost(self.name, error) from error

    def write(self, data: bytes) -> None:
        """See Port."""
        try:
            self._door.write(data)
        except serial.SerialTimeoutException as error:
            message = f"{self.name}: the port takes no bytes; the modem hangs, a reset or a power cycle may help"
            raise ModemTimeout(message) from error
        except (OSError, termios.error, ValueError, TypeError) as error:
            raise _lost(self.name, error) from error

    def close(self) -> None:
        """See Port."""
        try:
            self._door.close()
        except (OSError, termios.error):
            return


def open_port(name: str, *, baud: int = 115200) -> SerialPort:
    """Open a tty exclusively; raise NoModem, PortBusy, PortForbidden, NotAModem (not a tty), ModemError."""
    try:
        door = serial.Serial(name, baud, timeout=0, write_timeout=_WRITE_TIMEOUT_S, exclusive=True)
    except (OSError, termios.error, ValueError) as error:
        raise _refused(name, error) from error
    return SerialPort(name, door)


def _numbers(error: BaseException) -> Iterator[int]:
    """Yield the errno of an error and of what caused it: pyserial wraps the system's error, sometimes without it."""
    seen: BaseException | None = error
    while seen is not None:
        number = getattr(seen, "errno", None) or (seen.args[0] if seen.args else None)
        if isinstance(number, int):
            yield number
        seen = seen.__cause__ or seen.__context__


def _refused(name: str, error: Exception) -> ModemError:
    numbers = set(_numbers(error))
    if numbers & {errno.ENOENT, errno.ENXIO, errno.ENODEV}:
        return NoModem(f"{name}: no such port; is the modem plugged in? `probe-agent modem list` shows what is there")
    if numbers & {errno.EACCES, errno.EPERM}:
        return PortForbidden(f"{name}: this user may not open the port; add the user to the group dialout")
    if numbers & {errno.EBUSY, errno.EAGAIN}:
        holder = "another program (ModemManager, another agent) holds the port"
        return PortBusy(f"{name}: {holder}; stop it or let it ignore this modem")
    if numbers & {errno.ENOTTY, errno.EINVAL, errno.EISDIR}:
        return NotAModem(f"{name}: is no serial port; name a tty, such as /dev/ttyUSB2, or `auto`")
    return ModemError(f"{name}: cannot be opened: {error}")


def _lost(name: str, error: Exception) -> PortLost:
    return PortLost(f"{name}: the port vanished ({error}); is the modem still plugged in and powered?")
