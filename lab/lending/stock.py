"""Test servers as they come: `iperf3 -s` on some ports, and clients who try a random one until it takes them."""

from __future__ import annotations

import contextlib
import random
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Final

from lab.lending.probes import PATIENCE_S, Client, LendingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lab.lending.crowd import Crowd

_RETRY_S: Final = (1.0, 5.0)


def pool(count: int) -> range:
    """Find ports in a row that nobody uses, below those that the kernel gives out; raise LendingError."""
    for _ in range(100):
        first = random.randrange(20000, 32000)
        if all(_is_free(port) for port in range(first, first + count)):
            return range(first, first + count)
    raise LendingError(f"no {count} free ports in a row")


@contextlib.contextmanager
def servers(ports: range) -> Iterator[None]:
    """Run one server on each port, and wait until they listen; raise LendingError."""
    running = [
        subprocess.Popen(
            ["iperf3", "-s", "-B", "127.0.0.1", "-p", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for port in ports
    ]
    try:
        deadline_s = time.monotonic() + PATIENCE_S
        while any(map(_is_free, ports)):
            if time.monotonic() > deadline_s:
                raise LendingError(f"stock servers do not listen within {PATIENCE_S:.0f} s")
            time.sleep(0.05)
        yield
    finally:
        for server in running:
            server.kill()
            server.wait()


def tester(ports: range, arguments: Sequence[str], test_s: float) -> Callable[[int, random.Random, Crowd], bool]:
    """Make what a probe does without leases: a random port, and another try after a random pause when it is busy."""

    def test(probe: int, dice: random.Random, crowd: Crowd) -> bool:
        since_s = time.monotonic()
        vanishes = crowd.will_vanish(dice)
        while True:
            port = dice.choice(ports)
            complaint = crowd.test(probe, port, Client("127.0.0.1", port, arguments), vanishes=vanishes)
            if complaint is None or complaint == "vanished":
                crowd.waited(since_s + test_s)
                return complaint is None
            crowd.turned_away()
            if not crowd.sleep(dice.uniform(*_RETRY_S)):
                return False

    return test


def _is_free(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
        return True
    return False
