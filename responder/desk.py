"""Where probes ask for leases: the responder's door to MQTT.

Hears `lease/request` of every probe, answers on `lease/grant` of the same. A message that is no request, or speaks for
another probe than its topic's, is counted and ignored, and so is what a probe asks too often (`responder.pace`); one
that names another responder is ignored in silence. The session is clean: a request from before is worth nothing. The
responder's own status is retained, with a last will. Responders of one group talk on the group's `lending`.
"""

from __future__ import annotations

import functools
import logging
import queue
import time
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Concatenate, Final, NamedTuple, ParamSpec

import msgspec

from base.broker import make_client
from responder import standing
from responder.pace import BURST, REQUESTS_PER_S, Pace
from wire import codec, topics
from wire.leases import GroupWord, LeaseRequest
from wire.status import ResponderStatus

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from paho.mqtt import client as paho
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

    from responder.lender import Lender
    from responder.settings import Settings
    from wire.leases import LeaseReply

log = logging.getLogger(__name__)

P = ParamSpec("P")

MAX_REQUEST_BYTES: Final = 2048
MAX_WORD_BYTES: Final = 256 * 1024
_MAX_WAITING: Final = 1000
_TICK_S: Final = 0.2
_BUSY_TICK_S: Final = 0.05
"""While somebody holds or waits for a lease: a server that has ended is the next one's turn."""
STATUS_EVERY_S: Final = 60.0
"""How often the broker hears of the responder; `probe-responder status` knows more, and sooner."""
_COMPLAIN_EVERY_S: Final = 10.0


class DeskError(Exception):
    """Nothing is sent or heard any more; the text says why."""


def _held(callback: Callable[Concatenate[Desk, P], None]) -> Callable[Concatenate[Desk, P], None]:
    """Let nothing out of a callback: paho's thread would end by it, and nothing be sent or heard any more."""

    @functools.wraps(callback)
    def held(desk: Desk, /, *arguments: P.args, **named: P.kwargs) -> None:
        try:
            callback(desk, *arguments, **named)
        except Exception:
            log.exception("%s failed; the connection goes on", callback.__name__)

    return held


class _Heard(NamedTuple):
    topic: str
    payload: bytes


_CONNECTED: Final = _Heard("", b"")
"""Stands among what is heard where a connection was made: what comes after it was heard on the new one."""


class Desk:
    """Connects, and hands requests to the lender one by one, on the thread that calls `run`."""

    def __init__(self, settings: Settings, lender: Lender, clock: Callable[[], float] = time.monotonic) -> None:
        """Take what is needed; raise base.broker.CredentialsError. Nothing is connected yet."""
        self.ignored: Counter[str] = Counter()
        """Messages that were no requests, by what was wrong with them."""
        self._broker = settings.broker
        self._responder_id = settings.responder_id
        self._status_file = settings.status_file
        self._file_trouble = ""
        self._file_due_s = self._status_due_s = float("-inf")
        self._lender = lender
        self._group_topic = topics.topic(settings.group, topics.LENDING) if settings.group is not None else None
        self._was_deaf = False
        self._clock = clock
        self._complained_s = float("-inf")
        self._heard: queue.SimpleQueue[_Heard] = queue.SimpleQueue()
        self._pace = Pace()
        self._client = make_client(
            settings.broker, client_id=f"probefleet-responder-{settings.responder_id}", clean_session=True
        )
        self._client.max_queued_messages_set(_MAX_WAITING)
        self._client.on_connect = self._on_connect
        self._client.on_connect_fail = self._on_connect_fail
        self._client.on_disconnect = self._on_disconnect
        self._client.on_message = self._on_message

    def run(self, stop: threading.Event) -> None:
        """Serve until `stop` is set. A broker that cannot be reached, or goes away, is waited for.

        Raise DeskError where the connection's own thread has ended: a defect, and only a new start helps.
        """
        gone = ResponderStatus(responder=self._responder_id, online=False)
        self._client.will_set(self._status_topic, codec.encode(gone), qos=1, retain=True)
        self._client.connect_async(self._broker.host, self._broker.port, keepalive=self._broker.keepalive_s)
        self._client.loop_start()
        try:
            while not stop.is_set():
                if self._client._thread is None:  # noqa: SLF001  # paho tells it nowhere else
                    raise DeskError("the thread that talks with the broker has ended; its last words are above")
                self._lender.tick()
                self._tell()
                try:
                    heard = self._heard.get(timeout=_BUSY_TICK_S if self._lender.leases else _TICK_S)
                except queue.Empty:
                    continue
                self._handle(heard)
        finally:
            standing.remove(self._status_file)
            if self._client.is_connected():
                self._client.publish(self._status_topic, codec.encode(gone), qos=1, retain=True)
            self._client.disconnect()
            self._client.loop_stop()

    def _handle(self, heard: _Heard) -> None:
        if heard is _CONNECTED:
            if self._lender.group is not None:
                self._lender.group.connected(self._clock())
            return
        if heard.topic == self._group_topic:
            self._hear_word(heard)
            return
        request = read(heard.topic, heard.payload)
        if isinstance(request, str):
            self._ignore(heard.topic, request)
        elif request.responder in {None, self._responder_id}:
            reply = self._lender.answer(request)
            if reply is not None:
                self._send(request.probe_id, reply)

    def _hear_word(self, heard: _Heard) -> None:
        try:
            word = codec.decode(heard.payload, GroupWord)
        except codec.Undecodable as error:
            self._ignore(heard.topic, f"no word of a group: {error}")
            return
        self._lender.hear(word)

    def _send(self, probe_id: str, reply: LeaseReply) -> None:
        if not self._client.is_connected():
            log.warning("%s: the broker is gone, the answer is not sent", probe_id)
            return
        self._client.publish(topics.topic(probe_id, topics.LEASE_GRANT), codec.encode(reply), qos=1)

    def _tell(self) -> None:
        """Send what probes and the group are to hear, and say how things stand, when it is time to."""
        group = self._lender.group
        if group is not None and self._group_topic is not None:
            for word in group.take_words():
                if self._client.is_connected():  # if not, everything is said anew at the next connection
                    self._client.publish(self._group_topic, codec.encode(word), qos=1)
            deaf = self._client.is_connected() and group.is_deaf(self._clock())
            if deaf and not self._was_deaf:
                log.error(
                    "what we say on %s does not come back, so no test in a known cell can be lent: "
                    "the broker's ACL must let us read and write it (config/mosquitto/acl)",
                    self._group_topic,
                )
            self._was_deaf = deaf
        for news in self._lender.take_news():
            self._send(news.probe_id, news.reply)
        now_s = self._clock()
        self._lender.counts["ignored"] = self.ignored.total()
        if now_s >= self._file_due_s:
            self._file_due_s = now_s + standing.WRITE_EVERY_S
            try:
                standing.write(self._status_file, standing.take(self._lender, now_s))
                self._file_trouble = ""
            except OSError as error:
                if str(error) != self._file_trouble:
                    self._file_trouble = str(error)
                    log.warning("status_file: %s; `probe-responder status` will not work", error)
        if now_s >= self._status_due_s and self._client.is_connected():
            self._status_due_s = now_s + STATUS_EVERY_S
            status = msgspec.structs.replace(self._lender.status(), at=datetime.now(UTC))
            self._client.publish(self._status_topic, codec.encode(status), qos=1, retain=True)

    @property
    def _status_topic(self) -> str:
        return topics.topic(self._responder_id, topics.RESPONDER)

    def _ignore(self, topic: str, why: str) -> None:
        self.ignored[why.partition(":")[0]] += 1
        now_s = self._clock()
        if now_s - self._complained_s >= _COMPLAIN_EVERY_S:  # whoever floods us does not flood the log
            self._complained_s = now_s
            log.warning("ignored a message on %s: %s (%d ignored so far)", topic, why, self.ignored.total())

    # --- on paho's thread -------------------------------------------------------------------------------------------

    @_held
    def _on_connect(
        self,
        client: paho.Client,
        _userdata: object,
        _flags: paho.ConnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        where = f"{self._broker.host}:{self._broker.port}"
        if reason.is_failure:
            log.error("broker %s refuses us: %s; check broker.credentials_file", where, reason)
            return
        log.info("connected to broker %s", where)
        client.subscribe(topics.every_probe(topics.LEASE_REQUEST), qos=1)
        if self._group_topic is not None:
            client.subscribe(self._group_topic, qos=1)
        self._heard.put(_CONNECTED)
        self._status_due_s = float("-inf")

    @_held
    def _on_connect_fail(self, _client: paho.Client, _userdata: object) -> None:
        log.warning("broker %s:%d cannot be reached; trying on", self._broker.host, self._broker.port)

    @_held
    def _on_disconnect(
        self,
        _client: paho.Client,
        _userdata: object,
        _flags: paho.DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            log.warning("connection to the broker lost: %s", reason)

    @_held
    def _on_message(self, _client: paho.Client, _userdata: object, message: paho.MQTTMessage) -> None:
        if message.topic != self._group_topic and not self._pace.admit(message.topic, self._clock()):
            self._ignore(message.topic, f"too often: more than {REQUESTS_PER_S:g} a second, and {BURST} at once")
        elif self._heard.qsize() >= _MAX_WAITING:
            self.ignored["too many are waiting"] += 1
        elif message.retain:
            self.ignored["retained"] += 1
        else:
            most = MAX_WORD_BYTES if message.topic == self._group_topic else MAX_REQUEST_BYTES + 1
            self._heard.put(_Heard(message.topic, bytes(message.payload[:most])))


def read(topic: str, payload: bytes) -> LeaseRequest | str:
    """Read a request; a string says what is wrong with it, the kind of mistake before the first colon."""
    address = topics.parse(topic)
    if address is None or address.leaf != topics.LEASE_REQUEST:
        return "wrong topic"
    if len(payload) > MAX_REQUEST_BYTES:
        return f"too large: at most {MAX_REQUEST_BYTES} bytes are read"
    try:
        request = codec.decode(payload, LeaseRequest)
    except codec.Undecodable as error:
        return f"no request: {error}"
    if request.probe_id != address.probe_id:
        return f"wrong probe: it speaks for {request.probe_id}"
    return request
