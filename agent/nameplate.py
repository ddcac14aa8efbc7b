"""What a technician finds this box by: host name, serial number or hardware addresses."""

from __future__ import annotations

import socket
from functools import cache
from pathlib import Path
from typing import Final

_SERIAL: Final = Path("/sys/firmware/devicetree/base/serial-number")  # a Raspberry Pi's, from its boot loader
_INTERFACES: Final = Path("/sys/class/net")
_MAX_CHARS: Final = 200


@cache
def machine() -> str:
    """Describe the box in one line; what cannot be read is left out. A card that is copied does not carry it along."""
    parts = [socket.gethostname()]
    try:
        parts.append(f"serial {_SERIAL.read_text().strip(chr(0) + ' ')}")
    except OSError:
        parts += _built_in_addresses()
    return " ".join(parts)[:_MAX_CHARS]


def _built_in_addresses() -> list[str]:
    """Name the hardware addresses of network interfaces that stand for hardware (they have a `device`)."""
    found = []
    for interface in sorted(_INTERFACES.glob("*")):
        try:
            if (interface / "device").exists():
                found.append((interface / "address").read_text().strip())
        except OSError:
            continue
    return found
