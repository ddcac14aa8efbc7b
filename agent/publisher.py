"""Spool → MQTT, and the probe's other talk with the servers (status, leases). The agent's only door to paho.

A result leaves the spool when the collector's `Ack` names it; the broker's own acknowledgement counts for nothing (a
broker may acknowledge and then forget). What is sent and not acked is sent again, ever more rarely, and no more than a
window of results is under way, so that a collector that is away costs few cellular bytes.
"""

from __future__ import annotations

import functools
import logging
import socket
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec

import msgspec

from agent.lease import Habits
from agent.questions import Questions
from agent.resending import Resending
from agent.seldom import Seldom
from base.broker import make_client
from base.durable import StorageError
from wire import topics
from wire.codec import Undecodable, decode, encode, pack
from wire.delivery import MAX_RESEND_RANGES, Ack, Gone, Resend
from wire.status import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from paho.mqtt.client import Client, MQTTMessage, MQTTMessageInfo

    from agent.lease import Wish
    from agent.spool import Spool, Waiting
    from base.broker import BrokerSettings
    from wire.leases import LeaseReply

log = logging.getLogger(__name__)

P = ParamSpec("P")

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


def _held(callback: Callable[Concatenate[Publisher, P], None]) -> Callable[Concatenate[Publisher, P], None]:
    """Let nothing out of a callback: paho's thread would end by it, and nothing be sent or heard any more."""

    @functools.wraps(callback)
    def held(publisher: Publisher, /, *arguments: P.args, **named: P.kwargs) -> None:
        try:
            callback(publisher, *arguments, **named)
        except StorageError as error:
            publisher._complain(error)  # noqa: SLF001  # this stands outside only because a decorator has to
        except Exception:
            log.exception("%s failed; the connection goes on", callback.__name__)

    return held


class Publisher:
    """Runs paho's network thread and one of its own; every method may be called from any thread."""

    def __init__(self, broker: BrokerSettings, probe_id: str, spool: Spool, status: Callable[[], Status]) -> None:
        """Prepare an unconnected client; raise base.broker.CredentialsError."""
        self.habits = Habits()
        self._broker = broker
        self._probe_id = probe_id
        self._spool = spool
        self._status = status
        self._resending = Resending(first_s=FIRST_RESEND_S, last_s=LAST_RESEND_S)
        self._changed = threading.Condition()
        self._work = True
        self._started = False
        self._stopping = False
        self._quiet = 0
        self._spare_disk_until_s = 0.0
        self._disk_trouble: str | None = None
        self._seldom = Seldom()
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
        self._questions = Questions(
            probe_id,
            self._connected,
            lambda request: self._client.publish(self._topic(topics.LEASE_REQUEST), request, 1),
        )
        self._pump = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._client = make_client(broker, client_id=probe_id, clean_session=False)
        self._client.max_queued_messages_set(2 * WINDOW)
        self._client.on_connect = self._on_connect
        self._client.on_connect_fail = self._on_connect_fail
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
        self._started = True

    @property
    def alive(self) -> bool:
        """Whether both threads are at work, as they are from `start` to `stop` unless something has ended one."""
        at_work = self._pump.is_alive() and self._client._thread is not None  # noqa: SLF001  # paho tells it nowhere else
        return at_work or not self._started

    def stop(self, *, flush_s: float) -> None:
        """Wait up to `flush_s` for what is spooled to be acknowledged, say goodbye, and end both threads."""
        self._started = False
        self.wake()
        if self._connected.is_set():
            self.wait_until_empty(flush_s)
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._pump.join(timeout=10)
        try:
            if self._connected.is_set():
                self._say_goodbye()
        finally:
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
        """Wait until the collector has acknowledged all that is spooled; tell whether it has.

        Nothing is waited for where the spool cannot be read.
        """

        def empty() -> bool:
            return self._stopping or not self._spool.oldest(1)

        try:
            with self._changed:
                return self._changed.wait_for(empty, timeout_s)
        except StorageError as error:
            self._complain(error)
            return False

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

    def ask(self, wish: Wish) -> AbstractContextManager[Callable[[float], LeaseReply | None]]:
        """Ask for servers, see `agent.lease.Lender`."""
        return self._questions.ask(wish)

    # --- sending ------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._wait_for_work()
                with self._pumping:
                    self._send_all()
            except Exception:
                log.exception("sending failed; it goes on in %.0f s", FIRST_RESEND_S)
                with self._changed:
                    self._changed.wait_for(lambda: self._stopping, FIRST_RESEND_S)
                    self._work = True

    def _wait_for_work(self) -> None:
        with self._changed:
            self._changed.wait_for(
                lambda: self._stopping or (self._work and not self._quiet),
                timeout=None if self._quiet else self._idle_s(),
            )
            self._work = False

    def _send_all(self) -> None:
        """Do what is due; what one step cannot do keeps no other from its own."""
        defect: Exception | None = None
        self._under_way = [sent for sent in self._under_way if not _taken(sent)]
        if time.monotonic() >= self._spare_disk_until_s:
            self._disk_trouble = None
        for step in (self._flush_due, self._tell_status, self._send_due):
            if self._stopping:
                return
            try:
                step()
            except StorageError as error:
                self._disk_trouble = str(error)
                self._spare_disk_until_s = time.monotonic() + FIRST_RESEND_S
                self._complain(error)
            except Exception as error:  # noqa: BLE001  # it is raised when the others have had their turn
                defect = error
        if defect is not None:
            raise defect

    def _idle_s(self) -> float:
        """Time until something is to be done without being woken."""
        now_s = time.monotonic()
        if self._disk_trouble is not None:
            return max(0.05, self._spare_disk_until_s - now_s)
        flush_in_s = self._spool.flush_in_s()
        idle_s = STATUS_EVERY_S if flush_in_s is None else flush_in_s
        if self._connected.is_set():
            resend_s = self._resending.soonest_s()
            soonest_s = self._next_status_s if resend_s is None else min(resend_s, self._next_status_s)
            idle_s = min(idle_s, soonest_s - now_s)
        return max(0.05, idle_s)

    def _flush_due(self) -> None:
        """Let telemetry come to disk when its time has come, and what the collector has leave it where it did not yet.

        After the disk has refused something it is left in peace for a while, however often somebody wakes us.
        """
        if time.monotonic() < self._spare_disk_until_s:
            return
        self._spool.settle()
        flush_in_s = self._spool.flush_in_s()
        if flush_in_s is not None and flush_in_s <= 0:
            self._spool.flush()

    def _tell_status(self) -> None:
        """Send the status if it is due, or if what matters in it has changed."""
        if not self._may_send():
            return
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
        if not self._may_send():
            return
        batch: list[Waiting] = []
        size = 0
        for row in self._resending.due(self._spool.oldest(WINDOW), time.monotonic()):
            if len(batch) == BATCH or (batch and size + len(row.payload) > BATCH_BYTES):
                self._send(batch)
                batch, size = [], 0
            batch.append(row)
            size += len(row.payload)
        if batch:
            self._send(batch)

    def _send(self, batch: list[Waiting]) -> None:
        self._resending.sent(batch, time.monotonic())
        self._publish(topics.RESULT, pack([row.payload for row in batch]), retain=False)

    def _may_send(self) -> bool:
        return self._connected.is_set() and not self._quiet

    def _publish(self, leaf: str, payload: bytes, *, retain: bool) -> None:
        self._under_way.append(self._client.publish(self._topic(leaf), payload, 1, retain=retain))

    # --- paho's callbacks, on its own thread --------------------------------------------------------------------------

    @_held
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

    @_held
    def _on_connect_fail(self, _client: Client, _data: object) -> None:
        words = "broker %s:%d cannot be reached; results wait in the spool; is the host right, is there a link?"
        if self._seldom.may_say(words):
            log.warning(words, self._broker.host, self._broker.port)

    @_held
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

    @_held
    def _on_message(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        address = topics.parse(message.topic)
        try:
            if address is not None and address.leaf == topics.ACK:
                self._take(decode(bytes(message.payload), Ack))
            elif address is not None and address.leaf == topics.COMMAND:
                self._obey(decode(bytes(message.payload), Resend))
            elif address is not None and address.leaf == topics.LEASE_GRANT:
                self._questions.hear(bytes(message.payload))
        except Undecodable as error:
            log.warning("%s: not understood (%s); ignored", message.topic, error)

    def _take(self, ack: Ack) -> None:
        try:
            self._spool.acknowledge(ack.spool_id, ack.stored, ack.checks)
            if ack.refused:
                self._spool.refuse(ack.spool_id, ack.refused)
        finally:
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
        return msgspec.structs.replace(status, online=online, spool_error=status.spool_error or self._disk_trouble)

    def _say_goodbye(self) -> None:
        goodbye = self._client.publish(
            self._topic(topics.STATUS), encode(self._last_status(online=False)), 1, retain=True
        )
        try:
            goodbye.wait_for_publish(timeout=5)
        except (RuntimeError, ValueError):
            log.debug("the goodbye was not confirmed")

    def _complain(self, error: StorageError) -> None:
        """Log what the disk refuses, the same words seldom."""
        if self._seldom.may_say(str(error)):
            log.error("%s", error)


def _taken(sent: MQTTMessageInfo) -> bool:
    """Whether the broker has a message; one that was sent into nothing counts as taken, nobody waits for it."""
    try:
        return sent.is_published()
    except (RuntimeError, ValueError):
        return True


def _give_up_dead_connections(_client: Client, _data: object, connection: Any) -> None:  # noqa: ANN401  # paho's type
    """Let the kernel end a connection whose other end no longer answers (tcp(7), TCP_USER_TIMEOUT)."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNANSWERED_AFTER_MS)
