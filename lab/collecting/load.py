"""A fleet's worth of MQTT load, from a process of its own: `python -m lab.collecting.load`.

Every simulated probe has a connection of its own, subscribes to its acknowledgements, and publishes at QoS 1 with at
most `WINDOW` messages unconfirmed by the broker, as MQTT libraries do. All packets are written beforehand, and one
thread moves them with as few system calls as there are windows, so that the load costs little beside what it measures.

Talks in lines: says `ready`, waits for a line, publishes, says what it did as one JSON object, waits for another line
while it counts acknowledgements, and says once more. Times are those of CLOCK_MONOTONIC, which all processes share.
"""
# ruff: noqa: T201  # its words are its interface

from __future__ import annotations

import argparse
import contextlib
import json
import selectors
import socket
import struct
import sys
import time
from typing import TYPE_CHECKING, Final

from lab.collecting import content
from wire import codec, topics
from wire.messages import Ack

if TYPE_CHECKING:
    from collections.abc import Iterator

WINDOW: Final = 20
_KEEPALIVE_S: Final = 600
_RECEIVE_BYTES: Final = 65536
# Packet types: MQTT 3.1.1 section 2.2.1; the low bits of SUBSCRIBE and of PUBLISH at QoS 1 as sections 3.8.1, 3.3.1 say.
_CONNECT, _CONNACK, _PUBLISH_QOS_1, _PUBACK, _SUBSCRIBE, _SUBACK = 0x10, 0x20, 0x32, 0x40, 0x82, 0x90


class LoadError(Exception):
    """The broker did not do what a broker does."""


def packet(first_byte: int, body: bytes) -> bytes:
    """Write one packet: type, remaining length (MQTT 3.1.1, 2.2.3), body."""
    length, size = bytearray(), len(body)
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return bytes([first_byte]) + bytes(length) + body


def publish(topic: str, payload: bytes, mid: int) -> bytes:
    """Write a PUBLISH at QoS 1."""
    return packet(_PUBLISH_QOS_1, _text(topic) + struct.pack(">H", mid) + payload)


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack(">H", len(raw)) + raw


class Probe:
    """One connection and what is still to be sent on it."""

    def __init__(self, probe: int, address: tuple[str, int], messages: list[bytes]) -> None:
        """Connect and subscribe; `messages` are packets in order."""
        self.name = content.probe_id(probe)
        self.waiting = messages[::-1]
        self.unconfirmed = 0
        self.acked = 0
        self._rest = b""
        self._out = b""
        self.socket = socket.create_connection(address, timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(
            packet(_CONNECT, _text("MQTT") + b"\x04\x02" + struct.pack(">H", _KEEPALIVE_S) + _text(self.name))
        )
        self._expect(_CONNACK)
        topic = topics.topic(self.name, topics.ACK)
        self.socket.sendall(packet(_SUBSCRIBE, struct.pack(">H", 1) + _text(topic) + b"\x01"))
        self._expect(_SUBACK)
        self.socket.setblocking(False)

    def _expect(self, kind: int) -> None:
        while not self._rest.startswith(bytes([kind])) or len(self._rest) < 4:
            more = self.socket.recv(64)
            if not more:
                raise LoadError(f"{self.name}: the broker closed the connection")
            self._rest += more
        self._rest = self._rest[2 + self._rest[1] :]

    def send(self) -> None:
        """Send as much as the window and the socket take."""
        room = min(WINDOW - self.unconfirmed, len(self.waiting))
        if room > 0:
            self._out += b"".join([self.waiting.pop() for _ in range(room)])
            self.unconfirmed += room
        if self._out:
            with contextlib.suppress(BlockingIOError):
                self._out = self._out[self.socket.send(self._out) :]

    @property
    def blocked(self) -> bool:
        """Whether the socket has not taken everything."""
        return bool(self._out)

    def receive(self) -> tuple[int, int]:
        """Take in what came, send on; return how many messages were confirmed, and results acknowledged."""
        try:
            data = self.socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            data = b""
        else:
            if not data:
                raise LoadError(f"{self.name}: the broker closed the connection")
        data = self._rest + data
        acked, place, confirm, before = 0, 0, b"", self.unconfirmed
        while True:
            if len(data) - place < 2:
                break
            kind, size, body = data[place], data[place + 1], place + 2
            if size & 0x80:
                if len(data) - place < 3:
                    break
                size, body = size & 0x7F | data[place + 2] << 7, place + 3
            if len(data) < body + size:
                break
            if kind == _PUBACK:
                self.unconfirmed -= 1
            elif kind & 0xF0 == 0x30:
                skip = body + 2 + int.from_bytes(data[body : body + 2])
                confirm += packet(_PUBACK, data[skip : skip + 2])
                ack = codec.decode(data[skip + 2 : body + size], Ack)
                acked += sum(last - first + 1 for first, last in ack.stored)
            place = body + size
        self._rest = data[place:]
        confirmed = before - self.unconfirmed
        self._out += confirm
        self.send()
        return confirmed, acked


class Load:
    """All probes of one run."""

    def __init__(self, address: tuple[str, int], probes: int, count: int, per_message: int, first_seq: int) -> None:
        each, rest = divmod(count, probes)
        prepared = [list(messages(probe, each + (probe < rest), per_message, first_seq)) for probe in range(probes)]
        self.bytes = sum(len(one) for probe in prepared for one in probe)
        self.messages = self._unconfirmed = sum(len(probe) for probe in prepared)
        self.acked = 0
        self.acked_at_s = 0.0
        self._selector = selectors.DefaultSelector()
        self._probes = []
        for number, own in enumerate(prepared):
            probe = Probe(number, address, own)
            self._probes.append(probe)
            self._selector.register(probe.socket, selectors.EVENT_READ, probe)

    def run(self) -> float:
        """Publish everything; return when the broker had confirmed the last."""
        for probe in self._probes:
            probe.send()
            self._watch(probe)
        while self._unconfirmed:
            self._turn()
        return time.monotonic()

    def listen(self) -> None:
        """Count acknowledgements until a line comes in."""
        self._selector.register(sys.stdin, selectors.EVENT_READ, None)
        while self._turn():
            pass

    def _turn(self) -> bool:
        for key, _ in self._selector.select():
            if key.data is None:
                return False
            confirmed, acked = key.data.receive()
            self._unconfirmed -= confirmed
            if acked:
                self.acked += acked
                self.acked_at_s = time.monotonic()
            if key.data.blocked != bool(key.events & selectors.EVENT_WRITE):
                self._watch(key.data)
        return True

    def _watch(self, probe: Probe) -> None:
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if probe.blocked else 0)
        self._selector.modify(probe.socket, events, probe)


def messages(probe: int, count: int, per_message: int, first_seq: int) -> Iterator[bytes]:
    """Write one probe's PUBLISH packets: a result in each, or as many as an agent packs when it has a backlog."""
    topic = topics.topic(content.probe_id(probe), topics.RESULT)
    encoded = list(content.results(probe, count, first_seq=first_seq))
    for number, place in enumerate(range(0, count, per_message)):
        some = encoded[place : place + per_message]
        yield publish(topic, some[0] if per_message == 1 else codec.pack(some), number % 65535 + 1)


def main() -> None:
    """Do as the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m lab.collecting.load", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--probes", type=int, default=500)
    parser.add_argument("--results", type=int, default=50_000)
    parser.add_argument("--per-message", type=int, default=1)
    parser.add_argument("--first-seq", type=int, default=1)
    options = parser.parse_args()
    load = Load(("127.0.0.1", options.port), options.probes, options.results, options.per_message, options.first_seq)
    print("ready", flush=True)
    sys.stdin.readline()
    begun_s, cpu_s = time.monotonic(), time.process_time()
    sent_s = load.run()
    said = {"begun_s": begun_s, "sent_s": sent_s, "cpu_s": time.process_time() - cpu_s}
    print(json.dumps(said | {"messages": load.messages, "bytes": load.bytes}), flush=True)
    load.listen()
    print(json.dumps({"acked": load.acked, "acked_at_s": load.acked_at_s}), flush=True)


if __name__ == "__main__":
    main()
