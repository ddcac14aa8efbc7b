"""`probe-lab bench stuck`: how long a test server is lost to a client that vanishes in the middle of a test.

Four real iperf3 clients run in a network namespace, each against a server of its own in another: a download and an
upload from two stock `iperf3 -s`, the same two from a real responder. Then the cable between the namespaces is cut, and
from the servers' side somebody asks for each server until a test is made there.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from agent.lease import Wish
from agent.measurements.base import MeasurementFailed
from base.broker import BrokerSettings
from base.table import render
from lab.benches import Judged, add_bench, say
from lab.lending.probes import Client, LabProbe, LendingError, responder, wait_until_serving
from lab.netns import Namespace, NetworkError, Run, veth
from lab.programs import ProgramError
from lab.servers import Mosquitto, ServerError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from lab.benches import Parts

GOAL_S: Final = 10.0

_GIVE_UP_S: Final = 90.0
_TEST_S: Final = 15
_LEASE_S: Final = 100.0
_CUT_AFTER_S: Final = 4.0
_HERE, _THERE = "198.18.7.1", "198.18.7.2"
_BROKER_PORT: Final = 1883
_STOCK_PORTS: Final = {"download": 5301, "upload": 5302}
_POOL: Final = {"first": 5201, "last": 5202}
_BEAT_S: Final = 0.5

_EXAMPLES: Final = """examples:
  sudo probe-lab bench stuck                  both directions, stock and leased, side by side; about 75 s
  sudo probe-lab bench stuck --check          exit status 1 unless a leased server is free within 10 s
  sudo probe-lab bench stuck --json
"""


class Freed(msgspec.Struct, frozen=True, kw_only=True):
    """After how many seconds the next client began the test that it then made; None: not within 90 s."""

    server: str
    direction: str
    free_after_s: float | None


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """The whole bench."""

    iperf3: str
    test_s: int
    goal_s: float
    freed: list[Freed]

    @property
    def met(self) -> bool:
        """Whether every leased server was free in time."""
        ours = [one for one in self.freed if one.server == "leased"]
        return len(ours) == len(_STOCK_PORTS) and all(
            one.free_after_s is not None and one.free_after_s <= self.goal_s for one in ours
        )


def add_parser(parts: Parts) -> None:
    """Add `stuck` to the benches."""
    add_bench(
        parts,
        "stuck",
        run,
        summary="how long a vanished client blocks a server",
        description="Cut off clients in mid-test; time how long stock and leased iperf3 servers stay blocked (root).",
        examples=_EXAMPLES,
        check=f"unless free within {GOAL_S:.0f} s",
        failures=(NetworkError, ServerError, ProgramError, LendingError, MeasurementFailed, OSError),
    )


def run(_: argparse.Namespace) -> Judged:
    """Measure and judge; raise what `measure` raises."""
    found = measure()
    head = ("server", "the vanished client's test", "free again after s")
    table = render(head, [(one.server, one.direction, one.free_after_s) for one in found.freed])
    text = f"{found.iperf3}; a {found.test_s} s test, cut off after {_CUT_AFTER_S:.0f} s\n{table}"
    return Judged(found, text, () if found.met else [f"not every leased server was free within {GOAL_S:.0f} s"])


def measure() -> Found:
    """Build the two ends, cut the cable, wait; raise NetworkError, ServerError, ProgramError or LendingError."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="probe-lab-stuck-")))
        world = stack.enter_context(Run())
        here, there = world.namespace("servers"), world.namespace("probe")
        veth(here, "eth0", there, "eth0")
        here.ip(f"addr add {_HERE}/30 dev eth0")
        there.ip(f"addr add {_THERE}/30 dev eth0")
        prefix = ("ip", "netns", "exec", here.name)
        broker = stack.enter_context(Mosquitto(folder / "broker", port=_BROKER_PORT, prefix=prefix))
        lending = responder(
            folder / "responder", broker.port, prefix, advertise_host=_HERE, bind_address=_HERE, ports=_POOL
        )
        lending.start()
        stack.callback(lending.kill)
        for port in _STOCK_PORTS.values():
            here.popen(["iperf3", "-s", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        at = BrokerSettings(host="127.0.0.1", port=broker.port, tls=None)
        with here.inside():
            probes = [LabProbe(name, at) for name in ("down", "up", "next-down", "next-up")]
        for probe in probes:
            stack.callback(probe.close)
        wait_until_serving(lending, probes[0])
        _start_tests(there, probes[:2], stack)
        say(f"four tests run; the cable is cut in {_CUT_AFTER_S:.0f} s")
        time.sleep(_CUT_AFTER_S)
        there.ip("link set dev eth0 down")
        return Found(
            iperf3=here.run(["iperf3", "--version"]).split(" (")[0],
            test_s=_TEST_S,
            goal_s=GOAL_S,
            freed=_wait_for_all(here, probes[2:], time.monotonic()),
        )


def _start_tests(there: Namespace, probes: list[LabProbe], stack: contextlib.ExitStack) -> None:
    """Start a download and an upload against each kind of server."""
    prefix = ("ip", "netns", "exec", there.name)
    for (direction, port), probe in zip(_STOCK_PORTS.items(), probes, strict=True):
        options = ["-t", str(_TEST_S), "-b", "20M", *(["-R"] if direction == "download" else [])]
        stock = Client(_HERE, port, options, prefix=prefix)
        stack.callback(stock.kill)
        borrowed = probe.borrow(Wish("cell", transfers=1, length_s=_LEASE_S))
        leased = Client(_HERE, borrowed.ports[0], options, borrowed=borrowed, prefix=prefix)
        stack.callback(leased.kill)


def _wait_for_all(here: Namespace, next_probes: list[LabProbe], cut_s: float) -> list[Freed]:
    """Have somebody wait for each server at once; stock ones are tried, leased ones are booked."""
    found: list[Freed] = []
    threads = []

    def wait(server: str, direction: str, attempt: Callable[[], float | None]) -> None:
        while time.monotonic() - cut_s < _GIVE_UP_S:
            begun_s = attempt()
            if begun_s is not None:
                free_after_s = round(begun_s - cut_s, 1)
                found.append(Freed(server=server, direction=direction, free_after_s=free_after_s))
                say(f"{server}, {direction}: free after {free_after_s} s")
                return
            time.sleep(_BEAT_S)
        found.append(Freed(server=server, direction=direction, free_after_s=None))

    for (direction, port), probe in zip(_STOCK_PORTS.items(), next_probes, strict=True):
        waits = (("stock", _stock_attempt(here, port)), ("leased", _leased_attempt(here, probe)))
        for server, attempt in waits:
            threads.append(threading.Thread(target=wait, args=(server, direction, attempt), daemon=True))
            threads[-1].start()
    for thread in threads:
        thread.join()
    return sorted(found, key=lambda one: (one.server, one.direction), reverse=True)


def _stock_attempt(here: Namespace, port: int) -> Callable[[], float | None]:
    """Make an attempt that returns when it began, None if there was no test."""
    prefix = ("ip", "netns", "exec", here.name)

    def attempt() -> float | None:
        begun_s = time.monotonic()
        return begun_s if Client(_HERE, port, ["-n", "1K"], prefix=prefix).result(10) is None else None

    return attempt


def _leased_attempt(here: Namespace, probe: LabProbe) -> Callable[[], float | None]:
    """Make the same with a lease, whose turn is waited for."""
    prefix = ("ip", "netns", "exec", here.name)

    def attempt() -> float | None:
        try:
            borrowed = probe.borrow(Wish("cell", transfers=1, length_s=30, window_s=_LEASE_S))
        except MeasurementFailed:
            return None
        begun_s = time.monotonic()
        client = Client(_HERE, borrowed.ports[0], ["-n", "1K"], borrowed=borrowed, prefix=prefix)
        return begun_s if client.result(10) is None else None

    return attempt
