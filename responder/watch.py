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

from wire.leases import ARRIVE_WITHIN_S

if TYPE_CHECKING:
    from collections.abc import Mapping

NO_PROGRESS_S: Final = 6.5
"""Longer than the outage that a test survives (5 s); with two looks a second the port is free within 8 s."""
GREETING_S: Final = 5.0
"""How long a connection may take to show that it is the lease's own client."""

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


class Seen(NamedTuple):
    """What one look finds at one server; `admitted`: the lease's client has shown its password there."""

    traffic: Traffic | None
    admitted: bool


class State(Enum):
    """What one look at a lease's servers says of its client."""

    FINE = auto()
    STUCK = auto()  # it moves no bytes any more
    NOBODY = auto()  # it did not come, or not for its next transfer


class Verdict(NamedTuple):
    """The client's state, and the ports that somebody holds who does not show the lease's password."""

    state: State
    strangers: tuple[int, ...] = ()


class _Connection(NamedTuple):
    since_s: float
    carried_bytes: int
    moved_s: float


class Patience:
    """The clocks of one lease: since when its client is waited for, and how long nothing has moved.

    Pure; `look` at least once a second. What strangers do, and servers that are started anew because of them, renews no
    clock: a client that connects and vanishes before it has shown its password is waited for no longer than one that
    never came.
    """

    def __init__(self, now_s: float) -> None:
        """Begin when the servers listen: that is the client's turn, whenever it was granted."""
        self._expected_s = now_s
        self._connections: dict[int, _Connection] = {}

    def look(self, servers: Mapping[int, Seen], now_s: float) -> Verdict:
        """Judge by what the connections of the servers that are not done, by port, have carried."""
        strangers: list[int] = []
        connected = False
        for port, (traffic, admitted) in servers.items():
            if traffic is None or not traffic.connections:
                self._connections.pop(port, None)
                continue
            known = self._connections.get(port, _Connection(now_s, -1, now_s))
            moved_s = now_s if traffic.carried_bytes != known.carried_bytes else known.moved_s
            self._connections[port] = _Connection(known.since_s, traffic.carried_bytes, moved_s)
            if admitted:
                if now_s - moved_s >= NO_PROGRESS_S:
                    return Verdict(State.STUCK)
                self.go_on(now_s)
                connected = True
            elif now_s - known.since_s >= GREETING_S:
                del self._connections[port]
                strangers.append(port)
            else:
                connected = True
        over = not connected and self.is_over(now_s)
        return Verdict(State.NOBODY if over else State.FINE, tuple(strangers))

    def go_on(self, now_s: float) -> None:
        """Wait anew: one of the run's transfers moves, or is done."""
        self._expected_s = now_s

    def is_over(self, now_s: float) -> bool:
        """Whether the client has been waited for long enough."""
        return now_s - self._expected_s >= ARRIVE_WITHIN_S


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
