"""The collector's session at the broker: one thread that connects, hears, says, and connects again for ever.

All reading and writing of the socket is done here, because TLS allows one thread at a time; others hand over bytes and
wake it. While `may_read` says no, nothing is read, so that the broker keeps what we cannot, and the session is kept
alive by pings. What is to be said belongs to the connection on which the reason for it came (MQTT 3.1.1, 4.4): numbers
of messages begin anew with every connection, so what was meant for an earlier one is dropped.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING, Final

from base.broker import BrokerSettings, CredentialsError, read_credentials, tls_context
from collector import mqtt
from collector.mqtt import Arrival, Connack, ProtocolError, Puback, Suback

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from base.broker import Credentials

log = logging.getLogger(__name__)

_RECEIVE_BYTES: Final = 64 * 1024
_CONNECT_S: Final = 30.0
_FILTERS_AT_ONCE: Final = 500
_LEAVE_S: Final = 5.0
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 60.0
_SHORT_CONNECTION_S: Final = 5.0
_SAY_AGAIN_AFTER_S: Final = 600.0
_SILENCE: Final = 1.5
"""How many keepalive periods the other end may be silent (MQTT 3.1.1, 3.1.2.10)."""


class _RefusedError(Exception):
    """The broker does not let us in; the text is its reason."""


class Connection:
    """A subscription that outlives connections. Callbacks are called on its thread."""

    def __init__(
        self,
        settings: BrokerSettings,
        *,
        client_id: str,
        filters: Sequence[str],
        max_payload_bytes: int,
        kept_bytes: int,
        on_arrivals: Callable[[list[Arrival], int], None],
        may_read: Callable[[], bool],
    ) -> None:
        """Prepare; raise CredentialsError. `on_arrivals` gets messages and the number of the connection they came on.

        Of a payload above `max_payload_bytes` only `kept_bytes` are handed on.
        """
        self._settings = settings
        self._client_id = client_id
        self._filters = tuple(filters)
        self._limits = (max_payload_bytes, kept_bytes)
        self._on_arrivals = on_arrivals
        self._may_read = may_read
        self._credentials = _credentials(settings)
        self._tls = tls_context(settings.tls) if settings.tls is not None else None
        self._number = 0
        self._out = bytearray()
        self._lock = threading.Lock()  # of the two above
        self._waker, self._woken = socket.socketpair()
        self._waker.setblocking(False)  # noqa: FBT003  # the standard library's signature
        self._woken.setblocking(False)  # noqa: FBT003  # the same
        self._stopping = threading.Event()
        self._connected_at_s: float | None = None
        self._heard_s = self._said_s = 0.0
        self._trouble = ""
        self._complained_at_s = 0.0
        self._thread = threading.Thread(target=self._run, name="broker")

    def start(self) -> None:
        """Begin; a broker that is away is tried again for ever."""
        self._thread.start()

    def stop(self) -> None:
        """Say what is still to be said, leave the broker, end the thread."""
        self._stopping.set()
        self.wake()
        if self._thread.ident is not None:
            self._thread.join()
        self._waker.close()
        self._woken.close()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def current(self) -> int | None:
        """The number of the connection on which the broker has let us in; None while there is none."""
        return self._number if self._connected_at_s is not None else None

    def send(self, data: bytes, connection: int) -> None:
        """Hand over packets that belong to a connection; from any thread; dropped if that one has gone."""
        with self._lock:
            if connection != self._number:
                return
            idle = not self._out
            self._out += data
        if idle:
            self.wake()

    def wake(self) -> None:
        """Look again whether there is something to read or to write; from any thread."""
        with contextlib.suppress(BlockingIOError):  # it is being woken already
            self._waker.send(b"!")

    def _run(self) -> None:
        try:
            pause_s = _FIRST_PAUSE_S
            while not self._stopping.is_set():
                try:
                    self._session()
                except _RefusedError as error:
                    self._complain(
                        f"refused by the broker ({error}); check the line in"
                        f" {self._settings.credentials_file or 'credentials_file'} and the broker's user list"
                    )
                    self._read_password_again()
                except (OSError, ProtocolError) as error:
                    self._say_lost(error)
                if self._connected_at_s is not None:
                    pause_s = _FIRST_PAUSE_S
                    self._connected_at_s = None
                self._stopping.wait(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        except Exception:
            log.exception("the connection to the broker stopped on an error of its own")

    def _session(self) -> None:
        """One connection; return when told to stop, raise OSError, ProtocolError or _RefusedError when it is over."""
        with socket.create_connection((self._settings.host, self._settings.port), timeout=_CONNECT_S) as plain:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._secured(plain) as connection:
                with self._lock:
                    self._number += 1
                    self._out[:] = mqtt.connect(self._client_id, self._settings.keepalive_s, self._credentials)
                connection.setblocking(False)  # noqa: FBT003  # the same
                try:
                    self._serve(connection)
                finally:
                    with self._lock:
                        self._number += 1  # what is handed over from now on has come too late
                        self._out.clear()

    def _secured(self, plain: socket.socket) -> socket.socket:
        return self._tls.wrap_socket(plain, server_hostname=self._settings.host) if self._tls is not None else plain

    def _serve(self, connection: socket.socket) -> None:
        reader = mqtt.Reader(*self._limits)
        self._heard_s = self._said_s = time.monotonic()
        while not self._stopping.is_set():
            reading = self._may_read()
            self._keep_alive(reading=reading)
            if self._exchange(connection, reading=reading, wait_s=self._settings.keepalive_s / 4):
                self._heard_s = time.monotonic()
                self._read(connection, reader)
        self._leave(connection)

    def _keep_alive(self, *, reading: bool) -> None:
        """Ping in time; raise TimeoutError when the other end is silent, though we listen."""
        now_s = time.monotonic()
        if now_s - self._said_s > self._settings.keepalive_s / 2:
            self._said_s = now_s
            self.send(mqtt.PINGREQ, self._number)
        if not reading:
            self._heard_s = now_s
        elif now_s - self._heard_s > _SILENCE * self._settings.keepalive_s:
            raise TimeoutError(f"nothing heard for {now_s - self._heard_s:.0f} s")

    def _exchange(self, connection: socket.socket, *, reading: bool, wait_s: float) -> bool:
        """Wait for something to do, write what there is; return whether there is something to read."""
        ready = select.select(
            [self._woken, connection] if reading else [self._woken], [connection] if self._out else [], [], wait_s
        )
        if self._woken in ready[0]:
            self._woken.recv(4096)
        if ready[1]:
            self._said_s = time.monotonic()
            self._write(connection)
        return connection in ready[0]

    def _leave(self, connection: socket.socket) -> None:
        """Say the rest and goodbye, and read until the broker has closed.

        A socket that is closed with unread data resets its connection, and the other end would lose our last words.
        """
        self.send(mqtt.DISCONNECT, self._number)
        deadline_s = time.monotonic() + _LEAVE_S
        while time.monotonic() < deadline_s:
            if self._exchange(connection, reading=True, wait_s=_LEAVE_S / 10):
                with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    if not connection.recv(_RECEIVE_BYTES):
                        return

    def _write(self, connection: socket.socket) -> None:
        with self._lock, contextlib.suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            del self._out[: connection.send(self._out)]

    def _read(self, connection: socket.socket, reader: mqtt.Reader) -> None:
        """Take what is there: all that TLS has unpacked, since select does not know of it."""
        while True:
            try:
                data = connection.recv(_RECEIVE_BYTES)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            if not data:
                raise ConnectionError("closed by the broker")
            arrivals = []
            for packet in reader.feed(data):
                if isinstance(packet, Arrival):
                    arrivals.append(packet)
                elif not isinstance(packet, Puback):
                    self._answered(packet)
            if arrivals:
                self._on_arrivals(arrivals, self._number)
            if not (isinstance(connection, ssl.SSLSocket) and connection.pending()):
                return

    def _answered(self, packet: Connack | Suback) -> None:
        if isinstance(packet, Connack):
            if packet.refusal:
                raise _RefusedError(packet.refusal)
            self._connected_at_s = time.monotonic()
            self._trouble = ""
            log.info("connected to the broker; session %s", "resumed" if packet.session_present else "new")
            for first in range(0, len(self._filters), _FILTERS_AT_ONCE):
                some = self._filters[first : first + _FILTERS_AT_ONCE]
                self.send(mqtt.subscribe(1 + first // _FILTERS_AT_ONCE, some), self._number)
        elif packet.refused:
            self._complain(
                f"subscription refused; the broker's ACL must let this user read {self._filters[0]} and the like"
            )
        else:
            log.info("listening to %s and the like", self._filters[0])

    def _say_lost(self, error: Exception) -> None:
        if self._stopping.is_set():
            return
        if self._connected_at_s is None:
            self._complain(f"cannot be reached: {error}")
        else:
            short = time.monotonic() - self._connected_at_s < _SHORT_CONNECTION_S
            hint = "; does another collector use the same client_id?" if short else ""
            self._complain(f"connection lost ({error}){hint}")

    def _complain(self, what: str) -> None:
        now_s = time.monotonic()
        if what != self._trouble or now_s - self._complained_at_s > _SAY_AGAIN_AFTER_S:
            log.warning("broker %s:%d: %s; trying again", self._settings.host, self._settings.port, what)
            self._trouble, self._complained_at_s = what, now_s

    def _read_password_again(self) -> None:
        """Let a corrected credentials file work without a restart."""
        try:
            self._credentials = _credentials(self._settings)
        except CredentialsError as error:
            self._complain(str(error))


def _credentials(settings: BrokerSettings) -> Credentials | None:
    return None if settings.credentials_file is None else read_credentials(settings.credentials_file)
