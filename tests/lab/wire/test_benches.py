"""The benches count what the kernel counts, and say when a goal is missed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from agent import settings
from lab.wire import bench as wire

ROOT = Path(__file__).parents[3]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lab.cli", "bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=200, cwd=ROOT)


def test_an_hour_on_the_card_costs_less_than_one_result_at_a_time(tmp_path: Path) -> None:
    done = bench("sdcard", "--hours", "1", "--json", "--folder", str(tmp_path))
    if "the kernel counts nothing here" in done.stderr:
        pytest.skip(f"NOT SHOWN: {tmp_path} is on no disk")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    ours, at_once, every_look, plain = report["rows"]
    assert 0 < ours["written_bytes"] < at_once["written_bytes"] < every_look["written_bytes"]
    assert ours["flushes"] < at_once["flushes"] < plain["flushes"]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_one_line() -> None:
    done = bench("sdcard", "--folder", "/nowhere")
    assert done.returncode == 1
    assert "/nowhere" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.journey
@pytest.mark.root
def test_bytes_on_the_wire_are_counted_through_the_real_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_IPERF_S", 1)
    monkeypatch.setattr(wire, "_PINGS", 1)
    report = wire.measure(settings.load(ROOT / "config/agent.yaml"), hours=0.4)
    ours, alone, flat, raw = report.results
    assert ours.wire_bytes < flat.wire_bytes < alone.wire_bytes < raw.wire_bytes
    assert flat.wire_bytes > flat.payload_bytes + 100, "headers, TLS and PUBACK are counted"
    items = {one.what: one for one in report.day}
    assert 150 < items["keepalive"].bytes_each < 300
    assert items["batch of telemetry"].measured >= 3
    assert report.bytes_a_link_day > 100_000
    assert "kB per link and day" in wire.show(report)


def test_wrong_usage_is_said() -> None:
    done = bench("wire", "--hours", "0")
    assert done.returncode == 2
    assert "--hours" in done.stderr
