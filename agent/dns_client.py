"""One question to one name server, over one link: UDP, and TCP where the answer does not fit (RFC 7766)."""

from __future__ import annotations

import secrets
import socket
import struct
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from agent import dns_message
from agent.measurements import bound
from wire.reasons import Reason

if TYPE_CHECKING:
    from agent.dns_message import Kind, Reply
    from agent.path import LinkPath

PORT: Final = 53
_LARGEST: Final = 65_535
_REASONS: Final = {
    dns_message.SERVER_FAILURE: Reason.SERVER_FAILURE,
    dns_message.NO_SUCH_NAME: Reason.NO_SUCH_NAME,
    dns_message.REFUSED: Reason.REFUSED,
}


class LookupFailed(Exception):
    """No address. `answer_ms` is None where no answer came at all."""

    def __init__(self, reason: Reason, detail: str, *, answer_ms: float | None = None, tcp: bool = False) -> None:
        super().__init__(detail)
        self.reason = reason
        self.answer_ms = answer_ms
        self.tcp = tcp


class Answer(NamedTuple):
    """Addresses, how long the answer took from the first packet on, and whether it needed TCP."""

    addresses: tuple[str, ...]
    ttl_s: int
    answer_ms: float
    tcp: bool


class _Question(NamedTuple):
    ident: int
    name: str
    kind: Kind

    def written(self) -> bytes:
        return dns_message.query(*self)


def ask(path: LinkPath, server: str, name: str, kind: Kind, *, timeout_s: float, port: int = PORT) -> Answer:
    """Ask once, over the link alone; raise LookupFailed, or dns_message.NotAName.

    What does not come from the server, or is no answer to this very question, is passed over: the socket is connected,
    its port and the question's number are drawn by chance (RFC 5452 section 9).
    """
    begun_s = time.monotonic()
    question = _Question(secrets.randbits(16), name, kind)
    tcp = False
    try:
        reply = _by_udp(path, (server, port), question, begun_s + timeout_s)
        if reply.truncated:
            tcp = True
            reply = _by_tcp(path, (server, port), question, begun_s + timeout_s)
    except dns_message.Malformed as error:
        answer_ms = _since_ms(begun_s)
        raise LookupFailed(Reason.MALFORMED, f"{server}: {error}", answer_ms=answer_ms, tcp=tcp) from error
    except OSError as error:
        told = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
        raise LookupFailed(Reason(bound.trouble(error)), f"{server}: {told}", tcp=tcp) from error
    answer_ms = _since_ms(begun_s)
    if reply.rcode != dns_message.NO_ERROR:
        reason = _REASONS.get(reply.rcode, Reason.SERVER_FAILURE)
        raise LookupFailed(reason, f"{server}: {name}: RCODE {reply.rcode}", answer_ms=answer_ms, tcp=tcp)
    if reply.ttl_s is None:
        detail = f"{server}: {name} has no {kind.name} record"
        raise LookupFailed(Reason.NAME_NOT_RESOLVED, detail, answer_ms=answer_ms, tcp=tcp)
    return Answer(reply.addresses, reply.ttl_s, answer_ms, tcp)


def _by_udp(path: LinkPath, server: tuple[str, int], question: _Question, deadline_s: float) -> Reply:
    with bound.open_socket(path.interface, path.source_address, socket.SOCK_DGRAM, bound.family_of(server[0])) as door:
        door.settimeout(_left_s(deadline_s))
        door.connect(server)
        door.send(question.written())
        while True:
            door.settimeout(_left_s(deadline_s))
            reply = dns_message.read(door.recv(_LARGEST), *question)
            if reply is not None:
                return reply


def _by_tcp(path: LinkPath, server: tuple[str, int], question: _Question, deadline_s: float) -> Reply:
    with bound.open_socket(path.interface, path.source_address, socket.SOCK_STREAM, bound.family_of(server[0])) as door:
        door.settimeout(_left_s(deadline_s))
        door.connect(server)
        message = question.written()
        door.sendall(struct.pack("!H", len(message)) + message)  # RFC 1035 section 4.2.2
        (length,) = struct.unpack("!H", _exactly(door, 2, deadline_s))
        reply = dns_message.read(_exactly(door, length, deadline_s), *question)
    if reply is None or reply.truncated:
        raise dns_message.Malformed("over TCP, no answer to the question")
    return reply


def _exactly(door: socket.socket, count: int, deadline_s: float) -> bytes:
    data = b""
    while len(data) < count:
        door.settimeout(_left_s(deadline_s))
        piece = door.recv(count - len(data))
        if not piece:
            raise dns_message.Malformed("the connection ended in the answer")
        data += piece
    return data


def _left_s(deadline_s: float) -> float:
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s


def _since_ms(begun_s: float) -> float:
    return round((time.monotonic() - begun_s) * 1e3, 3)
