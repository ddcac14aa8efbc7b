"""Bytes to messages and back. Strict, bounded, and one bad result never spoils its batch mates."""

from __future__ import annotations

import base64
import zlib
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from wire import dictionary
from wire.leases import LeaseReply
from wire.results import Result

if TYPE_CHECKING:
    import lzma
    from collections.abc import Sequence

MAX_PAYLOAD_BYTES: Final = 256 * 1024
"""The largest result message accepted, as it travels."""
MAX_UNPACKED_BYTES: Final = 1024 * 1024
"""The largest batch accepted after decompression: a bound against compression bombs."""

CHECK_CHARS: Final = 4
"""How long a `check` is."""

_ZLIB_BEGINS: Final = b"\x78"  # RFC 1950: CMF byte of deflate with a 32 KiB window
_FDICT: Final = 0x20  # the same, FLG byte: four bytes follow that name a preset dictionary
_XZ_BEGINS: Final = b"\xfd"  # The .xz File Format 1.2.0, 2.1.1.1: header magic bytes
_XZ_FROM_BYTES: Final = 64 * 1024
"""A backlog is squeezed by a fifth more than zlib can; a small message pays more for xz's frame than it gains."""
_XZ_WINDOW_BYTES: Final = 256 * 1024
_XZ_MEMORY_BYTES: Final = 4 * 1024 * 1024

T = TypeVar("T")

_encoder = msgspec.json.Encoder()
_result_decoder = msgspec.json.Decoder(Result)
_batch_decoder = msgspec.json.Decoder(list[msgspec.Raw])
_lease_reply_decoder: msgspec.json.Decoder[LeaseReply] = msgspec.json.Decoder(LeaseReply)


class Undecodable(ValueError):
    """A payload that is not what its topic promises; the message says where and what was expected."""


def encode(message: msgspec.Struct) -> bytes:
    """Write one message as compact JSON."""
    return _encoder.encode(message)


def decode(payload: bytes, kind: type[T]) -> T:
    """Read one message of the given struct type; raise Undecodable."""
    return _decoded(payload, msgspec.json.Decoder(kind))


def decode_result(payload: bytes | msgspec.Raw) -> Result:
    """Read one result; raise Undecodable."""
    return _decoded(payload, _result_decoder)


def decode_lease_reply(payload: bytes) -> LeaseReply:
    """Read a responder's answer; raise Undecodable."""
    return _decoded(payload, _lease_reply_decoder)


def _decoded(payload: bytes | msgspec.Raw, decoder: msgspec.json.Decoder[T]) -> T:
    try:
        return decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Undecodable(str(error)) from error


def check(payload: bytes) -> str:
    """Tell one payload from another: the lower 24 bits of its CRC-32 (zlib's), in base64 (RFC 4648 section 5)."""
    return base64.urlsafe_b64encode(zlib.crc32(payload).to_bytes(4, "big")[1:]).decode()


def is_intact(payload: object, known: object) -> bool:
    """Whether what was stored as a payload still is what its `check` says, or even bytes."""
    return isinstance(payload, bytes) and check(payload) == known


def check_at(checks: str, place: int) -> str:
    """Take one out of many that stand one after the other."""
    return checks[place * CHECK_CHARS : (place + 1) * CHECK_CHARS]


def pack(results: Sequence[bytes]) -> bytes:
    """Join encoded results into one result message: a JSON array, compressed by zlib with our words, or xz."""
    joined = b"[" + b",".join(results) + b"]"
    if len(joined) >= _XZ_FROM_BYTES:
        import lzma  # noqa: PLC0415  # an agent without a backlog, as most are, saves 0.3 MB

        filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": _XZ_WINDOW_BYTES}]
        return lzma.compress(joined, check=lzma.CHECK_CRC32, filters=filters)
    squeezer = zlib.compressobj(level=9, zdict=dictionary.LATEST)
    return min(joined, squeezer.compress(joined) + squeezer.flush(), key=len)


def unpack(payload: bytes) -> list[bytes]:
    """Split a result message into the bytes of each result, undecoded; raise Undecodable.

    Accepts a single result object, an array of them, or either one compressed: by zlib, with a known dictionary or
    without (RFC 1950), or by xz.
    """
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise Undecodable(f"message of {len(payload)} bytes; at most {MAX_PAYLOAD_BYTES} are accepted")
    if (decompressor := _decompressor(payload)) is not None:
        payload = _unpacked(payload, decompressor)
    if payload[:1] == b"{":
        return [payload]
    return [bytes(raw) for raw in _decoded(payload, _batch_decoder)]


def _decompressor(payload: bytes) -> zlib._Decompress | lzma.LZMADecompressor | None:
    if payload[:1] == _XZ_BEGINS:
        import lzma  # noqa: PLC0415  # as above

        return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES)
    if payload[:1] != _ZLIB_BEGINS:
        return None
    words = b""
    if len(payload) >= 6 and payload[1] & _FDICT:  # noqa: PLR2004  # the header and the dictionary's name
        checksum = int.from_bytes(payload[2:6], "big")
        if checksum not in dictionary.KNOWN:
            raise Undecodable(f"compressed with a dictionary (Adler-32 {checksum:08x}) that is not known here")
        words = dictionary.KNOWN[checksum]
    return zlib.decompressobj(zdict=words)


def _unpacked(payload: bytes, decompressor: zlib._Decompress | lzma.LZMADecompressor) -> bytes:
    import lzma  # noqa: PLC0415  # as above

    try:
        data = decompressor.decompress(payload, MAX_UNPACKED_BYTES)
    except (zlib.error, lzma.LZMAError) as error:
        raise Undecodable(f"compressed message is damaged: {error}") from error
    if not decompressor.eof:
        raise Undecodable(f"compressed message is cut short or unpacks to more than {MAX_UNPACKED_BYTES} bytes")
    return data
