"""The real agent and two real responders: the configured order, the nearer one without it, and one that is killed."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from base.broker import BrokerSettings
from lab.cell.topology import Probe, build_core, build_probe
from lab.lending.probes import LabProbe, responder, wait_until_serving
from lab.netns import Run
from lab.servers import Mosquitto

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lab.programs import Program

pytestmark = [pytest.mark.journey, pytest.mark.root]

BROKER_PORT = 1883
FAR_RTT_MS = 80.0


@dataclass
class World:
    """A probe, a responder beside the broker, and one behind 80 ms."""

    probe: Probe
    folder: Path
    responders: dict[str, Program] = field(default_factory=dict)

    def test(self, *order: str) -> dict[str, Any]:
        """Let the real agent make one test; return its result. Nobody acknowledges it: it stays in the spool."""
        document = {
            "probe_id": "p1",
            "site": {"id": "s1"},
            "broker": {"host": self.probe.core.address, "port": BROKER_PORT, "tls": None},
            "data_dir": str(self.folder / "agent"),
            "links": [{"name": "viettel", "interface": "eth0", "modem": None}],
            "jobs": [
                {
                    "name": "light",
                    "measurement": "throughput",
                    "every_s": 3600,
                    "options": {"duration_s": 1, "omit_s": 0, "streams": 1},
                }
            ],
            **({"responders": list(order)} if order else {}),
        }
        config = self.folder / "agent.yaml"
        config.write_text(json.dumps(document))  # JSON is YAML
        command = [sys.executable, "-P", "-m", "agent.cli", "once", "light", "--json", "--config", str(config)]
        process = self.probe.namespace.popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stderr is not None
        with process.stdout, process.stderr:
            line = process.stdout.readline()
            process.kill()
            assert line, process.stderr.read()
        process.wait(20)
        found: dict[str, Any] = json.loads(line)
        return found


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with Run() as run:
        core = build_core(run)
        core.namespace.sysctl(net__ipv4__ip_forward=1)
        probe = build_probe(core, "probe")
        far = build_probe(core, "far", uplink="cell")
        cell = far.attach_cell("eth0", down_mbps=100, up_mbps=100, rtt_ms=FAR_RTT_MS)
        made = World(probe, tmp_path)
        prefix = ("ip", "netns", "exec", core.namespace.name)
        with Mosquitto(tmp_path / "broker", port=BROKER_PORT, host=core.address, prefix=prefix):
            places = {"near": (core.namespace.name, core.address), "far": (far.namespace.name, cell.address)}
            for name, (namespace, address) in places.items():
                made.responders[name] = responder(
                    tmp_path / name,
                    BROKER_PORT,
                    ("ip", "netns", "exec", namespace),
                    responder_id=name,
                    broker={"host": core.address, "port": BROKER_PORT, "tls": None},
                    advertise_host=address,
                    bind_address=address,
                    ports={"first": 5201, "last": 5204},
                    irtt={"port": 2112},
                    group="all",
                )
                made.responders[name].start()
            with core.namespace.inside():
                asking = LabProbe("asking", BrokerSettings(host=core.address, port=BROKER_PORT, tls=None))
            try:
                for name, program in made.responders.items():
                    wait_until_serving(program, asking, name=name)
                yield made
            finally:
                asking.close()
                for program in made.responders.values():
                    program.kill()


def test_the_order_or_the_round_trip_chooses_and_when_one_is_killed_with_9_the_other_serves_and_is_recorded(
    world: World,
) -> None:
    def served(result: dict[str, Any]) -> str:
        assert result["outcome"]["kind"] == "throughput", result
        assert result["used"]["server"]["lease"]
        return str(result["used"]["server"]["responder"])

    assert served(world.test()) == "near", "without an order: the nearest"
    assert served(world.test("far", "near")) == "far", "the configured order"
    world.responders["far"].kill()
    assert served(world.test("far", "near")) == "near", "the other one takes over"
