"""`probe-agent plan show`: a table for people, one object for machines, and never a change to the probe."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from agent import path
from agent.cli import main
from agent.clock import SystemClock
from agent.ledger import Balance, Booking
from agent.plan import plan_day
from agent.settings import Plan
from agent.spool import Spool

if TYPE_CHECKING:
    from pathlib import Path

MORNING = datetime(2026, 11, 24, 3, 0, tzinfo=UTC)
"""10:00 of the 24th, local time."""
CONFIG = """\
probe_id: p1
site: {{id: s1}}
broker: {{host: 127.0.0.1, tls: null}}
data_dir: {folder}
links:
  - {{name: viettel, interface: wwan0, plan: {{quota_month_mb: 3000}}}}
  - {{name: vina, interface: wwan1}}
jobs:
  - {{name: light, measurement: throughput, runs_per_day: 24, links: [viettel]}}
  - {{name: hourly, measurement: throughput, every_s: 3600, links: [vina]}}
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(path, "meter", lambda _interface, _namespace: None)
    file = tmp_path / "agent.yaml"
    file.write_text(CONFIG.format(folder=tmp_path / "data"))
    return file


def shown(config: Path, *options: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["plan", "show", "--config", str(config), *options])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_people_see_what_is_left_what_comes_next_and_what_is_left_out_and_why(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shown(config) == 0
    text = capsys.readouterr().out
    assert "viettel" in text
    assert "hourly" in text
    assert "left out today: tests may move" in text
    assert "When a plan is short, left out are: uploads, then runs of light" in text
    assert not (config.parent / "data").exists(), "looking makes no spool"


def test_machines_get_one_object(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(config, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    viettel, vina = told["links"]
    assert (viettel["quota_month_mb"], vina["quota_month_mb"]) == (3000, None)
    assert viettel["left_for_tests_mb"] < viettel["left_by_hand_mb"] < 3000
    assert 0 < viettel["runs_planned"] < 24
    assert [run["at_utc"] for run in told["runs"]] == sorted(run["at_utc"] for run in told["runs"])
    assert {run["job"] for run in told["runs"] if run["link"] == "vina"} == {"hourly"}
    assert told["drops_first"] == ["uploads", "runs of light"]


def test_a_quota_that_is_used_up_is_said(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (config.parent / "data").mkdir()
    spool = Spool(config.parent / "data" / "spool.db", max_bytes=10**9)
    spool.book(Booking("viettel", plan_day(Plan(), datetime.now(UTC)).isoformat(), 3_000_000_000))
    spool.close()
    assert shown(config, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["links"][0]["left_for_tests_mb"] == 0
    assert any(
        "no test is made: 3000 MB of 3000 MB of this month are spent" in why for why in told["links"][0]["left_out"]
    )
    assert {run["link"] for run in told["runs"]} == {"vina"}, "no run is promised that nothing pays for"


def at(monkeypatch: pytest.MonkeyPatch, wall: datetime) -> None:
    monkeypatch.setattr(SystemClock, "now", lambda _self: wall)


def test_a_run_that_is_paid_for_without_its_upload_is_shown_so_and_one_that_is_not_is_not_promised(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    at(monkeypatch, MORNING)
    config.write_text(config.read_text().replace("wwan1}", "wwan1, plan: {quota_day_mb: 40}}"))
    assert shown(config, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    runs = [run for run in told["runs"] if run["link"] == "vina"]
    assert [(run["upload"], run["about_mb"]) for run in runs if run["at"].startswith("2026-11-24")] == [(False, 33.6)]
    assert told["links"][1]["to_come_today_mb"] == 33.6
    refused, saved = told["links"][1]["left_out"]
    assert refused.startswith("hourly: not made of today's runs to come: 13; a run without upload takes about 33.6 MB")
    assert saved == "hourly: made without upload of today's runs to come: 1; with it a run takes about 46.2 MB"
    config.write_text(config.read_text().replace("quota_day_mb: 40", "quota_day_mb: 30"))
    assert shown(config, "--json") == 0
    assert "vina" not in {run["link"] for run in json.loads(capsys.readouterr().out)["runs"]}


def test_after_the_last_run_of_a_day_the_next_ones_are_shown_and_so_many_that_the_list_is_full(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    at(monkeypatch, MORNING.replace(hour=16, minute=59, second=30))
    assert shown(config, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["runs"]) >= 12
    assert {run["link"] for run in told["runs"]} == {"viettel", "vina"}
    assert min(run["at"] for run in told["runs"]).startswith("2026-11-25")
    assert told["links"][0]["to_come_today_mb"] == 0
    assert shown(config) == 0
    text = capsys.readouterr().out
    assert f"12 of {len(told['runs'])} runs shown" in text
    planned = str(told["links"][0]["planned_today_mb"])
    assert planned in text.splitlines()[2].split(), "what the day's runs will move"


def test_a_month_that_is_spent_shows_the_first_runs_of_the_next_one(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    at(monkeypatch, MORNING)
    config.write_text(
        config.read_text().replace("  - {name: hourly, measurement: throughput, every_s: 3600, links: [vina]}\n", "")
    )
    spool = Spool(config.parent / "data" / "spool.db", max_bytes=10**9)
    spool.book(Booking("viettel", "2026-11-20", 2_700_000_000))
    spool.close()
    assert shown(config) == 0
    text = capsys.readouterr().out
    assert "2026-12-01" in text.splitlines()[7]
    assert "no test is made: 2700 MB of 3000 MB of this month are spent, and the schedule stops at 2621 MB" in text


def test_what_the_operator_said_is_shown_with_its_doubt(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    at(monkeypatch, MORNING)
    spool = Spool(config.parent / "data" / "spool.db", max_bytes=10**9)
    spool.keep_balance("viettel", Balance(MORNING.isoformat(), 0, "the operator says 0 MB", "0 MB"))
    spool.keep_balance("vina", Balance(MORNING.isoformat(), None, None, "Xin chao"))
    spool.close()
    assert shown(config) == 0
    text = capsys.readouterr().out
    assert (
        "viettel: the operator said on 2026-11-24 10:00: 0.0 MB are left; in doubt: the operator says 0 MB; "
        "tests are no samples until a quota is new" in text
    )
    assert "vina: the operator said on 2026-11-24 10:00: something without a figure" in text


@pytest.mark.parametrize("spoiled", [slice(0, 100), slice(20_000, 30_000)])
def test_looking_changes_nothing_of_a_spool_that_is_damaged(
    config: Path, capsys: pytest.CaptureFixture[str], spoiled: slice
) -> None:
    spool = Spool(config.parent / "data" / "spool.db", max_bytes=10**9)
    spool.book(*(Booking(f"link{number}", "2026-06-01", 1_000_000) for number in range(2000)))
    spool.close()
    data = bytearray((config.parent / "data" / "spool.db").read_bytes())
    data[spoiled] = b"x" * (spoiled.stop - spoiled.start)
    (config.parent / "data" / "spool.db").write_bytes(data)
    assert shown(config) in {0, 1}
    assert "Traceback" not in capsys.readouterr().err
    assert [file.name for file in (config.parent / "data").iterdir() if not file.name.endswith(("-shm", "-wal"))] == [
        "spool.db"
    ]
    assert (config.parent / "data" / "spool.db").read_bytes() == data


@pytest.mark.root
def test_another_user_is_told_whose_spool_it_is(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.parent.chmod(0o755)
    Spool(config.parent / "data" / "spool.db", max_bytes=10**9).close()
    (config.parent / "data").chmod(0o700)
    assert shown(config) == 0  # whatever is imported late is loaded now: the other user cannot read everything
    capsys.readouterr()
    for folder in (one for one in config.parents if "pytest" in str(one)):
        folder.chmod(0o755)
    os.seteuid(65534)
    try:
        assert shown(config) == 1
    finally:
        os.seteuid(0)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("spool.db: not for this user to read; run this as root or as the agent's user")
