"""Processes of the responder: single-use iperf3 servers, and whatever else it keeps running.

Each has a process group of its own, dies when the thread that started it does (prctl(2) PR_SET_PDEATHSIG, set by
setpriv(1): a responder that is killed leaves no orphan), and never blocks on output that nobody reads.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

log = logging.getLogger(__name__)

_LISTENING: Final = b"Server listening on "
_START_TIMEOUT_S: Final = 3.0
_KEEP_BYTES: Final = 16384
_KEY_TIMEOUT_S: Final = 60.0
_ACCEPTED: Final = re.compile(rb"Accepted connection from ([0-9A-Fa-f.:]+), port")
# The password's time stamp is not ours to judge: a probe without a battery clock may be years off. A copied password is
# of no use anyway: it opens one server, once, until the lease ends.
_ANY_CLOCK_S: Final = 2_000_000_000
# The password of a lease is padded by PKCS#1 v1.5 on both sides, whatever their versions: iperf3 before 3.17 knows
# nothing else, and later ones have to be told (RELNOTES of 3.17). What OAEP closes is of little
# use against a password that opens one server once.
_OAEP_SINCE: Final = (3, 17)
_DEBIAN_PACKAGES: Final = {
    "iperf3": "iperf3",
    "irtt": "irtt",
    "setpriv": "util-linux",
    "stdbuf": "coreutils",
    "ss": "iproute2",
    "openssl": "openssl",
}


class ServerError(Exception):
    """A server process cannot be started or does not listen; the text says why."""


class PortTaken(ServerError):
    """Somebody else listens on the port."""

    def __init__(self, port: int) -> None:
        super().__init__(f"port {port} is in use by another program")
        self.port = port


class Child:
    """A running process. Start and poll it from one thread, which must live as long as the process shall."""

    def __init__(self, command: Sequence[str]) -> None:
        """Start it; raise ServerError."""
        try:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        except OSError as error:
            raise ServerError(f"{command[0]}: {error.strerror or error}") from error
        if self._process.stdout is None:
            raise AssertionError("a pipe was asked for")
        self._output = self._process.stdout
        os.set_blocking(self._output.fileno(), False)
        self._said = b""

    @property
    def pid(self) -> int:
        """Its number, which is also its group's."""
        return self._process.pid

    def ended(self) -> bool:
        """Whether it has ended by itself. Reads its output, so that it never waits for us."""
        self._read()
        return self._process.poll() is not None

    def has_said(self, text: str) -> bool:
        """Whether the end of its output holds `text`."""
        return text.encode() in self._said

    def last_words(self) -> str:
        """Return the last line it wrote that says something."""
        lines = [line.strip() for line in self._said.decode("utf-8", "replace").splitlines()]
        return next((line for line in reversed(lines) if line.strip("- ")), "nothing")

    def wait_for(self, text: bytes, *, timeout_s: float) -> bool:
        """Wait until it has written `text`; False if it ended or the time went by first."""
        deadline_s = time.monotonic() + timeout_s
        while text not in self._said:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or not select.select([self._output], [], [], left_s)[0] or not self._read():
                return text in self._said
        return True

    def kill(self) -> None:
        """Kill its whole group and wait until it is gone. Can be repeated."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._read()
        self._output.close()

    def _read(self) -> bool:
        """Take what it has written; False at the end of its output."""
        if self._output.closed:
            return False
        while True:
            try:
                chunk = os.read(self._output.fileno(), 65536)
            except BlockingIOError:
                return True
            if not chunk:
                return False
            self._said = (self._said + chunk)[-_KEEP_BYTES:]


class Login(NamedTuple):
    """Who may use a lease's servers: the files that iperf3's own authentication reads."""

    key_file: Path
    users_file: Path
    pkcs1: bool

    @property
    def options(self) -> list[str]:
        """What tells an iperf3 server."""
        asked = ["--rsa-private-key-path", str(self.key_file), "--authorized-users-path", str(self.users_file)]
        return [*asked, "--time-skew-threshold", str(_ANY_CLOCK_S), *(["--use-pkcs1-padding"] if self.pkcs1 else [])]


class Gate:
    """One RSA key, and one user and password per lease; all of it in a private folder.

    The key lives as long as the responder, unless somebody cleans the folder away: then there is another. The folder is
    in the unit's RuntimeDirectory where there is one (systemd.exec(5)): what is old in /tmp is removed after some days.
    """

    def __init__(self) -> None:
        """Make the key; raise ServerError, also where this iperf3 asks for no password."""
        about = iperf3()
        if about.complaint is not None:
            raise ServerError(about.complaint)
        self._pkcs1 = about.version >= _OAEP_SINCE
        self._make()

    def _make(self) -> None:
        runtime = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0] or None
        try:
            self._folder = tempfile.TemporaryDirectory(prefix="probefleet-responder-", dir=runtime)
        except OSError as error:
            raise ServerError(f"no folder for the leases' key can be made: {error}") from error
        folder = Path(self._folder.name)
        self._key_file = folder / "key.pem"
        try:
            _openssl("genrsa", "-out", str(self._key_file), "2048")
            self._key_file.chmod(0o600)
            self.public_key = _openssl("rsa", "-in", str(self._key_file), "-pubout")
        except ServerError:
            self.close()
            raise

    def admit(self, user: str, password: str) -> Login:
        """Let one user in; the file is a line `user,sha256({user}password)` (iperf3(1), --authorized-users-path).

        Raise ServerError where the disk does not take it, or no key can be made in the place of one that has gone.
        """
        if not self._key_file.exists():
            log.warning("%s has gone: somebody cleans up there; the key is made anew", self._key_file)
            self.close()
            self._make()
        users_file = Path(self._folder.name) / f"{user}.csv"
        digest = hashlib.sha256(f"{{{user}}}{password}".encode()).hexdigest()
        try:
            users_file.touch(mode=0o600)
            users_file.write_text(f"{user},{digest}\n", encoding="ascii")
        except OSError as error:
            with contextlib.suppress(OSError):
                users_file.unlink()
            raise ServerError(
                f"{users_file}: {error.strerror}; nobody can be lent a server before it has room"
            ) from error
        return Login(self._key_file, users_file, self._pkcs1)

    def shut_out(self, login: Login) -> None:
        """Forget a user."""
        with contextlib.suppress(OSError):
            login.users_file.unlink()

    def close(self) -> None:
        """Remove the key and every user."""
        self._folder.cleanup()


class Server(Child):
    """One iperf3 server for one transfer (`-1`), after which it ends; a client without the login does not count."""

    def __init__(self, port: int, bind_address: str | None, login: Login | None, max_mbps: float | None) -> None:
        self.port = port
        bind = ["-B", bind_address] if bind_address is not None else []
        limit = ["--server-bitrate-limit", f"{max_mbps:g}M"] if max_mbps is not None else []
        asked = login.options if login is not None else []
        # -i 0: no line per second and stream; stdbuf: what it says of its client at once, into a pipe too.
        command = ["stdbuf", "-oL", "iperf3", "-s", "-1", "-i", "0", "-p", str(port)]
        super().__init__([*command, *bind, *limit, *asked])

    @property
    def client(self) -> str | None:
        """The address of the client that was admitted: who shows the login; without one, who greets properly."""
        match = _ACCEPTED.search(self._said)
        return match[1].decode().removeprefix("::ffff:") if match is not None else None

    def wait_until_listening(self) -> None:
        """Return when clients may connect; raise PortTaken or ServerError."""
        if self.wait_for(_LISTENING, timeout_s=_START_TIMEOUT_S):
            return
        if self.has_said("in use"):
            raise PortTaken(self.port)
        raise ServerError(f"iperf3 on port {self.port} does not listen; it said: {self.last_words()}")


def start(
    ports: Iterable[int], bind_address: str | None, login: Login | None = None, max_mbps: float | None = None
) -> list[Server]:
    """Start one server per port and wait until all of them listen; raise PortTaken or ServerError, and leave none."""
    servers: list[Server] = []
    try:
        servers.extend(Server(port, bind_address, login, max_mbps) for port in ports)
        for server in servers:
            server.wait_until_listening()
    except BaseException:
        for server in servers:
            server.kill()
        raise
    return servers


def is_free(port: int, bind_address: str | None) -> bool:
    """Whether a TCP server could listen there now."""
    family = socket.AF_INET6 if ":" in (bind_address or ":") and socket.has_ipv6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # as iperf3 does: both families at once
            probe.bind((bind_address or ("::" if family == socket.AF_INET6 else "0.0.0.0"), port))  # noqa: S104  # the servers' own default
            probe.listen(1)
    except OSError:
        return False
    return True


class Iperf3(NamedTuple):
    """Which iperf3 is installed; `authentication`: whether its servers can ask for a password."""

    version: tuple[int, int]
    authentication: bool

    @property
    def complaint(self) -> str | None:
        """Say why no lease can have a password, if none can."""
        if self.authentication:
            return None
        return (
            f"iperf3 {self.version[0]}.{self.version[1]} was built without OpenSSL and cannot ask for a password: "
            "install one that was (Debian's is), or write `authenticate: false`: a lease is then its ports, no more"
        )


def iperf3() -> Iperf3:
    """Ask iperf3 which one it is and what it can do; raise ServerError."""
    try:
        said = subprocess.run(["iperf3", "--version"], capture_output=True, text=True, check=False, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServerError(f"iperf3: {error}") from error
    match = re.match(r"iperf (\d+)\.(\d+)", said)
    if match is None:
        raise ServerError(f"iperf3 --version said: {said[:80]!r}")
    features = re.search(r"^Optional features available:(.*)", said, re.MULTILINE)
    return Iperf3((int(match[1]), int(match[2])), features is not None and "authentication" in features[1])


def _openssl(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["openssl", *arguments], capture_output=True, text=True, check=True, timeout=_KEY_TIMEOUT_S
        )
    except subprocess.CalledProcessError as error:
        raise ServerError(f"openssl {arguments[0]}: {error.stderr.strip()}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServerError(f"openssl: {error}") from error
    return done.stdout


def missing_tools(names: Iterable[str]) -> list[str]:
    """Say for each tool that is not installed how to get it."""
    return [
        f"{name} is not installed; run: apt install {_DEBIAN_PACKAGES[name]}"
        for name in names
        if shutil.which(name) is None
    ]
