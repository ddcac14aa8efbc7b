"""Spool → MQTT, and the probe's other talk with the servers (status, leases). The agent's only door to paho.

A result leaves the spool when the collector's `Ack` names it; the broker's own acknowledgement counts for nothing (a
broker may acknowledge and then forget). What is sent and not acked is sent again, ever more rarely, and no more than a
window of results is under way, so that a collector that is away costs few cellular bytes.
"""

from __future__ import annotations

import logging
import queue
import secrets
import socket
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agent.lease import Habits
from base.broker import make_client
from base.durable import StorageError
from wire import topics
from wire.codec import Undecodable, decode, decode_lease_reply, encode, pack
from wire.delivery import MAX_RESEND_RANGES, Ack, Gone, Resend
from wire.leases import LeaseReply, LeaseRequest
from wire.status import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from paho.mqtt.client import Client, MQTTMessage, MQTTMessageInfo

    from agent.lease import Wish
    from agent.spool import Spool, Waiting
    from base.broker import BrokerSettings

log = logging.getLogger(__name__)

WINDOW: Final = 400
"""Results that may be under way at once."""
BATCH: Final = 100
"""Results in one message."""
BATCH_BYTES: Final = 240 * 1024
FIRST_RESEND_S: Final = 30.0
LAST_RESEND_S: Final = 1800.0
STATUS_EVERY_S: Final = 900.0
STATUS_NOT_WITHIN_S: Final = 300.0
"""A status that says something new is sent at once, unless the last one is younger than this."""
COMMANDS_NOT_WITHIN_S: Final = 60.0
"""Commands that follow each other faster are ignored: who needs them sends them again."""
_UNANSWERED_AFTER_MS: Final = 60_000
"""A connection whose bytes nobody acknowledges for so long is given up: the modem has another address by now."""
_LOOK_S: Final = 0.02
SHORT_CONNECTION_S: Final = 10.0
LONGEST_RECONNECT_S: Final = 60
"""Connections that are lost at once are made ever more rarely: each costs a TLS handshake on the SIM's account."""
_SUSPICIOUS_RECONNECT_S: Final = 8
QUIET_WITHIN_S: Final = 5.0
"""How long a test waits for what is under way to the broker."""


class Publisher:
    """Runs paho's network thread and one of its own; every method may be called from any thread."""

    def __init__(self, broker: BrokerSettings, probe_id: str, spool: Spool, status: Callable[[], Status]) -> None:
        """Prepare an unconnected client; raise base.broker.CredentialsError."""
        self.habits = Habits()
        self._broker = broker
        self._probe_id = probe_id
        self._spool = spool
        self._status = status
        self._sent: dict[int, tuple[float, float]] = {}  # seq → (when to send again, the delay that led there)
        self._changed = threading.Condition()
        self._work = True
        self._stopping = False
        self._quiet = 0
        self._pumping = threading.Lock()
        self._under_way: list[MQTTMessageInfo] = []
        self._next_status_s = 0.0
        self._status_sent_s = -STATUS_NOT_WITHIN_S
        self._told: object = None
        self._command_taken_s = -COMMANDS_NOT_WITHIN_S
        self._connected = threading.Event()
        self._connected_at_s = 0.0
        self._reconnect_s = 1
        self._last_refusal = ""
        self._leases: dict[str, queue.SimpleQueue[LeaseReply]] = {}
        self._pump = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._client = make_client(broker, client_id=probe_id, clean_session=False)
        self._client.max_queued_messages_set(2 * WINDOW)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_message = self._on_message
        self._client.on_socket_open = _give_up_dead_connections

    def start(self) -> None:
        """Connect in the background, for as long as it takes."""
        will = msgspec.structs.replace(self._last_status(online=False), at=None, links=())
        self._client.will_set(self._topic(topics.STATUS), encode(will), qos=1, retain=True)
        self._client.connect_async(self._broker.host, self._broker.port, keepalive=self._broker.keepalive_s)
        self._client.loop_start()
        self._pump.start()

    def stop(self, *, flush_s: float) -> None:
        """Wait up to `flush_s` for what is spooled to be acknowledged, say goodbye, and end both threads."""
        self.wake()
        if self._connected.is_set():
            self.wait_until_empty(flush_s)
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._pump.join(timeout=10)
        if self._connected.is_set():
            goodbye = self._client.publish(
                self._topic(topics.STATUS), encode(self._last_status(online=False)), 1, retain=True
            )
            try:
                goodbye.wait_for_publish(timeout=5)
            except (RuntimeError, ValueError):
                log.debug("the goodbye was not confirmed")
        self._client.disconnect()
        self._client.loop_stop()

    def wake(self) -> None:
        """Look at the spool now."""
        with self._changed:
            self._work = True
            self._changed.notify_all()

    def tell_status(self) -> None:
        """Send the status now, whatever was told before."""
        with self._changed:
            self._next_status_s = 0.0
        self.wake()

    def wait_until_connected(self, timeout_s: float) -> bool:
        """Wait for the broker; tell whether it is there."""
        return self._connected.wait(timeout_s)

    def wait_until_empty(self, timeout_s: float) -> bool:
        """Wait until the collector has acknowledged all that is spooled; tell whether it has."""

        def empty() -> bool:
            return self._stopping or not self._spool.oldest(1)

        with self._changed:
            return self._changed.wait_for(empty, timeout_s)

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Send no result and no status inside: a test has the link for itself. What came up meanwhile is sent after.

        Waits a while for what the broker has not taken yet; keepalive and leases pass.
        """
        with self._changed:
            self._quiet += 1
        try:
            with self._pumping:
                under_way, self._under_way = self._under_way, []
            deadline_s = time.monotonic() + QUIET_WITHIN_S
            while self._connected.is_set() and not all(map(_taken, under_way)):
                if time.monotonic() >= deadline_s:
                    log.info("the broker has not taken everything yet; the test begins")
                    break
                time.sleep(_LOOK_S)
            yield
        finally:
            with self._changed:
                self._quiet -= 1
            self.wake()

    @contextmanager
    def ask(self, wish: Wish) -> Iterator[Callable[[float], LeaseReply | None]]:
        """Ask for servers; inside, each call gives the next answer, or None if none comes within so many seconds.

        While the broker is away nothing is asked: the first call waits for it, within its time.
        """
        request = LeaseRequest(request_id=secrets.token_hex(8), probe_id=self._probe_id, **wish._asdict())
        answers: queue.SimpleQueue[LeaseReply] = queue.SimpleQueue()
        asked = False

        def next_answer(timeout_s: float) -> LeaseReply | None:
            nonlocal asked
            deadline_s = time.monotonic() + timeout_s
            if not asked:
                if not self._connected.wait(timeout_s):
                    return None
                self._client.publish(self._topic(topics.LEASE_REQUEST), encode(request), qos=1)
                asked = True
            try:
                return answers.get(timeout=max(0.0, deadline_s - time.monotonic()))
            except queue.Empty:
                return None

        self._leases[request.request_id] = answers
        try:
            yield next_answer
        finally:
            del self._leases[request.request_id]

    # --- sending ------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._stopping or (self._work and not self._quiet),
                    timeout=None if self._quiet else self._idle_s(),
                )
                if self._stopping:
                    return
                self._work = False
            with self._pumping:
                self._send_all()

    def _send_all(self) -> None:
        self._under_way = [sent for sent in self._under_way if not _taken(sent)]
        try:
            self._flush_due()
            if self._connected.is_set() and not self._quiet:
                self._tell_status()
                self._send_due()
        except StorageError as error:
            log.error("%s", error)  # noqa: TRY400  # the message says all; a traceback helps nobody

    def _idle_s(self) -> float:
        """Time until something is to be sent without being woken."""
        flush_in_s = self._spool.flush_in_s()
        idle_s = STATUS_EVERY_S if flush_in_s is None else flush_in_s if flush_in_s > 0 else FIRST_RESEND_S
        if self._connected.is_set():
            soonest = min((at for at, _ in self._sent.values()), default=self._next_status_s)
            idle_s = min(idle_s, min(soonest, self._next_status_s) - time.monotonic())
        return max(0.05, idle_s)

    def _flush_due(self) -> None:
        """Let telemetry come to disk when its time has come; from there it is sent with all the rest."""
        flush_in_s = self._spool.flush_in_s()
        if flush_in_s is not None and flush_in_s <= 0:
            self._spool.flush()

    def _tell_status(self) -> None:
        """Send the status if it is due, or if what matters in it has changed."""
        now_s = time.monotonic()
        status = self._last_status(online=True)
        links = tuple((link.name, link.operator, link.technology) for link in status.links)
        matters = (status.spool_id, status.spool_error, status.clock.synchronised, links)
        if matters != self._told:
            self._next_status_s = min(self._next_status_s, self._status_sent_s + STATUS_NOT_WITHIN_S)
        if now_s >= self._next_status_s:
            self._publish(topics.STATUS, encode(status), retain=True)
            self._told, self._status_sent_s = matters, now_s
            self._next_status_s = now_s + STATUS_EVERY_S

    def _send_due(self) -> None:
        waiting = self._spool.oldest(WINDOW)
        now = time.monotonic()
        held = {row.seq for row in waiting}
        self._sent = {seq: plan for seq, plan in self._sent.items() if seq in held}
        batch: list[Waiting] = []
        size = 0
        for row in waiting:
            if row.seq in self._sent and self._sent[row.seq][0] > now:
                continue
            if len(batch) == BATCH or (batch and size + len(row.payload) > BATCH_BYTES):
                self._send(batch)
                batch, size = [], 0
            batch.append(row)
            size += len(row.payload)
        if batch:
            self._send(batch)

    def _send(self, batch: list[Waiting]) -> None:
        now = time.monotonic()
        for row in batch:
            _, delay_s = self._sent.get(row.seq, (0.0, FIRST_RESEND_S / 2))
            delay_s = min(2 * delay_s, LAST_RESEND_S)
            self._sent[row.seq] = (now + delay_s, delay_s)
        self._publish(topics.RESULT, pack([row.payload for row in batch]), retain=False)

    def _publish(self, leaf: str, payload: bytes, *, retain: bool) -> None:
        self._under_way.append(self._client.publish(self._topic(leaf), payload, 1, retain=retain))

    # --- paho's callbacks, on its own thread --------------------------------------------------------------------------

    def _on_connect(self, client: Client, _data: object, _flags: object, reason: Any, _properties: object) -> None:  # noqa: ANN401
        if reason.is_failure:
            if str(reason) != self._last_refusal:
                self._last_refusal = str(reason)
                log.error(
                    "broker %s:%d refuses this probe (%s); check user and password in %s; trying on",
                    self._broker.host,
                    self._broker.port,
                    reason,
                    self._broker.credentials_file,
                )
            return
        self._last_refusal = ""
        log.info("connected to broker %s:%d", self._broker.host, self._broker.port)
        client.subscribe([(self._topic(leaf), 1) for leaf in (topics.ACK, topics.LEASE_GRANT, topics.COMMAND)])
        self._next_status_s = 0.0
        self._connected_at_s = time.monotonic()
        self._connected.set()
        self.wake()

    def _on_disconnect(self, client: Client, _data: object, _flags: object, reason: Any, _properties: object) -> None:  # noqa: ANN401
        if self._connected.is_set() and reason.is_failure:
            short = time.monotonic() - self._connected_at_s < SHORT_CONNECTION_S
            self._reconnect_s = min(2 * self._reconnect_s, LONGEST_RECONNECT_S) if short else 1
            client.reconnect_delay_set(min_delay=self._reconnect_s, max_delay=LONGEST_RECONNECT_S)
            hint = (
                f"; is another probe called {self._probe_id}?" if self._reconnect_s >= _SUSPICIOUS_RECONNECT_S else ""
            )
            log.warning("lost the broker (%s); results wait in the spool%s", reason, hint)
        self._connected.clear()

    def _on_message(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        address = topics.parse(message.topic)
        try:
            if address is not None and address.leaf == topics.ACK:
                self._take(decode(bytes(message.payload), Ack))
            elif address is not None and address.leaf == topics.COMMAND:
                self._obey(decode(bytes(message.payload), Resend))
            elif address is not None and address.leaf == topics.LEASE_GRANT:
                reply = decode_lease_reply(bytes(message.payload))
                if (answers := self._leases.get(reply.request_id)) is not None:
                    answers.put(reply)
        except Undecodable as error:
            log.warning("%s: not understood (%s); ignored", message.topic, error)
        except StorageError as error:
            log.error("%s", error)  # noqa: TRY400  # as above

    def _take(self, ack: Ack) -> None:
        if ack.refused:
            self._spool.refuse(ack.spool_id, ack.refused)
        self._spool.acknowledge(ack.spool_id, ack.stored, ack.checks)
        self.wake()

    def _obey(self, command: Resend) -> None:
        """Queue again what the collector lacks, and say what it will never get. There is no other command."""
        now_s = time.monotonic()
        if now_s - self._command_taken_s < COMMANDS_NOT_WITHIN_S:
            log.warning("a command came too soon after the last one; ignored")
            return
        self._command_taken_s = now_s
        lost = self._spool.resend(command.spool_id, command.ranges)
        log.info("asked to send %s again; gone for good: %s", command.ranges, lost or "none")
        for first in range(0, len(lost), MAX_RESEND_RANGES):
            gone = Gone(spool_id=command.spool_id, ranges=tuple(lost[first : first + MAX_RESEND_RANGES]))
            self._client.publish(self._topic(topics.REPLY), encode(gone), qos=1)
        self.wake()

    # --- small things -------------------------------------------------------------------------------------------------

    def _topic(self, leaf: str) -> str:
        return topics.topic(self._probe_id, leaf)

    def _last_status(self, *, online: bool) -> Status:
        try:
            status = self._status()
        except StorageError as error:
            status = Status(probe_id=self._probe_id, online=True, spool_error=str(error))
        return msgspec.structs.replace(status, online=online)


def _taken(sent: MQTTMessageInfo) -> bool:
    """Whether the broker has a message; one that was sent into nothing counts as taken, nobody waits for it."""
    try:
        return sent.is_published()
    except (RuntimeError, ValueError):
        return True


def _give_up_dead_connections(_client: Client, _data: object, connection: Any) -> None:  # noqa: ANN401  # paho's type
    """Let the kernel end a connection whose other end no longer answers (tcp(7), TCP_USER_TIMEOUT)."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNANSWERED_AFTER_MS)
