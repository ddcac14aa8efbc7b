"""The collector's session at a real broker, over TLS."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest
from collector_helpers import wait_until

from base.broker import BrokerSettings, TlsSettings, make_client
from collector import mqtt
from collector.connection import Connection
from lab.pki import make_server_certificate
from lab.servers import Mosquitto

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from collector.mqtt import Arrival

pytestmark = pytest.mark.journey
KEEPALIVE_S = 5


class Listener:
    """Confirms and keeps what it hears, while it may."""

    def __init__(self, settings: BrokerSettings) -> None:
        self.heard: list[Arrival] = []
        self.connections: set[int] = set()
        self.listening = threading.Event()
        self.listening.set()
        self.connection = Connection(
            settings,
            client_id="listener",
            filters=["t"],
            max_payload_bytes=200_000,
            kept_bytes=10,
            on_arrivals=self.take,
            may_read=self.listening.is_set,
        )

    def take(self, arrivals: list[Arrival], number: int) -> None:
        self.heard += arrivals
        self.connections.add(number)
        self.connection.send(mqtt.pubacks([arrival.mid for arrival in arrivals]), number)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerSettings]:
    folder: Path = tmp_path_factory.mktemp("tls")
    files = make_server_certificate(folder, ["127.0.0.1"])
    with Mosquitto(folder / "broker", tls=files) as broker:
        yield BrokerSettings(
            host="127.0.0.1", port=broker.port, tls=TlsSettings(ca_file=files.ca_file), keepalive_s=KEEPALIVE_S
        )


def publish(settings: BrokerSettings, payloads: list[bytes]) -> None:
    client = make_client(settings, client_id="speaker", clean_session=True)
    client.connect(settings.host, settings.port)
    client.loop_start()
    for sent in [client.publish("t", payload, qos=1) for payload in payloads]:
        sent.wait_for_publish(20)
    client.disconnect()
    client.loop_stop()


def test_what_is_sent_arrives_once_and_in_order_and_a_pause_costs_nothing(
    settings: BrokerSettings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    listener = Listener(settings)
    listener.connection.start()
    wait_until(lambda: "listening" in caplog.text)
    payloads = [f"{number:06} ".encode() * (1 + number % 90 * 100) for number in range(200)]
    publish(settings, payloads[:100])
    wait_until(lambda: len(listener.heard) == 100)
    listener.listening.clear()
    publish(settings, payloads[100:])
    time.sleep(2 * KEEPALIVE_S)  # longer than a broker waits for a client that says nothing
    listener.listening.set()
    listener.connection.wake()
    wait_until(lambda: len(listener.heard) == 200)
    listener.connection.stop()
    assert [arrival.payload for arrival in listener.heard] == payloads
    assert len(listener.connections) == 1, "one connection all the while"
    again = Listener(settings)
    again.connection.start()
    publish(settings, [b"last"])
    wait_until(lambda: again.heard)
    again.connection.stop()
    assert [arrival.payload for arrival in again.heard] == [b"last"], "what was confirmed does not come again"
    assert "session resumed" in caplog.text


def test_a_broker_that_is_not_the_one_it_says_is_not_talked_to(
    settings: BrokerSettings, caplog: pytest.LogCaptureFixture
) -> None:
    stranger = BrokerSettings(host="localhost", port=settings.port, tls=settings.tls)
    listener = Listener(stranger)
    listener.connection.start()
    wait_until(lambda: "cannot be reached" in caplog.text)
    listener.connection.stop()
    assert "certificate verify failed" in caplog.text
