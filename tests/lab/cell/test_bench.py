"""What the bench says and how it judges; the links themselves are measured in test_link."""

from __future__ import annotations

import argparse
import json
import os
from typing import TYPE_CHECKING

import pytest

from lab.cell import bench
from lab.cell.bench import Row

if TYPE_CHECKING:
    from collections.abc import Iterator


def row(ratio: float) -> Row:
    return Row(
        direction="down",
        shaper_mbps=40.0,
        expected_mbps=38.26,
        measured_mbps=38.26 * ratio,
        ratio=ratio,
        rtt_min_ms=40.3,
        relay_cpu_percent=9.0,
    )


def status(*arguments: str) -> int:
    parser = argparse.ArgumentParser(prog="probe-lab bench")
    bench.add_parser(parser.add_subparsers(required=True))
    chosen = parser.parse_args(["cell", *arguments])
    return int(chosen.run(chosen))


def measured(monkeypatch: pytest.MonkeyPatch, *ratios: float) -> None:
    def measure(_: int) -> Iterator[Row]:
        yield from map(row, ratios)

    monkeypatch.setattr(bench, "measure", measure)


@pytest.mark.parametrize(("ratios", "wanted"), [((1.0, 0.93), 0), ((1.0, 0.91), 1), ((1.09,), 1)])
def test_check_fails_when_a_ratio_is_further_than_8_percent(
    monkeypatch: pytest.MonkeyPatch, ratios: tuple[float, ...], wanted: int
) -> None:
    measured(monkeypatch, *ratios)
    assert status("--check") == wanted
    assert status() == 0


def test_json_is_one_object_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured(monkeypatch, 1.0, 0.99)
    assert status("--json") == 0
    assert [line["ratio"] for line in json.loads(capsys.readouterr().out)["transfers"]] == [1.0, 0.99]


def test_the_table_has_a_line_for_each_transfer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured(monkeypatch, 1.0, 0.99)
    assert status() == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert "relay CPU" in heading
    assert len(lines) == 2
    assert "0.990" in lines[1]


def test_without_root_it_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert status() == 1
    assert capsys.readouterr().err == "probe-lab bench cell: network namespaces need root: run it with sudo\n"


def test_a_transfer_of_no_length_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert status("--seconds", "0") == 2
    assert "--seconds must be 1 or more" in capsys.readouterr().err
