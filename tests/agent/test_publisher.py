"""The publisher against a real mosquitto: a result leaves the spool when the collector names it, and not before."""

from __future__ import annotations

import os
import queue
import signal
import socket
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
import pytest
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from agent import publisher as publisher_module
from agent.lease import Wish
from agent.publisher import Publisher
from agent.spool import Spool
from base.broker import BrokerSettings
from lab.servers import Mosquitto
from wire import topics
from wire.codec import decode, decode_result, encode, unpack
from wire.delivery import Ack, Gone, Refusal, Resend
from wire.leases import Busy, LeaseReply, LeaseRequest
from wire.measured import Failed, Throughput, Transfer
from wire.reasons import Reason
from wire.results import Clock, Result
from wire.status import Status

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE_S = 20
USERS = {"p1": "secret-1", "collector": "secret-c", "responder": "secret-r"}


class Peer:
    """A collector or responder played by the test: hears one leaf of every probe, answers when told to."""

    def __init__(self, broker: Mosquitto, user: str, leaf: str) -> None:
        self.heard: queue.Queue[paho.MQTTMessage] = queue.Queue()
        ready = threading.Event()
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id=f"{user}-{leaf}")
        self.client.username_pw_set(user, USERS[user])
        self.client.on_message = lambda _c, _d, message: self.heard.put(message)
        self.client.on_subscribe = lambda *_: ready.set()
        self.client.connect(broker.host, broker.port)
        self.client.subscribe(topics.every_probe(leaf), qos=1)
        self.client.loop_start()
        assert ready.wait(PATIENCE_S)

    def results(self, count: int) -> list[Result]:
        """Wait for so many different results; duplicates are dropped, as a collector does."""
        found: dict[int, Result] = {}
        while len(found) < count:
            for raw in unpack(self.heard.get(timeout=PATIENCE_S).payload):
                result = decode_result(raw)
                found[result.seq] = result
        return [found[seq] for seq in sorted(found)]

    def ack(self, ack: Ack) -> None:
        self.client.publish(topics.topic("p1", topics.ACK), encode(ack), qos=1)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "broker", users=USERS) as broker:
        yield broker


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "spool.db", max_bytes=10**9)
    yield spool
    spool.close()


def settings(broker: Mosquitto, tmp_path: Path, password: str = "secret-1") -> BrokerSettings:
    credentials = tmp_path / "credentials"
    credentials.write_text(f"p1:{password}\n")
    credentials.chmod(0o600)
    return BrokerSettings(host=broker.host, port=broker.port, credentials_file=credentials, tls=None, keepalive_s=5)


def make_publisher(broker: Mosquitto, tmp_path: Path, spool: Spool, password: str = "secret-1") -> Publisher:
    return Publisher(
        settings(broker, tmp_path, password),
        "p1",
        spool,
        lambda: Status(probe_id="p1", online=True, spool_id=spool.spool_id, backlog=spool.counts().waiting),
    )


@pytest.fixture
def publisher(broker: Mosquitto, tmp_path: Path, spool: Spool) -> Iterator[Publisher]:
    publisher = make_publisher(broker, tmp_path, spool)
    publisher.start()
    yield publisher
    publisher.stop(flush_s=0)


@pytest.fixture
def collector(broker: Mosquitto) -> Iterator[Peer]:
    peer = Peer(broker, "collector", topics.RESULT)
    yield peer
    peer.close()


def result() -> Result:
    """Make a throughput result: of a kind that is archived."""
    return Result(
        probe_id="p1",
        site="s1",
        started_at=datetime.now(UTC),
        agent_version="0",
        outcome=Throughput(download=Transfer(steady_mbps=41.5, payload_bytes=26_000_000, elapsed_s=5.0)),
    )


def fill(spool: Spool, count: int) -> None:
    for _ in range(count):
        spool.append(
            Result(
                probe_id="p1",
                site="s1",
                started_at=datetime.now(UTC),
                agent_version="0",
                outcome=Failed(reason=Reason.TIMEOUT),
            )
        )


def test_a_result_leaves_the_spool_when_the_collector_has_named_it(
    publisher: Publisher, spool: Spool, collector: Peer
) -> None:
    fill(spool, 3)
    publisher.wake()
    assert [r.seq for r in collector.results(3)] == [1, 2, 3]
    assert spool.counts().waiting == 3, "the broker's own acknowledgement counts for nothing"
    collector.ack(Ack(spool_id=spool.spool_id, stored=((1, 2),)))
    assert not publisher.wait_until_empty(0.5)
    collector.ack(Ack(spool_id=spool.spool_id, stored=((3, 3),)))
    assert publisher.wait_until_empty(PATIENCE_S)


def test_a_backlog_larger_than_the_window_goes_out_as_acks_come(
    publisher: Publisher, spool: Spool, collector: Peer
) -> None:
    fill(spool, 1000)
    publisher.wake()
    seen: set[int] = set()
    while len(seen) < 1000:
        for result in collector.results(1):
            seen.add(result.seq)
            collector.ack(Ack(spool_id=spool.spool_id, stored=((1, result.seq),)))
        while not collector.heard.empty():
            batch = [decode_result(raw).seq for raw in unpack(collector.heard.get().payload)]
            seen |= set(batch)
            collector.ack(Ack(spool_id=spool.spool_id, stored=((min(batch), max(batch)),)))
    assert publisher.wait_until_empty(PATIENCE_S)


def test_what_a_broker_took_and_forgot_is_sent_again(
    monkeypatch: pytest.MonkeyPatch, broker: Mosquitto, tmp_path: Path, spool: Spool, collector: Peer
) -> None:
    monkeypatch.setattr(publisher_module, "FIRST_RESEND_S", 0.3)
    publisher = make_publisher(broker, tmp_path, spool)
    publisher.start()
    fill(spool, 2)
    publisher.wake()
    collector.results(2)  # heard, and "forgotten": no ack
    assert [r.seq for r in collector.results(2)] == [1, 2]
    publisher.stop(flush_s=0)


def test_results_wait_while_the_broker_is_away_and_come_when_it_is_back(
    publisher: Publisher, spool: Spool, broker: Mosquitto
) -> None:
    assert publisher.wait_until_connected(PATIENCE_S)
    broker.kill()
    fill(spool, 5)
    publisher.wake()
    broker.start()
    peer = Peer(broker, "collector", topics.RESULT)
    assert [r.seq for r in peer.results(5)] == [1, 2, 3, 4, 5]
    peer.close()


def test_a_refused_result_is_put_aside_and_the_rest_goes_on(
    publisher: Publisher, spool: Spool, collector: Peer
) -> None:
    fill(spool, 2)
    publisher.wake()
    collector.results(2)
    collector.ack(Ack(spool_id=spool.spool_id, stored=((2, 2),), refused=(Refusal(seq=1, reason="no such site"),)))
    assert publisher.wait_until_empty(PATIENCE_S)
    assert spool.counts().refused == 1


def test_birth_and_goodbye_are_retained(broker: Mosquitto, tmp_path: Path, spool: Spool) -> None:
    publisher = make_publisher(broker, tmp_path, spool)
    peer = Peer(broker, "collector", topics.STATUS)
    publisher.start()
    assert decode(peer.heard.get(timeout=PATIENCE_S).payload, Status).online
    publisher.stop(flush_s=0)
    status = decode(peer.heard.get(timeout=PATIENCE_S).payload, Status)
    assert not status.online
    assert status.spool_id == spool.spool_id
    peer.close()
    late = Peer(broker, "collector", topics.STATUS)
    message = late.heard.get(timeout=PATIENCE_S)
    assert message.retain
    assert not decode(message.payload, Status).online
    late.close()


def test_the_last_will_says_of_which_life_it_is_and_what_its_clock_was_worth(
    broker: Mosquitto, tmp_path: Path, spool: Spool
) -> None:
    """The collector needs both (`collector.known`)."""
    now = datetime.now(UTC)
    status = Status(probe_id="p1", online=True, at=now, started_at=now, clock=Clock(synchronised=False))
    publisher = Publisher(settings(broker, tmp_path), "p1", spool, lambda: status)
    peer = Peer(broker, "collector", topics.STATUS)
    publisher.start()
    assert decode(peer.heard.get(timeout=PATIENCE_S).payload, Status) == status
    connection = publisher._client.socket()
    assert connection is not None
    connection.shutdown(socket.SHUT_RDWR)
    will = msgspec.structs.replace(status, online=False, at=None)
    assert decode(peer.heard.get(timeout=PATIENCE_S).payload, Status) == will
    publisher.stop(flush_s=0)
    peer.close()


def test_a_refused_password_is_said_once_and_the_agent_lives_on(
    broker: Mosquitto, tmp_path: Path, spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = make_publisher(broker, tmp_path, spool, password="wrong")
    said = threading.Event()
    logged = publisher._client.on_connect
    assert logged is not None

    def on_connect(*arguments: object) -> None:
        logged(*arguments)  # type: ignore[call-arg, misc, arg-type]  # passes on whatever paho gives
        said.set()

    publisher._client.on_connect = on_connect  # type: ignore[assignment]  # the same
    publisher.start()
    assert said.wait(PATIENCE_S)
    assert ask(publisher, timeout_s=0.2) is None
    publisher.stop(flush_s=0)
    lines = [record.getMessage() for record in caplog.records if "refuses this probe" in record.getMessage()]
    assert len(lines) == 1
    assert "check user and password in" in lines[0]
    assert "wrong" not in lines[0]


def test_held_telemetry_goes_out_with_its_cadence_in_one_message(
    broker: Mosquitto, tmp_path: Path, collector: Peer
) -> None:
    spool = Spool(tmp_path / "held.db", max_bytes=10**9, defer_s=1)
    publisher = make_publisher(broker, tmp_path, spool)
    publisher.start()
    assert publisher.wait_until_connected(PATIENCE_S)
    for _ in range(5):
        spool.defer(result())
        publisher.wake()
    raws = unpack(collector.heard.get(timeout=PATIENCE_S).payload)
    assert [decode_result(raw).seq for raw in raws] == [1, 2, 3, 4, 5]
    publisher.stop(flush_s=0)
    spool.close()


def test_telemetry_comes_to_disk_while_the_broker_is_away(broker: Mosquitto, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "held.db", max_bytes=10**9, defer_s=0.2)
    broker.kill()
    publisher = make_publisher(broker, tmp_path, spool)
    publisher.start()
    spool.defer(result())
    publisher.wake()
    deadline_s = time.monotonic() + PATIENCE_S
    while not spool.oldest(1):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    publisher.stop(flush_s=0)
    spool.close()


def test_a_status_is_sent_when_it_says_something_new_and_else_seldom(
    monkeypatch: pytest.MonkeyPatch, broker: Mosquitto, tmp_path: Path, spool: Spool
) -> None:
    monkeypatch.setattr(publisher_module, "STATUS_NOT_WITHIN_S", 0.0)
    said = {"backlog": 0, "spool_error": None}
    publisher = Publisher(settings(broker, tmp_path), "p1", spool, lambda: Status(probe_id="p1", online=True, **said))
    peer = Peer(broker, "collector", topics.STATUS)
    publisher.start()
    peer.heard.get(timeout=PATIENCE_S)
    said["backlog"] = 5
    publisher.wake()
    with pytest.raises(queue.Empty):
        peer.heard.get(timeout=0.5)
    said["spool_error"] = "full"
    publisher.wake()
    assert decode(peer.heard.get(timeout=PATIENCE_S).payload, Status).spool_error == "full"
    publisher.stop(flush_s=0)
    peer.close()


def test_the_collector_asks_for_results_and_hears_what_is_gone(
    publisher: Publisher, spool: Spool, collector: Peer, broker: Mosquitto
) -> None:
    replies = Peer(broker, "collector", topics.REPLY)
    fill(spool, 1)
    spool.append(result())
    fill(spool, 1)
    publisher.wake()
    before = collector.results(3)
    collector.ack(Ack(spool_id=spool.spool_id, stored=((1, 3),)))
    assert publisher.wait_until_empty(PATIENCE_S)
    command = encode(Resend(spool_id=spool.spool_id, ranges=((1, 9),)))
    for payload in (b"garbage", b'{"command":"reboot"}', encode(Resend(spool_id="x", ranges=((1, 1),)))[:-9], command):
        collector.client.publish(topics.topic("p1", topics.COMMAND), payload, qos=1)
    assert decode(replies.heard.get(timeout=PATIENCE_S).payload, Gone).ranges == ((1, 1), (3, 3))
    assert collector.results(1) == [before[1]], "the same result under the same number"
    collector.ack(Ack(spool_id=spool.spool_id, stored=((2, 2),)))
    assert publisher.wait_until_empty(PATIENCE_S)
    collector.client.publish(topics.topic("p1", topics.COMMAND), command, qos=1)
    with pytest.raises(queue.Empty):  # at most one command a minute
        replies.heard.get(timeout=0.5)
    replies.close()


def ask(publisher: Publisher, *, timeout_s: float) -> LeaseReply | None:
    with publisher.ask(Wish("viettel", transfers=2, length_s=10)) as next_answer:
        return next_answer(timeout_s)


def test_a_lease_is_asked_for_and_its_answer_heard(publisher: Publisher, broker: Mosquitto) -> None:
    responder = Peer(broker, "responder", topics.LEASE_REQUEST)

    def answer() -> None:
        request = decode(responder.heard.get(timeout=PATIENCE_S).payload, LeaseRequest)
        reply = Busy(request_id=request.request_id, responder="r1", retry_in_s=7)
        responder.client.publish(topics.topic("p1", topics.LEASE_GRANT), b"garbage", qos=1)
        responder.client.publish(topics.topic("p1", topics.LEASE_GRANT), encode(reply), qos=1)

    thread = threading.Thread(target=answer)
    thread.start()
    reply = ask(publisher, timeout_s=PATIENCE_S)
    thread.join()
    responder.close()
    assert isinstance(reply, Busy)
    assert reply.retry_in_s == 7


def test_nobody_answers_a_lease_request(publisher: Publisher) -> None:
    assert publisher.wait_until_connected(PATIENCE_S)
    assert ask(publisher, timeout_s=0.2) is None


def test_nothing_is_sent_while_a_test_has_the_link_and_nothing_is_lost(
    publisher: Publisher, spool: Spool, broker: Mosquitto, collector: Peer
) -> None:
    watcher, responder = Peer(broker, "collector", topics.STATUS), Peer(broker, "responder", topics.LEASE_REQUEST)
    assert decode(watcher.heard.get(timeout=PATIENCE_S).payload, Status).online
    fill(spool, 2)
    publisher.wake()
    assert [r.seq for r in collector.results(2)] == [1, 2]
    with publisher.quiet():
        fill(spool, 3)
        publisher._next_status_s = 0.0  # a status is due as well
        publisher.wake()
        collector.ack(Ack(spool_id=spool.spool_id, stored=((1, 2),)))  # wakes it, too
        with publisher.ask(Wish("viettel", transfers=2, length_s=10.0)) as next_answer:
            assert next_answer(0.1) is None
        assert responder.heard.get(timeout=PATIENCE_S), "a lease may be asked for all the same"
        with pytest.raises(queue.Empty):
            collector.heard.get(timeout=1.5)
        assert watcher.heard.empty()
        assert spool.counts().waiting == 3, "acknowledgements are heard meanwhile"
    assert [r.seq for r in collector.results(3)] == [3, 4, 5]
    assert decode(watcher.heard.get(timeout=PATIENCE_S).payload, Status).backlog == 3
    for peer in (watcher, responder):
        peer.close()


def test_a_test_does_not_wait_for_ever_for_a_broker_that_takes_nothing(
    publisher: Publisher, spool: Spool, broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher_module, "QUIET_WITHIN_S", 0.3)
    assert publisher.wait_until_connected(PATIENCE_S)
    assert broker.pid is not None
    os.kill(broker.pid, signal.SIGSTOP)
    try:
        fill(spool, 5)
        publisher.wake()
        begun_s = time.monotonic()
        with publisher.quiet():
            waited_s = time.monotonic() - begun_s
    finally:
        os.kill(broker.pid, signal.SIGCONT)
    assert waited_s < PATIENCE_S


def test_two_probes_with_one_name_do_not_wear_out_the_sim(
    broker: Mosquitto, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spools = [Spool(tmp_path / f"spool-{n}.db", max_bytes=10**9) for n in range(2)]
    twins = [make_publisher(broker, tmp_path, one) for one in spools]
    for twin in twins:
        twin.start()
    deadline_s = time.monotonic() + 6 * PATIENCE_S
    while "is another probe called p1?" not in caplog.text:
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    assert caplog.text.count("connected to broker") < 12, "each time they wait longer"
    for twin, spool in zip(twins, spools, strict=True):
        twin.stop(flush_s=0)
        spool.close()
