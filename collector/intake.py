"""What arrived, sorted: results for the journal, statuses, things for quarantine.

Pure. Any topic and any bytes may come in; nothing raises for what it reads, and one bad result spoils no other.
"""

from __future__ import annotations

import contextlib
import re
from functools import lru_cache
from typing import Final

import msgspec

from collector.instants import microseconds
from collector.journal import Entry, ProbeGone, ProbeStatus
from collector.limits import Limits
from collector.mqtt import Arrival  # noqa: TC001  # what an Intake takes: whoever has one finds it here
from collector.points import line
from collector.quarantine import Cause, Parked, Stage
from wire import codec, topics
from wire.codec import Undecodable
from wire.delivery import Gone, Refusal
from wire.results import Result, ResultId
from wire.status import ResponderStatus, Status

MAX_RESULTS_PER_MESSAGE: Final = 5000
MAX_SEQ: Final = 2**53
"""No probe counts so far, every reader of JSON can (RFC 8259 section 6), and what is missing of some spools adds up."""
_MAX_TOLD: Final = 2**63 - 1
"""The greatest number that a refusal may name, so that who sent such a result stops."""
_PROBE_ID: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_SPOOL_ID: Final = re.compile(r"[!-~]{1,64}")
_MAX_REASON_CHARS: Final = 200


class Intake(msgspec.Struct):
    """What the messages of one batch turned out to be; `refused` is by (probe_id, spool_id).

    With `limits`, what a probe brings beyond them at `now_s` is left out; `held_back` counts those messages by probe.
    With `lined`, each result gets the line it makes, if it makes one.
    """

    limits: Limits | None = None
    now_s: float = 0.0
    held_back: dict[str, int] = {}
    lined: bool = False

    results: list[Entry] = []
    statuses: list[ProbeStatus] = []
    responders: list[ResponderStatus] = []
    parked: list[Parked] = []
    gone: list[ProbeGone] = []
    refused: dict[tuple[str, str], list[Refusal]] = {}

    def take(self, arrival: Arrival) -> None:
        """Sort one message in."""
        address = _address(arrival.topic)
        if address is None:
            self._park(arrival, Cause.STRAY_TOPIC, "not the topic of a probe", arrival.payload)
        elif self.limits and not self.limits.admit(address.probe_id, size_bytes=len(arrival.payload), now_s=self.now_s):
            self.held_back[address.probe_id] = self.held_back.get(address.probe_id, 0) + 1
        elif arrival.size > codec.MAX_PAYLOAD_BYTES:
            detail = f"{arrival.size} bytes; at most {codec.MAX_PAYLOAD_BYTES} are accepted"
            self._park(arrival, Cause.TOO_LARGE, detail, arrival.payload)
        elif address.leaf == topics.RESULT:
            self._take_results(arrival, address.probe_id)
        elif address.leaf == topics.STATUS:
            self._take_status(arrival, address.probe_id)
        elif address.leaf == topics.RESPONDER:
            self._take_responder(arrival, address.probe_id)
        elif address.leaf == topics.REPLY:
            self._take_reply(arrival, address.probe_id)
        else:
            self._park(arrival, Cause.STRAY_TOPIC, f"nothing is expected on '{address.leaf}'", arrival.payload)

    def _take_results(self, arrival: Arrival, probe_id: str) -> None:
        try:
            items = codec.unpack(arrival.payload)
        except Undecodable as error:
            self._park(arrival, Cause.UNDECODABLE, str(error), arrival.payload)
            return
        if len(items) > MAX_RESULTS_PER_MESSAGE:
            detail = f"{len(items)} results in one message; at most {MAX_RESULTS_PER_MESSAGE} are accepted"
            self._park(arrival, Cause.TOO_LARGE, detail, arrival.payload)
            return
        if self.limits:
            self.limits.count(probe_id, len(items))
        for item in items:
            try:
                result = codec.decode_result(item)
            except Undecodable as error:
                self._refuse(arrival, probe_id, Cause.UNDECODABLE, str(error), item)
                continue
            if result.probe_id != probe_id:
                detail = f"says it is of '{result.probe_id[:64]}'"
                self._refuse(arrival, probe_id, Cause.FOREIGN_PROBE, detail, item)
            elif not (
                1 <= result.seq <= MAX_SEQ
                and _SPOOL_ID.fullmatch(result.spool_id)
                and (result.formerly is None or result.formerly.seq <= MAX_SEQ)
            ):
                detail = "seq must be from 1 to 2^53 and spool_id 1 to 64 visible ASCII characters"
                self._refuse(arrival, probe_id, Cause.BAD_IDENTITY, detail, item)
            else:
                self.results.append(entry_of(result, item, lined=self.lined))

    def _take_status(self, arrival: Arrival, probe_id: str) -> None:
        if not arrival.payload:
            return  # how MQTT clears a retained message (3.3.1.3)
        try:
            status = codec.decode(arrival.payload, Status)
        except Undecodable as error:
            self._park(arrival, Cause.UNDECODABLE, str(error), arrival.payload)
            return
        if status.probe_id != probe_id:
            self._park(arrival, Cause.FOREIGN_PROBE, f"says it is of '{status.probe_id}'", arrival.payload)
        else:
            self.statuses.append(ProbeStatus(probe_id, arrival.payload))

    def _take_responder(self, arrival: Arrival, responder: str) -> None:
        if not arrival.payload:
            return  # as above
        try:
            status = codec.decode(arrival.payload, ResponderStatus)
        except Undecodable as error:
            self._park(arrival, Cause.UNDECODABLE, str(error), arrival.payload)
            return
        if status.responder != responder:
            self._park(arrival, Cause.FOREIGN_PROBE, f"says it is of '{status.responder}'", arrival.payload)
        else:
            self.responders.append(status)

    def _take_reply(self, arrival: Arrival, probe_id: str) -> None:
        try:
            gone = codec.decode(arrival.payload, Gone)
        except Undecodable as error:
            self._park(arrival, Cause.UNDECODABLE, str(error), arrival.payload)
            return
        ranges = tuple((first, last) for first, last in gone.ranges if first <= last)
        self.gone.append(ProbeGone(probe_id, gone.spool_id, ranges))

    def _refuse(self, arrival: Arrival, probe_id: str, cause: Cause, detail: str, item: bytes) -> None:
        """Park one result and, where it says which it is, tell the probe that sent it that it will never be taken."""
        self._park(arrival, cause, detail, item)
        try:
            identity = codec.decode(item, ResultId)
        except Undecodable:
            return
        if -_MAX_TOLD <= identity.seq <= _MAX_TOLD:
            reason = f"{cause}: {detail}"[:_MAX_REASON_CHARS]
            refusal = Refusal(seq=identity.seq, reason=reason, check=codec.check(item))
            self.refused.setdefault((probe_id, identity.spool_id), []).append(refusal)

    def _park(self, arrival: Arrival, cause: Cause, detail: str, payload: bytes) -> None:
        size = arrival.size if payload is arrival.payload else len(payload)
        self.parked.append(Parked(Stage.INTAKE, arrival.topic, cause, detail, payload, size))


@lru_cache(maxsize=4096)
def _address(topic: str) -> topics.Address | None:
    """Read the topic of a probe; None if it is none."""
    address = topics.parse(topic)
    return address if address is not None and _PROBE_ID.fullmatch(address.probe_id) else None


def entry_of(result: Result, payload: bytes, *, lined: bool = False) -> Entry:
    """Make a result ready for the journal; with `lined` it gets the line it makes, if it makes one."""
    kind = str(result.outcome.__struct_config__.tag)
    text = ""
    if lined:
        with contextlib.suppress(ValueError, OverflowError):
            text = line(result)
    first = result.formerly
    formerly = (first.spool_id, first.seq) if first is not None else None
    began_us = microseconds(result.started_at)
    return Entry(result.probe_id, result.spool_id, result.seq, kind, began_us, payload, text, formerly)
