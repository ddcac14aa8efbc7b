"""`probe-lab bench method`: how near to the month's mean each way to test comes for the same bytes.

A policy tests a cell at random instants; the hours and days of a month, which no trace of minutes holds, scale each of
them by a factor of their own (`--slow-cv 0`: the traces alone). From the spread of its figures and from what a test
costs follows how wide the 95 % interval of a month's mean is for 30 GB; the baseline is the fixed test of 10 s with one
stream. Tests are taken for independent, which flatters the many short ones more than the few long ones.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean, geometric_mean
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from base.table import render
from lab.benches import Complaint, Judged, add_bench, say
from lab.cell.trace import TraceError
from lab.method.cells import Cell, Scaling, made_up, recorded
from lab.method.policies import BASELINE, HORIZON_S, POLICIES, SHORT, Outcomes
from lab.method.tcp import Begin, download

if TYPE_CHECKING:
    import argparse

    from lab.benches import Parts

GOAL_RATIO: Final = 0.65
_BUDGET_BYTES: Final = 30e9
_Z95: Final = 1.96
_DAYS: Final = 30
_TESTS: Final = 1000
_RTT_MS: Final = 50.0
_SLOW_CV: Final = 0.4
"""How the load of hours and days varies a cell between tests (coefficient of variation): the calmer of two guesses."""

_EXAMPLES: Final = """examples:
  probe-lab bench method                            the recorded traces beside this checkout, and made-up cells
  probe-lab bench method --traces DIR --cells       other traces; also a table for each cell
  probe-lab bench method --scaling time             speed a trace up instead of making it wider
  probe-lab bench method --slow-cv 0 --rtt-ms 80    nothing varies from hour to hour; a longer way
  probe-lab bench method --json --check             one object; exit 1 when the goal is missed

A trace is a file of Mahimahi's form, plain or gzip: a line is the millisecond at which one packet may cross.
goal: over the cells that vary, the short test's interval is at most 0.65 of the baseline's (geometric mean), and its
bias is no larger than the baseline's.
"""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One policy on one cell; shares are of the cell's true mean, in percent. `ratio` is None where nothing varies."""

    cell: str
    policy: str
    test_mb: float
    bias_percent: float
    rms_error_percent: float
    half_width_percent: float
    ratio: float | None


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """One policy over all cells that vary: means of its rows, and the ratios' geometric mean and worst."""

    policy: str
    test_mb: float
    tests_a_day: float
    bias_percent: float
    rms_error_percent: float
    half_width_percent: float
    ratio: float
    worst_ratio: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The object printed with --json."""

    scaling: Scaling
    slow_cv: float
    rtt_ms: float
    tests: int
    goal_ratio: float
    goal_met: bool
    policies: list[Summary]
    cells: list[Row]


def add_parser(parts: Parts) -> None:
    """Add `method` to the benches."""
    parser = add_bench(
        parts,
        "method",
        run,
        summary="ways to test, by certainty per gigabyte",
        description="Replay cells under several ways to test, and compare what 30 GB a month make certain.",
        examples=_EXAMPLES,
        check="if the goal is missed",
    )
    parser.add_argument("--traces", type=Path, metavar="DIR", help="recorded traces (default: ../shared/data/traces)")
    parser.add_argument("--scaling", type=Scaling, choices=list(Scaling), default=Scaling.HEIGHT, metavar="WAY")
    parser.add_argument("--slow-cv", type=float, default=_SLOW_CV, metavar="CV", help=f"default {_SLOW_CV:g}")
    parser.add_argument("--rtt-ms", type=float, default=_RTT_MS, metavar="MS", help=f"default {_RTT_MS:g}")
    parser.add_argument("--tests", type=int, default=_TESTS, metavar="N", help=f"on each cell (default {_TESTS})")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument("--cells", action="store_true", help="show every cell too")


def run(arguments: argparse.Namespace) -> Judged:
    """Replay and judge; raise Complaint."""
    if not (1 <= arguments.rtt_ms <= 1000 and 10 <= arguments.tests <= 100_000 and 0 <= arguments.slow_cv <= 2):  # noqa: PLR2004  # typing mistakes
        raise Complaint("--rtt-ms must be 1 to 1000, --tests 10 to 100000, --slow-cv 0 to 2", status=2)
    folder: Path | None = arguments.traces or _usual_traces()
    if folder is None:
        say("no recorded traces found: made-up cells only; give --traces DIR")
    try:
        cells = [*(recorded(folder, arguments.scaling) if folder else ()), *made_up(arguments.seed)]
    except TraceError as error:
        raise Complaint(str(error), status=2) from error
    rows: list[Row] = []
    for number, cell in enumerate(cells, start=1):
        say(f"{number} of {len(cells)}: {cell.name}", again=True)
        rows += replay(
            cell,
            tests=arguments.tests,
            slow_cv=arguments.slow_cv,
            rtt_s=arguments.rtt_ms / 1e3,
            seed=arguments.seed,
        )
    say("", again=True)
    summaries = summarise(rows)
    met = goal_met(summaries)
    report = Report(
        scaling=arguments.scaling,
        slow_cv=arguments.slow_cv,
        rtt_ms=arguments.rtt_ms,
        tests=arguments.tests,
        goal_ratio=GOAL_RATIO,
        goal_met=met,
        policies=summaries,
        cells=rows,
    )
    missed = [f"the short test's interval is more than {GOAL_RATIO} of the baseline's, or its bias larger"]
    return Judged(report, _text(rows, summaries, every_cell=arguments.cells), () if met else missed)


def beginnings(cell: Cell, *, tests: int, slow_cv: float, seed: int) -> Begin:
    """Draw instants of the cell, and how the hour's load scales it: log-normal, mean 1, none where nothing varies."""
    random = np.random.default_rng(seed)
    steps = random.integers(0, len(cell.step_bytes), tests)
    if not cell.varying:
        return Begin(steps, np.ones(tests))
    sigma = np.sqrt(np.log1p(slow_cv**2))
    level = random.lognormal(-(sigma**2) / 2, sigma, tests)
    return Begin(steps, level / level.mean())


def replay(cell: Cell, *, tests: int, slow_cv: float, rtt_s: float, seed: int) -> list[Row]:
    """Try every policy on one cell, all from the same instants."""
    begin = beginnings(cell, tests=tests, slow_cv=slow_cv, seed=seed)
    transfers = {
        streams: download(cell, begin, streams=streams, horizon_s=HORIZON_S, rtt_s=rtt_s)
        for streams in {policy.streams for policy in POLICIES}
    }
    rows: list[Row] = []
    baseline = 0.0
    for policy in POLICIES:
        outcomes = policy.rule(transfers[policy.streams])
        half_width = half_width_share(outcomes, cell.mean_mbps)
        baseline = baseline or half_width
        error = outcomes.mbps / cell.mean_mbps - 1
        rows.append(
            Row(
                cell=cell.name,
                policy=policy.name,
                test_mb=round(float(outcomes.cost_bytes.mean()) / 1e6, 2),
                bias_percent=round(100 * float(error.mean()), 2),
                rms_error_percent=round(100 * float(np.sqrt((error**2).mean())), 2),
                half_width_percent=round(100 * half_width, 3),
                ratio=round(half_width / baseline, 3) if cell.varying else None,
            )
        )
    return rows


def half_width_share(outcomes: Outcomes, truth_mbps: float) -> float:
    """Half of the 95 % interval of the mean of as many independent tests as 30 GB pay, as a share of the truth."""
    affordable = _BUDGET_BYTES / float(outcomes.cost_bytes.mean())
    return _Z95 * float(outcomes.mbps.std()) / truth_mbps / float(np.sqrt(affordable))


def summarise(rows: list[Row]) -> list[Summary]:
    """Fold the rows of the cells that vary, policy by policy."""
    summaries: list[Summary] = []
    for policy in POLICIES:
        own = [(row, row.ratio) for row in rows if row.policy == policy.name and row.ratio is not None]
        test_mb = fmean(row.test_mb for row, _ in own)
        ratios = [ratio for _, ratio in own]
        summaries.append(
            Summary(
                policy=policy.name,
                test_mb=round(test_mb, 1),
                tests_a_day=round(_BUDGET_BYTES / 1e6 / test_mb / _DAYS, 1),
                bias_percent=round(fmean(row.bias_percent for row, _ in own), 1),
                rms_error_percent=round(fmean(row.rms_error_percent for row, _ in own), 1),
                half_width_percent=round(fmean(row.half_width_percent for row, _ in own), 2),
                ratio=round(geometric_mean(ratios), 3),
                worst_ratio=max(ratios),
            )
        )
    return summaries


def goal_met(summaries: list[Summary]) -> bool:
    """Whether the short test keeps the goal: a narrow interval, and no larger a bias than the baseline's."""
    by_name = {summary.policy: summary for summary in summaries}
    short, baseline = by_name[SHORT.name], by_name[BASELINE.name]
    return short.ratio <= GOAL_RATIO and abs(short.bias_percent) <= max(abs(baseline.bias_percent), 1.0)


def _usual_traces() -> Path | None:
    """Find the traces that lie beside a checkout of the project."""
    folder = Path(__file__).parents[3] / "shared" / "data" / "traces"
    return folder if folder.is_dir() else None


def _text(rows: list[Row], summaries: list[Summary], *, every_cell: bool) -> str:
    head = ("cell", "policy", "MB", "bias %", "rms %", "+- % of a month's mean", "ratio")
    shown = rows if every_cell else [row for row in rows if row.ratio is None]
    columns = ("policy", "MB", "tests/day", "bias %", "rms % of one", "+- % of a month's mean", "ratio", "worst ratio")
    return (
        f"{render(head, [msgspec.structs.astuple(row) for row in shown])}\n\n"
        "Means over the cells that vary; 30 GB a month on one link; tests taken for independent:\n"
        f"{render(columns, [msgspec.structs.astuple(summary) for summary in summaries])}"
    )
