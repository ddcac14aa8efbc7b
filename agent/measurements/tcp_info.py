"""What the kernel knows of this process's TCP connections (tcp(7), TCP_INFO), read while another owns the sockets.

For the child that runs libiperf, which reports a round trip to senders only. Imports the standard library alone.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from typing import Final, NamedTuple

# Offsets in `struct tcp_info` of linux/tcp.h; fields are only ever added at its end. Those up to 160 came with 4.6.
_RTT: Final = 68
_RECEIVER_RTT: Final = 92
_BYTES_ACKED: Final = 120
_BYTES_RECEIVED: Final = 128
_DATA_SEGMENTS_IN: Final = 152
_DATA_SEGMENTS_OUT: Final = 156
_LEAST_BYTES: Final = 160
_ROOM_BYTES: Final = 512
_libc: Final = ctypes.CDLL(None)


class Look(NamedTuple):
    """One connection now.

    `rtt_us` is measured by what this end sends, `receiver_rtt_us` by the echoed time stamps of what it receives (0
    until there are some); `acked_bytes` have arrived at the other end.
    """

    rtt_us: int
    receiver_rtt_us: int
    acked_bytes: int
    received_bytes: int
    data_segments_in: int
    data_segments_out: int


def look(number: int) -> Look | None:
    """Read one socket by its number; None if it is no TCP socket, or the kernel is too old.

    The number may be closed, or become another socket's, at any time: nothing is done to it, it is only asked.
    """
    room = ctypes.create_string_buffer(_ROOM_BYTES)
    length = ctypes.c_uint32(_ROOM_BYTES)
    if _libc.getsockopt(number, socket.IPPROTO_TCP, socket.TCP_INFO, room, ctypes.byref(length)) != 0:
        return None
    if length.value < _LEAST_BYTES:
        return None
    (rtt_us,) = struct.unpack_from("=I", room, _RTT)
    (receiver_rtt_us,) = struct.unpack_from("=I", room, _RECEIVER_RTT)
    acked_bytes, received_bytes = struct.unpack_from("=QQ", room, _BYTES_ACKED)
    segments_in, segments_out = struct.unpack_from("=II", room, _DATA_SEGMENTS_IN)
    return Look(rtt_us, receiver_rtt_us, acked_bytes, received_bytes, segments_in, segments_out)


def connections(*, without: int) -> list[Look]:
    """Look at every TCP connection of this process but one, the control connection."""
    numbers = [int(name) for name in os.listdir("/proc/self/fd")]  # noqa: PTH208  # pathlib is not loaded here
    return [found for number in numbers if number != without and (found := look(number)) is not None]
