"""What the kernel and udev made of the modem that was plugged in."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from lab.vm.diary import until

_NAMES: Final = Path("/dev/serial/by-id")
_PORTS: Final = 4
_PLUG_WITHIN_S: Final = 20.0


def names() -> dict[str, str]:
    """Return udev's lasting names of serial ports, and the device node behind each."""
    try:
        return {link.name: str(link.resolve()) for link in sorted(_NAMES.iterdir())}
    except FileNotFoundError:  # udev takes the folder away with the last name
        return {}


def wait_for_ports() -> dict[str, object]:
    """Wait until udev has named every port; return its names, and the driver that took each port."""
    until(lambda: len(names()) == _PORTS, f"udev to name {_PORTS} ports", within_s=_PLUG_WITHIN_S)
    found = names()
    drivers = {port: Path(f"/sys/class/tty/{Path(port).name}/device/driver").resolve().name for port in found.values()}
    return {"by_id": found, "drivers": drivers}
