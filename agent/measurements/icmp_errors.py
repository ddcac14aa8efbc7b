"""What routers say of our packets, without any privilege: a socket's error queue (ip(7), IP_RECVERR)."""

from __future__ import annotations

import socket
import struct
from typing import Final, NamedTuple

IP_MTU_DISCOVER: Final = 10  # linux/in.h, as the rest; Python names none of them before 3.13
IP_PMTUDISC_PROBE: Final = 3
IP_RECVERR: Final = 11
_MSG_ERRQUEUE: Final = 0x2000  # linux/socket.h
_ORIGIN_LOCAL: Final = 1  # linux/errqueue.h
_ORIGIN_ICMP: Final = 2
_EXTENDED: Final = struct.Struct("=IBBBxII")  # struct sock_extended_err
_SOCKADDR: Final = struct.Struct("=H2s4s")  # struct sockaddr_in, as far as the address
_ROOM: Final = 512

TIME_EXCEEDED: Final = 11  # RFC 792
UNREACHABLE: Final = 3
PORT_UNREACHABLE: Final = 3  # code
FRAGMENTATION_NEEDED: Final = 4  # code


class IcmpError(NamedTuple):
    """One complaint: who complains (None: this machine itself), about what, and to which port the packet went.

    `mtu_bytes` comes with "fragmentation needed" (RFC 1191), and may be 0.
    """

    offender: str | None
    kind: int
    code: int
    port: int
    mtu_bytes: int


def listen(opened: socket.socket) -> None:
    """Have the kernel keep complaints for this socket."""
    opened.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)


def heard(opened: socket.socket) -> IcmpError | None:
    """Take the next complaint from the queue; None if there is none."""
    try:
        _, controls, _, destination = opened.recvmsg(0, _ROOM, _MSG_ERRQUEUE | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None
    for level, what, data in controls:
        if (level, what) == (socket.IPPROTO_IP, IP_RECVERR) and len(data) >= _EXTENDED.size:
            _, origin, kind, code, info, _ = _EXTENDED.unpack_from(data)
            if origin not in {_ORIGIN_LOCAL, _ORIGIN_ICMP}:
                continue
            offender = None
            if origin == _ORIGIN_ICMP and len(data) >= _EXTENDED.size + 8:
                family, _, address = _SOCKADDR.unpack_from(data, _EXTENDED.size)
                offender = socket.inet_ntoa(address) if family == socket.AF_INET else None
            return IcmpError(offender, kind, code, destination[1] if destination else 0, info)
    return None
