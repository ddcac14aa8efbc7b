"""The relay of one cell, a process of its own: two TUN devices, and what happens to a packet between them.

What is read from one device is lost, or held by a trace's gate, then delayed, then written to the other. Standard
input is the control socket (a datagram of `orders` each way); when that closes, because the owner said so or died, the
relay ends. Packets of one direction never overtake each other.

The kernel cuts large segments before a TUN device, so one read is one packet of the MTU: delay and loss are each
packet's own. `probe-lab bench cell` says what that costs (about a third of a core at 150 Mbps).
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import select
import socket
import struct
import sys
import time
from collections import deque
from pathlib import Path
from random import random
from typing import Final

import msgspec

from lab.cell import orders, trace

_TUNSETIFF: Final = 0x400454CA  # linux/if_tun.h
_IFF_TUN_WITHOUT_HEADER: Final = 0x0001 | 0x1000
_MOST_PACKET_BYTES: Final = 2048
_BATCH: Final = 64  # packets taken from one device before the other has its turn
_LINE_BYTES: Final = 64 * 1024 * 1024  # in flight at most: half a second at 1 Gbps


class _Way:
    """One direction: from a device, through loss, gate and delay, to the other device."""

    def __init__(self, source: int, sink: int) -> None:
        self.source = source
        self._sink = sink
        self._delay_s = self._jitter_s = self._loss = 0.0
        self._gate: trace.Gate[bytes] | None = None
        self._gate_began_s = 0.0
        self._line: deque[tuple[float, bytes]] = deque()  # (due, packet); first in, first out: no overtaking
        self._line_bytes = 0
        self._packets = self._bytes = self._lost = self._overflowed = 0

    def impair(self, order: orders.Impair) -> None:
        self._delay_s, self._jitter_s, self._loss = order.delay_s, order.jitter_s, order.loss_percent / 100

    def replay(self, now_s: float, capacity: trace.Trace | None, queue_bytes: int) -> None:
        left = self._gate.drain() if self._gate else []
        self._gate = trace.Gate(capacity, queue_bytes) if capacity else None
        self._gate_began_s = now_s
        for packet in left:
            self._hold(now_s, packet)

    def take(self, now_s: float, *, silent: bool) -> None:
        """Read what has arrived."""
        gate, loss = self._gate, 1.0 if silent else self._loss
        if gate:
            self._pass_gate(now_s, gate)
        for _ in range(_BATCH):
            try:
                packet = os.read(self.source, _MOST_PACKET_BYTES)
            except BlockingIOError:
                break
            if loss and random() < loss:
                self._lost += 1
            elif gate is None:
                self._hold(now_s, packet)
            elif not gate.offer((now_s - self._gate_began_s) * 1e3, len(packet), packet):
                self._overflowed += 1

    def give(self, now_s: float) -> None:
        """Write what is due."""
        if self._gate:
            self._pass_gate(now_s, self._gate)
        line = self._line
        while line and line[0][0] <= now_s:
            packet = line.popleft()[1]
            self._line_bytes -= len(packet)
            try:
                os.write(self._sink, packet)
            except OSError:  # the device is down, or has no room
                self._lost += 1
            else:
                self._packets += 1
                self._bytes += len(packet)

    def due_s(self, now_s: float) -> float:
        """When `give` has something to do next."""
        due_s = self._line[0][0] if self._line else float("inf")
        if self._gate and (next_ms := self._gate.next_ms((now_s - self._gate_began_s) * 1e3)) is not None:
            due_s = min(due_s, self._gate_began_s + next_ms / 1e3)
        return due_s

    def traffic(self) -> orders.Traffic:
        return orders.Traffic(packets=self._packets, bytes=self._bytes, lost=self._lost, overflowed=self._overflowed)

    def _pass_gate(self, now_s: float, gate: trace.Gate[bytes]) -> None:
        for packet in gate.release((now_s - self._gate_began_s) * 1e3):
            self._hold(now_s, packet)

    def _hold(self, now_s: float, packet: bytes) -> None:
        if self._line_bytes + len(packet) > _LINE_BYTES:
            self._overflowed += 1
            return
        due_s = now_s + self._delay_s
        if self._jitter_s:
            due_s += random() * self._jitter_s
        self._line.append((due_s, packet))
        self._line_bytes += len(packet)


class _Relay:
    """Both directions and the control socket in one loop."""

    def __init__(self, control: socket.socket, probe_side: int, core_side: int) -> None:
        self._control = control
        self._ways: dict[orders.Direction, _Way] = {
            "down": _Way(core_side, probe_side),
            "up": _Way(probe_side, core_side),
        }
        self._silent_until_s = 0.0

    def run(self) -> None:
        """Relay until the owner is gone."""
        ways = tuple(self._ways.values())
        listening = [self._control.fileno(), *(way.source for way in ways)]
        monotonic = time.monotonic
        while True:
            now_s = monotonic()
            due_s = min(way.due_s(now_s) for way in ways)
            wait_s = None if due_s == float("inf") else max(0.0, due_s - now_s)
            ready = select.select(listening, (), (), wait_s)[0]
            now_s = monotonic()
            for way in ways:
                if way.source in ready:
                    way.take(now_s, silent=now_s < self._silent_until_s)
                way.give(now_s)
            if listening[0] in ready and not self._obey(now_s):
                return

    def _obey(self, now_s: float) -> bool:
        """Carry out one order and answer it; False when there is nobody left to obey."""
        datagram = self._control.recv(orders.MOST_BYTES)
        if not datagram:
            return False
        try:
            self._carry_out(orders.decode_order(datagram), now_s)
        except (msgspec.DecodeError, trace.TraceError) as error:
            answer: orders.Answer = orders.Refused(str(error))
        else:
            down, up = self._ways["down"].traffic(), self._ways["up"].traffic()
            answer = orders.Done(down=down, up=up, cpu_s=time.process_time())
        self._control.send(orders.encode(answer))
        return True

    def _carry_out(self, order: orders.Order, now_s: float) -> None:
        match order:
            case orders.Impair():
                self._ways[order.direction].impair(order)
            case orders.Silence():
                self._silent_until_s = now_s + order.for_s
            case orders.Replay():
                capacity = None if order.path is None else trace.read(Path(order.path), order.scale)
                self._ways[order.direction].replay(time.monotonic(), capacity, order.queue_bytes)
            case orders.Report():
                pass


def _attach(device: str) -> int:
    """Open an existing TUN device of this namespace, packets without a header before them."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", device.encode(), _IFF_TUN_WITHOUT_HEADER))
    return fd


def main() -> None:
    """Run as `python -m lab.cell.relay PROBE_SIDE CORE_SIDE` with the control socket as standard input."""
    probe_side, core_side = (_attach(device) for device in sys.argv[1:3])
    control = socket.socket(fileno=0)
    with contextlib.suppress(PermissionError):
        os.nice(-10)  # a late relay is a longer delay
    gc.disable()  # the loop makes no cycles, and a collection would be jitter
    with contextlib.suppress(ConnectionError):  # the owner is gone
        _Relay(control, probe_side, core_side).run()


if __name__ == "__main__":
    main()
