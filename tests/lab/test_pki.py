from __future__ import annotations

import socket
import ssl
import stat
import threading
from typing import TYPE_CHECKING

import pytest

from lab import pki

if TYPE_CHECKING:
    from pathlib import Path

    from lab.servers import TlsFiles


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    return pki.make_server_certificate(tmp_path_factory.mktemp("pki") / "run", ["127.0.0.1", "broker.example"])


def shake_hands(files: TlsFiles, name: str) -> None:
    """Meet a server of these files as a client that trusts their authority."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files.cert_file, files.key_file)
    client = ssl.create_default_context(cafile=files.ca_file)
    here, there = socket.socketpair()

    def serve() -> None:
        try:
            server.wrap_socket(there, server_side=True).close()
        except ssl.SSLError:
            there.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        client.wrap_socket(here, server_hostname=name).close()
    finally:
        here.close()
        thread.join()


@pytest.mark.parametrize("name", ["127.0.0.1", "broker.example"])
def test_a_client_that_trusts_the_authority_meets_the_server(files: TlsFiles, name: str) -> None:
    shake_hands(files, name)


def test_the_server_is_nobody_else(files: TlsFiles) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(files, "198.18.0.1")


def test_keys_are_their_owners_alone(files: TlsFiles) -> None:
    for key in files.key_file.parent.glob("*.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_without_openssl_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(pki.PkiError, match="apt-get install openssl"):
        pki.make_server_certificate(tmp_path, ["127.0.0.1"])
