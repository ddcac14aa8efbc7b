"""A Quectel EC25 as the kernel sees one: four serial ports on the USB bus, the simulator behind the two that speak AT.

Each AT port is a simulated modem of its own with the same seed, so that both tell of the same module, SIM and cell;
only whether a data call is up is known to the port that carries it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

from lab.modem import SimulatedModem, cell_of
from lab.vm.guest.gadget import QUECTEL_EC25, Gadget
from lab.vm.guest.usb_port import UsbPort

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

_AT_INTERFACES: Final = (2, 3)  # 77-mm-quectel-port-types.rules: diagnostics 0, positioning 1, AT 2 and 3
_SEED: Final = 25


class UsbModem:
    """A context manager: plugged in within it, having booted long ago; after `unplug` and `plug` it registers anew."""

    def __init__(self, folder: Path, *, operator: str, on_data: Callable[[socket.socket], None]) -> None:
        """Make it; its simulators have their terminals in `folder`, data calls go to `on_data`."""
        cell = cell_of(operator)
        self._modems = {
            number: SimulatedModem(
                "quectel-ec25", cell, link=folder / f"interface{number}", seed=_SEED, on_data=on_data
            )
            for number in _AT_INTERFACES
        }
        self._gadget = Gadget("ec25", QUECTEL_EC25, self._on_dtr)
        self._ports = {
            number: UsbPort(self._gadget.endpoints(number), modem.port) for number, modem in self._modems.items()
        }

    @property
    def truth(self) -> SimulatedModem:
        """The simulated modem: what it says of itself is what a reader should find."""
        return self._modems[_AT_INTERFACES[0]]

    def plug(self) -> None:
        """Put it back on the bus; udev names its ports a moment later."""
        for modem in self._modems.values():
            modem.replug()
        self._appear()

    def unplug(self) -> None:
        """Pull it out: every open port is hung up on, and it has no power any more."""
        self._gadget.unplug()
        for number, modem in self._modems.items():
            self._ports[number].unplugged()
            modem.unplug()

    def _appear(self) -> None:
        self._gadget.plug()
        for port in self._ports.values():
            port.plugged_in()

    def __enter__(self) -> Self:
        for modem in self._modems.values():
            modem.start()
        self._appear()
        return self

    def __exit__(self, *_: object) -> None:
        self.unplug()
        for modem in self._modems.values():
            modem.stop()
        self._gadget.remove()

    def _on_dtr(self, interface: int, level: bool) -> None:  # noqa: FBT001  # a level, as the host sends it
        if interface in self._ports:
            self._ports[interface].dtr(level)
