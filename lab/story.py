"""For journeys: a fleet and what has reached its journal so far, and waiting for things to become true."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from lab.configs import Pace

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab.fleet import Fleet
    from wire.results import Result

PATIENCE_S: Final = 300.0
BRISK: Final = Pace(throughput_s=12, latency_s=10, radio_s=5, duration_s=2)
_POLL_S: Final = 0.05


class Story:
    """A fleet and all that has reached its journal so far."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.results: list[Result] = []

    def wait_for(self, what: Callable[[Result], bool], count: int = 1) -> Result:
        """Wait for so many new results of a kind to reach the journal; return the last."""
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            for result in self.fleet.new_results():
                self.results.append(result)
                if what(result):
                    count -= 1
                    if count == 0:
                        return result
            if time.monotonic() > deadline_s:
                raise AssertionError(f"it did not come within {PATIENCE_S:.0f} s\n{self.fleet.last_words()}")
            time.sleep(_POLL_S)


def until(true: Callable[[], bool], what: str) -> None:
    """Wait until something is true."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not true():
        if time.monotonic() > deadline_s:
            raise AssertionError(f"not within {PATIENCE_S:.0f} s: {what}")
        time.sleep(_POLL_S)


def expect_nothing_lost_and_nothing_twice(fleet: Fleet) -> None:
    """End the agents and compare the stations; raise AssertionError where two differ."""
    fleet.finish()
    for count in fleet.counts():
        stations = {count.made, count.spooled, count.journalled, count.points, count.distinct}
        if len(stations) > 1 or count.waiting or count.refused:
            raise AssertionError(f"{count}\n{fleet.last_words()}")
