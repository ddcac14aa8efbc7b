"""A broker's bad day: every message comes again, late, in another order."""

from __future__ import annotations

import heapq
import threading
import time
from typing import TYPE_CHECKING, Final, Self

from base.broker import BrokerSettings, make_client
from wire import topics

if TYPE_CHECKING:
    import random

    from paho.mqtt.client import Client, MQTTMessage

_LATEST_S: Final = 4.0
"""Later than the next status of a probe in a hurry."""
_COPIES: Final = (0, 1, 1, 2, 3)
_LEAVES: Final = (topics.RESULT, topics.ACK, topics.STATUS)


class Relay:
    """A context manager; while it is entered, messages come up to four times."""

    def __init__(self, port: int, chance: random.Random) -> None:
        self._chance = chance
        self._due: list[tuple[float, int, str, bytes]] = []
        self._own: set[tuple[str, bytes]] = set()
        self._count = 0
        self._changed = threading.Condition()
        self._stopping = False
        settings = BrokerSettings(host="127.0.0.1", port=port, tls=None)
        self._client = make_client(settings, client_id="relay", clean_session=True)
        self._client.on_connect = lambda client, *_: client.subscribe(
            [(topics.every_probe(leaf), 1) for leaf in _LEAVES]
        )
        self._client.on_message = self._heard
        self._client.connect(settings.host, settings.port)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._client.loop_start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()
        self._client.disconnect()
        self._client.loop_stop()

    def _heard(self, _: Client, __: object, message: MQTTMessage) -> None:
        said = (message.topic, bytes(message.payload))
        if message.retain or said in self._own:
            return
        self._own.add(said)
        with self._changed:
            for _copy in range(self._chance.choice(_COPIES)):
                self._count += 1
                at_s = time.monotonic() + self._chance.uniform(0, _LATEST_S)
                heapq.heappush(self._due, (at_s, self._count, *said))
            self._changed.notify_all()

    def _run(self) -> None:
        """Say everything again when its time has come; what is left at the end comes at once, newest first."""
        with self._changed:
            while not self._stopping:
                if self._due and self._due[0][0] <= time.monotonic():
                    _, _, topic, payload = heapq.heappop(self._due)
                    self._client.publish(topic, payload, qos=1)
                else:
                    self._changed.wait(self._due[0][0] - time.monotonic() if self._due else None)
            for _, _, topic, payload in sorted(self._due, reverse=True):
                self._client.publish(topic, payload, qos=1)
