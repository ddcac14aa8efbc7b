"""The bench of leases: what it counts, and a small one on real parts."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from lab import cli
from lab.lending.bench import Found
from lab.lending.crowd import AT_ONCE, PROBES_IN_A_CELL, Crowd, Made, Outcome


def counted(*tests: Made) -> Outcome:
    crowd = Crowd(probes=20, seconds=60, vanish=0, seed=1)
    crowd.tests += tests
    return crowd.outcome("x", 8)


def test_what_the_rules_forbid_is_counted_and_spoils_the_tests() -> None:
    neighbours = counted(Made(0, 1, 0.0, 5.0), Made(1, 2, 1.0, 6.0), Made(PROBES_IN_A_CELL, 1, 2.0, 7.0))
    assert (neighbours.on_one_cell, neighbours.on_one_port, neighbours.most_at_once) == (1, 1, 3)
    assert neighbours.starved == 17
    assert (neighbours.completed, neighbours.valid, neighbours.valid_per_hour) == (3, 1, 60)
    one_too_many = [Made(8 * number, number, 0.1 * number, 5.0) for number in range(AT_ONCE + 1)]
    crowd = counted(*one_too_many, Made(1, 1, 6.0, 7.0))
    assert crowd.beyond_admission == 1
    assert crowd.valid == 1, "all that ran at that moment are spoiled, the later one is not"
    assert counted(Made(0, 1, 0.0, 5.0), Made(1, 1, 5.0, 9.0)).on_one_cell == 0, "one after the other"


def test_broken_promises_are_named() -> None:
    good = counted(*(Made(probe, 1, 6.0 * probe, 6.0 * probe + 5) for probe in range(20)))
    poor = counted(Made(0, 1, 0.0, 5.0))

    def found(leased: Outcome) -> Found:
        return Found(probes=20, admitted_at_once=AT_ONCE, seconds=60, stock=(poor, good), leased=leased, stuck_freed=0)

    assert found(good).broken == []
    assert (found(good).ratio, found(good).raw_ratio) == (1, 1)
    assert found(poor).broken == [
        "19 probes without a test",
        "only 0.05 times as many valid tests as stock servers make",
    ]


def test_a_small_bench_runs_on_real_parts_and_breaks_no_rule(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["bench", "lease", "--probes", "16", "--seconds", "4", "--vanish", "0", "--json"])
    assert not end.value.code
    found = json.loads(capsys.readouterr().out)
    ours = found["leased"]
    assert ours["completed"] > 0
    assert (ours["beyond_admission"], ours["on_one_cell"], ours["on_one_port"]) == (0, 0, 0)
    assert ours["most_at_once"] <= AT_ONCE
    assert [way["ports"] for way in found["stock"]] == [8, 6]


def test_ctrl_c_ends_it_at_once_whoever_tests_or_waits() -> None:
    command = [sys.executable, "-m", "lab.cli", "bench", "lease", "--probes", "20", "--seconds", "600"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True) as bench:
        assert bench.stderr is not None
        try:
            assert b"stock servers" in bench.stderr.readline()
            time.sleep(3)  # some test by then
            os.killpg(bench.pid, signal.SIGINT)
            assert bench.wait(60) == 130
            assert bench.stderr.read() == b""
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(bench.pid, signal.SIGKILL)
