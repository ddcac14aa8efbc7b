"""DNS messages (RFC 1035 section 4), as much as a question for an address needs. No I/O; bytes in, answers out.

Nothing a stranger sends makes it loop or blow up: it is Malformed, or it is not for us.
"""

from __future__ import annotations

import ipaddress
import struct
from enum import IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEADER: Final = struct.Struct("!6H")
_QUESTION: Final = struct.Struct("!2H")
_RECORD: Final = struct.Struct("!2HIH")
_RECURSION_DESIRED: Final = 0x0100
_RESPONSE: Final = 0x8000
_TRUNCATED: Final = 0x0200
_RCODE: Final = 0x000F
_INTERNET: Final = 1
_CNAME: Final = 5
_POINTER: Final = 0xC0
_MAX_LABEL: Final = 63
_MAX_NAME: Final = 253  # as text; RFC 1035 section 2.3.4 allows 255 octets with their lengths
_MAX_ALIASES: Final = 16
_TTL_SIGN: Final = 0x80000000  # RFC 2181 section 8: such a time to live is 0

NO_ERROR: Final = 0
SERVER_FAILURE: Final = 2
NO_SUCH_NAME: Final = 3
REFUSED: Final = 5


class Malformed(ValueError):
    """An answer to our question that cannot be read; the text says where it breaks."""


class NotAName(ValueError):
    """A text that no name server can be asked for."""


class Kind(IntEnum):
    """What is asked for: RFC 1035 section 3.2.2, RFC 3596 section 2.1."""

    A = 1
    AAAA = 28


class Reply(NamedTuple):
    """What a server says. `ttl_s`: how long the addresses hold, the shortest on the way to them; None without any."""

    rcode: int
    truncated: bool = False
    addresses: tuple[str, ...] = ()
    ttl_s: int | None = None


class _Record(NamedTuple):
    owner: bytes
    kind: int
    ttl_s: int
    at: int
    length: int


def query(ident: int, name: str, kind: Kind) -> bytes:
    """Write the question for a name's addresses, recursion wanted; raise NotAName."""
    header = _HEADER.pack(ident, _RECURSION_DESIRED, 1, 0, 0, 0)
    return header + _written(name) + _QUESTION.pack(kind, _INTERNET)


def read(message: bytes, ident: int, name: str, kind: Kind) -> Reply | None:
    """Read an answer to `query(ident, name, kind)`; None: this is no answer to it; raise Malformed.

    Aliases (CNAME) are followed through the answer section; other records are passed over.
    """
    if len(message) < _HEADER.size:
        return None
    got, flags, questions, answers, _, _ = _HEADER.unpack_from(message)
    if got != ident or not flags & _RESPONSE:
        return None
    rcode, truncated = flags & _RCODE, bool(flags & _TRUNCATED)
    at = _HEADER.size
    if questions == 0 and rcode != NO_ERROR:
        return Reply(rcode)  # a refusal may leave the question out
    if questions != 1:
        raise Malformed(f"{questions} questions in the answer to one")
    asked, at = _name(message, at)
    try:
        if _QUESTION.unpack_from(message, at) != (kind, _INTERNET) or asked != _folded(name):
            return None
        at += _QUESTION.size
        if rcode != NO_ERROR or truncated:
            return Reply(rcode, truncated)
        records = list(_records(message, at, answers))
    except struct.error as error:
        raise Malformed("the message ends in the middle") from error
    return _follow(message, records, asked, kind)


def _records(message: bytes, at: int, count: int) -> Iterator[_Record]:
    for _ in range(count):
        owner, at = _name(message, at)
        kind, net, ttl_s, length = _RECORD.unpack_from(message, at)
        at += _RECORD.size
        if at + length > len(message):
            raise Malformed("a record reaches past the end")
        if net == _INTERNET:
            yield _Record(owner, kind, 0 if ttl_s & _TTL_SIGN else ttl_s, at, length)
        at += length


def _follow(message: bytes, records: list[_Record], name: bytes, kind: Kind) -> Reply:
    ttls_s: list[int] = []
    for _ in range(_MAX_ALIASES):
        own = [record for record in records if record.owner == name]
        if found := [record for record in own if record.kind == kind]:
            addresses = tuple(_address(message[one.at : one.at + one.length], kind) for one in found)
            return Reply(NO_ERROR, addresses=addresses, ttl_s=min([*ttls_s, *(one.ttl_s for one in found)]))
        alias = next((record for record in own if record.kind == _CNAME), None)
        if alias is None:
            break
        ttls_s.append(alias.ttl_s)
        name, _at = _name(message, alias.at)
    return Reply(NO_ERROR)


def _address(data: bytes, kind: Kind) -> str:
    try:
        return str(ipaddress.IPv4Address(data) if kind is Kind.A else ipaddress.IPv6Address(data))
    except ValueError as error:
        raise Malformed(f"an address of {len(data)} bytes") from error


def _ascii(name: str) -> bytes:
    """Give the form that is asked for: ASCII, without the last dot (RFC 3490 for other letters); raise NotAName."""
    plain = name.removesuffix(".")
    try:
        text = plain.encode("ascii") if plain.isascii() else plain.encode("idna")
    except UnicodeError as error:
        raise NotAName(f"{name!r} is no host name") from error
    labels = text.split(b".")
    if len(text) > _MAX_NAME or not all(0 < len(label) <= _MAX_LABEL for label in labels):
        raise NotAName(f"{name!r} is no host name")
    if not all(char in b"-_." or chr(char).isalnum() for char in text) or text.startswith(b"-"):
        raise NotAName(f"{name!r} is no host name")
    return text


def _written(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label for label in _ascii(name).split(b".")) + b"\0"


def _folded(name: str) -> bytes:
    return _ascii(name).lower()


def _name(message: bytes, at: int) -> tuple[bytes, int]:
    """Read a name, in lower case; return it and where the message goes on; raise Malformed.

    A pointer (RFC 1035 section 4.1.4) leads to an earlier place, each to an earlier one than the last.
    """
    labels: list[bytes] = []
    after: int | None = None
    earliest = at
    total = 0
    while True:
        if at >= len(message):
            raise Malformed("a name reaches past the end")
        length = message[at]
        if length >= _POINTER:
            if at + 1 >= len(message):
                raise Malformed("a name reaches past the end")
            after = at + 2 if after is None else after
            at = (length - _POINTER) << 8 | message[at + 1]
            if at >= earliest:
                raise Malformed("a name that points forwards")
            earliest = at
            continue
        if length > _MAX_LABEL:
            raise Malformed(f"a label that begins with {length:#x}")
        at += 1
        if length == 0:
            return b".".join(labels).lower(), at if after is None else after
        label = message[at : at + length]
        at += length
        total += length + 1
        if len(label) < length or total > _MAX_NAME + 1:
            raise Malformed("a name that is too long")
        labels.append(label)
