"""The simulated month: real planner and books, goals that can be missed."""

from __future__ import annotations

import json
from datetime import date

import pytest

from lab import simulate_plan
from lab.cli import main


def test_a_month_of_every_kind_of_plan_keeps_its_quotas_hours_and_weekdays(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["simulate", "plan", "--links", "14", "--json", "--check"])
    assert ended.value.code == 0
    report = json.loads(capsys.readouterr().out)
    assert report["missed"] == []
    assert len(report["plans"]) == len(simulate_plan.KINDS)
    for row in report["plans"]:
        assert row["overrun_mb"] == 0
        assert row["weekdays"] == 7
        assert 0 < row["made"] <= row["planned"] <= row["wanted"]
    short = {row["plan"]: row for row in report["plans"]}["4 GB, short"]
    assert short["made"] < short["wanted"] / 2
    assert short["of_quota_percent"] > 70, "what there is is spent"


def test_links_in_their_places_never_meet_and_drawn_ones_do() -> None:
    placed = simulate_plan.collisions_of(simulate_plan.simulate(60, 4, seed=1, room=1), 1)
    assert (placed.no_port_percent, placed.most_at_once) == (0, 1)
    drawn = simulate_plan.collisions_of(simulate_plan.simulate(60, 4, seed=1), 1)
    assert drawn.no_port_percent > 5


def test_the_simulation_is_the_same_every_time() -> None:
    first, second = (simulate_plan.rows_of(simulate_plan.simulate(3, 5, seed=7), 5) for _ in range(2))
    assert first == second


def test_a_quota_that_was_passed_and_bytes_that_were_not_counted_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    (link,) = simulate_plan.simulate(1, 2, seed=1)
    assert simulate_plan.goals_missed([link], 2) == []
    link.truth[date(2026, 6, 2)] += 60_000_000_000
    missed = simulate_plan.goals_missed([link], 2)
    assert "past the quota" in missed[0]
    assert "are not in the books" in missed[1]


def test_an_hour_or_a_weekday_without_a_run_is_named() -> None:
    (link,) = simulate_plan.simulate(1, 1, seed=1)
    link.starts = [at_s for at_s in link.starts for _ in range(10)]
    missed = simulate_plan.goals_missed([link], 20)
    assert any("weekdays have one of" in text for text in missed)
    assert any("hours have one of" in text for text in missed)
