"""Cells to try policies on: what a link could have carried in each step of time, and its true mean.

A recorded trace is scaled in height: each packet stands for more bytes. Its time stays as it was recorded, since fading
and the load of a cell keep their pace whatever the rate. `Scaling.TIME` divides the time stamps instead, as Mahimahi's
users do; everything then happens faster too.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
from numpy.typing import NDArray  # msgspec reads the annotation

from lab.cell.trace import TraceError, read

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STEP_S: Final = 0.01
MEANS_MBPS: Final = (20.0, 45.0, 90.0, 150.0)
PAYLOAD_SHARE: Final = 1448 / 1500
"""TCP payload in a packet of 1500 bytes, IPv4, with time stamps (RFC 7323)."""
_LONGEST_TRACE_S: Final = 3600
_SYNTHETIC_S: Final = 600.0


class Scaling(StrEnum):
    """How a trace is brought to a mean rate."""

    HEIGHT = "height"
    TIME = "time"


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One link: `step_bytes[i]` may cross in step i (of STEP_S seconds); it repeats after its end.

    `wakes_in_s`: for so long after a test began only `asleep_share` of that may cross: an LTE cell starts an idle user
    on one carrier and adds others under load.
    """

    name: str
    varying: bool
    step_bytes: NDArray[np.float64]
    wakes_in_s: float = 0.0
    asleep_share: float = 1.0

    @property
    def mean_mbps(self) -> float:
        """What a transfer without end would bring on the mean, in Mbit/s of TCP payload."""
        return float(self.step_bytes.mean()) / STEP_S * 8 / 1e6 * PAYLOAD_SHARE


def recorded(folder: Path, scaling: Scaling) -> Iterator[Cell]:
    """Replay every trace of a folder at each mean of MEANS_MBPS; raise TraceError."""
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix != ".md")
    except OSError as error:
        raise TraceError(f"{folder}: cannot be read: {error.strerror}") from error
    if not files:
        raise TraceError(f"{folder}: holds no traces")
    for path in files:
        trace = read(path)
        name = path.name.removesuffix(".gz")
        for mean_mbps in MEANS_MBPS:
            faster = mean_mbps / trace.mean_mbps if scaling is Scaling.TIME else 1.0
            packets = _counted(np.asarray(trace.times_ms) / 1e3 / faster, trace.period_ms / 1e3 / faster)
            step_bytes = packets * (mean_mbps * 1e6 / 8 * STEP_S / packets.mean())
            yield Cell(name=f"{name} at {mean_mbps:g}", varying=True, step_bytes=step_bytes)


def made_up(seed: int) -> Iterator[Cell]:
    """Cells with a known truth, each of 45 Mbps on the mean but for the one that wakes slowly."""
    steps = int(_SYNTHETIC_S / STEP_S)
    mean_bytes = 45e6 / 8 * STEP_S
    level = np.full(steps, mean_bytes)
    yield Cell(name="constant 45", varying=False, step_bytes=level)
    yield Cell(name="constant 45, wakes in 0.8 s", varying=False, step_bytes=level, wakes_in_s=0.8, asleep_share=0.5)
    minute = np.arange(steps) * STEP_S % 60 / 60
    yield Cell(name="ramping 9-81 in 60 s", varying=True, step_bytes=mean_bytes * (0.2 + 1.6 * minute))
    random = np.random.default_rng(seed)
    on = np.zeros(steps, dtype=bool)
    at = 0
    busy = False
    while at < steps:
        length = 1 + int(random.exponential(2.0) / STEP_S)
        on[at : at + length] = busy
        at, busy = at + length, not busy
    bursty = np.where(on, 4.0, 1.0)
    yield Cell(name="bursty, 4 : 1", varying=True, step_bytes=bursty * (mean_bytes / bursty.mean()))


def _counted(times_s: NDArray[np.float64], period_s: float) -> NDArray[np.float64]:
    """Count a trace's packets in each step; the last step takes in what is left of a shorter one."""
    if period_s > _LONGEST_TRACE_S:
        raise TraceError(f"a trace of {period_s:.0f} s is longer than {_LONGEST_TRACE_S} s; cut it")
    steps = max(1, int(period_s / STEP_S))
    index = np.minimum((times_s / STEP_S).astype(np.int64), steps - 1)
    return np.bincount(index, minlength=steps).astype(np.float64)
