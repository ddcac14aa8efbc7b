"""When a fleet's messages come: days of a few hundred probes, played by the agent's own schedule, drawn for thousands.

Each probe that is drawn has one of the played days, shifted by less than an hour: instants are independent from probe
to probe, as the schedule's are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import numpy as np

from agent.publisher import STATUS_EVERY_S
from lab.collecting.content import STATUSES_PER_DAY
from lab.wire import day

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from agent.settings import Settings
    from lab.wire.day import Event

_DAY_S: Final = 86_400
_SHIFT_S: Final = 3600.0


class PlayedDay(NamedTuple):
    """One probe's day: seconds of the day of each message to the broker, and how many results each holds."""

    at_s: NDArray[np.float64]
    results: NDArray[np.int64]


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """What reaches the broker from all probes together."""

    messages_a_day: float
    results_a_day: float
    points_a_day: float  # one for each result, one for each status
    messages_per_s: float
    messages_per_s_busiest_minute: float
    messages_per_s_busiest_second: float
    results_per_s: float
    results_per_s_busiest_minute: float


def play(settings: Settings, probes: int, say: Callable[[str], None]) -> list[PlayedDay]:
    """Play a day of so many probes that differ in name only."""
    found = []
    for number in range(probes):
        mine = msgspec.structs.replace(settings, probe_id=f"{settings.probe_id}-{number}"[:63])
        found.append(_batched(day.events(mine), settings.spool.telemetry_every_s))
        say(f"a day of the schedule, probe {number + 1} of {probes}")
    return found


def draw(days: list[PlayedDay], probes: int, seed: int) -> Traffic:
    """Let so many probes have one of the days each; count by the second."""
    random = np.random.default_rng(seed)
    messages = np.zeros(_DAY_S, dtype=np.int64)
    results = np.zeros(_DAY_S, dtype=np.int64)
    for choice, shift_s in zip(
        random.integers(len(days), size=probes), random.uniform(0, _SHIFT_S, probes), strict=True
    ):
        at = (days[choice].at_s + shift_s).astype(np.int64) % _DAY_S
        np.add.at(messages, at, 1)
        np.add.at(results, at, days[choice].results)
    by_minute = messages.reshape(-1, 60).sum(axis=1) / 60
    return Traffic(
        messages_a_day=float(messages.sum()),
        results_a_day=float(results.sum()),
        points_a_day=float(results.sum() + probes * STATUSES_PER_DAY),
        messages_per_s=float(messages.mean()),
        messages_per_s_busiest_minute=float(by_minute.max()),
        messages_per_s_busiest_second=float(messages.max()),
        results_per_s=float(results.mean()),
        results_per_s_busiest_minute=float((results.reshape(-1, 60).sum(axis=1) / 60).max()),
    )


def _batched(events: list[Event], cadence_s: float) -> PlayedDay:
    """Put the day's results into messages as the agent does; statuses and lease requests are messages without any."""
    begin_s = day.BEGIN.timestamp()
    sent: list[tuple[float, int]] = []
    held, since_s = 0, 0.0
    for event in events:
        if held and event.at_s >= since_s + cadence_s:
            sent.append((since_s + cadence_s, held))
            held = 0
        if event.leases is not None:
            sent.append((event.at_s, 0))
        if event.result is None:
            continue
        if event.kind == "throughput":
            sent.append((event.at_s, held + 1))
            held = 0
        else:
            since_s = since_s if held else event.at_s
            held += 1
    sent += [(begin_s + number * STATUS_EVERY_S, 0) for number in range(STATUSES_PER_DAY)]
    at_s, results = zip(*sent, strict=True)
    return PlayedDay(np.array(at_s) - begin_s, np.array(results, dtype=np.int64))
