from __future__ import annotations

import json
import subprocess
import sys

import pytest

from agent import settings
from agent.publisher import STATUS_EVERY_S
from lab import cli
from lab.capacity import costs
from lab.collecting.content import EXAMPLE, Content
from lab.wire import day
from wire.codec import encode


@pytest.mark.root
@pytest.mark.journey
def test_prices_are_measured_and_multiplied(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(costs, "_WIRE_HOURS", 0.2)
    monkeypatch.setattr(costs, "_DAYS", 1)
    with pytest.raises(SystemExit) as ended:
        cli.main(["capacity", "--probes", "300", "--results", "2000", "--played", "2", "--json"])

    assert ended.value.code == 0
    report = json.loads(capsys.readouterr().out)
    assert all(price >= 0 for price in report["costs"].values())
    lines = costs.week(Content(), range(1), 7)
    assert report["costs"]["series_per_link"] == len({line.split(" ")[0] for line in lines}) == 6
    line_bytes = sum(map(len, lines)) / len(lines)
    assert 50 < report["costs"]["influxd_bytes_per_point"] < line_bytes, "what was in the log is in files"
    assert report["costs"]["journal_bytes_per_result"] > _payload_bytes()
    (fleet,) = report["fleets"]
    assert fleet["probes"] == 300
    assert fleet["traffic"]["results_per_s"] > 0
    assert fleet["traffic"]["points_a_day"] - fleet["traffic"]["results_a_day"] == 300 * 86_400 / STATUS_EVERY_S


def _payload_bytes() -> float:
    config = settings.load(EXAMPLE)
    results = [event.result for event in day.events(config) if event.result is not None]
    return sum(len(encode(one)) for one in results) / len(results)


def test_the_network_is_priced_by_whole_days() -> None:
    assert costs._WIRE_HOURS == 24.0, "the first hours of a day have fewer throughput tests than its mean"


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
