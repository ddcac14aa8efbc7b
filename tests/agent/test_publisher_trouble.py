"""The publisher where something is wrong: it goes on, or says that it cannot; it is never silent and never hectic."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from agent import publisher as publisher_module
from agent.publisher import Publisher
from agent.spool import Spool
from base.broker import BrokerSettings
from base.durable import StorageError
from lab.servers import Mosquitto
from wire import topics
from wire.codec import decode, decode_result, encode, unpack
from wire.delivery import Ack, Refusal, Resend
from wire.measured import Failed
from wire.reasons import Reason
from wire.results import Result
from wire.status import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PATIENCE_S = 20
DEFER_S = 0.2


class Server:
    """Keeps what a probe says, and answers it."""

    def __init__(self, broker: Mosquitto) -> None:
        self.results: list[int] = []
        self.statuses: list[Status] = []
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id="server")
        self.client.on_message = self._hear
        self.client.connect(broker.host, broker.port)
        self.client.subscribe([(topics.topic("p1", leaf), 1) for leaf in (topics.RESULT, topics.STATUS)])
        self.client.loop_start()

    def _hear(self, _client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        if message.topic.endswith(topics.STATUS):
            self.statuses.append(decode(message.payload, Status))
        else:
            self.results += [decode_result(raw).seq for raw in unpack(message.payload)]

    def say(self, leaf: str, word: Ack | Resend) -> None:
        self.client.publish(topics.topic("p1", leaf), encode(word), qos=1).wait_for_publish(PATIENCE_S)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()
        self.client.reinitialise()  # closes what else only the end of the object does, in whatever order that comes


def result() -> Result:
    return Result(
        probe_id="p1",
        site="s1",
        started_at=datetime.now(UTC),
        agent_version="0",
        outcome=Failed(reason=Reason.TIMEOUT),
    )


def until(true: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "broker") as broker:
        yield broker


@pytest.fixture
def server(broker: Mosquitto) -> Iterator[Server]:
    server = Server(broker)
    yield server
    server.close()


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "spool.db", max_bytes=10**9, defer_s=DEFER_S)
    yield spool
    spool.close()


@pytest.fixture
def publisher(broker: Mosquitto, spool: Spool) -> Iterator[Publisher]:
    settings = BrokerSettings(host=broker.host, port=broker.port, tls=None)
    publisher = Publisher(settings, "p1", spool, lambda: Status(probe_id="p1", online=True))
    yield publisher
    publisher.stop(flush_s=0)
    publisher._client.reinitialise()  # as above


def failing(call: Callable[..., object], *errors: Exception) -> Callable[..., object]:
    """Make a call that first fails in these ways."""
    left = list(errors)

    def wrapped(*arguments: object) -> object:
        if left:
            raise left.pop(0)
        return call(*arguments)

    return wrapped


def test_an_error_that_nobody_knows_is_told_and_the_sending_goes_on(
    publisher: Publisher,
    spool: Spool,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(publisher_module, "FIRST_RESEND_S", 0.1)
    monkeypatch.setattr(spool, "oldest", failing(spool.oldest, ValueError("never thought of")))
    spool.append(result())
    publisher.start()
    until(lambda: server.results)
    assert "sending failed" in caplog.text
    assert "never thought of" in caplog.text
    assert "Traceback" in caplog.text
    assert publisher.alive


def test_a_status_that_cannot_be_made_keeps_no_result_back(
    publisher: Publisher, spool: Spool, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    spool.append(result())
    publisher.start()
    until(lambda: server.results == [1])

    def defect() -> Status:
        raise ZeroDivisionError

    publisher._status = defect
    spool.append(result())
    publisher.wake()
    until(lambda: 2 in server.results and "ZeroDivisionError" in caplog.text)
    publisher._status = lambda: Status(probe_id="p1", online=True)


def test_what_a_callback_meets_does_not_end_the_connection(
    publisher: Publisher,
    spool: Spool,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(spool, "acknowledge", failing(spool.acknowledge, OSError(28, "No space left on device")))
    spool.append(result())
    publisher.start()
    until(lambda: server.results)
    ack = Ack(spool_id=spool.spool_id, stored=((1, 1),))
    server.say(topics.ACK, ack)
    until(lambda: "_on_message failed" in caplog.text)
    server.say(topics.ACK, ack)
    assert publisher.wait_until_empty(PATIENCE_S)
    assert publisher.alive


def test_it_says_when_a_thread_has_ended(publisher: Publisher) -> None:
    assert publisher.alive, "nothing is missing before the start"
    publisher.start()
    assert publisher.wait_until_connected(PATIENCE_S)
    assert publisher.alive
    publisher._client.disconnect()  # ends paho's thread, as an error in it would
    until(lambda: not publisher.alive)
    publisher.stop(flush_s=0)
    assert publisher.alive, "nor after the stop"


def test_a_card_that_takes_nothing_keeps_no_status_and_no_result_back(
    publisher: Publisher,
    spool: Spool,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for _ in range(5):
        spool.append(result())
    spool.defer(result())
    spool._db.execute("PRAGMA query_only=ON")
    tried: list[float] = []
    flush = spool.flush

    def counted() -> None:
        tried.append(time.monotonic())
        flush()

    monkeypatch.setattr(spool, "flush", counted)
    time.sleep(DEFER_S)
    publisher.start()
    until(lambda: server.results == [1, 2, 3, 4, 5] and server.statuses)
    for _ in range(20):  # a run ends, an answer comes: each wakes it
        publisher.wake()
        time.sleep(0.05)
    assert 1 <= len(tried) <= 3
    assert server.results == [1, 2, 3, 4, 5]
    error = server.statuses[0].spool_error
    assert error is not None
    assert "readonly" in error
    assert caplog.text.count("readonly") == 1
    spool._db.execute("PRAGMA query_only=OFF")
    publisher._spare_disk_until_s = 0.0  # half a minute later
    publisher.wake()
    until(lambda: 6 in server.results)
    publisher.tell_status()
    until(lambda: server.statuses[-1].spool_error is None)


def test_a_spool_that_cannot_be_read_is_looked_at_seldom_and_said_once(
    publisher: Publisher,
    spool: Spool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    looks: list[int] = []

    def unreadable(count: int) -> None:
        looks.append(count)
        raise StorageError("spool.db: disk I/O error; replace the card")

    publisher.start()
    assert publisher.wait_until_connected(PATIENCE_S)
    monkeypatch.setattr(spool, "oldest", unreadable)
    publisher.wake()
    until(lambda: looks)
    time.sleep(0.5)
    assert len(looks) <= 3, "once for each time that it was woken"
    begun_s = time.monotonic()
    assert not publisher.wait_until_empty(PATIENCE_S), "nothing says that all is delivered"
    assert time.monotonic() - begun_s < PATIENCE_S / 2
    assert caplog.text.count("replace the card") == 1
    publisher.stop(flush_s=PATIENCE_S)
    assert not publisher._client.is_connected()


@pytest.mark.parametrize("kind", [Ack, Resend])
def test_numbers_out_of_this_world_make_no_probe_deaf(
    publisher: Publisher, spool: Spool, server: Server, kind: type[Ack | Resend]
) -> None:
    spool.append(result())
    spool.refuse(spool.spool_id, [Refusal(seq=1, reason="conflict: an old copy")])  # it lives its second life now
    publisher.start()
    until(lambda: server.results == [1])
    ranges = ((2**63 - 1, 2**63 - 1),)
    if kind is Ack:
        server.say(topics.ACK, Ack(spool_id=spool.spool_id, stored=ranges))
    else:
        server.say(topics.COMMAND, Resend(spool_id=spool.spool_id, ranges=ranges))
    spool.append(result())
    publisher.wake()
    until(lambda: 2 in server.results)
    server.say(topics.ACK, Ack(spool_id=spool.spool_id, stored=((1, 2),)))
    assert publisher.wait_until_empty(PATIENCE_S)


def test_a_broker_that_cannot_be_reached_is_named_once_and_found_when_it_is_back(
    publisher: Publisher, broker: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    broker.stop()
    publisher._client.reconnect_delay_set(1, 1)
    publisher.start()
    until(lambda: "cannot be reached" in caplog.text)
    failed = publisher._client.on_connect_fail
    assert failed is not None
    failed(publisher._client, None)
    assert caplog.text.count(f"broker {broker.host}:{broker.port} cannot be reached") == 1
    broker.start()
    until(publisher._connected.is_set)
