"""The bench of leases: what it counts, and a small one on real parts."""

from __future__ import annotations

import json

import pytest

from lab import cli
from lab.lending.bench import AT_ONCE, PROBES_IN_A_CELL, Fleet, Made


def fleet(*tests: Made) -> Fleet:
    made = Fleet(probes=20, seconds=60, vanish=0, seed=1)
    made.tests += tests
    return made


def test_what_the_rules_forbid_is_counted() -> None:
    neighbours = fleet(Made(0, 1, 0.0, 5.0), Made(1, 2, 1.0, 6.0), Made(PROBES_IN_A_CELL, 1, 2.0, 7.0)).half("x")
    assert (neighbours.on_one_cell, neighbours.on_one_port, neighbours.most_at_once) == (1, 1, 3)
    assert neighbours.starved == 17
    crowd = fleet(*(Made(8 * number, number, 0.1 * number, 5.0) for number in range(AT_ONCE + 1))).half("x")
    assert crowd.beyond_admission == 1
    assert fleet(Made(0, 1, 0.0, 5.0), Made(1, 1, 5.0, 9.0)).half("x").on_one_cell == 0, "one after the other"


def test_a_small_bench_runs_on_real_parts_and_breaks_no_rule(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["bench", "lease", "--probes", "16", "--seconds", "8", "--vanish", "0", "--json"])
    assert not end.value.code
    found = json.loads(capsys.readouterr().out)
    ours = found["leased"]
    assert ours["completed"] > 0
    assert (ours["beyond_admission"], ours["on_one_cell"], ours["on_one_port"]) == (0, 0, 0)
    assert ours["most_at_once"] <= AT_ONCE
