"""Probes that measure on while others catch up: when each of their results was acknowledged, and seen in InfluxDB."""

from __future__ import annotations

import statistics
import threading
import time
from typing import TYPE_CHECKING, Final, NamedTuple, Self

import msgspec

from base.broker import BrokerSettings, make_client
from collector.instants import microseconds
from lab.collecting import content
from lab.collecting.contenders import DATABASE
from lab.collecting.watch import StalledError
from wire import codec, topics
from wire.delivery import Ack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from paho.mqtt.client import Client, MQTTMessage

    from lab.collecting.content import Content
    from lab.servers import Influxd, Mosquitto

PER_S: Final = 20.0
AT_LEAST: Final = 20
_MOST: Final = 20_000
_EVERY_S: Final = 0.1
_POLL_SHARE: Final = 0.1
"""Looking may take so much of the time."""
_STALLED_S: Final = 60.0
_JITTER_US: Final = 2_000_000
"""Results begin in the order of their numbers, give or take this."""


class Delays(msgspec.Struct, frozen=True, kw_only=True):
    """Live results of one half, seconds: from sending to the acknowledgement, and to the point in InfluxDB.

    Of what was sent while there was no database the second counts from when there was one.
    """

    results: int
    acked_median_s: float
    acked_95_s: float
    acked_max_s: float
    seen_median_s: float
    seen_95_s: float
    seen_max_s: float


class Sent(NamedTuple):
    """One result: when it began by its own words (us), and when it was sent (monotonic)."""

    started_us: int
    at_s: float


class Live:
    """One more probe, at work inside the context until `stop`."""

    def __init__(self, broker: Mosquitto, made: Content, probe: int) -> None:
        """Connect."""
        self.probe_id = content.probe_id(probe)
        self._payloads = made.results(probe, _MOST)
        self._broker = broker
        settings = BrokerSettings(host=broker.host, port=broker.port, tls=None)
        self._client = make_client(settings, client_id=self.probe_id, clean_session=True)
        self._client.on_connect = self._listen
        self._client.on_message = self._heard
        self.results: list[Sent] = []
        self.seen_at_s: dict[int, float] = {}
        self._acked_at_s: dict[int, float] = {}
        self._listening = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._send)

    @property
    def sent(self) -> int:
        """How many it has sent."""
        return len(self.results)

    def stop(self) -> None:
        """Send no more, once there were some, and wait until all are acknowledged; raise StalledError."""
        deadline_s = time.monotonic() + _STALLED_S
        while self.sent < AT_LEAST and time.monotonic() < deadline_s:
            time.sleep(_EVERY_S)
        self._stopping.set()
        self._thread.join()
        while len(self._acked_at_s) < self.sent:
            if time.monotonic() > deadline_s:
                raise StalledError(f"{len(self._acked_at_s)} of {self.sent} live results were acknowledged")
            time.sleep(_EVERY_S)

    def delays(self, database_since_s: float) -> Delays:
        """Summarise; a point cannot be seen before there was a database."""
        acked = sorted(self._acked_at_s[seq] - one.at_s for seq, one in enumerate(self.results, 1))
        seen = sorted(self.seen_at_s[seq] - max(one.at_s, database_since_s) for seq, one in enumerate(self.results, 1))
        return Delays(
            results=self.sent,
            acked_median_s=round(statistics.median(acked), 3),
            acked_95_s=round(acked[int(0.95 * len(acked))], 3),
            acked_max_s=round(acked[-1], 3),
            seen_median_s=round(statistics.median(seen), 3),
            seen_95_s=round(seen[int(0.95 * len(seen))], 3),
            seen_max_s=round(seen[-1], 3),
        )

    def _send(self) -> None:
        topic = topics.topic(self.probe_id, topics.RESULT)
        self._listening.wait(_STALLED_S)
        for payload in self._payloads:
            if self._stopping.wait(1 / PER_S):
                return
            self.results.append(Sent(microseconds(codec.decode_result(payload).started_at), time.monotonic()))
            self._client.publish(topic, payload, qos=1)

    def _listen(self, client: Client, *_: object) -> None:
        client.subscribe(topics.topic(self.probe_id, topics.ACK), qos=1)
        self._listening.set()

    def _heard(self, _: Client, __: object, message: MQTTMessage) -> None:
        now_s = time.monotonic()
        for first, last in codec.decode(bytes(message.payload), Ack).stored:
            for seq in range(first, last + 1):
                self._acked_at_s.setdefault(seq, now_s)

    def __enter__(self) -> Self:
        self._client.connect(self._broker.host, self._broker.port)
        self._client.loop_start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        self._client.disconnect()
        self._client.loop_stop()


class Look:
    """Looks into the database again and again, inside the context, for what live probes sent."""

    def __init__(self, influxd: Influxd, probes: Sequence[Live]) -> None:
        self._influxd = influxd
        self._probes = probes
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def wait_until_seen(self) -> None:
        """Wait until all was seen; raise StalledError."""
        deadline_s = time.monotonic() + _STALLED_S
        while missing := sum(live.sent - len(live.seen_at_s) for live in self._probes):
            if time.monotonic() > deadline_s:
                raise StalledError(f"{missing} live results were not seen")
            time.sleep(_EVERY_S)

    def _run(self) -> None:
        took_s = 0.0
        while not self._closing.wait(max(_EVERY_S, took_s / _POLL_SHARE)):
            begun_s = time.monotonic()
            for live in self._probes:
                self._look(live)
            took_s = time.monotonic() - begun_s

    def _look(self, live: Live) -> None:
        unseen = [one for seq, one in enumerate(live.results, 1) if seq not in live.seen_at_s]
        if not unseen:
            return
        since_ns = (min(one.started_us for one in unseen) - _JITTER_US) * 1000
        where = f"probe = '{live.probe_id}' AND time >= {since_ns}"
        rows = self._influxd.query(f"SELECT seq FROM /.*/ WHERE {where}", DATABASE)  # noqa: S608  # ours
        now_s = time.monotonic()
        for row in rows:
            live.seen_at_s.setdefault(row["seq"], now_s)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join()
