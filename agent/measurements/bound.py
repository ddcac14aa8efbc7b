"""Sockets that leave by one link and no other, and what their errors mean. Standard library alone: children use it.

Bound to the device (SO_BINDTODEVICE, open to every user since Linux 5.7) and to its address: an address alone does not
keep packets off the default route.
"""

from __future__ import annotations

import errno
import socket
from typing import Final

_REASONS: Final = {
    errno.ECONNREFUSED: "refused",
    errno.ENETUNREACH: "unreachable",
    errno.EHOSTUNREACH: "unreachable",
    errno.EACCES: "unreachable",  # a `prohibit` route, or a firewall's rejection
    errno.EPERM: "unreachable",
    errno.ETIMEDOUT: "timeout",
    errno.ECONNRESET: "cut_off",
    errno.EPIPE: "cut_off",
    errno.ENODEV: "link_down",
    errno.ENETDOWN: "link_down",
    errno.EADDRNOTAVAIL: "no_address",
}


def open_socket(
    device: str,
    source: str | None,
    kind: socket.SocketKind,
    family: socket.AddressFamily = socket.AF_INET,
    protocol: int = 0,
) -> socket.socket:
    """Open a socket of the link; raise OSError. `source` of another family is left to the kernel to choose."""
    opened = socket.socket(family, kind, protocol)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        if source is not None and (":" in source) == (family == socket.AF_INET6):
            opened.bind((source, 0))
    except BaseException:
        opened.close()
        raise
    return opened


def family_of(address: str) -> socket.AddressFamily:
    """Tell the family of a numeric address."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def trouble(error: OSError) -> str:
    """Name the reason (a value of wire.reasons.Reason) of a failed call on such a socket."""
    if isinstance(error, TimeoutError):
        return "timeout"
    return _REASONS.get(error.errno or 0, "tool_failed")
