"""The collector before engines of several machines; nodes are killed under load."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

import pytest
from collector_helpers import USERS, Collector, Feeder, Probe, collector_config, journalled, wait_until

from collector import fleet
from lab.clusters import Nats, Vmagent, peers
from lab.servers import VictoriaMetrics

if TYPE_CHECKING:
    from pathlib import Path

    from lab.servers import Mosquitto

pytestmark = pytest.mark.journey
SITES = "sites: [{id: tan-phong, probes: [p1]}, {id: sin-ho, probes: [p2]}]\n"


@pytest.mark.alone
def test_a_broker_of_three_nodes_loses_nothing_when_any_of_them_is_killed(tmp_path: Path) -> None:
    total = 300
    (tmp_path / "sites.yaml").write_text(SITES)
    rights = fleet.rights(fleet.load(tmp_path / "sites.yaml"))
    users = USERS | {"responder": "secret-r"}
    plan = peers(3)
    with contextlib.ExitStack() as stack:
        nodes = [Nats(tmp_path / peer.name, peer, plan, users, rights) for peer in plan]
        for node in nodes:
            stack.callback(node.kill)
            node.start()
        heard, spoken, third = nodes
        collector = Collector(collector_config(tmp_path, heard, {"kind": "none"}), tmp_path / "journal.db")  # type: ignore[arg-type]  # as above
        stack.enter_context(collector)
        probes = [stack.enter_context(Probe(spoken, name, tmp_path)) for name in ("p1", "p2")]  # type: ignore[arg-type]  # as above
        for probe in probes:
            stack.enter_context(Feeder(probe, total, pause_s=0.02))
        wait_until(lambda: len(probes[0].acked()) > 20)
        third.kill()
        goal = min(total, len(probes[0].acked()) + 20)  # acknowledgements may have come in one burst
        wait_until(lambda: len(probes[0].acked()) >= goal, "two of three nodes go on", timeout_s=120)
        third.start()
        heard.kill()
        heard.start()
        wait_until(lambda: all(len(probe.acked()) == total for probe in probes), timeout_s=120)
        assert journalled(collector.journal).keys() == {"p1", "p2"}
        for numbers in journalled(collector.journal).values():
            assert sorted(numbers) == list(range(1, total + 1))


def test_a_store_that_was_killed_has_every_point_afterwards(broker: Mosquitto, tmp_path: Path) -> None:
    total = 300
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text("none\n")

    def held(store: VictoriaMetrics) -> int:
        series = store.export('{__name__="throughput_seq",probe="p3"}')
        return len({value for one in series for value in one["values"]})

    with contextlib.ExitStack() as stack:
        stores = [stack.enter_context(VictoriaMetrics(tmp_path / name)) for name in ("one", "two")]
        agent = stack.enter_context(Vmagent(tmp_path / "vmagent", [store.url for store in stores]))
        sink = {"kind": "influxdb2", "url": agent.url, "bucket": "b", "org": "o", "token_file": str(token)}
        config = collector_config(tmp_path, broker, sink)
        config.write_text(json.dumps(json.loads(config.read_text()) | {"client_id": "before-two-stores"}))
        stack.enter_context(Collector(config, tmp_path / "journal.db"))
        probe = stack.enter_context(Probe(broker, "p3", tmp_path))
        stack.enter_context(Feeder(probe, total, pause_s=0.01))
        wait_until(lambda: len(probe.acked()) > 50)
        stores[1].kill()
        wait_until(lambda: len(probe.acked()) == total)
        wait_until(lambda: held(stores[0]) == total, "the other store has all")
        stores[1].start()
        wait_until(lambda: held(stores[1]) == total, "the store that was away has all", timeout_s=90)
