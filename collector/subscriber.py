"""MQTT → journal → PUBACK and acknowledgement.

The connection's thread only queues. One journal thread takes whatever is there, stores it in one transaction, and only
then tells the broker (PUBACK) and the probe (wire.delivery.Ack). What cannot be accepted is quarantined, PUBACKed so
that the broker does not send it for ever, and never acknowledged as stored. While the disk refuses, nothing is
confirmed.

Under load a probe is told once in `ACK_EVERY_S` what has been stored of it meanwhile, so that acknowledgements do not
cost more than results; without load, at once. One that is lost with a connection costs a repetition, which the journal
drops: the probe sends again what it was not told of.
"""

from __future__ import annotations

import itertools
import logging
import random
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from base.durable import StorageError
from collector import mqtt
from collector.acks import Acks
from collector.connection import Connection
from collector.handover import Handover
from collector.intake import Intake
from collector.journal import Batch
from collector.quarantine import KEPT_BYTES_PER_ROW
from wire import codec, topics

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from base.broker import BrokerSettings
    from collector.journal import Entry, Journal, ProbeStatus
    from collector.limits import Limits
    from collector.mqtt import Arrival
    from wire.status import ResponderStatus

log = logging.getLogger(__name__)

BATCH_MESSAGES: Final = 1000
BATCH_BYTES: Final = 1024 * 1024
"""About as much as is stored in one transaction, unpacked. More costs memory, and the processor's caches overflow."""
_PACKED: Final = 12
"""How many times as much a message with several results holds as it has bytes, roughly."""
QUEUE_MESSAGES: Final = 5000
QUEUE_BYTES: Final = 32 * 1024 * 1024
LEAVES: Final = (topics.RESULT, topics.STATUS, topics.REPLY, topics.RESPONDER)
"""What the collector hears of a probe and of a responder."""
GATHER_S: Final = 0.002
"""How long a message waits for company before it is stored."""
ACK_EVERY_S: Final = 0.5
_QUARANTINE_SAY_S: Final = 10.0
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 15.0
_LAST_MID: Final = 65535


class Chunk(NamedTuple):
    """Messages that came in one read, and the connection they came on."""

    arrivals: list[Arrival]
    connection: int
    bytes: int
    unpacked: int


class Queue:
    """Messages on their way to the journal: bounded in number and bytes, as long as nobody puts into a full one."""

    def __init__(self, max_messages: int = QUEUE_MESSAGES, max_bytes: int = QUEUE_BYTES) -> None:
        """Bound the queue."""
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._chunks: deque[Chunk] = deque()
        self._messages = 0
        self._bytes = 0
        self._closed = False
        self._changed = threading.Condition()

    @property
    def full(self) -> bool:
        """Whether nothing more should be put in now."""
        return self._closed or self._messages >= self._max_messages or self._bytes >= self._max_bytes

    @property
    def empty(self) -> bool:
        """Whether there is nothing to take."""
        return not self._chunks

    def put(self, arrivals: list[Arrival], connection: int) -> None:
        """Add messages; after `close` they are left out, and the broker will send them again."""
        size = sum([len(one.payload) for one in arrivals])
        plain = sum([len(one.payload) for one in arrivals if one.payload[:1] == b"{"])
        chunk = Chunk(arrivals, connection, size, plain + _PACKED * (size - plain))
        with self._changed:
            if not self._closed:
                self._chunks.append(chunk)
                self._messages += len(arrivals)
                self._bytes += chunk.bytes
                self._changed.notify_all()

    def take(self, messages: int, size: int) -> list[Chunk]:
        """Wait for messages and take about so many, or so many bytes unpacked; nothing: it is closed and empty."""
        with self._changed:
            while not (self._chunks or self._closed):
                self._changed.wait()
        if not self._closed:
            time.sleep(GATHER_S)
        taken = []
        with self._changed:
            while self._chunks and messages > 0 and size > 0:
                chunk = self._chunks.popleft()
                messages -= len(chunk.arrivals)
                size -= chunk.unpacked
                self._messages -= len(chunk.arrivals)
                self._bytes -= chunk.bytes
                taken.append(chunk)
        return taken

    def close(self) -> None:
        """Take nothing more in."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class Subscriber:
    """Hears every probe's results and statuses until it is stopped."""

    def __init__(
        self,
        settings: BrokerSettings,
        journal: Journal,
        *,
        client_id: str,
        subscriptions: Sequence[str] = tuple(map(topics.every_probe, LEAVES)),
        limits: Limits | None = None,
        handover: Handover | None = None,
        on_stored: Callable[[], None],
        on_status: Callable[[ProbeStatus, int, bool], None],
        on_responder: Callable[[ResponderStatus, int], None] = lambda *_: None,
    ) -> None:
        """Prepare; raise CredentialsError. Takes over `journal`, a connection of its own.

        What is stored is put into `handover` too. `on_stored` is called after each transaction, `on_status` and
        `on_responder` for each status with its arrival in µs since 1970; `on_status` also with whether it was news.
        """
        self._journal = journal
        self._limits = limits
        self._handover = handover if handover is not None else Handover(0)
        self._on_stored = on_stored
        self._on_status = on_status
        self._on_responder = on_responder
        self._queue = Queue()
        self._stopping = threading.Event()
        self._unsaid = Acks()
        self._said_at_s = 0.0
        self._mids = itertools.count()
        self._quarantined = 0
        self._quarantine_said_at_s = self._held_back_said_at_s = -_QUARANTINE_SAY_S
        self._connection = Connection(
            settings,
            client_id=client_id,
            filters=subscriptions,
            max_payload_bytes=codec.MAX_PAYLOAD_BYTES,
            kept_bytes=KEPT_BYTES_PER_ROW,
            on_arrivals=self._queue.put,
            may_read=lambda: not self._queue.full,
        )
        self._thread = threading.Thread(target=self._run, name="journal")

    def start(self) -> None:
        """Begin, with both threads or none; a broker that is away is tried again for ever."""
        self._thread.start()
        try:
            self._connection.start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Take nothing more, store and confirm what is queued, leave the broker, close the journal."""
        self._queue.close()
        self._stopping.set()
        self._thread.join()
        self._connection.stop()
        self._journal.close()

    def command(self, probe_id: str, payload: bytes) -> bool:
        """Send a command to a probe; tell whether the broker is there to take it."""
        connection = self._connection.current
        if connection is None:
            return False
        self._connection.send(
            mqtt.publish(topics.topic(probe_id, topics.COMMAND), payload, self._next_mid()), connection
        )
        return True

    @property
    def alive(self) -> bool:
        """Whether both threads run."""
        return self._thread.is_alive() and self._connection.alive

    def _next_mid(self) -> int:
        """Give a message of ours its number; from any thread."""
        return 1 + next(self._mids) % _LAST_MID

    # --- the journal thread ---

    def _run(self) -> None:
        try:
            while chunks := self._queue.take(BATCH_MESSAGES, BATCH_BYTES):
                self._handle(chunks)
                self._connection.wake()  # there is room again
        except Exception:
            log.exception("the journal thread stopped on an error of its own")

    def _handle(self, chunks: Sequence[Chunk]) -> None:
        """Store, confirm, tell; or, when stopped while the disk refuses, leave everything to the broker."""
        received_us = time.time_ns() // 1000
        intake = Intake(limits=self._limits, now_s=time.monotonic(), lined=self._handover.wanted)
        for chunk in chunks:
            for arrival in chunk.arrivals:
                intake.take(arrival)
        conflicts = self._store(
            Batch(
                received_us=received_us,
                results=intake.results,
                parked=intake.parked,
                statuses=intake.statuses,
                gone=intake.gone,
            )
        )
        if conflicts is None:
            return
        # First of all: the writer may be looking already.
        self._handover.put(self._journal.new_ids, [entry.line for entry in intake.results])
        for chunk in chunks:
            self._connection.send(mqtt.pubacks([one.mid for one in chunk.arrivals if one.qos]), chunk.connection)
        self._unsaid.note(intake, conflicts)
        if self._queue.empty or time.monotonic() - self._said_at_s > ACK_EVERY_S:
            self._say()
        if intake.parked or conflicts:
            self._say_quarantined(intake, conflicts)
        if intake.held_back:
            self._say_held_back(intake.held_back)
        self._on_stored()
        for status in intake.statuses:
            self._on_status(status, received_us, status in self._journal.news)
        for responder in intake.responders:
            self._on_responder(responder, received_us)

    def _say(self) -> None:
        """Tell the probes what has been stored; without a connection, later."""
        connection = self._connection.current
        if connection is None:
            return
        packets = [
            mqtt.publish(topics.topic(probe_id, topics.ACK), codec.encode(ack), self._next_mid())
            for probe_id, ack in self._unsaid.take()
        ]
        self._said_at_s = time.monotonic()
        self._connection.send(b"".join(packets), connection)

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
                if not said:
                    self._say()
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
