"""Whether a client still moves bytes: the sockets of the lent ports as the kernel counts them, and what is made of it.

A stock iperf3 server waits for a vanished client until its own timer ends (duration + omit + 40 s), and its time-outs
help in one direction only. The kernel's counters (tcp(7) TCP_INFO, read by ss(8)) tell in both within a second.
"""

from __future__ import annotations

import ipaddress
import re
import subprocess
from enum import Enum, auto
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

NO_PROGRESS_S: Final = 6.5
"""Longer than the outage that a test survives (5 s); with two looks a second the port is free within 8 s."""
GREETING_S: Final = 5.0
"""How long a connection may take to show that it is the lease's own client."""
NOBODY_CAME_S: Final = 15.0
"""How long servers wait for a first client, or for the next of a run's transfers."""

_TOOL_TIMEOUT_S: Final = 5.0
_COUNTER: Final = re.compile(r"\bbytes_(?:received|acked):(\d+)")
_HELD: Final = {"ESTAB", "CLOSE-WAIT"}
"""States of connections that a process holds; what a killed server leaves behind is the kernel's."""
_BEFORE_THE_ADDRESSES: Final = 3  # state, receive queue, send queue


class Traffic(NamedTuple):
    """What the connections of one port have carried so far, both directions."""

    connections: int
    carried_bytes: int


class WatchError(Exception):
    """The kernel's counters cannot be read; the text says why."""


class State(Enum):
    """What one look at a server says."""

    FINE = auto()
    STUCK = auto()  # its client moves no bytes any more
    STRANGER = auto()  # somebody holds the port who does not show the lease's password
    NOBODY = auto()  # no client came


class Patience:
    """One server's clock: how long nothing has happened. Pure; `look` at least once a second."""

    def __init__(self, now_s: float) -> None:
        self._carried_bytes = 0
        self._moved_s = now_s
        self._idle_since_s: float | None = now_s
        self._connected_since_s: float | None = None

    def look(self, traffic: Traffic | None, now_s: float, *, admitted: bool) -> State:
        """Judge by what the port's connections have carried; `admitted`: the lease's client has shown its password."""
        if traffic is None or not traffic.connections:
            self._connected_since_s = None
            self._idle_since_s = now_s if self._idle_since_s is None else self._idle_since_s
            self._moved_s = now_s
            return State.NOBODY if now_s - self._idle_since_s >= NOBODY_CAME_S else State.FINE
        self._idle_since_s = None
        if self._connected_since_s is None:
            self._connected_since_s = now_s
        if traffic.carried_bytes != self._carried_bytes:
            self._carried_bytes, self._moved_s = traffic.carried_bytes, now_s
        if not admitted:
            return State.STRANGER if now_s - self._connected_since_s >= GREETING_S else State.FINE
        return State.STUCK if now_s - self._moved_s >= NO_PROGRESS_S else State.FINE

    def go_on(self, now_s: float) -> None:
        """Another of the run's transfers moved: a server that waits for its turn has not waited in vain."""
        if self._idle_since_s is not None:
            self._idle_since_s = now_s


def look(first: int, last: int, address: str | None = None) -> Mapping[int, Traffic]:
    """Read what the connections to the ports (of one address, if named) have carried, by port; raise WatchError."""
    command = ["ss", "-tinHO", f"( sport >= :{first} and sport <= :{last} )"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TOOL_TIMEOUT_S, check=True)
    except subprocess.CalledProcessError as error:
        raise WatchError(f"ss: {error.stderr.strip()}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise WatchError(f"ss: {error}") from error
    return read(done.stdout, address)


def read(table: str, address: str | None = None) -> dict[int, Traffic]:
    """Read the lines of `ss -tinHO`; a line that is none, or of another address, is passed over."""
    found: dict[int, Traffic] = {}
    for line in table.splitlines():
        columns = line.split()
        if len(columns) <= _BEFORE_THE_ADDRESSES:
            continue
        host, _, port_text = columns[_BEFORE_THE_ADDRESSES].rpartition(":")
        if not port_text.isdecimal() or columns[0] not in _HELD:
            continue
        if address is not None and not _is_same(host.strip("[]").removeprefix("::ffff:"), address):
            continue
        port = int(port_text)
        before = found.get(port, Traffic(0, 0))
        carried = sum(map(int, _COUNTER.findall(line)))
        found[port] = Traffic(before.connections + 1, before.carried_bytes + carried)
    return found


def _is_same(host: str, address: str) -> bool:
    """Whether an address is the one that servers are bound to; the wildcards stand for any."""
    try:
        bound = ipaddress.ip_address(address)
        return bound.is_unspecified or ipaddress.ip_address(host.partition("%")[0]) == bound
    except ValueError:
        return False
