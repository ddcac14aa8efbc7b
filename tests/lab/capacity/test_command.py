from __future__ import annotations

import json
import subprocess
import sys

import pytest

from lab import cli
from lab.capacity import costs


@pytest.mark.root
@pytest.mark.journey
def test_prices_are_measured_and_multiplied(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(costs, "_WIRE_HOURS", 0.2)
    monkeypatch.setattr(costs, "_WEEK", 1000)
    with pytest.raises(SystemExit) as ended:
        cli.main(["capacity", "--probes", "300", "--results", "2000", "--played", "2", "--json"])

    assert ended.value.code == 0
    report = json.loads(capsys.readouterr().out)
    assert all(price >= 0 for price in report["costs"].values())
    assert report["costs"]["series_per_link"] == 3
    assert 50 < report["costs"]["influxd_bytes_per_point"] < 390, "a line has 390: what was in the log is in files"
    assert report["costs"]["journal_bytes_per_result"] > 200
    (fleet,) = report["fleets"]
    assert fleet["probes"] == 300
    assert fleet["traffic"]["results_per_s"] > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--probes", "0"], "must be a whole number"), (["--config", "/nowhere.yaml"], "No such file")],
)
def test_a_mistake_is_one_line(arguments: list[str], said: str) -> None:
    command = [sys.executable, "-m", "lab.cli", "capacity", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_the_part_for_test_servers_is_still_there() -> None:
    command = [sys.executable, "-m", "lab.cli", "capacity", "responder", "--probes", "300"]
    assert subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0
