"""Servers for tests, in a namespace of their own or on the loopback: a name server that misbehaves, and web servers."""

from __future__ import annotations

import contextlib
import http.server
import socket
import ssl
import struct
import threading
import time
from typing import TYPE_CHECKING, Any, Self

from agent.measurements import bound

if TYPE_CHECKING:
    from pathlib import Path

    from lab.servers import TlsFiles

A, CNAME, AAAA = 1, 5, 28


def written(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def message(ident: int, name: str, *records: bytes, rcode: int = 0, flags: int = 0x8180, kind: int = A) -> bytes:
    """Write a reply as RFC 1035 has it, by other code than the agent's."""
    head = struct.pack("!6H", ident, flags | rcode, 1, len(records), 0, 0)
    return head + written(name) + struct.pack("!2H", kind, 1) + b"".join(records)


def record(name: str, kind: int, data: bytes, ttl_s: int = 60) -> bytes:
    return written(name) + struct.pack("!2HIH", kind, 1, ttl_s, len(data)) + data


def both_sockets(address: str, port: int) -> tuple[socket.socket, socket.socket]:
    """Open a UDP and a listening TCP socket on one port; 0: on any that is free for both."""
    while True:
        tcp = socket.create_server((address, port))
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            udp.bind(tcp.getsockname())
        except OSError:
            udp.close()
            tcp.close()
            if port:
                raise
        else:
            return udp, tcp


class NameServer:
    """Answers by the first label of the name; `asked` lists what it was asked, by whom, and how."""

    def __init__(
        self, address: str, port: int = 53, *, answer: str = "10.9.0.1", answer_ipv6: str | None = None
    ) -> None:
        self.asked: list[tuple[str, str, str]] = []
        self._data = {A: socket.inet_aton(answer)}
        if answer_ipv6 is not None:
            self._data[AAAA] = socket.inet_pton(socket.AF_INET6, answer_ipv6)
        self._udp, self._tcp = both_sockets(address, port)
        self._udp.settimeout(0.1)
        self._ending = threading.Event()
        self.port: int = self._udp.getsockname()[1]
        self._threads = [threading.Thread(target=self._serve_udp), threading.Thread(target=self._serve_tcp)]
        for thread in self._threads:
            thread.start()

    def names(self) -> list[str]:
        return [name for name, _, _ in self.asked]

    def _serve_udp(self) -> None:
        while True:
            try:
                query, peer = self._udp.recvfrom(2000)
            except TimeoutError:
                if self._ending.is_set():
                    return
                continue
            ident, name, kind = self._read(query)
            self.asked.append((name, peer[0], "udp"))
            for reply in self._replies(ident, name, kind, tcp=False):
                with contextlib.suppress(OSError):  # no way back
                    self._udp.sendto(reply, peer)

    def _serve_tcp(self) -> None:
        while True:
            try:
                connection, peer = self._tcp.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                (length,) = struct.unpack("!H", connection.recv(2, socket.MSG_WAITALL))
                ident, name, kind = self._read(connection.recv(length, socket.MSG_WAITALL))
                self.asked.append((name, peer[0], "tcp"))
                for reply in self._replies(ident, name, kind, tcp=True):
                    connection.sendall(struct.pack("!H", len(reply)) + reply)

    @staticmethod
    def _read(query: bytes) -> tuple[int, str, int]:
        labels, at = [], 12
        while length := query[at]:
            labels.append(query[at + 1 : at + 1 + length].decode())
            at += 1 + length
        (kind,) = struct.unpack_from("!H", query, at + 1)
        return struct.unpack("!H", query[:2])[0], ".".join(labels), kind

    def _replies(self, ident: int, name: str, kind: int, *, tcp: bool) -> list[bytes]:
        if kind != A:
            records = [record(name, kind, self._data[kind])] if kind in self._data else []
            return [message(ident, name, *records, kind=kind)]
        false_data = socket.inet_aton("203.0.113.66")
        good = message(ident, name, record(name, A, self._data[A]))
        false = record(name, A, false_data)
        truncated = message(ident, name, flags=0x8380)
        return {
            "nothing": [message(ident, name, rcode=3)],
            "broken": [message(ident, name, rcode=2)],
            "refused": [message(ident, name, rcode=5)],
            "silent": [],
            "empty": [message(ident, name)],
            "garbage": [message(ident, name, b"\xc0\xff" + bytes(20))],
            "alias": [message(ident, name, record(name, CNAME, written("x.test")), record("x.test", A, self._data[A]))],
            "big": [good if tcp else truncated],
            "big-and-broken": [good[:20] if tcp else truncated],
            # A wrong number, another question, no reply at all; then the true one.
            "spoofed": [
                message(ident ^ 1, name, false),
                message(ident, "bank.test", record("bank.test", A, false_data)),
                message(ident, name, false, flags=0x0100),
                b"",
                good,
            ],
        }.get(name.partition(".")[0], [good])

    def close(self) -> None:
        self._ending.set()
        self._tcp.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._udp.close()
        self._tcp.close()


class _Pages(http.server.BaseHTTPRequestHandler):
    """Each path has its method; every other is a page of 50 kB."""

    protocol_version = "HTTP/1.1"
    server: WebServer

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.client_address))
        getattr(self, f"_{self.path[1:]}", lambda: self._send(b"x" * 50_000))()

    def _empty(self) -> None:
        self._send(b"")

    def _slow(self) -> None:
        time.sleep(0.3)
        self._send(b"x" * 1000)

    def _moved(self) -> None:
        self._head(301, ("Location", "/page"), ("Content-Length", "0"))

    def _missing(self) -> None:
        self._send(b"no such page", status=404)

    def _short(self) -> None:
        self._head(200, ("Content-Length", "5000"))
        self.wfile.write(b"x" * 100)
        self.close_connection = True

    def _drip(self) -> None:
        self._head(200, ("Content-Length", "100000"))
        with contextlib.suppress(OSError):
            while not self.server.ending.wait(0.05):
                self.wfile.write(b"x")
        self.close_connection = True

    def _chunked(self) -> None:
        self._head(200, ("Transfer-Encoding", "chunked"))
        self.wfile.write(b"".join(b"3e8\r\n" + b"x" * 1000 + b"\r\n" for _ in range(5)) + b"0\r\n\r\n")

    def _garbage(self) -> None:
        self.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        self.close_connection = True

    def _close(self) -> None:
        self.close_connection = True

    def _hurried(self) -> None:
        """Answer, and end the connection each time."""
        self._head(200, ("Content-Length", "0"), ("Connection", "close"))

    def _head(self, status: int, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()

    def _send(self, body: bytes, status: int = 200) -> None:
        self._head(status, ("Content-Length", str(len(body))))
        with contextlib.suppress(OSError):  # who has seen enough hangs up
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class WebServer(http.server.ThreadingHTTPServer):
    """A web server; `asked` lists the paths and the connections they came on. Made where its socket is to be."""

    daemon_threads = False
    request_queue_size = 20

    def __init__(self, address: str, port: int = 0, *, tls: TlsFiles | None = None) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.ending = threading.Event()
        self.address_family = bound.family_of(address)
        super().__init__((address, port), _Pages)
        self.tls: ssl.SSLContext | None = None
        if tls is not None:
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.tls.load_cert_chain(tls.cert_file, tls.key_file)
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def finish_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401  # as the base class has it
        request.settimeout(10)
        try:
            if self.tls is not None:
                with self.tls.wrap_socket(request, server_side=True) as secured:
                    super().finish_request(secured, client_address)
                return
            super().finish_request(request, client_address)
        except OSError:  # a client that does not trust us, or has seen enough
            pass

    def close(self) -> None:
        self.ending.set()
        self.shutdown()
        self._thread.join()
        self.server_close()


class Silence:
    """Takes connections and says nothing."""

    def __init__(self, address: str, port: int = 0) -> None:
        self._listener = socket.create_server((address, port))
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()


def own_authority(folder: Path, *names: str) -> TlsFiles:
    from lab import pki  # noqa: PLC0415  # few tests need openssl

    return pki.make_server_certificate(folder, names)
