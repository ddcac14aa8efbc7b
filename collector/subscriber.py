"""MQTT → journal → PUBACK and acknowledgement: the collector's one door to the broker.

The network thread only queues. One journal thread takes whatever is there, stores it in one transaction, and only then
tells the broker (PUBACK) and the probe (wire.messages.Ack). What cannot be accepted is quarantined, PUBACKed so that
the broker does not send it for ever, and never acknowledged as stored. While the disk refuses, nothing is confirmed.

A PUBACK belongs to the connection its message came on: after a reconnect the broker sends unconfirmed messages again
(MQTT 3.1.1, 4.4) and may give their numbers to others, so stale ones are dropped; the journal knows duplicates.
"""

from __future__ import annotations

import logging
import random
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from base.broker import BrokerSettings, CredentialsError, make_client, read_credentials
from base.durable import StorageError
from collector.intake import Arrival, Intake, acks
from collector.journal import KEPT_BYTES_PER_ROW, Batch
from wire import codec, topics

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

    from collector.journal import Entry, Journal, ProbeStatus
    from collector.limits import Limits
    from wire.messages import ResponderStatus

log = logging.getLogger(__name__)

BATCH_MESSAGES: Final = 1000
QUEUE_MESSAGES: Final = 5000
QUEUE_BYTES: Final = 32 * 1024 * 1024
LEAVES: Final = (topics.RESULT, topics.STATUS, topics.RESPONDER)
"""What the collector hears of a probe and of a responder."""
_SUBSCRIPTIONS_AT_ONCE: Final = 500
GATHER_S: Final = 0.002
"""How long a message waits for company before it is stored."""
ACKS_IN_FLIGHT: Final = 500
_SAY_AGAIN_AFTER_S: Final = 600.0
_QUARANTINE_SAY_S: Final = 10.0
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 15.0
_LEAVE_S: Final = 5.0
_SHORT_CONNECTION_S: Final = 5.0


class Message(NamedTuple):
    """An arrival, and what its PUBACK needs: number, quality of service, and the connection it came on."""

    arrival: Arrival
    mid: int
    qos: int
    connection: int


class Queue:
    """Messages on their way to the journal: bounded in number and bytes; a full queue holds the broker back."""

    def __init__(self, max_messages: int = QUEUE_MESSAGES, max_bytes: int = QUEUE_BYTES) -> None:
        """Bound the queue."""
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._messages: deque[Message] = deque()
        self._bytes = 0
        self._closed = False
        self._changed = threading.Condition()

    def put(self, message: Message) -> None:
        """Add one, waiting for room; after `close` it is left out, and the broker will send it again."""
        size = len(message.arrival.payload)
        with self._changed:
            while not self._closed and self._full(size):
                self._changed.wait()
            if not self._closed:
                self._messages.append(message)
                self._bytes += size
                self._changed.notify_all()

    def take(self, limit: int) -> list[Message]:
        """Wait for messages and take up to `limit`; an empty list says that the queue is closed and empty."""
        with self._changed:
            while not (self._messages or self._closed):
                self._changed.wait()
        if not self._closed:
            time.sleep(GATHER_S)
        with self._changed:
            taken = [self._messages.popleft() for _ in range(min(limit, len(self._messages)))]
            self._bytes -= sum(len(message.arrival.payload) for message in taken)
            self._changed.notify_all()
        return taken

    def close(self) -> None:
        """Take nothing more in."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _full(self, size: int) -> bool:
        return bool(self._messages) and (
            len(self._messages) >= self._max_messages or self._bytes + size > self._max_bytes
        )


class Subscriber:
    """Hears every probe's results and statuses until it is stopped; reconnects for ever."""

    def __init__(
        self,
        settings: BrokerSettings,
        journal: Journal,
        *,
        client_id: str,
        subscriptions: Sequence[str] = tuple(map(topics.every_probe, LEAVES)),
        limits: Limits | None = None,
        on_stored: Callable[[], None],
        on_status: Callable[[ProbeStatus, int], None],
        on_responder: Callable[[ResponderStatus, int], None] = lambda *_: None,
    ) -> None:
        """Prepare; raise CredentialsError. Takes over `journal`, a connection of its own.

        `on_stored` is called after each transaction, `on_status` and `on_responder` for each status with its arrival in
        µs since 1970.
        """
        self._settings = settings
        self._journal = journal
        self._subscriptions = subscriptions
        self._limits = limits
        self._on_stored = on_stored
        self._on_status = on_status
        self._on_responder = on_responder
        self._queue = Queue()
        self._stopping = threading.Event()
        self._connection = 0
        self._connected_at_s = 0.0
        self._trouble = ""
        self._said_at_s = 0.0
        self._quarantined = 0
        self._quarantine_said_at_s = self._held_back_said_at_s = -_QUARANTINE_SAY_S
        self._client = make_client(settings, client_id=client_id, clean_session=False, manual_ack=True)
        self._client.suppress_exceptions = True  # an error in a callback is logged and does not end the network thread
        self._client.enable_logger(_paho_log())
        self._client.max_inflight_messages_set(ACKS_IN_FLIGHT)
        self._client.on_connect = self._connected
        self._client.on_connect_fail = self._not_connected
        self._client.on_disconnect = self._disconnected
        self._client.on_subscribe = self._subscribed
        self._client.on_message = self._arrived
        self._thread = threading.Thread(target=self._run, name="journal")

    def start(self) -> None:
        """Begin; a broker that is away is tried again for ever."""
        self._thread.start()
        self._client.connect_async(self._settings.host, self._settings.port, self._settings.keepalive_s)
        self._client.loop_start()

    def stop(self) -> None:
        """Take nothing more, store and confirm what is queued, leave the broker, close the journal."""
        self._queue.close()
        self._stopping.set()
        self._thread.join()
        deadline_s = time.monotonic() + _LEAVE_S
        while self._client.is_connected() and self._client.want_write() and time.monotonic() < deadline_s:
            time.sleep(0.01)
        self._client.disable_logger()  # paho calls the connection we leave an error
        self._client.disconnect()
        self._client.loop_stop()
        self._journal.close()

    @property
    def alive(self) -> bool:
        """Whether both threads run."""
        network = self._client._thread  # noqa: SLF001  # paho has no public way to ask
        return self._thread.is_alive() and network is not None and network.is_alive()

    # --- the network thread ---

    def _connected(
        self, client: Client, _: object, flags: ConnectFlags, reason: ReasonCode, __: Properties | None
    ) -> None:
        if reason.is_failure:
            self._complain(
                f"refused by the broker ({reason}); check the line in"
                f" {self._settings.credentials_file or 'credentials_file'} and the broker's user list"
            )
            self._read_password_again()
            return
        self._connection += 1
        self._connected_at_s = time.monotonic()
        self._trouble = ""
        log.info("connected to the broker; session %s", "resumed" if flags.session_present else "new")
        for first in range(0, len(self._subscriptions), _SUBSCRIPTIONS_AT_ONCE):
            some = self._subscriptions[first : first + _SUBSCRIPTIONS_AT_ONCE]
            client.subscribe([(name, 1) for name in some])

    def _not_connected(self, _: Client, __: object) -> None:
        error = sys.exc_info()[1]  # paho calls this while it handles the error
        self._complain(f"cannot be reached: {error}" if error else "cannot be reached")

    def _disconnected(
        self, _: Client, __: object, flags: DisconnectFlags, reason: ReasonCode, ___: Properties | None
    ) -> None:
        del flags
        self._connection += 1
        if not self._stopping.is_set() and not self._trouble:
            short = time.monotonic() - self._connected_at_s < _SHORT_CONNECTION_S
            hint = "; does another collector use the same client_id?" if short else ""
            self._complain(f"connection lost ({reason}){hint}")

    def _subscribed(self, _: Client, __: object, ___: int, reasons: list[ReasonCode], ____: Properties | None) -> None:
        if any(reason.is_failure for reason in reasons):
            self._complain(
                f"subscription refused; the broker's ACL must let this user read {self._subscriptions[0]} and the like"
            )
        else:
            log.info("listening to %s and the like", self._subscriptions[0])

    def _arrived(self, _: Client, __: object, message: MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = ""
        payload, size = message.payload, len(message.payload)
        if size > codec.MAX_PAYLOAD_BYTES:
            payload = payload[:KEPT_BYTES_PER_ROW]
        self._queue.put(Message(Arrival(topic, bytes(payload), size), message.mid, message.qos, self._connection))

    def _complain(self, what: str) -> None:
        now_s = time.monotonic()
        if what != self._trouble or now_s - self._said_at_s > _SAY_AGAIN_AFTER_S:
            log.warning("broker %s:%d: %s; trying again", self._settings.host, self._settings.port, what)
            self._trouble, self._said_at_s = what, now_s

    def _read_password_again(self) -> None:
        """Let a corrected credentials file work without a restart."""
        if self._settings.credentials_file is None:
            return
        try:
            credentials = read_credentials(self._settings.credentials_file)
        except CredentialsError as error:
            self._complain(str(error))
        else:
            self._client.username_pw_set(credentials.user, credentials.password)

    # --- the journal thread ---

    def _run(self) -> None:
        try:
            while messages := self._queue.take(BATCH_MESSAGES):
                self._handle(messages)
        except Exception:
            log.exception("the journal thread stopped on an error of its own")

    def _handle(self, messages: Sequence[Message]) -> None:
        """Store, confirm, tell; or, when stopped while the disk refuses, leave everything to the broker."""
        received_us = time.time_ns() // 1000
        intake = Intake(limits=self._limits, now_s=time.monotonic())
        for message in messages:
            intake.take(message.arrival)
        conflicts = self._store(
            Batch(received_us=received_us, results=intake.results, parked=intake.parked, statuses=intake.statuses)
        )
        if conflicts is None:
            return
        for probe_id, ack in acks(intake, conflicts):
            self._client.publish(topics.topic(probe_id, topics.ACK), codec.encode(ack), qos=1)
        for message in messages:
            if message.connection == self._connection:
                self._client.ack(message.mid, message.qos)
        if intake.parked or conflicts:
            self._say_quarantined(intake, conflicts)
        if intake.held_back:
            self._say_held_back(intake.held_back)
        self._on_stored()
        for status in intake.statuses:
            self._on_status(status, received_us)
        for responder in intake.responders:
            self._on_responder(responder, received_us)

    def _say_quarantined(self, intake: Intake, conflicts: Sequence[Entry]) -> None:
        """Say it, but not as often as a hostile sender would like; `probe-collector stats` counts them all."""
        self._quarantined += len(intake.parked) + len(conflicts)
        now_s = time.monotonic()
        if now_s - self._quarantine_said_at_s < _QUARANTINE_SAY_S:
            return
        if intake.parked:
            one = intake.parked[0]
            sample = f"{one.topic!r}: {one.reason}: {one.detail[:200]}"
        else:
            sample = f"{conflicts[0].probe_id} {conflicts[0].spool_id} {conflicts[0].seq} holds another result"
        log.warning("quarantined %d, such as: %s", self._quarantined, sample)
        self._quarantined, self._quarantine_said_at_s = 0, now_s

    def _say_held_back(self, held_back: Mapping[str, int]) -> None:
        """Name the probe that brought most beyond its limit; now and then, as above."""
        now_s = time.monotonic()
        if now_s - self._held_back_said_at_s < _QUARANTINE_SAY_S:
            return
        self._held_back_said_at_s = now_s
        most = max(held_back, key=lambda probe: held_back[probe])
        log.warning("%s brings more than one probe may (limits:); %d messages left for later", most, held_back[most])

    def _store(self, batch: Batch) -> list[Entry] | None:
        """Append, as often as it takes; return the conflicts, or None if stopped before it worked."""
        pause_s = _FIRST_PAUSE_S
        said = ""
        while True:
            try:
                conflicts = self._journal.append(batch)
            except StorageError as error:
                if str(error) != said:
                    log.error("%s; nothing is acknowledged, trying again", error)  # noqa: TRY400  # the text says it all
                    said = str(error)
            else:
                if said:
                    log.info("%s: writing again", self._journal.path)
                return conflicts
            if self._stopping.wait(pause_s * random.uniform(0.5, 1.0)):  # noqa: S311  # jitter, not a secret
                return None
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)


def _paho_log() -> logging.Logger:
    """Paho's own lines, without the one per packet."""
    paho_log = logging.getLogger("paho")
    paho_log.setLevel(logging.WARNING)
    return paho_log
