"""A port that somebody else has opened and set up: pppd hands one to its connect script as standard input."""

from __future__ import annotations

import os
import select
from typing import ClassVar, Final

from agent.modem.errors import ModemTimeout, PortLost

_READ_BYTES: Final = 4096
_WRITE_TIMEOUT_S: Final = 3.0


class GivenPort:
    """A descriptor as a Port; see agent.modem.serial_port.Port. It is not closed: it is not ours."""

    NAME: ClassVar[str] = "standard input"

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @property
    def name(self) -> str:
        """See Port."""
        return self.NAME

    def read(self, timeout_s: float) -> bytes:
        """See Port."""
        try:
            ready, _, _ = select.select([self._descriptor], [], [], max(0.0, timeout_s))
            data = os.read(self._descriptor, _READ_BYTES) if ready else b""
        except BlockingIOError:
            return b""
        except OSError as error:
            raise PortLost(f"{self.name}: the port vanished ({error.strerror})") from error
        if ready and not data:
            raise PortLost(f"{self.name}: the port was hung up")
        return data

    def write(self, data: bytes) -> None:
        """See Port."""
        while data:
            _, ready, _ = select.select([], [self._descriptor], [], _WRITE_TIMEOUT_S)
            if not ready:
                raise ModemTimeout(f"{self.name}: the port takes no bytes; does the modem hang?")
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise PortLost(f"{self.name}: the port vanished ({error.strerror})") from error

    def close(self) -> None:
        """See Port."""
