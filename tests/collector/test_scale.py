"""More than one collector: taking turns by a shared subscription, or each with its own groups of sites."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from collector_helpers import (
    USERS,
    Collector,
    Feeder,
    Probe,
    collector_config,
    journalled,
    message,
    result,
    run_cli,
    wait_until,
)

from collector import fleet
from lab.servers import Mosquitto

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lab.servers import Influxd

pytestmark = pytest.mark.journey

SITES = """\
collectors: [collector, collector-2]
sites:
  - {id: tan-phong, group: north, probes: [p1]}
  - {id: sin-ho, group: south, probes: [p2, p3]}
"""


@pytest.fixture
def shared_broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """Run a broker that goes by the site list, for two collectors."""
    sites = tmp_path / "sites.yaml"
    sites.write_text(SITES)
    users = USERS | {"collector-2": "secret-c2"}
    rights = fleet.acl(fleet.load(sites))
    with Mosquitto(tmp_path / "mosquitto", users=users, acl=rights, extra=["use_username_as_clientid true"]) as server:
        yield server


def configured(
    tmp_path: Path,
    broker: Mosquitto,
    user: str,
    sink: dict[str, Any],
    **more: Any,  # noqa: ANN401  # any setting
) -> Collector:
    folder = tmp_path / user
    folder.mkdir()
    config = collector_config(folder, broker, sink, user=user)
    config.write_text(json.dumps(json.loads(config.read_text()) | {"client_id": user} | more))
    return Collector(config, folder / "journal.db")


def test_two_collectors_share_the_work_and_one_killed_under_load_costs_nothing(
    shared_broker: Mosquitto, influxd: Influxd, tmp_path: Path
) -> None:
    total = 1500
    sink = {"kind": "influxdb1", "url": influxd.url, "database": tmp_path.name}
    collectors = [configured(tmp_path, shared_broker, user, sink, share="all") for user in ("collector", "collector-2")]
    with contextlib.ExitStack() as stack:
        for collector in collectors:
            stack.enter_context(collector)
        probes = [stack.enter_context(Probe(shared_broker, name, tmp_path)) for name in ("p1", "p2", "p3")]
        for probe in probes:
            stack.enter_context(Feeder(probe, total, pause_s=0.002))
        wait_until(lambda: len(probes[0].acked()) > 200)
        collectors[0].kill()
        wait_until(lambda: all(len(probe.acked()) == total for probe in probes), timeout_s=120)
        collectors[0].listen()  # what it had acknowledged and not yet written is in its journal
        query = "SELECT COUNT(seq) FROM throughput GROUP BY probe"
        wait_until(lambda: [row["count"] for row in influxd.query(query, tmp_path.name)] == [total] * 3)
        held = [journalled(collector.journal) for collector in collectors]
        assert all(held)  # both have worked
        for probe in probes:
            numbers = set(held[0].get(probe.probe_id, [])) | set(held[1].get(probe.probe_id, []))
            assert numbers == set(range(1, total + 1))


def test_a_collector_that_serves_a_group_hears_that_group_and_no_other(
    shared_broker: Mosquitto, tmp_path: Path
) -> None:
    sites = str(tmp_path / "sites.yaml")
    north = configured(
        tmp_path, shared_broker, "collector", {"kind": "none"}, serves={"sites_file": sites, "groups": ["north"]}
    )
    south = configured(
        tmp_path, shared_broker, "collector-2", {"kind": "none"}, serves={"sites_file": sites, "groups": ["south"]}
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(north)
        stack.enter_context(south)
        for name in ("p1", "p2", "p3"):
            probe = stack.enter_context(Probe(shared_broker, name, tmp_path))
            probe.send(message(result(1, probe=name)))
            wait_until(lambda probe=probe: probe.acked() == {1})
        assert journalled(north.journal) == {"p1": [1]}
        assert journalled(south.journal) == {"p2": [1], "p3": [1]}


def test_a_group_that_no_site_is_in_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "sites.yaml").write_text(SITES)
    config = tmp_path / "collector.yaml"
    config.write_text(
        f"broker: {{host: localhost, tls: null}}\njournal: {{path: {tmp_path}/journal.db}}\nsink: {{kind: none}}\n"
        f"serves: {{sites_file: {tmp_path}/sites.yaml, groups: [east]}}\n"
    )
    done = run_cli("check-config", "--config", str(config))
    assert done.returncode == 2
    assert "no site is in group 'east'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_probe_that_floods_is_slowed_and_the_others_are_not(shared_broker: Mosquitto, tmp_path: Path) -> None:
    limits = {"results_per_minute": 60, "kilobytes_per_minute": 6000}
    with (
        configured(tmp_path, shared_broker, "collector", {"kind": "none"}, limits=limits) as collector,
        Probe(shared_broker, "p1", tmp_path) as wild,
        Probe(shared_broker, "p2", tmp_path) as calm,
    ):
        for seq in range(1, 301):
            wild.send(message(result(seq)))
        calm.send(message(result(1, probe="p2")))
        wait_until(lambda: calm.acked() == {1})
        wait_until(lambda: "p1 brings more than one probe may" in collector.said())
        wait_until(lambda: len(wild.acked()) >= 60)
        taken = wild.acked()
        assert len(taken) < 300
        assert set(journalled(collector.journal)["p1"]) >= taken
        assert collector.stop() == 0
