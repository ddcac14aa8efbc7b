"""A data call by pppd over a modem's serial port: the options file, the child, and what its log says of a failure.

pppd owns the port; its `connect` script is `probe-agent modem dial`, which speaks AT on the port that pppd gives it,
and dials. Options: pppd(8) 2.4.9. `local`: ports of the option driver show no carrier. `peer_file` and `reason_of` are
pure.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from agent.measurements.base import MeasurementFailed
from agent.modem.errors import CommandRefused, ModemError
from agent.path import LinkPath, look
from wire.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from agent.modem.apn import Apn
    from agent.modem.session import ModemSession

DIAL_S: Final = 180.0
_LINES_KEPT: Final = 200
_STOP_S: Final = 8.0
_LOOK_EVERY_S: Final = 0.2
_TOLD_WITHIN_S: Final = 2.0
_UNIT: Final = re.compile(r"ppp([0-9]{1,4})")
_ADDRESS: Final = re.compile(r"(local  IP|remote IP|primary   DNS|secondary DNS) address ([0-9.]+)")

# pppd(8), EXIT STATUS.
_STATUS: Final = {
    1: "pppd met an error that it cannot go on from",
    2: "pppd does not know an option; is it older than 2.4.9?",
    3: "pppd needs root",
    4: "this kernel has no PPP; modprobe ppp_generic",
    5: "pppd was told to end",
    6: "another program has locked the serial port",
    7: "the serial port cannot be opened",
    8: "the modem could not be dialled",
    10: "the network did not agree on the link (LCP)",
    11: "the network did not identify itself, and should have",
    15: "the network does not answer any more",
    16: "the modem hung up",
    19: "the network refuses the account: check the APN's user name and password",
}
# What the log says more exactly than the status; the first that is found counts.
_IN_LOG: Final = (
    (re.compile(r"probe-agent: (.+)"), "{0}"),
    (
        re.compile(r"(?:PAP|CHAP) authentication failed"),
        "the network refuses the account: check user name and password",
    ),
    (re.compile(r"LCP: timeout sending Config-Requests"), "the modem is connected, and nobody speaks PPP behind it"),
    (
        re.compile(r"(?:IPCP terminated by peer|No network protocols running)"),
        "the network gives no address: wrong APN?",
    ),
    (
        re.compile(r"lacks kernel support for PPP|create the /dev/ppp device"),
        "this kernel has no PPP; modprobe ppp_generic",
    ),
    (re.compile(r"Device \S+ is locked by pid (\d+)"), "process {0} has locked the serial port"),
    (re.compile(r"unrecognized option '(.+?)'"), "pppd does not know the option {0}; is it older than 2.4.9?"),
    (re.compile(r"must be root|Permission denied"), "pppd needs root"),
)


class Addresses(NamedTuple):
    """What the network has given, as pppd tells it."""

    local: str | None = None
    remote: str | None = None
    name_servers: tuple[str, ...] = ()


def peer_file(
    port: str, interface: str, apn: Apn, *, connect: Sequence[str], metric: int, default_route: bool = True
) -> str:
    """Write the options of one call. The account stands in it: the file is for the owner's eyes."""
    unit = _UNIT.fullmatch(interface)
    lines = [
        port,
        "115200",
        f"connect {_quoted(shlex.join(connect))}",
        "nodetach",
        "logfd 2",
        "local",
        "nocrtscts",
        "lock",
        "noauth",
        "noipdefault",
        "ipcp-accept-local",
        "ipcp-accept-remote",
        "noccp",
        "novj",
        "usepeerdns",
        "maxfail 1",
        "lcp-echo-interval 20",
        "lcp-echo-failure 4",
        f"unit {int(unit[1])}" if unit else f"ifname {interface}",
    ]
    lines += ["defaultroute", f"defaultroute-metric {metric}"] if default_route else ["nodefaultroute"]
    if apn.username:
        lines += [f"user {_quoted(apn.username)}", f"password {_quoted(apn.password)}", "hide-password"]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """Quote one word of an options file: double quotes, backslashes before those inside (pppd(8), OPTIONS FILES)."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def addresses_of(lines: Iterable[str]) -> Addresses:
    """Read what pppd said of its addresses; the last word counts."""
    found = {match[1]: match[2] for line in lines if (match := _ADDRESS.search(line))}
    servers = tuple(found[key] for key in ("primary   DNS", "secondary DNS") if key in found)
    return Addresses(found.get("local  IP"), found.get("remote IP"), servers)


def reason_of(lines: Iterable[str], status: int | None) -> str:
    """Say why a call failed: by the log where it is exact, else by the exit status."""
    kept = list(lines)
    for pattern, told in _IN_LOG:
        for line in kept:
            if match := pattern.search(line):
                return told.format(*match.groups())
    if status is None:
        return "pppd runs, and has no address yet"
    return _STATUS.get(status, f"pppd ended with status {status}" if status >= 0 else f"pppd was killed ({-status})")


def dial(session: ModemSession, context: int = 1) -> str:
    """Dial the data call on an open session; return the CONNECT line. Raise CommandRefused with the network's cause."""
    answer = session.ask(f"ATD*99***{context}#", DIAL_S)
    if answer.ok and (answer.final or "").startswith("CONNECT"):
        return str(answer.final)
    cause = " ".join(session.ask("AT+CEER").lines)
    said = answer.final or "no answer"
    raise CommandRefused(f"{session.port_name}: ATD*99***{context}#: {said}{f' ({cause})' if cause else ''}")


def dial_command(context: int = 1) -> list[str]:
    """Name the command that pppd runs to dial."""
    return [sys.executable, "-m", "agent.cli", "modem", "dial", "--cid", str(context)]


class PppLink:
    """One pppd, from `start` to `stop`. `program` is there for tests."""

    def __init__(self, options: str, options_file: Path, interface: str, *, program: str = "pppd") -> None:
        """Take the text of the options and where it is to lie; nothing runs yet."""
        self.interface = interface
        self._options = options
        self._file = options_file
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._lines: deque[str] = deque(maxlen=_LINES_KEPT)

    @property
    def runs(self) -> bool:
        """Whether pppd is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def addresses(self) -> Addresses:
        """What the network has given."""
        return addresses_of(list(self._lines))

    @property
    def reason(self) -> str:
        """Why there is no link."""
        return reason_of(list(self._lines), self._process.poll() if self._process is not None else None)

    def start(self) -> None:
        """Start pppd; raise ModemError where it cannot be."""
        try:
            descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(self._options)
            self._process = subprocess.Popen(
                [self._program, "file", str(self._file)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        except FileNotFoundError as error:
            raise ModemError(f"{self._program} is not installed; apt-get install ppp") from error
        except OSError as error:
            raise ModemError(f"{self._program}: {error.strerror or error}") from error
        self._reader = threading.Thread(target=self._read, name=f"{self._program} {self.interface}", daemon=True)
        self._reader.start()

    def wait_until_up(self, within_s: float, *, path: Callable[[str], LinkPath] = look) -> LinkPath:
        """Wait for the interface and its address; raise MeasurementFailed with the reason, and then nothing runs."""
        until_s = time.monotonic() + within_s
        while self.runs and time.monotonic() < until_s:
            found = path(self.interface)
            if found.up and found.source_address:
                self._hear_out()
                return found
            time.sleep(_LOOK_EVERY_S)
        ran = self.runs
        self.stop()
        told = f"no address within {within_s:.0f} s" if ran else self.reason
        raise MeasurementFailed(Reason.LINK_DOWN, f"{self.interface}: {told}")

    def _hear_out(self) -> None:
        """Let pppd tell the addresses: it sets the interface up first, and then writes them into its log in one go."""
        until_s = time.monotonic() + _TOLD_WITHIN_S
        while self.addresses.local is None and self.runs and time.monotonic() < until_s:
            time.sleep(_LOOK_EVERY_S)
        time.sleep(_LOOK_EVERY_S)

    def stop(self) -> None:
        """End the call: pppd hangs up on SIGTERM; what is left of its group after 8 s is killed."""
        process = self._process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if self._reader is not None:
            self._reader.join()
            self._reader = None
        if process.stdout is not None:
            process.stdout.close()
        self._file.unlink(missing_ok=True)

    def _read(self) -> None:
        assert self._process is not None  # noqa: S101  # started by the one who started it
        assert self._process.stdout is not None  # noqa: S101  # asked for
        with contextlib.suppress(ValueError):
            for line in self._process.stdout:
                self._lines.append(line.decode("utf-8", "replace").strip()[:300])
