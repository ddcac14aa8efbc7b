"""`probe-lab bench lease`: two hundred probes at one test server, with leases and without.

Every probe wants a test again and again, a random while after its last one. The server's link is said to carry six
tests at once. Three ways to share it, one after the other: eight stock servers, as many ports as the responder has; six
of them, as many as the link carries; and a real responder over a real mosquitto, which lends eight ports, admits six
tests at once by bandwidth, and one in a cell. Without leases a probe tries a random port, and again after a random
pause when it is busy. In all of them a few clients vanish in mid-test (they are stopped, and answer nothing), as mobile
clients do: a stock server is lost to them for the test's length + 40 s, which is not scaled.

Tests are real but small: an iperf3 client downloads for two seconds at 2 Mbit/s over the loopback, which nobody's link
limits. So what sharing would have done to a test is told from the clock: it is valid if no other test ran in its cell
at the same time, and never more than six at the server; the others would have measured their neighbours.
"""

from __future__ import annotations

import secrets
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from agent.lease import LONGEST_WINDOW_S, Wish
from agent.measurements.base import MeasurementFailed
from base.broker import BrokerSettings
from base.table import render
from lab.benches import Judged, add_bench, say
from lab.lending import stock
from lab.lending.crowd import AT_ONCE, Crowd, Outcome, cell
from lab.lending.probes import Client, LabProbe, LendingError, responder, status_since, wait_until_serving
from lab.numbers import real, whole
from lab.programs import ProgramError
from lab.servers import Mosquitto, ServerError

if TYPE_CHECKING:
    import argparse
    import random

    from lab.benches import Parts

PORTS: Final = 8
TEST_MBPS: Final = 10.0
"""What a probe says that its test will take."""
_TEST_S: Final = 2
_CLIENT: Final = ("-R", "-t", str(_TEST_S), "-b", "2M")
_LEASE_S: Final = 12.0
_NO_FEWER: Final = 1.0
"""What order may cost: below this ratio of valid tests the check fails."""

_EXAMPLES: Final = """examples:
  probe-lab bench lease                              200 probes, 100 s each way, about six minutes
  probe-lab bench lease --check                      exit status 1 if a rule was broken or order costs valid tests
  probe-lab bench lease --probes 50 --seconds 20 --json
"""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """All ways. `ratio`: valid tests with leases over those of the better of the stock ways; `raw_ratio`: completed."""

    probes: int
    admitted_at_once: int
    seconds: float
    stock: tuple[Outcome, ...]
    leased: Outcome
    stuck_freed: int

    @property
    def ratio(self) -> float:
        """How many times as many valid tests."""
        return self.leased.valid / max(*(one.valid for one in self.stock), 1)

    @property
    def raw_ratio(self) -> float:
        """How many times as many completed tests, spoiled ones included."""
        return self.leased.completed / max(*(one.completed for one in self.stock), 1)

    @property
    def broken(self) -> list[str]:
        """Name the promises that were not kept."""
        ours = self.leased
        kept = {
            f"{ours.beyond_admission} moments with more than {self.admitted_at_once} tests": not ours.beyond_admission,
            f"{ours.on_one_cell} pairs of tests at once on one cell": not ours.on_one_cell,
            f"{ours.on_one_port} pairs of tests at once on one port": not ours.on_one_port,
            f"{ours.starved} probes without a test": not ours.starved,
            f"only {self.ratio:.2f} times as many valid tests as stock servers make": self.ratio >= _NO_FEWER,
        }
        return [what for what, fine in kept.items() if not fine]


def add_parser(parts: Parts) -> None:
    """Add `lease` to the benches."""
    parser = add_bench(
        parts,
        "lease",
        run,
        summary="two hundred probes at one test server, with leases and without",
        description="Let many probes share one test server by lease, and the same probes without one (no root needed).",
        examples=_EXAMPLES,
        check="if a promise was not kept",
        failures=(ServerError, ProgramError, LendingError, OSError),
    )
    parser.add_argument("--probes", type=whole(1, 1000), default=200, metavar="N", help="default %(default)s")
    parser.add_argument(
        "--seconds", type=whole(1, 3600), default=100, metavar="N", help="length of each way (default %(default)s)"
    )
    parser.add_argument(
        "--vanish", type=real(0, 100), default=1.0, metavar="PERCENT", help="clients that vanish in mid-test"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of every draw")


def run(arguments: argparse.Namespace) -> Judged:
    """Measure and judge; raise Complaint, or what `measure` raises."""
    found = measure(arguments.probes, arguments.seconds, arguments.vanish / 100, arguments.seed)
    ratios = {"ratio": round(found.ratio, 3), "raw_ratio": round(found.raw_ratio, 3), "broken": found.broken}
    return Judged(msgspec.to_builtins(found) | ratios, _text(found), found.broken)


def measure(probes: int, seconds: float, vanish: float, seed: int) -> Found:
    """Try all ways, one after the other; raise ServerError, ProgramError or LendingError."""
    ports = stock.pool(PORTS)
    without = []
    for count in (PORTS, AT_ONCE):
        say(f"{probes} probes at {count} stock servers for {seconds:.0f} s ...")
        with stock.servers(ports[:count]):
            crowd = Crowd(probes, seconds, vanish, seed)
            crowd.run(stock.tester(ports[:count], _CLIENT, _TEST_S))
        without.append(crowd.outcome(f"{count} stock servers", count))
    leased, freed = _measure_leases(ports, probes, seconds, vanish, seed)
    return Found(
        probes=probes,
        admitted_at_once=AT_ONCE,
        seconds=seconds,
        stock=tuple(without),
        leased=leased,
        stuck_freed=freed,
    )


def _measure_leases(ports: range, probes: int, seconds: float, vanish: float, seed: int) -> tuple[Outcome, int]:
    """Try the way with leases; also return how many stuck clients were freed."""
    name = f"lab-{secrets.token_hex(4)}"  # whatever else runs on this machine is not taken for it
    with (
        tempfile.TemporaryDirectory(prefix="probe-lab-lease-") as folder,
        Mosquitto(Path(folder) / "broker") as broker,
    ):
        at = BrokerSettings(host=broker.host, port=broker.port, tls=None)
        lending = responder(
            Path(folder) / "responder",
            broker.port,
            responder_id=name,
            bind_address="127.0.0.1",
            ports={"first": ports[0], "last": ports[-1]},
            link_mbps=AT_ONCE * TEST_MBPS,
            max_transfers=1,
            per_probe={"in_an_hour": 3600},
        )
        lending.start()
        peers: list[LabProbe] = []
        try:
            peers += [LabProbe(f"probe-{number}", at, asks=name) for number in range(probes)]
            wait_until_serving(lending, peers[0], name=name)
            say(f"{probes} probes at a responder with {PORTS} ports for {seconds:.0f} s ...")
            crowd = Crowd(probes, seconds, vanish, seed)
            crowd.run(lambda probe, dice, all_: _leased_test(peers[probe], probe, dice, all_))
            freed: int = status_since(lending, time.time())["status"]["counts"]["stuck_freed"]
        finally:
            for peer in peers:
                peer.leave()
            for peer in peers:
                peer.close()
            lending.kill()
    return crowd.outcome("leased", PORTS), freed


def _leased_test(peer: LabProbe, probe: int, dice: random.Random, crowd: Crowd) -> bool:
    """Ask for a lease, wait for the turn, test."""
    since_s = time.monotonic()
    wish = Wish(
        "viettel",
        transfers=1,
        length_s=_LEASE_S,
        window_s=LONGEST_WINDOW_S,
        expected_mbps=TEST_MBPS,
        operator="452-04",
        cell=str(cell(probe)),
    )
    try:
        borrowed = peer.borrow(wish)
    except MeasurementFailed:
        crowd.turned_away()
        return False
    crowd.waited(since_s)
    port = borrowed.ports[0]
    client = Client("127.0.0.1", port, _CLIENT, borrowed=borrowed)
    return crowd.test(probe, port, client, vanishes=crowd.will_vanish(dice)) is None


def _text(found: Found) -> str:
    names = {
        "valid_per_hour": "valid tests an hour",
        "valid": "valid tests",
        "completed": "tests completed",
        "per_hour": "tests an hour",
        "refused": "refused or busy",
        "vanished": "clients that vanished",
        "starved": "probes without a test",
        "most_at_once": "most tests at once",
        "beyond_admission": "tests beyond admission",
        "on_one_cell": "pairs at once on one cell",
        "on_one_port": "pairs at once on one port",
        "wait_mean_s": "mean wait for the turn, s",
        "wait_max_s": "longest wait, s",
    }
    ways = (*found.stock, found.leased)
    rows = [(label, *(getattr(way, name) for way in ways)) for name, label in names.items()]
    return (
        f"{found.probes} probes, {found.seconds:.0f} s each way; the server's link carries {found.admitted_at_once}"
        f" tests at once, a cell one\n{render(('', *(way.way for way in ways)), rows)}\n"
        f"\n{found.ratio:.2f} times as many valid tests with leases as with the better of the stock ways\n"
        f"({found.raw_ratio:.2f} times as many, spoiled ones included); {found.stuck_freed} stuck clients freed"
    )
