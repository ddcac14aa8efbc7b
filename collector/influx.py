"""The doors to the databases: InfluxDB 1.x, 2.x and 3.x, or none. Lines go in; three kinds of error come out.

The errors are sorted by what the caller does next: `Rejected` (something in this batch is wrong: find it, park it, go
on), `Misconfigured` (somebody must change the configuration or the database: keep everything, say so, try again
later), `Busy` (keep everything, try again soon). A batch may have been written in part when an error is raised;
writing it again changes nothing, because a point of the same series and time replaces itself.
"""

from __future__ import annotations

import gzip
import json
import re
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urlencode

import urllib3
from urllib3.exceptions import HTTPError

from base.broker import CredentialsError, read_credentials

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from collector.settings import SinkSettings

_MAX_REASON_CHARS: Final = 300
_MAX_RETRY_AFTER_S: Final = 600.0
_MAX_TOKEN_BYTES: Final = 4096
_WRITTEN: Final = 204
_ANSWERED: Final = 200
_THIS_MACHINE: Final = ("localhost", "127.0.0.1", "[::1]")


class SinkError(Exception):
    """Writing did not work; the text is one line and holds no secret."""


class Rejected(SinkError):
    """The database will never take something in this batch; the text is its reason."""


class Misconfigured(SinkError):
    """The database refuses us, or the place does not exist: the text says what to check."""


class Busy(SinkError):
    """The database is down, slow or overloaded; `retry_after_s` is its own wish, if it has one."""

    def __init__(self, text: str, retry_after_s: float | None = None) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s


class Sink(Protocol):
    """Where points go. `name` says which database it is, the same after a restart, without secrets."""

    name: str

    def write(self, lines: Sequence[str]) -> None:
        """Write all lines; raise Rejected, Misconfigured or Busy."""

    def close(self) -> None:
        """Let go of connections."""


def open_sink(settings: SinkSettings) -> Sink:
    """Build the door that the configuration names, without connecting; raise base.broker.CredentialsError."""
    if settings.kind == "none":
        return NoSink()
    return InfluxDB1(settings) if settings.kind == "influxdb1" else InfluxDB2(settings)


class NoSink:
    """The journal alone."""

    name = "none"

    def write(self, lines: Sequence[str]) -> None:
        """Do nothing: the journal has it."""

    def close(self) -> None:
        """Do nothing."""


class InfluxDB1:
    """InfluxDB 1.x by `POST /write` on a connection that stays open; creates the database if it may.

    Gzipped where it travels a network; on one machine that would cost both ends time and save nothing.
    """

    def __init__(self, settings: SinkSettings) -> None:
        """Prepare the requests; raise CredentialsError."""
        self._url = (settings.url or "").rstrip("/")
        self._database = settings.database or ""
        self.name = f"influxdb1 {self._url} {self._database}"
        headers = {"User-Agent": "probefleet-collector"}
        if settings.credentials_file is not None:
            user, password = read_credentials(settings.credentials_file)
            headers |= urllib3.make_headers(basic_auth=f"{user}:{password}")
        self._gzip = urllib3.util.parse_url(self._url).host not in _THIS_MACHINE
        self._pool = urllib3.PoolManager(
            maxsize=1,
            headers=headers,
            retries=False,
            timeout=settings.timeout_s,
            ca_certs=str(settings.ca_file) if settings.ca_file else None,
        )

    def write(self, lines: Sequence[str]) -> None:
        """Write all lines; raise Rejected, Misconfigured or Busy."""
        body = "\n".join(lines).encode()
        headers = {**self._pool.headers, "Content-Type": "text/plain; charset=utf-8"}
        if self._gzip:
            body = gzip.compress(body, compresslevel=1)
            headers["Content-Encoding"] = "gzip"
        url = f"{self._url}/write?{urlencode({'db': self._database, 'precision': 'ns'})}"
        try:
            self._post(url, body, headers, taken=_WRITTEN)
        except _NoDatabase:
            self._create_database()
            self._post(url, body, headers, taken=_WRITTEN)

    def close(self) -> None:
        """Close the connection."""
        self._pool.clear()

    def _create_database(self) -> None:
        name = self._database.replace("\\", "\\\\").replace('"', '\\"')
        form = urlencode({"q": f'CREATE DATABASE "{name}"'}).encode()
        headers = {**self._pool.headers, "Content-Type": "application/x-www-form-urlencoded"}
        self._post(f"{self._url}/query", form, headers, taken=_ANSWERED)

    def _post(self, url: str, body: bytes, headers: Mapping[str, str], *, taken: int) -> None:
        try:
            answer = self._pool.request("POST", url, body=body, headers=headers)
        except HTTPError as error:
            raise _unreachable(self._url, error) from error
        _judge(self.name, answer.status, answer.data, answer.headers, taken=taken)


class InfluxDB2:
    """InfluxDB 2.x and 3.x, and whoever else speaks `/api/v2/write`, by influxdb-client."""

    def __init__(self, settings: SinkSettings) -> None:
        """Prepare the client; raise CredentialsError."""
        # Here, not above: the library takes more memory than all the rest, and only this kind of database needs it.
        from influxdb_client.client.influxdb_client import InfluxDBClient  # noqa: PLC0415
        from influxdb_client.client.write_api import SYNCHRONOUS  # noqa: PLC0415
        from influxdb_client.rest import ApiException  # noqa: PLC0415

        self._refusal = ApiException
        self._url = (settings.url or "").rstrip("/")
        self._org = settings.org or ""
        self._bucket = settings.bucket or ""
        self.name = f"influxdb2 {self._url} {self._org}/{self._bucket}"
        self._client = InfluxDBClient(
            url=self._url,
            token=read_token(settings.token_file) if settings.token_file else "",
            org=self._org,
            timeout=int(settings.timeout_s * 1000),
            enable_gzip=True,
            ssl_ca_cert=str(settings.ca_file) if settings.ca_file else None,
            retries=False,
        )
        self._write_api = self._client.write_api(write_options=SYNCHRONOUS)

    def write(self, lines: Sequence[str]) -> None:
        """Write all lines; raise Rejected, Misconfigured or Busy."""
        try:
            self._write_api.write(bucket=self._bucket, org=self._org, record="\n".join(lines))  # precision: ns
        except self._refusal as error:
            _judge(self.name, error.status or 0, _bytes(error.body), error.headers or {})
        except HTTPError as error:
            raise _unreachable(self._url, error) from error
        answer = self._client.api_client.last_response  # the library calls any 2xx a success
        _judge(self.name, answer.status, _bytes(answer.data), answer.getheaders())

    def close(self) -> None:
        """Close the connections."""
        self._write_api.close()  # type: ignore[no-untyped-call]  # the library types its arguments only
        self._client.close()  # type: ignore[no-untyped-call]  # the library types its arguments only


def read_token(path: Path) -> str:
    """Read one line, the API token; refuse a file that any user of the machine may read; raise CredentialsError."""
    try:
        mode = path.stat().st_mode
        with path.open("rb") as file:
            token = file.read(_MAX_TOKEN_BYTES).decode("ascii", "replace").strip()
    except OSError as error:
        raise CredentialsError(f"{path}: {error.strerror}; write the API token there, on one line") from error
    if mode & 0o006:
        raise CredentialsError(f"{path}: any user of this machine may read it; run: chmod 600 {path}")
    if not re.fullmatch(r"[!-~]+", token):
        raise CredentialsError(f"{path}: expected the API token on one line")
    return token


class _NoDatabase(Misconfigured):
    """InfluxDB 1.x does not know the database yet."""


def _judge(name: str, status: int, body: bytes, headers: Mapping[str, str], *, taken: int = _WRITTEN) -> None:
    """Sort an answer by what to do next; `taken` is the one that says that all is done.

    Statuses: InfluxDB 1.x "InfluxDB API reference", /write; InfluxDB v2 API, POST /api/v2/write. Only 204 says that all
    is written: 201 is "some of it" (InfluxDB Cloud Dedicated, "Troubleshoot issues writing data"), and 200 is said by
    somebody who is no database.
    """
    if status == taken:
        return
    reason = _reason(body)
    match status:
        case 201 if reason is not None:
            raise Rejected(f"{status}: {reason}")
        case 400 | 413 | 422 if reason is not None or status == 413:  # noqa: PLR2004
            raise Rejected(f"{status}: {reason or 'too large'}")
        case 404 if reason is not None and "database not found" in reason:
            raise _NoDatabase(f"{name}: no such database, and it could not be made; create it")
        case 401 | 403:
            raise Misconfigured(f"{name}: refused ({status}: {reason}); check its user or token, and what it may write")
        case 200 | 201 | 202 | 203 | 400 | 404 | 405 | 422 | 301 | 302 | 307 | 308:
            raise Misconfigured(f"{name}: answered {status} ({reason}); check url, database, org and bucket")
    raise Busy(f"{name}: answered {status} ({reason})", _retry_after_s(headers))


def _bytes(body: bytes | str | None) -> bytes:
    return body if isinstance(body, bytes) else (body or "").encode()


def _reason(body: bytes) -> str | None:
    """Read a database's own words from the body; None if these are not the words of a database."""
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if isinstance(answer, dict):
        text = str(answer.get("error") or answer.get("message") or "")
    elif body.lstrip()[:1] in {b"<", b""}:  # a proxy's page, or nothing
        return None
    else:
        text = body.decode("utf-8", "replace")
    return " ".join(text.split())[:_MAX_REASON_CHARS] or None


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Read Retry-After in its form of seconds (RFC 9110 section 10.2.3)."""
    value = next((value for key, value in headers.items() if key.lower() == "retry-after"), "")
    return min(float(value), _MAX_RETRY_AFTER_S) if value.isascii() and value.isdigit() else None


def _unreachable(url: str, error: HTTPError) -> SinkError:
    text = " ".join(str(error).split())
    text = text.rpartition("): ")[2] or text  # urllib3 puts the connection object's repr first
    if "certificate" in text.lower():
        return Misconfigured(f"{url}: {text[:_MAX_REASON_CHARS]}; check ca_file and the name in url")
    return Busy(f"{url}: {text[:_MAX_REASON_CHARS]}")
