"""A journal put back from a backup: what it lost is named, asked for, sent again as it was, or given up."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from agent.publisher import Publisher
from agent.spool import Spool
from base.broker import BrokerSettings
from lab.servers import Influxd, Mosquitto
from wire.measured import Radio, Throughput, Transfer
from wire.radio import RadioReading
from wire.results import Job, Result
from wire.status import Status

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.journey

PATIENCE_S = 150.0
USERS = {"p1": "secret-1", "collector": "secret-c"}
BEGIN = datetime(2026, 6, 15, 8, tzinfo=UTC)


class Collector:
    """`probe-collector run`, whose journal can be backed up and put back."""

    def __init__(self, folder: Path, broker: Mosquitto, influx: Influxd) -> None:
        self.journal = folder / "journal.db"
        self._config = folder / "collector.yaml"
        self._log = folder / "collector.log"
        document = {
            "broker": {
                "host": broker.host,
                "port": broker.port,
                "tls": None,
                "credentials_file": str(credentials(folder, "collector")),
            },
            "journal": {"path": str(self.journal)},
            "sink": {"kind": "influxdb1", "url": influx.url, "database": "probefleet"},
            "resend": {"after_s": 0},
        }
        self._config.write_text(json.dumps(document))
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "collector.cli", "run", "--config", str(self._config)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(PATIENCE_S)

    def gaps(self) -> dict[str, Any]:
        command = [sys.executable, "-m", "collector.cli", "gaps", "--config", str(self._config), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found


def credentials(folder: Path, user: str) -> Path:
    path = folder / f"{user}.credentials"
    path.touch(mode=0o600)
    path.write_text(f"{user}:{USERS[user]}\n")
    return path


def until(true: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline_s, f"not within {PATIENCE_S:.0f} s: {what}"
        time.sleep(0.1)


def make(spool: Spool, publisher: Publisher, throughputs: int, looks: int) -> None:
    """Let a probe measure, and wait until it may forget."""
    for index in range(throughputs + looks):
        test = index < throughputs
        made = spool.counts().spooled
        spool.append(
            Result(
                probe_id="p1",
                site="s1",
                link="viettel",
                job=Job(name="j", measurement="throughput" if test else "radio"),
                started_at=BEGIN + timedelta(seconds=made),
                agent_version="0",
                outcome=Throughput(download=Transfer(steady_mbps=41.0, payload_bytes=made, elapsed_s=5.0))
                if test
                else Radio(reading=RadioReading(rsrp_dbm=-98)),
            )
        )
    publisher.wake()
    assert publisher.wait_until_empty(PATIENCE_S)


def test_what_a_journal_lost_with_its_last_day_comes_back_once(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "broker", users=USERS) as broker, Influxd(tmp_path / "influxd") as influx:
        influx.query("CREATE DATABASE probefleet")
        collector = Collector(tmp_path, broker, influx)
        spool = Spool(tmp_path / "spool.db", max_bytes=10**9)
        settings = BrokerSettings(
            host=broker.host, port=broker.port, tls=None, credentials_file=credentials(tmp_path, "p1")
        )
        publisher = Publisher(
            settings, "p1", spool, lambda: Status(probe_id="p1", online=True, spool_id=spool.spool_id)
        )
        publisher.start()
        try:
            make(spool, publisher, throughputs=5, looks=3)
            collector.stop()
            shutil.copy(collector.journal, tmp_path / "backup.db")
            collector.start()
            make(spool, publisher, throughputs=4, looks=2)
            until(lambda: len(points(influx)) >= 14, "InfluxDB has what the journal will lose")
            collector.stop()
            for path in tmp_path.glob("journal.db*"):
                path.unlink()
            shutil.copy(tmp_path / "backup.db", collector.journal)
            collector.start()
            make(spool, publisher, throughputs=1, looks=0)
            (hole,) = collector.gaps()["holes"]
            assert (hole["probe"], hole["first"], hole["last"]) == ("p1", 9, 14)
            until(lambda: all(one["state"] == "gone" for one in collector.gaps()["holes"]), "what can come has come")
            assert [(one["first"], one["last"]) for one in collector.gaps()["holes"]] == [(13, 14)]
            until(lambda: len(points(influx)) >= 15, "InfluxDB has it too")
            assert sorted(points(influx)) == list(range(1, 16)), "everything once"
            assert spool.counts()[:3] == (15, 15, 0)
        finally:
            publisher.stop(flush_s=0)
            spool.close()
            collector.stop()


def points(influx: Influxd) -> list[int]:
    rows = influx.query("SELECT seq FROM throughput, radio", "probefleet")
    return [row["seq"] for row in rows]
