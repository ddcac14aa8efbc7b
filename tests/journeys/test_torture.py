"""Faults at random moments between a result and InfluxDB: every result is there once."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from lab.torture.command import Report
from lab.torture.faults import FAULTS

pytestmark = pytest.mark.journey

FOR_EVERY_CHECK = (
    "several killed",
    "probe loses power",
    "server loses power",
    "old card put back",
    "two with one id",
)


def torture(*arguments: str) -> tuple[int, Report, str]:
    command = [sys.executable, "-m", "lab.cli", "torture", "--json", "--check", *arguments]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    return run.returncode, msgspec.json.decode(run.stdout, type=Report), run.stderr


def test_a_round_of_the_worst_loses_nothing_and_doubles_nothing() -> None:
    faults = [argument for name in FOR_EVERY_CHECK for argument in ("--fault", name)]
    status, report, said = torture("--seed", "2026", "--rounds", str(len(FOR_EVERY_CHECK)), *faults)
    assert status == 0, said
    assert report.results > 100
    assert (report.lost, report.late, report.doubled, report.broken) == (0, 0, 0, 0), report.evidence
    assert [tally.rounds for tally in report.faults] == [1] * len(FOR_EVERY_CHECK)
    assert "seed 2026" in said


def test_every_fault_says_what_it_does() -> None:
    assert all(fault.__doc__ for fault in FAULTS.values())
