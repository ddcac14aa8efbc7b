"""What a run tells of its cost, whole or ended early."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent import run_cost
from agent.run_cost import Cost
from wire.measured import Failed, Throughput, Transfer
from wire.reasons import Invalid, Reason

if TYPE_CHECKING:
    from wire.results import Outcome

MB = 1_000_000
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
        (Failed(reason=QUOTA), 15, Cost(90 * MB, upload=False, cut_short=True)),
        (Failed(reason=QUOTA), 0, None),
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
        "cut before anything was measured",
        "not begun",
        "link lost",
        "upload failed",
    ],
)
def test_what_a_run_tells_of_its_cost(outcome: Outcome, spent_mb: int, told: Cost | None) -> None:
    assert run_cost.of(outcome, spent_mb * MB, length_s=6.0, omit_s=1.0) == told


def test_without_counters_nothing_is_told() -> None:
    assert run_cost.of(Throughput(download=transfer(60, 6.0)), None, length_s=6.0, omit_s=1.0) is None
