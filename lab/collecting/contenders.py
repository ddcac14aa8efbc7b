"""Who takes results from the broker into InfluxDB: the collector, and what else would."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from lab.collecting import node_red

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lab.servers import Influxd, Mosquitto

DATABASE: Final = "probefleet"


class Contender(Protocol):
    """One of them."""

    @property
    def name(self) -> str:
        """What people call it."""

    @property
    def promises(self) -> str:
        """What it owes to whoever sent a result."""

    def command(self, folder: Path, broker: Mosquitto, influxd: Influxd) -> list[str]:
        """Write what it reads into `folder`; return what starts it."""


class Ours(NamedTuple):
    """The collector as it is installed, with its journal on this machine's disk."""

    name: str = "probe-collector"
    promises: str = "on disk before it is acknowledged"

    def command(self, folder: Path, broker: Mosquitto, influxd: Influxd) -> list[str]:
        """Write collector.yaml (JSON is YAML)."""
        config = folder / "collector.yaml"
        document = {
            "broker": {"host": broker.host, "port": broker.port, "tls": None},
            "journal": {"path": str(folder / "journal.db")},
            "sink": {"kind": "influxdb1", "url": influxd.url, "database": DATABASE},
        }
        config.write_text(json.dumps(document))
        return [sys.executable, "-P", "-m", "collector.cli", "run", "--config", str(config)]


class Naive(NamedTuple):
    """lab.collecting.naive."""

    name: str = "paho script, 500 lines a request"
    promises: str = "nothing"

    def command(self, folder: Path, broker: Mosquitto, influxd: Influxd) -> list[str]:
        """Nothing to write."""
        del folder
        return [sys.executable, "-P", "-m", "lab.collecting.naive", "--port", str(broker.port), "--url", influxd.url]


class NodeRed(NamedTuple):
    """lab.collecting.node_red."""

    programs: Path
    joined: bool
    promises: str = "nothing"

    @property
    def name(self) -> str:
        """Which of the two flows."""
        return "Node-RED, joins of 500" if self.joined else "Node-RED, a request a message"

    def command(self, folder: Path, broker: Mosquitto, influxd: Influxd) -> list[str]:
        """Write the flow."""
        place = folder / "node-red"
        return node_red.prepare(
            self.programs, place, broker_port=broker.port, influxd_port=influxd.port, joined=self.joined
        )


@contextlib.contextmanager
def running(contender: Contender, folder: Path, broker: Mosquitto, influxd: Influxd) -> Iterator[int]:
    """Run it; the pid inside."""
    command = contender.command(folder, broker, influxd)
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder)
    try:
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
