"""The real servers around us, started by hand: mosquitto, InfluxDB 1.x, victoria-metrics.

Each is a context manager: entered, it listens and answers; left, its process is gone. Ports are free ones unless
given, everything it writes is under `data_dir`, and `prefix` (such as `("ip", "netns", "exec", "core")`) runs it
elsewhere; such a prefix must exec the server, so that the process we signal is the server itself.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from wire import topics

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0
_POLL_S = 0.02


class ServerError(Exception):
    """A server is not installed, did not start, or did not stay up; the text ends with the last lines of its log."""


class TlsFiles(NamedTuple):
    """PEM files of a server: the authority that signed it, its certificate and its key."""

    ca_file: Path
    cert_file: Path
    key_file: Path


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """Name a port that nobody had a moment ago, on 127.0.0.1."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(host: str, port: int, http_path: str = "") -> bool:
    """Whether something accepts a connection there and, if a path is given, answers a GET of it with a 2xx."""
    try:
        with socket.create_connection((host, port), timeout=1) as connection:
            if not http_path:
                return True
            connection.sendall(f"GET {http_path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
            return connection.recv(64).partition(b" ")[2].startswith(b"2")
    except OSError:
        return False


class Server:
    """One server process. Subclasses say how to configure and run it, and what shows that it is ready."""

    program: ClassVar[str]
    debian_package: ClassVar[str]
    ready_path: ClassVar[str] = ""

    def __init__(
        self, data_dir: Path, *, port: int | None = None, host: str = "127.0.0.1", prefix: Sequence[str] = ()
    ) -> None:
        """Plan a server on `host`:`port`, reached from where `prefix` runs it."""
        self.data_dir = data_dir
        self.host = host
        self.port = port or free_port()
        self.prefix = tuple(prefix)
        self.log_file = data_dir / f"{self.program}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def configure(self) -> list[str]:
        """Write what the server reads; return its command line."""
        raise NotImplementedError

    @property
    def pid(self) -> int | None:
        """The running process, or None."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        """Start and wait until it answers; raise ServerError. Does nothing if it runs."""
        if self.pid is not None:
            return
        self.data_dir.mkdir(parents=True, exist_ok=True)
        path = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"
        program = shutil.which(self.program, path=path)
        if program is None:
            raise ServerError(f"{self.program} is not installed; run: apt-get install {self.debian_package}")
        command = [*self.prefix, program, *self.configure()]
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.data_dir
            )
        try:
            self._wait_until_ready(self._process)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Ask it to end (SIGTERM), insist after a while (SIGKILL); returns when it is gone."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, as a power cut would; returns when it is gone."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop, then start again with the same port and data."""
        self.stop()
        self.start()

    def log_tail(self, lines: int = 8) -> str:
        """Return the end of what it has written."""
        try:
            return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(how)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._ready():
            if process.poll() is not None:
                raise ServerError(f"{self.program} ended at once with status {process.returncode}:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise ServerError(f"{self.program} does not answer on {self.host}:{self.port}:\n{self.log_tail()}")
            time.sleep(_POLL_S)

    def _ready(self) -> bool:
        host = "127.0.0.1" if self.host == "0.0.0.0" else self.host  # noqa: S104  # compared with, not bound here
        if not self.prefix:
            return answers(host, self.port, self.ready_path)
        script = (
            f"import sys; from lab.servers import answers; sys.exit(not answers{(host, self.port, self.ready_path)})"
        )
        command = [*self.prefix, sys.executable, "-c", script]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Mosquitto(Server):
    """An MQTT broker with a password file and an ACL that keeps every probe in its own branch.

    `users` maps names to passwords; None lets anybody in to everything. The users `collector` and `responder` get their
    roles' rights, all others are probes. `extra` holds further lines of mosquitto.conf(5). Sessions and queued messages
    are written to disk every second, so that `kill()` costs those of the last one.
    """

    program = "mosquitto"
    debian_package = "mosquitto"

    def __init__(
        self,
        data_dir: Path,
        *,
        users: Mapping[str, str] | None = None,
        acl: str | None = None,
        tls: TlsFiles | None = None,
        extra: Iterable[str] = (),
        port: int | None = None,
        host: str = "127.0.0.1",
        prefix: Sequence[str] = (),
    ) -> None:
        """Plan a broker; an `acl` text replaces the one made from `users`."""
        super().__init__(data_dir, port=port, host=host, prefix=prefix)
        self.users = users
        self.acl = acl
        self.tls = tls
        self.extra = tuple(extra)

    def configure(self) -> list[str]:
        """Write mosquitto.conf, the password file and the ACL."""
        lines = [
            "user root",  # when started as root, stay so: data_dir need not belong to the user mosquitto
            f"listener {self.port} {self.host}",
            "log_dest stderr",
            "persistence true",
            f"persistence_location {self.data_dir}/",
            "autosave_interval 1",
            *self.extra,
        ]
        if self.tls is not None:
            lines += [f"cafile {self.tls.ca_file}", f"certfile {self.tls.cert_file}", f"keyfile {self.tls.key_file}"]
        if self.users is None:
            lines.append("allow_anonymous true")
        else:
            passwords = self.data_dir / "passwords"
            _write_private(passwords, "".join(f"{user}:{password}\n" for user, password in self.users.items()))
            if self.users:
                subprocess.run(["mosquitto_passwd", "-U", str(passwords)], check=True, capture_output=True)
            lines += ["allow_anonymous false", f"password_file {passwords}"]
        if self.users is not None or self.acl is not None:
            acl_file = self.data_dir / "acl"
            _write_private(acl_file, self.acl if self.acl is not None else broker_acl(self.users or {}))
            lines.append(f"acl_file {acl_file}")
        config = self.data_dir / "mosquitto.conf"
        config.write_text("\n".join(lines) + "\n")
        return ["-c", str(config)]

    def reload(self) -> None:
        """Write the configuration anew and have the running broker read users and ACL again (SIGHUP)."""
        self.configure()
        if self.pid is not None:
            os.kill(self.pid, signal.SIGHUP)


def broker_acl(users: Iterable[str]) -> str:
    """Write the ACL: a probe its own branch, the collector and the responder what their work needs, nothing else."""
    roles = {
        "collector": [
            f"topic read {topics.every_probe(topics.RESULT)}",
            f"topic read {topics.every_probe(topics.STATUS)}",
            f"topic read {topics.every_probe(topics.RESPONDER)}",
            f"topic read {topics.every_probe(topics.REPLY)}",
            f"topic write {topics.every_probe(topics.ACK)}",
            f"topic write {topics.every_probe(topics.COMMAND)}",
        ],
        "responder": [
            f"topic read {topics.every_probe(topics.LEASE_REQUEST)}",
            f"topic write {topics.every_probe(topics.LEASE_GRANT)}",
            f"topic write {topics.every_probe(topics.RESPONDER)}",
            f"topic readwrite {topics.every_probe(topics.LENDING)}",
        ],
    }
    blocks = (
        "\n".join([f"user {user}", *roles.get(user, [f"topic readwrite {topics.topic(user, '#')}"])]) for user in users
    )
    return "\n\n".join(blocks) + "\n"


class Influxd(Server):
    """InfluxDB 1.x (Debian's influxdb). `auth` asks for users, of which `query("CREATE USER ...")` makes the first."""

    program = "influxd"
    debian_package = "influxdb"
    ready_path = "/ping"

    def __init__(
        self,
        data_dir: Path,
        *,
        auth: bool = False,
        port: int | None = None,
        rpc_port: int | None = None,
        host: str = "127.0.0.1",
        prefix: Sequence[str] = (),
    ) -> None:
        """Plan a database on an HTTP and an RPC port."""
        super().__init__(data_dir, port=port, host=host, prefix=prefix)
        self.rpc_port = rpc_port or free_port()
        self.auth = auth

    @property
    def url(self) -> str:
        """Where clients go."""
        return f"http://{self.host}:{self.port}"

    def configure(self) -> list[str]:
        """Write influxdb.conf: nothing reported, nothing stored about itself, no telemetry home."""
        config = self.data_dir / "influxdb.conf"
        config.write_text(f"""\
reporting-disabled = true
bind-address = "127.0.0.1:{self.rpc_port}"
[meta]
dir = "{self.data_dir}/meta"
[data]
dir = "{self.data_dir}/data"
wal-dir = "{self.data_dir}/wal"
query-log-enabled = false
[http]
bind-address = "{self.host}:{self.port}"
auth-enabled = {str(self.auth).lower()}
log-enabled = false
[monitor]
store-enabled = false
[subscriber]
enabled = false
[continuous_queries]
log-enabled = false
[logging]
level = "warn"
suppress-logo = true
""")
        return ["-config", str(config)]

    def query(self, influxql: str, database: str = "", *, user: str = "", password: str = "") -> list[dict[str, Any]]:
        """Run InfluxQL; return the rows of every series as dicts by column, tags of a GROUP BY among them."""
        form = {"q": influxql, "db": database, "epoch": "ns"}
        request = urllib.request.Request(f"{self.url}/query", data=urllib.parse.urlencode(form).encode())  # noqa: S310  # http, ours
        if user:
            request.add_header("Authorization", "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode())
        with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310  # http, ours
            answer = json.load(response)
        rows: list[dict[str, Any]] = []
        for result in answer["results"]:
            if "error" in result:
                raise ServerError(f"influxd: {result['error']}: {influxql}")
            for series in result.get("series", ()):
                tags = series.get("tags", {})
                rows += [tags | dict(zip(series["columns"], row, strict=True)) for row in series.get("values", ())]
        return rows


class VictoriaMetrics(Server):
    """A server that speaks InfluxDB 2's `/api/v2/write` (Debian's victoria-metrics); any field may have any type."""

    program = "victoria-metrics"
    debian_package = "victoria-metrics"
    ready_path = "/health"

    @property
    def url(self) -> str:
        """Where clients go."""
        return f"http://{self.host}:{self.port}"

    def configure(self) -> list[str]:
        """Keep points of any age, and leave memory to others."""
        return [
            f"-storageDataPath={self.data_dir}/storage",
            f"-httpListenAddr={self.host}:{self.port}",
            "-retentionPeriod=100y",
            "-dedup.minScrapeInterval=1ms",  # a point written twice is one point, as in InfluxDB
            "-memory.allowedBytes=128MB",
            "-loggerLevel=WARN",
        ]

    def export(self, match: str) -> list[dict[str, Any]]:
        """Return every series that matches, as {metric, values, timestamps in ms}, with what was just written."""
        with urllib.request.urlopen(f"{self.url}/internal/force_flush", timeout=30):  # noqa: S310  # http, ours
            pass
        query = urllib.parse.urlencode({"match[]": match})
        with urllib.request.urlopen(f"{self.url}/api/v1/export?{query}", timeout=30) as response:  # noqa: S310  # http, ours
            return [json.loads(line) for line in response]


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(text)
