"""Many probes that want a test again and again, what became of each test, and which tests spoiled each other."""

from __future__ import annotations

import random
import signal
import threading
import time
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lab.lending.probes import Client

AT_ONCE: Final = 6
"""How many tests the server's link is said to carry at once: a seventh takes from each of them."""
PROBES_IN_A_CELL: Final = 8
_PAUSE_S: Final = (10.0, 50.0)
_ENDS_WITHIN_S: Final = 2.0
_JITTER_S: Final = 0.3
"""How much later than its server a client may seem to end on a busy machine: no overlap is counted below it."""


class Made(NamedTuple):
    """One completed test, in seconds of one clock."""

    probe: int
    port: int
    begun_s: float
    ended_s: float

    def meets(self, other: Made) -> bool:
        """Whether both ran at the same time."""
        return self.begun_s < other.ended_s - _JITTER_S and other.begun_s < self.ended_s - _JITTER_S


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What one way of sharing brought.

    `valid`: tests that no other one spoiled: alone in their cell, and never more than AT_ONCE at the server.
    """

    way: str
    ports: int
    completed: int
    per_hour: float
    valid: int
    valid_per_hour: float
    refused: int
    vanished: int
    starved: int
    most_at_once: int
    beyond_admission: int
    on_one_cell: int
    on_one_port: int
    wait_mean_s: float
    wait_max_s: float


class Crowd:
    """Probes for a while, each with a thread and dice of its own."""

    def __init__(self, probes: int, seconds: float, vanish: float, seed: int) -> None:
        self.tests: list[Made] = []
        self.waits_s: list[float] = []
        self.refused = 0
        self.vanished: set[int] = set()
        self._probes, self._seconds, self._seed = probes, seconds, seed
        self._vanish = vanish
        self._lock = threading.Lock()
        self._stopped: list[Client] = []
        self._running: set[Client] = set()
        self._over = threading.Event()
        self._end_s = 0.0

    def run(self, test: Callable[[int, random.Random, Crowd], bool]) -> None:
        """Let every probe test again and again until the time is over; `test` tells whether one was made."""
        self._end_s = time.monotonic() + self._seconds
        threads = [
            threading.Thread(target=self._live, args=(probe, random.Random(f"{self._seed} {probe}"), test), daemon=True)
            for probe in range(self._probes)
        ]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        except KeyboardInterrupt:
            self._end_now(threads)
            raise
        finally:
            for client in self._stopped:
                client.kill()

    def _end_now(self, threads: list[threading.Thread]) -> None:
        """Let no test begin any more and end those that run; who waits for a turn dies with the program."""
        self._end_s = 0.0
        self._over.set()
        with self._lock:
            for client in self._running:
                client.process.kill()
        give_up_s = time.monotonic() + _ENDS_WITHIN_S
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(give_up_s - time.monotonic(), 0))

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
        with self._lock:
            self._running.add(client)
        complaint = client.result(15)
        with self._lock:
            self._running.discard(client)
        if complaint is None and time.monotonic() <= self._end_s + 1:
            with self._lock:
                self.tests.append(Made(probe, port, begun_s, time.monotonic()))
        return complaint

    def waited(self, since_s: float) -> None:
        """Note how long a probe has waited for its turn."""
        with self._lock:
            self.waits_s.append(time.monotonic() - since_s)

    def turned_away(self) -> None:
        """Note a refusal."""
        with self._lock:
            self.refused += 1

    def outcome(self, way: str, ports: int) -> Outcome:
        """Count what happened."""
        tests = sorted(self.tests, key=lambda test: test.begun_s)
        pairs = list(_together(tests))
        crowded = [test for test in tests if _at_once(tests, test.begun_s) > AT_ONCE]
        spoiled = {test for pair in pairs if cell(pair[0].probe) == cell(pair[1].probe) for test in pair}
        spoiled |= {test for test in tests for moment in crowded if test.begun_s <= moment.begun_s < test.ended_s}
        hours = self._seconds / 3600
        return Outcome(
            way=way,
            ports=ports,
            completed=len(tests),
            per_hour=round(len(tests) / hours),
            valid=len(tests) - len(spoiled),
            valid_per_hour=round((len(tests) - len(spoiled)) / hours),
            refused=self.refused,
            vanished=len(self.vanished),
            starved=self._probes - len({test.probe for test in tests} | self.vanished),
            most_at_once=max((_at_once(tests, test.begun_s) for test in tests), default=0),
            beyond_admission=len(crowded),
            on_one_cell=sum(cell(one.probe) == cell(other.probe) for one, other in pairs),
            on_one_port=sum(one.port == other.port for one, other in pairs),
            wait_mean_s=round(sum(self.waits_s) / max(len(self.waits_s), 1), 2),
            wait_max_s=round(max(self.waits_s, default=0.0), 2),
        )

    def _live(self, probe: int, dice: random.Random, test: Callable[[int, random.Random, Crowd], bool]) -> None:
        if not self.sleep(dice.uniform(0, _PAUSE_S[0])):
            return
        while True:
            if not test(probe, dice, self) and time.monotonic() >= self._end_s:
                return
            if not self.sleep(dice.uniform(*_PAUSE_S)):
                return


def cell(probe: int) -> int:
    """Name the cell that a probe stands in."""
    return probe // PROBES_IN_A_CELL


def _together(tests: list[Made]) -> Iterator[tuple[Made, Made]]:
    """Name the pairs of tests that ran at the same time; `tests` are sorted by their begin."""
    for index, one in enumerate(tests):
        for other in tests[index + 1 :]:
            if other.begun_s >= one.ended_s:
                break
            if one.meets(other):
                yield one, other


def _at_once(tests: list[Made], moment_s: float) -> int:
    return sum(test.begun_s <= moment_s < test.ended_s - _JITTER_S for test in tests)
