"""The part of MQTT 3.1.1 that a collector needs, without I/O: bytes in, packets out; what to send, as bytes.

A general client spends most of a collector's time on one packet after the other (docs/decisions/0017). Here a whole
read is cut into packets in one loop, and a batch's confirmations are one string of bytes. What an attacker sends costs
bounded memory: of a packet larger than any that is accepted only the beginning is kept.
Sections are those of the OASIS standard "MQTT Version 3.1.1".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from base.broker import Credentials

PINGREQ: Final = b"\xc0\x00"
DISCONNECT: Final = b"\xe0\x00"

# First bytes, section 2.2; a PUBLISH has its flags in the low four bits.
_CONNECT, _CONNACK, _PUBLISH, _PUBACK, _SUBSCRIBE, _SUBACK, _PINGRESP = 0x10, 0x20, 0x30, 0x40, 0x82, 0x90, 0xD0
_TYPE_BITS: Final = 0xF0
_QOS_BITS: Final = 0x06
_QOS_1: Final = 0x02
_LONG: Final = 0x80  # of a length's byte: another one follows (2.2.3)
_TOPIC_MAX_BYTES: Final = 65535
_FAILURE: Final = 0x80  # of a SUBACK (3.9.3)
_REFUSALS: Final = {  # table 3.1
    1: "Unacceptable protocol version",
    2: "Client identifier not valid",
    3: "Server unavailable",
    4: "Bad user name or password",
    5: "Not authorized",
}


class ProtocolError(Exception):
    """The other end does not speak MQTT 3.1.1 as a broker speaks it to us."""


class Arrival(NamedTuple):
    """One message; `size` is its payload's whole length where `payload` was cut because it is too large to be accepted.

    `mid` is what its confirmation names, and means nothing at QoS 0.
    """

    topic: str
    payload: bytes
    size: int
    qos: int = 0
    mid: int = 0


class Connack(NamedTuple):
    """The broker's answer to CONNECT; `refusal` is empty when it let us in."""

    session_present: bool
    refusal: str


class Suback(NamedTuple):
    """The broker's answer to SUBSCRIBE."""

    refused: bool


class Puback(NamedTuple):
    """The broker has a message that we published."""

    mid: int


Packet = Arrival | Connack | Suback | Puback


class Reader:
    """Cuts what the broker sends into packets."""

    def __init__(self, max_payload_bytes: int, kept_bytes: int) -> None:
        """Keep `kept_bytes` of a payload that has more than `max_payload_bytes`."""
        self._max_payload_bytes = max_payload_bytes
        self._kept_bytes = kept_bytes
        self._max_packet_bytes = max_payload_bytes + 2 + _TOPIC_MAX_BYTES + 2
        self._rest = b""
        self._huge: tuple[int, int] | None = None  # first byte and length of the packet that `_rest` begins
        self._missing = 0

    def feed(self, data: bytes) -> list[Packet]:
        """Take any slice of the stream; return the packets it completed; raise ProtocolError."""
        if self._huge is not None:
            return self._feed_huge(self._huge, data)
        buffer = self._rest + data if self._rest else data
        end, place = len(buffer), 0
        packets: list[Packet] = []
        while end - place > 1:
            first, size, body = buffer[place], buffer[place + 1], place + 2
            if size & _LONG:
                length = _length(buffer, place + 1)
                if length is None:
                    break
                size, body = length
            if body + size > end:
                if size > self._max_packet_bytes:
                    self._huge, self._missing, self._rest = (first, size), size, b""
                    return packets + self._feed_huge(self._huge, buffer[body:])
                break
            place = body + size
            if first & _TYPE_BITS == _PUBLISH:
                packets.append(self._arrival(first, buffer, body, place, size))
            elif (other := _other(first, buffer[body:place])) is not None:
                packets.append(other)
        self._rest = buffer[place:]
        return packets

    def _feed_huge(self, huge: tuple[int, int], data: bytes) -> list[Packet]:
        first, size = huge
        if first & _TYPE_BITS != _PUBLISH:
            raise ProtocolError(f"a packet of {size} bytes that is no message")
        room = 2 + _TOPIC_MAX_BYTES + 2 + self._kept_bytes - len(self._rest)
        here, after = data[: self._missing], data[self._missing :]
        self._rest += here[: max(room, 0)]
        self._missing -= len(here)
        if self._missing:
            return []
        arrival = self._arrival(first, self._rest, 0, len(self._rest), size)
        self._huge, self._rest = None, b""
        return [arrival, *self.feed(after)]

    def _arrival(self, first: int, buffer: bytes, body: int, end: int, whole: int) -> Arrival:
        """Read the message at buffer[body:end]; `whole` is what its body was before anything was cut (3.3)."""
        name_end = body + 2 + (buffer[body] << 8 | buffer[body + 1]) if whole > 1 else end + 1
        payload_at = name_end + 2 if first & _QOS_BITS else name_end
        if payload_at > end or first & _QOS_BITS > _QOS_1:
            raise ProtocolError("a message without its topic or number, or of a quality that was not asked for")
        mid = buffer[name_end] << 8 | buffer[name_end + 1] if first & _QOS_BITS else 0
        size = whole - (payload_at - body)
        payload = buffer[payload_at : payload_at + self._kept_bytes if size > self._max_payload_bytes else end]
        topic = buffer[body + 2 : name_end].decode("utf-8", "replace")
        return Arrival(topic, payload, size, (first & _QOS_BITS) >> 1, mid)


def connect(client_id: str, keepalive_s: int, credentials: Credentials | None) -> bytes:
    """Write CONNECT with a session that outlives the connection (3.1)."""
    flags, payload = 0x00, _text(client_id)
    if credentials is not None:
        flags, payload = 0xC0, payload + _text(credentials.user) + _text(credentials.password)
    return _packet(_CONNECT, _text("MQTT") + bytes([4, flags]) + struct.pack(">H", keepalive_s) + payload)


def subscribe(mid: int, filters: Iterable[str]) -> bytes:
    """Write SUBSCRIBE at QoS 1 (3.8)."""
    return _packet(_SUBSCRIBE, struct.pack(">H", mid) + b"".join([_text(name) + b"\x01" for name in filters]))


def pubacks(mids: Sequence[int]) -> bytes:
    """Confirm messages that came at QoS 1 (3.4)."""
    return b"".join([b"\x40\x02" + mid.to_bytes(2) for mid in mids])


def publish(topic: str, payload: bytes, mid: int) -> bytes:
    """Write PUBLISH at QoS 1 (3.3)."""
    return _packet(_PUBLISH | _QOS_1, _text(topic) + mid.to_bytes(2) + payload)


def _packet(first: int, body: bytes) -> bytes:
    length, size = bytearray(), len(body)
    while size >= _LONG:
        length.append(size & (_LONG - 1) | _LONG)
        size >>= 7
    length.append(size)
    return bytes([first]) + length + body


def _text(value: str) -> bytes:
    raw = value.encode()
    return len(raw).to_bytes(2) + raw


def _length(buffer: bytes, place: int) -> tuple[int, int] | None:
    """Read a remaining length; return it and where the body begins, None if it is not all there (2.2.3)."""
    size = 0
    for number, byte in enumerate(buffer[place : place + 4]):
        size |= (byte & (_LONG - 1)) << (7 * number)
        if not byte & _LONG:
            return size, place + number + 1
    if len(buffer) - place >= 4:  # noqa: PLR2004  # the longest a length may be
        raise ProtocolError("a packet's length has no end")
    return None


def _other(first: int, body: bytes) -> Packet | None:
    match first & _TYPE_BITS:
        case 0x20 if len(body) == 2:  # noqa: PLR2004  # CONNACK, 3.2
            code = body[1]
            return Connack(bool(body[0] & 1), _REFUSALS.get(code, f"code {code}") if code else "")
        case 0x90:
            return Suback(any(code & _FAILURE for code in body[2:]))
        case 0x40 if len(body) == 2:  # noqa: PLR2004  # PUBACK, 3.4
            return Puback(body[0] << 8 | body[1])
        case 0xD0:
            return None  # our ping came through
    raise ProtocolError(f"a packet of type {first >> 4} that no broker sends us")
