"""The last speeds of the links: kept over restarts, written seldom, and no obstacle when the disk is full."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.bench import Bench
from agent.clock import SystemClock
from agent.modems import SerialModems
from agent.service import Service
from agent.settings import Link, RadioJob, Settings, Site
from agent.speeds import Speeds
from base.broker import BrokerSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pytest


def test_what_was_measured_is_known_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "speeds.json"
    speeds = Speeds(path)
    assert speeds.get("viettel") is None
    speeds["viettel"] = 37.5
    speeds["vina"] = 80.0
    assert Speeds(path) == {"viettel": 37.5, "vina": 80.0}


def test_a_small_change_is_not_written_and_a_slow_drift_is(tmp_path: Path) -> None:
    path = tmp_path / "speeds.json"
    speeds = Speeds(path)
    speeds["viettel"] = 40.0
    written = path.stat().st_ino
    speeds["viettel"] = 45.0
    assert path.stat().st_ino == written
    assert speeds["viettel"] == 45.0
    speeds["viettel"] = 50.0
    assert Speeds(path)["viettel"] == 50.0


def test_a_damaged_file_and_a_disk_that_takes_nothing_are_no_obstacle(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "speeds.json"
    path.write_text("{")
    assert Speeds(path) == {}
    speeds = Speeds(tmp_path / "nowhere" / "speeds.json")
    speeds["viettel"] = 40.0
    assert speeds["viettel"] == 40.0
    assert "nowhere" in caplog.text


def test_an_agent_that_was_started_again_asks_for_what_its_link_will_take(tmp_path: Path) -> None:
    settings = Settings(
        probe_id="p1",
        site=Site(id="s1"),
        broker=BrokerSettings(host="nowhere"),
        links=(Link(name="viettel", interface="lo", modem=None),),
        jobs=(RadioJob(name="radio", every_s=60, thin=None),),
        data_dir=tmp_path,
    )

    def bench() -> Iterator[Bench]:
        service = Service(settings, SystemClock(), SerialModems())
        yield Bench(settings.links[0], (), SystemClock(), SerialModems(), service.publisher)
        service.spool.close()

    for before_the_restart in bench():
        before_the_restart.note_speed(37.5)
    for after_it in bench():
        assert after_it.last_mbps() == 37.5
