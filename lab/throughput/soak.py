"""`probe-lab soak throughput`: a thousand throughput tests in a row; memory, descriptors and processes stay flat."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections import Counter
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import msgspec

from base.table import render
from lab.benches import Complaint, Judged, add_bench, say
from lab.netns import NetworkError, Run
from lab.throughput.endurance import Left
from lab.throughput.shaped import SERVER, Shaped

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from lab.benches import Parts

RATE_MBPS: Final = 100.0
MOST_GROWN_KB_PER_TEST: Final = 0.5
"""The wrapper in one's own process leaves 8 kB behind with each test; an allocator's noise is far less than this."""
BOTH: Final = "both directions"
ENDED_AT_ONCE: Final = "no upload: quota_reached"
"""The byte cap came before the first byte was counted at the other end: on a machine that stood still for a moment."""
_MOST: Final = 0.99
_PORTS: Final = (5201, 5202)
_WARM_UP: Final = 0.2
_TELL_EVERY_S: Final = 10.0
_FEW: Final = 10
_FEWEST: Final = 5

_EXAMPLES: Final = """examples:
  sudo probe-lab soak throughput                     a thousand tests, some twenty minutes
  sudo probe-lab soak throughput --tests 50 --check
"""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it; growth and what was left are counted from the end of the warm-up (a fifth of the tests)."""

    tests: int
    outcomes: dict[str, int]
    took_s: float
    rss_mb: float
    grown_mb: float
    grown_kb_per_test: float
    descriptors_left: int
    threads_left: int
    children_left: int

    @property
    def good(self) -> bool:
        """Whether every test ended as it should, nearly all with both directions, and nothing was left behind."""
        flat = self.grown_kb_per_test <= MOST_GROWN_KB_PER_TEST or self.tests < 10 * _FEW
        nothing_left = self.descriptors_left <= 0 >= self.threads_left and self.children_left == 0
        return flat and nothing_left and not set(self.outcomes) - {BOTH, ENDED_AT_ONCE} and self._both_share >= _MOST

    @property
    def _both_share(self) -> float:
        return self.outcomes.get(BOTH, 0) / self.tests


def add_parser(parts: Parts) -> None:
    """Add `throughput` to the soaks."""
    parser = add_bench(
        parts,
        "throughput",
        run,
        summary="a thousand throughput tests in a row",
        description="Make throughput tests in a row by the agent's runner and watch its memory and descriptors (root).",
        examples=_EXAMPLES,
        check="unless everything stayed flat",
        failures=(NetworkError, msgspec.DecodeError),
    )
    parser.add_argument("--tests", type=int, default=1000, metavar="N", help="how many (default 1000)")


def run(arguments: argparse.Namespace) -> Judged:
    """Test and judge; raise Complaint, or what `soak` raises."""
    if arguments.tests < _FEWEST:
        raise Complaint(f"--tests must be {_FEWEST} or more", status=2)
    report = soak(arguments.tests)
    rows = [(name.replace("_", " "), str(value)) for name, value in msgspec.structs.asdict(report).items()]
    text = render(("what", "figure"), rows)
    return Judged(report, text, () if report.good else ["a test failed, or something was left behind"])


def soak(tests: int) -> Report:
    """Make so many tests over a shaped link; raise NetworkError if they end before."""
    with Run() as world, tempfile.TemporaryDirectory(prefix="probe-lab-soak-") as folder:
        link = Shaped(world)
        link.set_rate(RATE_MBPS)
        link.serve(*_PORTS)
        command = [sys.executable, "-m", "lab.throughput.endurance", str(tests), folder, SERVER, *map(str, _PORTS)]
        process = link.probe.popen(command, stdout=subprocess.PIPE)
        lefts = _follow(process, tests)
    return summary(lefts)


def summary(lefts: Sequence[Left]) -> Report:
    """Compare the end with the end of the warm-up; memory by the median of some tests at either."""
    warm = int(len(lefts) * _WARM_UP)
    few = max(1, min(_FEW * 5, warm // 2))
    first = median(left.rss_bytes for left in lefts[warm : warm + few])
    last = median(left.rss_bytes for left in lefts[-few:])
    return Report(
        tests=len(lefts),
        outcomes=dict(Counter(left.outcome for left in lefts)),
        took_s=round(lefts[-1].at_s - lefts[0].at_s, 1),
        rss_mb=round(last / 1e6, 2),
        grown_mb=round((last - first) / 1e6, 3),
        grown_kb_per_test=round((last - first) / 1e3 / max(1, len(lefts) - warm - few), 3),
        descriptors_left=lefts[-1].descriptors - lefts[warm].descriptors,
        threads_left=lefts[-1].threads - lefts[warm].threads,
        children_left=lefts[-1].children,
    )


def _follow(process: subprocess.Popen[Any], tests: int) -> list[Left]:
    lefts: list[Left] = []
    told_s = time.monotonic()
    if process.stdout is None:
        raise AssertionError("a pipe was asked for")
    for line in process.stdout:
        lefts.append(msgspec.json.decode(line, type=Left))
        if time.monotonic() - told_s > _TELL_EVERY_S:
            told_s = time.monotonic()
            say(f"{len(lefts)} of {tests} tests, {lefts[-1].rss_bytes / 1e6:.1f} MB ...")
    if len(lefts) < tests:
        raise NetworkError(f"the tests ended after {len(lefts)} of {tests}, with status {process.wait()}")
    return lefts
