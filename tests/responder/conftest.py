"""A broker, a pool of free ports, probes and responders; helpers are importable as `responder_helpers`."""

from __future__ import annotations

import json
import random
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode adds no folder by itself

from responder_helpers import Probe, Responder  # needs the line above

from lab.servers import Mosquitto, free_port  # as above

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def pool() -> tuple[int, int]:
    """Four ports in a row that nobody uses, below those the kernel hands out itself."""
    for _ in range(200):
        first = random.randrange(20000, 32000)
        try:
            for port in range(first, first + 4):
                with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
                    probe.bind(("::", port))
        except OSError:
            continue
        return first, first + 3
    pytest.fail("no four free ports in a row")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    users = {"responder": "r", "collector": "c", "probe-1": "one", "probe-2": "two"}
    with Mosquitto(tmp_path / "broker", users=users) as server:
        yield server


@pytest.fixture
def probe(broker: Mosquitto) -> Iterator[Callable[..., Probe]]:
    made: list[Probe] = []

    def make(name: str = "probe-1", password: str = "one") -> Probe:
        made.append(Probe(broker, name, password))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def responder(broker: Mosquitto, pool: tuple[int, int], tmp_path: Path) -> Iterator[Callable[..., Responder]]:
    started: list[Responder] = []
    credentials = tmp_path / "responder.credentials"
    credentials.write_text("responder:r\n")
    credentials.chmod(0o600)

    def start(**changes: object) -> Responder:
        settings: dict[str, object] = {
            "responder_id": "here",
            "broker": {
                "host": broker.host,
                "port": broker.port,
                "tls": None,
                "credentials_file": str(credentials),
            },
            "advertise_host": "127.0.0.1",
            "ports": {"first": pool[0], "last": pool[1]},
            "max_length_s": 60,
            "max_transfers": 4,
            "irtt": {"port": free_port(socket.SOCK_DGRAM)},
            "bind_address": "127.0.0.1",
        } | changes
        own = "responder" if settings["responder_id"] == "here" else str(settings["responder_id"])
        settings["status_file"] = str(tmp_path / f"{own}-status.json")
        config = tmp_path / f"{own}.yaml"
        config.write_text(json.dumps(settings))  # JSON is YAML
        started.append(Responder(config, tmp_path / f"responder-{len(started)}.log"))
        return started[-1]

    yield start
    for one in started:
        one.end()
