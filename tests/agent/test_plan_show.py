"""`probe-agent plan show`: a table for people, one object for machines, and never a change to the probe."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from agent import path
from agent.cli import main
from agent.ledger import Booking
from agent.plan import plan_day
from agent.settings import Plan
from agent.spool import Spool

if TYPE_CHECKING:
    from pathlib import Path

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


def test_a_job_with_a_period_promises_no_run_that_nothing_pays_for(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(config.read_text().replace("wwan1}", "wwan1, plan: {quota_day_mb: 40}}"))
    assert shown(config, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert "vina" not in {run["link"] for run in told["runs"]}
    assert "hourly: a run takes about" in told["links"][1]["left_out"][-1]


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
