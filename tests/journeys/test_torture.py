"""Faults at random moments between a result and InfluxDB: every result is there once."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

import msgspec
import pytest

from lab import cli
from lab.programs import ProgramError
from lab.torture.command import Report
from lab.torture.faults import FAULTS

pytestmark = pytest.mark.journey

SEED: Final = 2026
TIMEOUT_S: Final = 600
PARTS: Final = 4
"""Workers share them."""


def torture(*arguments: str) -> tuple[int, Report, str]:
    """Run it; whatever goes wrong is told with all that was said, the seed among it."""
    line = [sys.executable, "-m", "lab.cli", "torture", "--json", "--check", *arguments]
    try:
        run = subprocess.run(line, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        said = error.stderr.decode(errors="replace") if isinstance(error.stderr, bytes) else error.stderr
        pytest.fail(f"{line}: not done after {TIMEOUT_S} s\n{said}")
    if not run.stdout:
        raise ProgramError(f"{line}: {run.stderr}")  # the stand could not be set up: nothing was judged
    return run.returncode, msgspec.json.decode(run.stdout, type=Report), run.stderr


@pytest.mark.parametrize("part", range(PARTS))
def test_no_fault_loses_or_doubles_anything(part: int) -> None:
    names = list(FAULTS)[part::PARTS]
    faults = [argument for name in names for argument in ("--fault", name)]
    status, report, said = torture("--seed", str(SEED), "--rounds", str(len(names)), *faults)
    assert status == 0, f"{report}\n{said}"
    assert f"seed {SEED}" in said
    assert report.results > 100
    assert (report.lost, report.late, report.doubled, report.broken) == (0, 0, 0, 0), f"{report}\n{said}"
    assert {tally.fault: tally.rounds for tally in report.faults} == dict.fromkeys(names, 1)


def test_every_fault_says_what_it_does() -> None:
    assert all(fault.__doc__ for fault in FAULTS.values())


def test_the_help_promises_no_moments(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["torture", "--help"])
    said = capsys.readouterr().out
    assert "same moments" not in said
    assert "not what the machine makes of it" in said
