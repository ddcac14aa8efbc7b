"""Throughput tests in a row by the agent's own runner, where it is started; what each leaves behind, as JSON lines.

    python -m lab.throughput.endurance TESTS FOLDER HOST PORT PORT

The tests are as short as they can be: a byte cap ends each transfer after a moment.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import msgspec
import psutil

from agent.clock import SystemClock
from agent.lease import Habits
from agent.measurements.throughput_options import ThroughputOptions
from agent.runner import Runner
from agent.settings import IperfServer, Link, ProbeBroker, Settings, Site, ThroughputJob
from agent.spool import Spool
from lab.throughput.shaped import DEVICE
from wire.codec import decode_result
from wire.measured import Throughput

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from agent.bench import Look
    from agent.lease import Wish

_CAP_BYTES: Final = 500_000
_SPOOL_BYTES: Final = 1_000_000_000


class Left(msgspec.Struct, frozen=True, kw_only=True):
    """What the process holds after so many tests, child processes included; `outcome`: of the last test."""

    tests: int
    at_s: float
    rss_bytes: int
    descriptors: int
    threads: int
    children: int
    outcome: str


class _NoModems:
    def look(self, link: Link) -> Look:
        raise NotImplementedError(link.name)  # a link without a modem is not asked


class _NoLender:
    """There are plain servers: nobody is asked for a lease."""

    def __init__(self) -> None:
        self.habits = Habits()

    def ask(self, wish: Wish) -> AbstractContextManager[NoReturn]:
        raise NotImplementedError(wish.link)


def main() -> None:
    """Run the tests; one line after each."""
    tests, folder, host, *ports = sys.argv[1:]
    options = ThroughputOptions(
        duration_s=1, omit_s=0, max_bytes=_CAP_BYTES, loaded_latency=True, interval_s=0.1, connect_timeout_s=5
    )
    settings = Settings(
        probe_id="soak",
        site=Site(id="soak"),
        broker=ProbeBroker(host="nobody"),
        links=(Link(name="link", interface=DEVICE, modem=None),),
        jobs=(ThroughputJob(name="test", every_s=60, options=options),),
        data_dir=Path(folder),
        servers=tuple(IperfServer(host=host, port=int(port)) for port in ports),
    )
    spool = Spool(Path(folder) / "spool.db", max_bytes=_SPOOL_BYTES)
    lender = _NoLender()
    runner = Runner(settings, spool, SystemClock(), _NoModems(), lender)
    process = psutil.Process()
    for number in range(1, int(tests) + 1):
        lender.habits.mbps.clear()  # or the cap would be raised to what the last test tells of the link
        result = runner.run(settings.jobs[0], settings.links[0], slot=number, due=None)
        spool.acknowledge(spool.spool_id, [(1, number)])  # or the file grows, and its cache with it
        gc.collect()
        left = Left(
            tests=number,
            at_s=round(time.monotonic(), 2),
            rss_bytes=process.memory_info().rss,
            descriptors=process.num_fds(),
            threads=threading.active_count(),
            children=len(process.children(recursive=True)),
            outcome=_outcome(decode_result(msgspec.json.encode(result)).outcome),
        )
        os.write(1, msgspec.json.encode(left) + b"\n")
    spool.close()


def _outcome(outcome: object) -> str:
    if isinstance(outcome, Throughput):
        return "both directions" if outcome.upload is not None else f"no upload: {outcome.upload_failure}"
    return str(getattr(outcome, "reason", type(outcome).__name__))


if __name__ == "__main__":
    main()
