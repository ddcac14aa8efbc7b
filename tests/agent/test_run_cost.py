"""What a run tells of its cost, whole or ended early."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING

import msgspec
import pytest

from agent import run_cost
from agent.planner import Visit, Wish
from agent.run_cost import Cost
from wire.measured import Failed, Throughput, Transfer
from wire.reasons import Invalid, Reason

if TYPE_CHECKING:
    from wire.results import Outcome

MB = 1_000_000
TODAY = date(2026, 6, 15)
LIGHT = Wish("light", 8, 6.0, upload=True)
QUOTA = Reason.QUOTA_REACHED


def transfer(mb: int, elapsed_s: float, *, cut_short: Reason | None = None, whole: bool = True) -> Transfer:
    """Move so much in that time; `whole`: its start was seen too."""
    mbps = mb * 8 / elapsed_s
    return Transfer(
        steady_mbps=mbps,
        mbps=mbps if whole else None,
        payload_bytes=mb * MB,
        elapsed_s=elapsed_s,
        omit_s=1.0,
        cut_short=cut_short,
    )


@pytest.mark.parametrize(
    ("outcome", "spent_mb", "told"),
    [
        (Throughput(download=transfer(60, 6.0)), 63, Cost(63 * MB, upload=False, cut_short=False)),
        (
            Throughput(download=transfer(60, 6.0), upload=transfer(20, 6.0)),
            84,
            Cost(84 * MB, upload=True, cut_short=False),
        ),
        (
            Throughput(download=transfer(60, 6.0), upload_failure=Reason.BUDGET_SHORT),
            63,
            Cost(63 * MB, upload=False, cut_short=False),
        ),
        (
            Throughput(download=transfer(60, 6.0), upload_failure=QUOTA),
            63,
            Cost(63 * MB, upload=False, cut_short=False),
        ),
        (
            Throughput(download=transfer(20, 2.0, cut_short=QUOTA), invalid=(Invalid.QUOTA_REACHED,)),
            21,
            Cost(21 * MB + 42 * MB, upload=False, cut_short=True),
        ),
        (
            Throughput(download=transfer(20, 1.0, cut_short=QUOTA, whole=False), invalid=(Invalid.QUOTA_REACHED,)),
            42,
            Cost(42 * MB + 84 * MB, upload=False, cut_short=True),
        ),
        (
            Throughput(
                download=transfer(60, 6.0),
                upload=transfer(10, 3.0, cut_short=QUOTA),
                invalid=(Invalid.QUOTA_REACHED,),
            ),
            74,
            Cost(74 * MB + 10_500_000, upload=True, cut_short=True),
        ),
        (
            Throughput(download=transfer(20, 2.0, cut_short=QUOTA), invalid=(Invalid.BYTE_CAP,)),
            21,
            Cost(21 * MB, upload=False, cut_short=True),
        ),
        (Failed(reason=QUOTA), 15, None),
        (Failed(reason=Reason.LINK_LOST), 30, None),
        (Throughput(download=transfer(60, 6.0), upload_failure=Reason.LINK_LOST), 70, None),
    ],
    ids=[
        "download",
        "both ways",
        "upload saved",
        "upload not begun",
        "cut in the download",
        "cut, start unseen",
        "cut in the upload",
        "the job's own cap",
        "not begun",
        "link lost",
        "upload failed",
    ],
)
def test_what_a_run_tells_of_its_cost(outcome: Outcome, spent_mb: int, told: Cost | None) -> None:
    assert run_cost.of(outcome, spent_mb * MB, length_s=6.0) == told


def test_without_counters_nothing_is_told() -> None:
    assert run_cost.of(Throughput(download=transfer(60, 6.0)), None, length_s=6.0) is None


@pytest.mark.parametrize(("mb_per_s", "run_bytes"), [(5, 31_500_000), (500, 240_000_000)], ids=["a link", "a burst"])
def test_a_download_that_ended_before_anything_was_measured_tells_by_its_pace(mb_per_s: int, run_bytes: int) -> None:
    told = run_cost.of(Failed(reason=QUOTA), 99 * MB, length_s=6.0, pace_bytes_per_s=mb_per_s * MB)
    assert told == Cost(run_bytes, upload=False, cut_short=True)


def test_a_transfer_that_was_ended_at_once_has_a_pace_all_the_same() -> None:
    ended = transfer(1, 1.0, cut_short=QUOTA)
    outcome = Throughput(download=msgspec.structs.replace(ended, elapsed_s=0.0), invalid=(Invalid.QUOTA_REACHED,))
    assert run_cost.of(outcome, MB, length_s=6.0) == Cost(MB + 63 * MB, upload=False, cut_short=True)


# --- what is expected -------------------------------------------------------------------------------------------------


def visit(mb: int, *, upload: bool = True, cut_short: bool = False, days_ago: int = 1) -> Visit:
    return Visit("light", TODAY - timedelta(days=days_ago), 0, 0, upload, mb * MB, cut_short=cut_short)


def test_one_run_that_was_cut_short_does_not_outrank_those_that_came_to_their_end() -> None:
    honest = [visit(46)] * 8
    told = run_cost.both(LIGHT, honest, TODAY)
    assert told[1] == 46 * MB
    assert run_cost.both(LIGHT, [*honest, visit(480, upload=False, cut_short=True)], TODAY) == told


def test_it_tells_where_no_run_came_to_its_end() -> None:
    assert run_cost.expect(LIGHT, [visit(90, upload=False, cut_short=True)], TODAY, upload=False) == 90 * MB


def test_figures_of_ten_days_ago_forbid_no_run() -> None:
    """The job was ten times as long then: without a new run nothing new would ever be learnt."""
    long_ago = [visit(280, upload=False, days_ago=9)]
    assert run_cost.expect(LIGHT, long_ago, TODAY, upload=False, room_bytes=200 * MB) == 280 * MB
    older = [visit(280, upload=False, days_ago=10)]
    assert run_cost.expect(LIGHT, older, TODAY, upload=False, room_bytes=200 * MB) == LIGHT.usual_bytes(upload=False)
    assert run_cost.expect(LIGHT, older, TODAY, upload=False, room_bytes=20 * MB) == 20 * MB
    cheap = [visit(9, upload=False, days_ago=10)]
    assert run_cost.expect(LIGHT, cheap, TODAY, upload=False, room_bytes=200 * MB) == 9 * MB


def test_a_run_of_nothing_costs_something() -> None:
    assert run_cost.expect(LIGHT, [visit(0)], TODAY, upload=True) == 1
