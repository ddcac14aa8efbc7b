"""HTTP over one link in a process of its own: a JSON job on standard input, one JSON answer on standard output.

Run as `python -m agent.measurements.http_child`. A process, because a server that sends a byte now and then, or a
handshake that stands still, must not outlast the deadline: an alarm breaks into whatever waits, which takes a main
thread of its own, and if even that does not help, the parent kills it. The address is looked up beforehand. Two jobs:

- `page`: one GET on a connection of its own. Connecting, the TLS handshake, the reply's first byte and end are timed.
- `ping`: GETs of a small file on one kept connection, one after the other, timed from the request until the first byte
  of the reply; the reply is read to its end before the next. What the server closes is opened anew, which is not timed.

Imports the standard library and `bound` alone.
"""

from __future__ import annotations

import functools
import http.client
import json
import os
import signal
import socket
import ssl
import sys
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from agent.measurements import bound

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

_PIECE: Final = 16 * 1024
_SMALL_BYTES: Final = 64 * 1024
"""More than this is no file to ping with."""
_FIRST_GOOD, _FIRST_BAD = 200, 300


class _Failed(Exception):
    """`reason` is a value of wire.reasons.Reason."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class _Reply(NamedTuple):
    """A reply that has begun."""

    response: http.client.HTTPResponse
    first_byte_s: float


class _Connection:
    """One connection; every call may raise _Failed."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._job = job
        self.connected_s: float | None = None
        self.secured_s: float | None = None
        family = bound.family_of(job["address"])
        self._socket: socket.socket = _translated(
            lambda: bound.open_socket(job["device"], job["source"], socket.SOCK_STREAM, family), "connect"
        )

    def open(self, context: ssl.SSLContext | None) -> None:
        """Connect, and shake hands."""
        _translated(lambda: self._socket.connect((self._job["address"], self._job["port"])), "connect")
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connected_s = time.monotonic()
        if context is not None:
            plain = self._socket
            self._socket = _translated(
                lambda: context.wrap_socket(plain, server_hostname=self._job["host"]), "TLS handshake", tls=True
            )
            self.secured_s = time.monotonic()

    def get(self, *, keep: bool) -> _Reply:
        """Send the request and wait for the first byte of the reply, then read its head."""
        _translated(lambda: self._socket.sendall(_request(self._job, keep=keep)), "request")
        response = http.client.HTTPResponse(self._socket, method="GET")
        # `fp` is a BufferedReader: peek waits for bytes and leaves them there.
        first: bytes = _translated(lambda: response.fp.peek(1), "reply")
        first_byte_s = time.monotonic()
        if not first:
            raise _Failed("cut_off", "the server closed the connection instead of a reply")
        _translated(response.begin, "reply")
        return _Reply(response, first_byte_s)

    def read(self, response: http.client.HTTPResponse, max_bytes: int) -> int:
        """Read the body, up to `max_bytes`; return how much came."""
        count = 0
        while count < max_bytes:
            room = min(_PIECE, max_bytes - count)
            piece: bytes = _translated(functools.partial(response.read, room), "body")
            count += len(piece)
            if not piece:
                if response.length:
                    raise _Failed("cut_off", f"the reply ended {response.length} bytes early")
                break
        return count

    def close(self) -> None:
        self._socket.close()


def _request(job: dict[str, Any], *, keep: bool) -> bytes:
    lines = [
        f"GET {job['target']} HTTP/1.1",
        f"Host: {job['authority']}",
        "User-Agent: probefleet",
        "Accept: */*",
        "Accept-Encoding: identity",
        "Cache-Control: no-cache",
        f"Connection: {'keep-alive' if keep else 'close'}",
    ]
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def _translated(action: Callable[[], Any], step: str, *, tls: bool = False) -> Any:  # noqa: ANN401  # the action's own
    """Do it; turn whatever it raises into _Failed."""
    try:
        return action()
    except ssl.SSLCertVerificationError as error:
        raise _Failed("tls_failed", f"{step}: {error.verify_message}") from error
    except ssl.SSLError as error:
        raise _Failed("tls_failed", f"{step}: {error.reason or error}") from error
    except (http.client.IncompleteRead, http.client.RemoteDisconnected) as error:
        raise _Failed("cut_off", f"{step}: the connection ended") from error
    except http.client.HTTPException as error:
        raise _Failed("malformed", f"{step}: {type(error).__name__}") from error
    except OSError as error:
        reason = bound.trouble(error)
        if tls and reason == "cut_off":
            reason = "tls_failed"
        raise _Failed(
            reason, f"{step}: {'no end in time' if reason == 'timeout' else error.strerror or error}"
        ) from error
    except ValueError as error:
        raise _Failed("malformed", f"{step}: {error}") from error


def page(job: dict[str, Any], context: ssl.SSLContext | None) -> dict[str, Any]:
    """Fetch one page; times in ms. What was measured before a failure stays."""
    answer: dict[str, Any] = {"body_bytes": 0}
    begun_s = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, job["timeout_s"])
    try:
        connection = _Connection(job)
        try:
            connection.open(context)
            reply = connection.get(keep=False)
            answer |= {"ttfb_ms": _ms(reply.first_byte_s - begun_s), "status": reply.response.status}
            answer["body_bytes"] = connection.read(reply.response, job["max_bytes"])
            answer["total_ms"] = _ms(time.monotonic() - begun_s)
            answer["capped"] = answer["body_bytes"] >= job["max_bytes"] and not reply.response.isclosed()
            _require_good(reply.response.status)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            if connection.connected_s is not None:
                answer["connect_ms"] = _ms(connection.connected_s - begun_s)
                if connection.secured_s is not None:
                    answer["tls_ms"] = _ms(connection.secured_s - connection.connected_s)
            connection.close()
    except _Failed as failure:
        answer |= {"failure": failure.reason, "detail": str(failure)}
    return answer


def ping(job: dict[str, Any], context: ssl.SSLContext | None) -> dict[str, Any]:
    """Make round trips; `rtts_ms` has null for each that failed, `failure` the reason of the last one that did."""
    rtts_ms: list[float | None] = []
    answer: dict[str, Any] = {"rtts_ms": rtts_ms}
    connection: _Connection | None = None
    begun_s = time.monotonic()
    for number in range(job["count"]):
        time.sleep(max(0.0, begun_s + number * job["interval_s"] - time.monotonic()))
        if time.monotonic() > begun_s + job["longest_s"]:
            break
        signal.setitimer(signal.ITIMER_REAL, job["timeout_s"])
        keep = False
        try:
            if connection is None:
                connection = _Connection(job)
                connection.open(context)
            rtt_ms, keep = _round_trip(connection)
            rtts_ms.append(rtt_ms)
        except _Failed as failure:
            answer |= {"failure": failure.reason, "detail": str(failure)}
            rtts_ms.append(None)
        signal.setitimer(signal.ITIMER_REAL, 0)
        if connection is not None and not keep:
            connection.close()
            connection = None
    if connection is not None:
        connection.close()
    return answer


def _round_trip(connection: _Connection) -> tuple[float, bool]:
    """Make one; return its time in ms, and whether the connection can be kept."""
    sent_s = time.monotonic()
    reply = connection.get(keep=True)
    _require_good(reply.response.status)
    if connection.read(reply.response, _SMALL_BYTES) == _SMALL_BYTES:
        raise _Failed("malformed", f"the reply has {_SMALL_BYTES} bytes or more: name a small file")
    return _ms(reply.first_byte_s - sent_s), not reply.response.will_close


def _require_good(status: int) -> None:
    if not _FIRST_GOOD <= status < _FIRST_BAD:
        raise _Failed("http_status", f"the server says {status}")


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)


def _late(_number: int, _frame: FrameType | None) -> None:
    raise _Failed("timeout", "no end in time")


def main() -> None:
    """Do the one job."""
    job = json.load(sys.stdin)
    signal.signal(signal.SIGALRM, _late)
    try:
        context = ssl.create_default_context(cafile=job["ca_file"]) if job["tls"] else None
    except (OSError, ssl.SSLError) as error:
        answer = {"failure": "tls_failed", "detail": f"{job['ca_file']}: {error}"}
    else:
        answer = page(job, context) if job["do"] == "page" else ping(job, context)
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
