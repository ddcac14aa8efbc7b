"""The collector as a process, on a real broker and real databases."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import zlib
from typing import TYPE_CHECKING, Any

import pytest
from collector_helpers import (
    USERS,
    Collector,
    Feeder,
    Probe,
    collector_config,
    failed,
    journalled,
    message,
    radio,
    result,
    run_cli,
    wait_until,
)

from lab.servers import Influxd, Mosquitto, VictoriaMetrics
from wire import codec, topics
from wire.status import Status

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.journey
NONE = {"kind": "none"}


def database(influxd: Influxd, tmp_path: Path) -> dict[str, Any]:
    return {"kind": "influxdb1", "url": influxd.url, "database": tmp_path.name}


def points(influxd: Influxd, tmp_path: Path) -> int:
    """Count the points that are results."""
    if tmp_path.name not in [row["name"] for row in influxd.query("SHOW DATABASES")]:
        return 0
    rows = influxd.query("SELECT COUNT(seq) FROM throughput, latency, radio, failed, dropped", tmp_path.name)
    return sum(row["count"] for row in rows)


@contextlib.contextmanager
def collecting(tmp_path: Path, broker: Mosquitto, sink: dict[str, Any]) -> Iterator[Collector]:
    config = collector_config(tmp_path, broker, sink)
    with Collector(config, tmp_path / "journal.db") as collector:
        yield collector


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """Run a broker that the test may stop."""
    with Mosquitto(tmp_path / "mosquitto", users=USERS) as server:
        yield server


def test_results_of_every_kind_are_acknowledged_journalled_and_in_the_database_once(
    broker: Mosquitto, influxd: Influxd, tmp_path: Path
) -> None:
    with collecting(tmp_path, broker, database(influxd, tmp_path)) as collector, Probe(broker, "p1", tmp_path) as probe:
        for _ in range(3):
            probe.send(message(result(1), radio(2), failed(3)))
        wait_until(lambda: probe.acked() == {1, 2, 3})
        probe.send(message(result(7)))
        wait_until(lambda: wait_until(lambda: collector.stats()["sinks"])[0]["behind"] == 0 and 7 in probe.acked())
        wait_until(lambda: points(influxd, tmp_path) == 4)
        stats = collector.stats()
        assert stats["results"] == 4
        assert stats["probes"]["p1"]["kinds"] == {"failed": 1, "radio": 1, "throughput": 2}
        assert (stats["probes"]["p1"]["missing"], stats["probes"]["p1"]["holes"]) == (3, [["s1", 4, 6]])
        table = run_cli("stats", "--config", str(collector.config)).stdout
        assert "missing of p1: 4-6" in table
        assert collector.stop() == 0


def test_points_reach_a_server_that_speaks_version_2(
    broker: Mosquitto, victoria: VictoriaMetrics, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text("t0ken\n")
    sink = {"kind": "influxdb2", "url": victoria.url, "bucket": "b", "org": "o", "token_file": str(token)}
    with collecting(tmp_path, broker, sink), Probe(broker, "p1", tmp_path) as probe:
        probe.send(message(*(radio(seq, site="version-2") for seq in range(1, 31))))
        wait_until(lambda: len(probe.acked()) == 30)
        match = '{__name__="radio_seq",site="version-2"}'
        wait_until(lambda: sum(len(series["values"]) for series in victoria.export(match)) == 30)


def test_a_status_makes_a_point_and_a_probe_that_has_gone_is_offline(
    broker: Mosquitto, influxd: Influxd, tmp_path: Path
) -> None:
    with collecting(tmp_path, broker, database(influxd, tmp_path)) as collector, Probe(broker, "p1", tmp_path) as probe:
        for online in (True, False):
            status = Status(probe_id="p1", online=online, site="tan-phong", agent_version="0.1.0", backlog=3)
            probe.send(codec.encode(status), topics.STATUS, retain=True)
            wait_until(lambda online=online: collector.stats()["probes"].get("p1", {}).get("online") is online)
        wait_until(lambda: len(influxd.query("SELECT * FROM probe", tmp_path.name)) == 2)
        probe.send(b"", topics.STATUS, retain=True)


def test_garbage_forgeries_and_bombs_are_counted_and_stop_nobody(broker: Mosquitto, tmp_path: Path) -> None:
    rng = random.Random(1)
    with collecting(tmp_path, broker, NONE) as collector, Probe(broker, "p1", tmp_path) as probe:
        probe.send(message(result(1)))
        for round_ in range(20):
            probe.send(rng.randbytes(1_000_000))
            probe.send(rng.randbytes(300))
            probe.send(b"")
            probe.send(zlib.compress(b" " * 20_000_000))
            probe.send(message(result(round_ + 1, probe="p2")))
            probe.send(b"online?", topics.STATUS)
            probe.send(codec.encode(result(500 + round_)).replace(b'"elapsed_s":11.5', b'"elapsed_s":"long"'))
        probe.send(message(result(2)), qos=0)
        probe.send(message(result(3), result(1, elapsed_s=1.0)))
        wait_until(lambda: probe.acked() == {1, 2, 3})
        wait_until(lambda: len(probe.refused) == 40)
        assert "elapsed_s" in probe.refused["s1", 500]
        assert "says it is of 'p2'" in probe.refused["s1", 20]
        assert "another result" in probe.refused["s1", 1]
        reasons = {one["reason"]: one["times"] for one in collector.stats()["quarantine"]}
        assert reasons["too_large"] == 20
        assert reasons["foreign_probe"] == 20
        assert reasons["conflict"] == 1
        assert reasons["undecodable"] == 100
        assert journalled(collector.journal) == {"p1": [1, 2, 3]}
        assert collector.stop() == 0


def test_nothing_acknowledged_is_missing_after_kills_at_random_moments(
    own_broker: Mosquitto, influxd: Influxd, tmp_path: Path
) -> None:
    rng = random.Random(7)
    total = 1500
    with (
        collecting(tmp_path, own_broker, database(influxd, tmp_path)) as collector,
        Probe(own_broker, "p1", tmp_path) as one,
        Probe(own_broker, "p2", tmp_path) as two,
        Feeder(one, total, pause_s=0.002) as first,
        Feeder(two, total, pause_s=0.002) as second,
    ):
        for _ in range(5):
            seen = len(one.acked())
            wait_until(lambda seen=seen: len(one.acked()) > min(seen + rng.randrange(200), total - 1))
            collector.kill()
            held = journalled(collector.journal)
            for probe in (one, two):
                assert probe.acked() <= set(held[probe.probe_id]), "acknowledged, and not in the journal"
            collector.start()
        wait_until(lambda: first.done() and second.done(), timeout_s=60)
        wait_until(lambda: points(influxd, tmp_path) == 2 * total, timeout_s=60)
    held = journalled(tmp_path / "journal.db")
    assert {probe: sorted(numbers) for probe, numbers in held.items()} == {
        "p1": list(range(1, total + 1)),
        "p2": list(range(1, total + 1)),
    }


def test_a_database_that_goes_away_under_load_misses_nothing_and_has_nothing_twice(
    broker: Mosquitto, tmp_path: Path
) -> None:
    total = 3000
    with Influxd(tmp_path / "influxd") as influxd:
        influxd.query(f'CREATE DATABASE "{tmp_path.name}"')
        with (
            collecting(tmp_path, broker, database(influxd, tmp_path)) as collector,
            Probe(broker, "p1", tmp_path) as probe,
            Feeder(probe, total, pause_s=0.005) as feeder,
        ):
            for stop in (influxd.stop, influxd.kill):
                seen = len(probe.acked())
                wait_until(lambda seen=seen: len(probe.acked()) > min(seen + 100, total - 1))
                stop()
                wait_until(lambda: collector.stats()["sinks"][0]["behind"] > 50 or feeder.done())
                wait_until(lambda: "trying again" in collector.said())
                influxd.start()
            wait_until(feeder.done)
            wait_until(lambda: points(influxd, tmp_path) == total, timeout_s=60)
            assert "trying again" in collector.said()
            assert "writing again" in collector.said()
        numbers = [row["seq"] for row in influxd.query("SELECT seq FROM throughput", tmp_path.name)]
    assert numbers == list(range(1, total + 1))


def test_a_broker_that_is_restarted_or_killed_costs_nothing(own_broker: Mosquitto, tmp_path: Path) -> None:
    total = 800
    with (
        collecting(tmp_path, own_broker, NONE) as collector,
        Probe(own_broker, "p1", tmp_path) as probe,
        Feeder(probe, total, pause_s=0.005) as feeder,
    ):
        for stop in (own_broker.stop, own_broker.kill):
            seen = len(probe.acked())
            wait_until(lambda seen=seen: len(probe.acked()) > min(seen + 100, total - 1))
            stop()
            own_broker.start()
        wait_until(feeder.done, timeout_s=60)
        assert "connection lost" in collector.said()
    assert sorted(journalled(tmp_path / "journal.db")["p1"]) == list(range(1, total + 1))


def test_a_refused_password_is_said_once_and_the_corrected_file_is_enough(broker: Mosquitto, tmp_path: Path) -> None:
    config = collector_config(tmp_path, broker, NONE)
    credentials = tmp_path / "broker-credentials"
    right = credentials.read_text()
    credentials.write_text("collector:guess\n")
    collector = Collector(config, tmp_path / "journal.db")
    collector.start()
    try:
        wait_until(lambda: "refused by the broker" in collector.said())
        corrected = tmp_path / "corrected"  # put in its place whole: the collector is reading it
        corrected.touch(mode=0o600)
        corrected.write_text(right)
        corrected.replace(credentials)
        wait_until(lambda: "listening" in collector.said())
        assert collector.said().count("refused by the broker") == 1
        assert "guess" not in collector.said()
    finally:
        assert collector.stop() == 0


def test_a_second_collector_on_the_journal_is_turned_away(broker: Mosquitto, tmp_path: Path) -> None:
    with collecting(tmp_path, broker, NONE) as collector:
        second = run_cli("run", "--config", str(collector.config))
        assert second.returncode == 1
        assert "another collector is writing it" in second.stderr
        assert "Traceback" not in second.stderr


def test_results_on_their_way_when_told_to_stop_are_stored_or_come_again(broker: Mosquitto, tmp_path: Path) -> None:
    total = 600
    with Probe(broker, "p1", tmp_path) as probe, collecting(tmp_path, broker, NONE) as collector:
        for seq in range(1, total + 1):
            probe.send(message(radio(seq)))
        wait_until(lambda: len(probe.acked()) > 50)
        assert collector.stop() == 0
        assert probe.acked() <= set(journalled(collector.journal)["p1"])
        collector.listen()
        wait_until(lambda: len(probe.acked()) == total)
    assert sorted(journalled(tmp_path / "journal.db")["p1"]) == list(range(1, total + 1))


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disk_acknowledges_nothing_until_there_is_room(broker: Mosquitto, tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=500k", "tmpfs", mount], check=True)
    try:
        config = collector_config(tmp_path, broker, NONE, journal=mount / "journal.db")
        with (
            Collector(config, mount / "journal.db") as collector,
            Probe(broker, "p1", tmp_path) as probe,
            Feeder(probe, 1000) as feeder,
        ):
            wait_until(lambda: "nothing is acknowledged" in collector.said())
            assert probe.acked() <= set(journalled(collector.journal)["p1"])
            assert not feeder.done()
            subprocess.run(["mount", "-o", "remount,size=32m", mount], check=True)
            wait_until(feeder.done, timeout_s=60)
            assert sorted(journalled(collector.journal)["p1"]) == list(range(1, 1001))
            assert collector.stop() == 0
    finally:
        subprocess.run(["umount", "--lazy", mount], check=True)  # a failed test may still hold a file
