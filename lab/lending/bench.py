"""`probe-lab bench lease`: two hundred probes at one test server, with leases and without.

Every probe wants a test again and again, a random while after its last one. First they share stock servers, as many as
the server's link is said to carry tests at once, as a fleet without leases must: a random port, and another try after a
random pause when it is busy. Then a real responder lends ports over a real mosquitto, admits as many tests at once by
bandwidth (it has more ports), and one in a cell. Tests are real but small: an iperf3 client downloads for about a
second at 2 Mbit/s over the loopback; so the rates and lengths are scaled down, and nothing else is. In both halves a
few clients vanish in mid-test (they are stopped, and answer nothing), as mobile clients do: a stock server is lost to
them for the test's length + 40 s, which is not scaled.
"""
# ruff: noqa: T201 # what a bench prints is its result

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from agent.lease import Wish
from agent.measurements.base import MeasurementFailed
from base.broker import BrokerSettings
from base.table import render
from lab.lending.probes import Client, LabProbe, LendingError, responder, status, wait_until_serving
from lab.programs import ProgramError
from lab.servers import Mosquitto, ServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PORTS: Final = 8
AT_ONCE: Final = 6
"""What the server's link is said to carry: fewer tests than a responder has ports, so that bandwidth decides."""
PROBES_IN_A_CELL: Final = 8
TEST_MBPS: Final = 10.0
"""What a probe says that its test will take."""
_CLIENT: Final = ("-R", "-t", "1", "-b", "2M")
_LEASE_S: Final = 12.0
_WINDOW_S: Final = 120.0
_PAUSE_S: Final = (10.0, 50.0)
_RETRY_S: Final = (1.0, 5.0)
_NO_FEWER: Final = 0.9
"""What order may cost: below this ratio the check fails."""
_JITTER_S: Final = 0.3
"""How much later than its server a client may seem to end on a busy machine: no overlap is counted below it."""

_EPILOG = """examples:
  probe-lab bench lease                              200 probes, 60 s with stock servers and 60 s with leases
  probe-lab bench lease --check                      exit status 1 if a rule was broken or order costs tests
  probe-lab bench lease --probes 50 --seconds 20 --json
"""


class Made(NamedTuple):
    """One completed test, in seconds of one clock."""

    probe: int
    port: int
    begun_s: float
    ended_s: float


class Half(msgspec.Struct, frozen=True, kw_only=True):
    """What one way of sharing brought. Overlaps: pairs of tests at the same time that the rules forbid."""

    way: str
    completed: int
    per_hour: float
    refused: int
    vanished: int
    starved: int
    most_at_once: int
    beyond_admission: int
    on_one_cell: int
    on_one_port: int
    wait_mean_s: float
    wait_max_s: float


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """Both halves. `ratio`: completed tests with leases over those without."""

    probes: int
    ports: int
    admitted_at_once: int
    seconds: float
    stock: Half
    leased: Half
    stuck_freed: int

    @property
    def ratio(self) -> float:
        """How many times as many tests."""
        return self.leased.completed / max(self.stock.completed, 1)

    @property
    def broken(self) -> list[str]:
        """Name the promises that were not kept."""
        ours = self.leased
        kept = {
            f"{ours.beyond_admission} moments with more than {self.admitted_at_once} tests": not ours.beyond_admission,
            f"{ours.on_one_cell} pairs of tests at once on one cell": not ours.on_one_cell,
            f"{ours.on_one_port} pairs of tests at once on one port": not ours.on_one_port,
            f"{ours.starved} probes without a test": not ours.starved,
            f"only {self.ratio:.2f} times as many tests as stock servers make": self.ratio >= _NO_FEWER,
        }
        return [what for what, fine in kept.items() if not fine]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `lease` to the benches; the chosen parser's `run` takes the arguments and returns the exit status."""
    parser = subparsers.add_parser(
        "lease",
        help="two hundred probes at one test server, with leases and without",
        description="Let many probes share one test server by lease, and the same probes without one (no root needed).",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--probes", type=int, default=200, metavar="N", help="default %(default)s")
    parser.add_argument(
        "--seconds", type=int, default=60, metavar="N", help="length of each half (default %(default)s)"
    )
    parser.add_argument("--vanish", type=float, default=1.0, metavar="PERCENT", help="clients that vanish in mid-test")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of every draw")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    parser.add_argument("--check", action="store_true", help="exit status 1 if a promise was not kept")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure, print, judge."""
    if arguments.probes < 1 or arguments.seconds < 1:
        print("probe-lab bench lease: --probes and --seconds must be 1 or more", file=sys.stderr)
        return 2
    try:
        found = measure(arguments.probes, arguments.seconds, arguments.vanish / 100, arguments.seed)
    except (ServerError, ProgramError, LendingError, OSError) as error:
        print(f"probe-lab bench lease: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        document = msgspec.to_builtins(found) | {"ratio": round(found.ratio, 3), "broken": found.broken}
        print(msgspec.json.encode(document).decode())
    else:
        _print(found)
    if arguments.check and found.broken:
        print(f"probe-lab bench lease: {'; '.join(found.broken)}", file=sys.stderr)
        return 1
    return 0


def measure(probes: int, seconds: float, vanish: float, seed: int) -> Found:
    """Run both halves, one after the other; raise ServerError, ProgramError or LendingError."""
    with tempfile.TemporaryDirectory(prefix="probe-lab-lease-") as name:
        folder = Path(name)
        ports = _pool()
        with _stock_servers(ports[:AT_ONCE]):
            _say(f"{probes} probes at {AT_ONCE} stock servers for {seconds:.0f} s ...")
            stock = Fleet(probes, seconds, vanish, seed)
            stock.run(lambda probe, dice, fleet: _stock_test(probe, dice, fleet, ports[:AT_ONCE]))
        with Mosquitto(folder / "broker") as broker:
            at = BrokerSettings(host=broker.host, port=broker.port, tls=None)
            lending = responder(
                folder / "responder",
                broker.port,
                bind_address="127.0.0.1",
                ports={"first": ports[0], "last": ports[-1]},
                link_mbps=AT_ONCE * TEST_MBPS,
                max_transfers=1,
                per_probe={"in_an_hour": 3600},
            )
            lending.start()
            peers: list[LabProbe] = []
            try:
                peers += [LabProbe(f"probe-{number}", at) for number in range(probes)]
                wait_until_serving(lending, peers[0])
                _say(f"{probes} probes at a responder with {PORTS} ports for {seconds:.0f} s ...")
                leased = Fleet(probes, seconds, vanish, seed)
                leased.run(lambda probe, dice, fleet: _leased_test(peers[probe], probe, dice, fleet))
                time.sleep(2.5)  # until it has written its status once more
                lending.check()
                freed: int = status(lending)["status"]["counts"]["stuck_freed"]
            finally:
                for peer in peers:
                    peer.close()
                lending.kill()
    return Found(
        probes=probes,
        ports=PORTS,
        admitted_at_once=AT_ONCE,
        seconds=seconds,
        stock=stock.half("stock"),
        leased=leased.half("leased"),
        stuck_freed=freed,
    )


class Fleet:
    """Many probes for a while, each with a thread and dice of its own."""

    def __init__(self, probes: int, seconds: float, vanish: float, seed: int) -> None:
        self.tests: list[Made] = []
        self.waits_s: list[float] = []
        self.refused = 0
        self.vanished: set[int] = set()
        self._probes, self._seconds, self._seed = probes, seconds, seed
        self._vanish = vanish
        self._lock = threading.Lock()
        self._stopped: list[Client] = []
        self._over = threading.Event()
        self._end_s = 0.0

    def run(self, test: Callable[[int, random.Random, Fleet], bool]) -> None:
        """Let every probe test again and again until the time is over; `test` tells whether one was made."""
        self._end_s = time.monotonic() + self._seconds
        threads = [
            threading.Thread(target=self._live, args=(probe, random.Random(f"{self._seed} {probe}"), test))
            for probe in range(self._probes)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for client in self._stopped:
            client.kill()

    def sleep(self, seconds: float) -> bool:
        """Wait; whether there is time left."""
        self._over.wait(min(seconds, max(self._end_s - time.monotonic(), 0)))
        return time.monotonic() < self._end_s

    def will_vanish(self, dice: random.Random) -> bool:
        """Draw whether the client of a wish for a test is one of those that vanish."""
        return dice.random() < self._vanish

    def test(self, probe: int, port: int, client: Client, *, vanishes: bool) -> str | None:
        """See a client to its end, unless it vanishes; return its complaint, None if all is well."""
        begun_s = time.monotonic()
        if vanishes:
            time.sleep(0.5)
            if client.process.poll() is None:
                client.process.send_signal(signal.SIGSTOP)
                with self._lock:
                    self.vanished.add(probe)
                    self._stopped.append(client)
                return "vanished"
        complaint = client.result(10)
        if complaint is None and time.monotonic() <= self._end_s + 1:
            with self._lock:
                self.tests.append(Made(probe, port, begun_s, time.monotonic()))
        return complaint

    def half(self, way: str) -> Half:
        """Count what happened."""
        tests = sorted(self.tests, key=lambda test: test.begun_s)
        pairs = list(_together(tests))
        most = max((_at_once(tests, test.begun_s) for test in tests), default=0)
        return Half(
            way=way,
            completed=len(tests),
            per_hour=round(len(tests) * 3600 / self._seconds),
            refused=self.refused,
            vanished=len(self.vanished),
            starved=self._probes - len({test.probe for test in tests} | self.vanished),
            most_at_once=most,
            beyond_admission=sum(_at_once(tests, test.begun_s) > AT_ONCE for test in tests),
            on_one_cell=sum(cell(one.probe) == cell(other.probe) for one, other in pairs),
            on_one_port=sum(one.port == other.port for one, other in pairs),
            wait_mean_s=round(sum(self.waits_s) / max(len(self.waits_s), 1), 2),
            wait_max_s=round(max(self.waits_s, default=0.0), 2),
        )

    def _live(self, probe: int, dice: random.Random, test: Callable[[int, random.Random, Fleet], bool]) -> None:
        if not self.sleep(dice.uniform(0, _PAUSE_S[0])):
            return
        while True:
            if not test(probe, dice, self) and time.monotonic() >= self._end_s:
                return
            if not self.sleep(dice.uniform(*_PAUSE_S)):
                return

    def waited(self, since_s: float) -> None:
        """Note how long a probe has waited for its turn."""
        with self._lock:
            self.waits_s.append(time.monotonic() - since_s)

    def turned_away(self) -> None:
        """Note a refusal."""
        with self._lock:
            self.refused += 1


def cell(probe: int) -> int:
    """Name the cell that a probe stands in."""
    return probe // PROBES_IN_A_CELL


def _stock_test(probe: int, dice: random.Random, fleet: Fleet, ports: range) -> bool:
    """Try random ports until one takes us."""
    since_s = time.monotonic()
    vanishes = fleet.will_vanish(dice)
    while True:
        port = dice.choice(ports)
        complaint = fleet.test(probe, port, Client("127.0.0.1", port, _CLIENT), vanishes=vanishes)
        if complaint is None or complaint == "vanished":
            fleet.waited(since_s + 1)  # the test itself
            return complaint is None
        fleet.turned_away()
        if not fleet.sleep(dice.uniform(*_RETRY_S)):
            return False


def _leased_test(peer: LabProbe, probe: int, dice: random.Random, fleet: Fleet) -> bool:
    """Ask for a lease, wait for the turn, test."""
    since_s = time.monotonic()
    wish = Wish(
        "viettel",
        transfers=1,
        length_s=_LEASE_S,
        window_s=_WINDOW_S,
        expected_mbps=TEST_MBPS,
        operator="452-04",
        cell=str(cell(probe)),
    )
    try:
        borrowed = peer.borrow(wish)
    except MeasurementFailed:
        fleet.turned_away()
        return False
    fleet.waited(since_s)
    port = borrowed.ports[0]
    client = Client("127.0.0.1", port, _CLIENT, borrowed=borrowed)
    return fleet.test(probe, port, client, vanishes=fleet.will_vanish(dice)) is None


def _together(tests: list[Made]) -> Iterator[tuple[Made, Made]]:
    """Name the pairs of tests that ran at the same time; `tests` are sorted by their begin."""
    for index, one in enumerate(tests):
        for other in tests[index + 1 :]:
            if other.begun_s >= one.ended_s - _JITTER_S:
                break
            yield one, other


def _at_once(tests: list[Made], moment_s: float) -> int:
    return sum(test.begun_s <= moment_s < test.ended_s - _JITTER_S for test in tests)


def _pool() -> range:
    """Find ports in a row that nobody uses, below those that the kernel gives out."""
    for _ in range(100):
        first = random.randrange(20000, 32000)
        if all(_is_free(port) for port in range(first, first + PORTS)):
            return range(first, first + PORTS)
    raise LendingError(f"no {PORTS} free ports in a row")


def _is_free(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
        return True
    return False


@contextlib.contextmanager
def _stock_servers(ports: range) -> Iterator[None]:
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
        time.sleep(0.5)
        yield
    finally:
        for server in running:
            server.kill()
            server.wait()


def _print(found: Found) -> None:
    print(
        f"{found.probes} probes, {found.ports} ports, {found.seconds:.0f} s each way; at most {found.admitted_at_once}"
        " tests at once, one in a cell"
    )
    names = {
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
    rows = [(label, getattr(found.stock, name), getattr(found.leased, name)) for name, label in names.items()]
    print(render(("", "stock, random retries", "leased"), rows))
    print(f"\n{found.ratio:.2f} times as many tests with leases; {found.stuck_freed} stuck clients freed")


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
