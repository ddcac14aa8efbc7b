"""A probe far away: every round trip takes 600 ms. Real responder, broker, agent's own borrowing and transfers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from agent.bench import Bench
from agent.clock import SystemClock
from agent.lease import Wish
from agent.measurements import throughput
from agent.measurements.throughput import Terms
from agent.measurements.throughput_options import ThroughputOptions
from agent.path import look
from agent.settings import Link
from base.broker import BrokerSettings
from lab.cell.topology import CORE_ADDRESS, build_core, build_probe
from lab.lending.probes import LabProbe, responder, status_since
from lab.netns import Run
from lab.servers import Mosquitto

RTT_MS = 600
BROKER_PORT = 1883
LIGHT = msgspec.convert({"preset": "light", "duration_s": 0.5}, ThroughputOptions)


@pytest.mark.root
@pytest.mark.alone
def test_the_honest_client_of_a_slow_link_is_served_with_its_echoes_and_both_transfers(tmp_path: Path) -> None:
    with Run() as world:
        core = build_core(world)
        probe = build_probe(core, "far", uplink="cell")
        probe.attach_cell("wwan0", down_mbps=9, up_mbps=3, rtt_ms=RTT_MS)
        inside_core = ("ip", "netns", "exec", core.namespace.name)
        with Mosquitto(tmp_path / "broker", port=BROKER_PORT, host=CORE_ADDRESS, prefix=inside_core) as broker:
            lending = responder(
                tmp_path / "responder",
                broker.port,
                inside_core,
                broker={"host": CORE_ADDRESS, "port": BROKER_PORT, "tls": None},
                advertise_host=CORE_ADDRESS,
                ports={"first": 5201, "last": 5202},
                irtt={"port": 2112},
            )
            lending.start()
            try:
                command = ["ip", "netns", "exec", probe.namespace.name, sys.executable, "-P", __file__]
                done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False, cwd=Path.cwd())
                assert done.returncode == 0, done.stderr
                counts = status_since(lending, 0.0)["status"]["counts"]
            finally:
                lending.kill()
    assert counts.get("nobody_came", 0) == counts.get("strangers", 0) == counts.get("stuck_freed", 0) == 0
    assert done.stdout.split()[:2] == ["irtt", "yes"], done.stdout


def main() -> None:
    """Test once, as the agent does, and say with which tool the echoes were sent and whether there is an upload."""
    probe = LabProbe("far", BrokerSettings(host=CORE_ADDRESS, port=BROKER_PORT, tls=None))
    for _ in range(10):  # the responder may still be starting
        with probe.ask(Wish("far", transfers=0, length_s=1)) as next_answer:
            if next_answer(2.0) is not None:
                break
    path, clock = look("wwan0"), SystemClock()
    bench = Bench(Link(name="far", interface="wwan0", modem=None), (), clock, None, probe)  # type: ignore[arg-type]  # no modem
    borrowed = bench.borrow(transfers=2, length_s=60.0, window_s=60.0)
    terms = Terms(login=borrowed.login, irtt_port=borrowed.irtt_port, begin_within_s=bench.begin_within_s())
    measured = throughput.run(path, borrowed.plain(), LIGHT, terms)
    idle = measured.idle
    sys.stdout.write(f"{idle.tool if idle else 'none'} {'yes' if measured.upload else 'no'} {measured}\n")
    probe.close()


if __name__ == "__main__":
    main()
