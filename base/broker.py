"""How every process of ours reaches the MQTT broker: settings, TLS, credentials, and a paho client made from them."""

from __future__ import annotations

import ssl
import stat
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import msgspec

from base.later import postpone

postpone("urllib.request")  # paho asks it for proxies, which we do not use; it and what it brings are 2 MB
from paho.mqtt import client as paho  # noqa: E402  # after the line above
from paho.mqtt.enums import CallbackAPIVersion  # noqa: E402  # as above

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]

_MAX_CREDENTIALS_BYTES: Final = 4096


class CredentialsError(Exception):
    """The credentials or certificates cannot be used; the text says what to do and holds no secret."""


class TlsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """TLS towards the broker. Without `ca_file` the system's certificate store decides."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None


class BrokerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The `broker:` section. TLS is on unless `tls: null` is written out; the password lives in a file of its own."""

    host: Annotated[str, msgspec.Meta(min_length=1)]
    port: Port = 8883
    credentials_file: Path | None = None
    tls: TlsSettings | None = TlsSettings()
    keepalive_s: Annotated[int, msgspec.Meta(ge=5, le=3600)] = 30

    def __post_init__(self) -> None:
        """Refuse a host that no resolver is asked for: the attempt raises UnicodeError, which is no OSError."""
        try:
            self.host.encode("idna")  # as socket.getaddrinfo does
        except UnicodeError as error:
            raise ValueError(
                f"host '{self.host}' is no host name; each part between its dots has 1 to 63 characters"
            ) from error


class Credentials(NamedTuple):
    """A broker user."""

    user: str
    password: str

    def __repr__(self) -> str:
        """Keep the password out of logs and tracebacks."""
        return f"Credentials(user={self.user!r}, password=***)"


def read_credentials(path: Path) -> Credentials:
    """Read one line `user:password`; refuse a file that any user of the machine may read; raise CredentialsError."""
    try:
        mode = path.stat().st_mode
        with path.open("rb") as file:
            raw = file.read(_MAX_CREDENTIALS_BYTES)
    except OSError as error:
        raise CredentialsError(f"{path}: {error.strerror}; write one line 'user:password' there") from error
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        raise CredentialsError(f"{path}: any user of this machine may read it; run: chmod 600 {path}")
    user, colon, password = raw.decode("utf-8", "replace").strip().partition(":")
    if not (user and colon and password) or "\n" in password:
        raise CredentialsError(f"{path}: expected one line 'user:password'")
    return Credentials(user, password)


def make_client(
    settings: BrokerSettings, *, client_id: str, clean_session: bool, manual_ack: bool = False
) -> paho.Client:
    """Build an unconnected MQTT 3.1.1 client with TLS (1.2 or later) and credentials; raise CredentialsError."""
    client = paho.Client(
        CallbackAPIVersion.VERSION2,
        client_id=client_id,
        clean_session=clean_session,
        manual_ack=manual_ack,
        reconnect_on_failure=True,
    )
    if settings.credentials_file is not None:
        credentials = read_credentials(settings.credentials_file)
        client.username_pw_set(credentials.user, credentials.password)
    if settings.tls is not None:
        client.tls_set_context(tls_context(settings.tls))
    client.reconnect_delay_set(min_delay=1, max_delay=60)
    return client


def tls_context(tls: TlsSettings) -> ssl.SSLContext:
    """Make what a client trusts and shows: TLS 1.2 or later; raise CredentialsError."""
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if tls.cert_file is not None:
            context.load_cert_chain(tls.cert_file, tls.key_file)
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(str(file) for file in (tls.ca_file, tls.cert_file, tls.key_file) if file is not None)
        raise CredentialsError(f"{files}: {error.strerror or error}; check the broker.tls files") from error
    return context
