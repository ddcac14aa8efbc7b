"""Credentials: read from a file of their own, refused when everybody may read it, never shown."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING

import msgspec
import pytest

from base.broker import BrokerSettings, CredentialsError, TlsSettings, make_client, read_credentials, tls_context

if TYPE_CHECKING:
    from pathlib import Path


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_password_may_hold_colons_and_is_never_shown(tmp_path: Path) -> None:
    credentials = read_credentials(write(tmp_path / "c", "p1:se:cret\n"))
    assert credentials == ("p1", "se:cret")
    assert "se:cret" not in repr(credentials)


@pytest.mark.parametrize(
    ("text", "mode", "complaint"),
    [
        ("p1:secret", 0o644, "run: chmod 600"),
        ("secret", 0o600, "expected one line 'user:password'"),
        ("p1:a\np2:b", 0o600, "expected one line 'user:password'"),
        ("", 0o600, "expected one line 'user:password'"),
    ],
)
def test_bad_credentials_are_one_clear_error(tmp_path: Path, text: str, mode: int, complaint: str) -> None:
    with pytest.raises(CredentialsError, match=complaint) as refusal:
        read_credentials(write(tmp_path / "c", text, mode))
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize("host", ["broker..example.org", ".example.org", "x" * 64, "x" * 64 + ".org"])
def test_a_host_that_cannot_be_looked_up_is_refused_and_not_met_as_an_error_later(host: str) -> None:
    with pytest.raises(UnicodeError):
        socket.getaddrinfo(host, 8883)
    with pytest.raises(msgspec.ValidationError, match="is no host name"):
        msgspec.convert({"host": host}, BrokerSettings)


@pytest.mark.parametrize(
    "host", ["broker", "broker.example.org.", "10.0.0.1", "::1", "fe80::1%eth0", "x" * 63, "đo.vn"]
)
def test_names_and_addresses_are_hosts(host: str) -> None:
    assert msgspec.convert({"host": host}, BrokerSettings).host == host


def test_our_side_speaks_no_tls_older_than_1_2_and_checks_the_server_s_name() -> None:
    context = tls_context(TlsSettings())
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CredentialsError, match="nowhere: No such file"):
        read_credentials(tmp_path / "nowhere")
    settings = BrokerSettings(host="b", tls=TlsSettings(ca_file=tmp_path / "no-ca.pem"))
    with pytest.raises(CredentialsError, match=r"no-ca\.pem: No such file or directory; check the broker\.tls files"):
        make_client(settings, client_id="x", clean_session=True)
    write(tmp_path / "ca.pem", "no certificate")
    settings = BrokerSettings(host="b", tls=TlsSettings(ca_file=tmp_path / "ca.pem"))
    with pytest.raises(CredentialsError, match=r"ca\.pem"):
        make_client(settings, client_id="x", clean_session=True)
