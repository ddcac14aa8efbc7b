"""Hundreds of looks here, 20,000 by PROBEFLEET_SOAK_CYCLES=20000: each ends, and nothing is left behind."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lab.modem.soak import MAX_GROWN_MB, soak

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

CYCLES = int(os.environ.get("PROBEFLEET_SOAK_CYCLES", "300"))


def test_every_look_ends_in_a_reading_or_a_reason_and_nothing_is_left_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = soak(CYCLES, tmp_path, seed=CYCLES)
    with capsys.disabled():
        print("\n" + report.table())  # noqa: T201
    assert report.defects == ()
    assert (report.left_descriptors, report.left_threads) == (0, 0)
    assert report.grown_mb < MAX_GROWN_MB
    assert sum(report.outcomes.values()) == CYCLES
    assert len({fault for fault, _ in report.outcomes}) > 10, "the bad days were of many kinds"
