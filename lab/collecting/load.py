"""A fleet's worth of MQTT load, from a process of its own: `python -m lab.collecting.load`.

Every simulated probe has a connection of its own, subscribes to its acknowledgements, and publishes at QoS 1 with at
most `WINDOW` messages unconfirmed by the broker, as MQTT libraries do, and with `--window` at most so many results that
no collector has acknowledged, as agents do. All packets are written beforehand, and one
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
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from base.configfile import ConfigError
from collector import mqtt
from collector.mqtt import Arrival, Puback
from lab.collecting import content
from wire import codec, topics
from wire.delivery import Ack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.collecting.content import Content

WINDOW: Final = 20
_LINGER_S: Final = 5.0
_KEEPALIVE_S: Final = 600
_RECEIVE_BYTES: Final = 65536


class Packing(NamedTuple):
    """How probes send: results in a message, and how many may be unacknowledged by a collector (None: any)."""

    per_message: int
    window: int | None


class Probe:
    """One connection and what is still to be sent on it."""

    def __init__(self, name: str, address: tuple[str, int], packets: list[bytes], packing: Packing) -> None:
        """Connect and subscribe; raise OSError or collector.mqtt.ProtocolError."""
        self._waiting = packets[::-1]
        self._packing = packing
        self._unacked = 0
        self._reader = mqtt.Reader(codec.MAX_PAYLOAD_BYTES, codec.MAX_PAYLOAD_BYTES)
        self._out = b""
        self.unconfirmed = 0
        self.socket = socket.create_connection(address, timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(mqtt.connect(name, _KEEPALIVE_S, None))
        self._reader.feed(self.socket.recv(_RECEIVE_BYTES))
        self.socket.sendall(mqtt.subscribe(1, [topics.topic(name, topics.ACK)]))
        self._reader.feed(self.socket.recv(_RECEIVE_BYTES))
        self.socket.setblocking(False)  # noqa: FBT003  # the standard library's signature

    @property
    def blocked(self) -> bool:
        """Whether the socket has not taken everything."""
        return bool(self._out)

    def send(self) -> None:
        """Send as much as the window and the socket take."""
        room = min(WINDOW - self.unconfirmed, len(self._waiting))
        if self._packing.window is not None:
            room = min(room, (self._packing.window - self._unacked) // self._packing.per_message)
        if room > 0:
            self._unacked += room * self._packing.per_message
            self._out += b"".join([self._waiting.pop() for _ in range(room)])
            self.unconfirmed += room
        if self._out:
            with contextlib.suppress(BlockingIOError):
                self._out = self._out[self.socket.send(self._out) :]

    def receive(self) -> tuple[int, int]:
        """Take in what came, send on; return how many messages were confirmed, and results acknowledged."""
        confirmed = acked = 0
        with contextlib.suppress(BlockingIOError):
            data = self.socket.recv(_RECEIVE_BYTES)
            if not data:
                raise ConnectionError("the broker closed a connection")
            for packet in self._reader.feed(data):
                if isinstance(packet, Puback):
                    confirmed += 1
                elif isinstance(packet, Arrival):
                    self._out += mqtt.pubacks([packet.mid])
                    stored = codec.decode(packet.payload, Ack).stored
                    acked += sum(last - first + 1 for first, last in stored)
        self.unconfirmed -= confirmed
        self._unacked -= acked
        self.send()
        return confirmed, acked


class Load:
    """All probes of one run."""

    def __init__(self, address: tuple[str, int], probes: range, count: int, packing: Packing, made: Content) -> None:
        each, rest = divmod(count, len(probes))
        prepared = {
            content.probe_id(probe): list(messages(made, probe, each + (place < rest), packing.per_message))
            for place, probe in enumerate(probes)
        }
        self.bytes = sum(len(packet) for packets in prepared.values() for packet in packets)
        self.messages = self._unconfirmed = sum(map(len, prepared.values()))
        self.results = count
        self.acked = 0
        self.acked_at_s = 0.0
        self._selector = selectors.DefaultSelector()
        self._probes = []
        for name, packets in prepared.items():
            probe = Probe(name, address, packets, packing)
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
        """Count acknowledgements until a line comes in, and then those that are still on their way."""
        self._selector.register(sys.stdin, selectors.EVENT_READ, None)
        while self._turn():
            pass
        self._selector.unregister(sys.stdin)
        while 0 < self.acked < self.results and time.monotonic() - self.acked_at_s < _LINGER_S:
            self._turn(_LINGER_S / 10)

    def _turn(self, wait_s: float | None = None) -> bool:
        for key, _ in self._selector.select(wait_s):
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


def messages(made: Content, probe: int, count: int, per_message: int) -> Iterator[bytes]:
    """Write one probe's PUBLISH packets: a result in each, or as many as an agent packs when it has a backlog."""
    topic = topics.topic(content.probe_id(probe), topics.RESULT)
    encoded = list(made.results(probe, count))
    for number, place in enumerate(range(0, count, per_message)):
        some = encoded[place : place + per_message]
        yield mqtt.publish(topic, some[0] if per_message == 1 else codec.pack(some), number % 65535 + 1)


def main() -> None:
    """Do as the arguments say."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever started us, and ends us
    parser = argparse.ArgumentParser(prog="python -m lab.collecting.load", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--first-probe", type=int, default=0)
    parser.add_argument("--probes", type=int, default=500)
    parser.add_argument("--results", type=int, default=50_000)
    parser.add_argument("--per-message", type=int, default=1)
    parser.add_argument("--window", type=int, help="results that may be unacknowledged (any number)")
    parser.add_argument("--config", type=Path, default=content.EXAMPLE, help="the agent.yaml of all probes")
    options = parser.parse_args()
    probes = range(options.first_probe, options.first_probe + options.probes)
    try:
        made = content.Content(options.config)
        packing = Packing(options.per_message, options.window)
        load = Load(("127.0.0.1", options.port), probes, options.results, packing, made)
    except (OSError, OverflowError, ConfigError) as error:
        sys.exit(f"the load: {error}")
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
