"""Servers that the collector's tests share; its helpers are importable as `collector_helpers`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode adds no folder by itself

from collector_helpers import USERS  # needs the line above

from lab.servers import Influxd, Mosquitto, VictoriaMetrics  # as above

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """Run a broker for tests that leave it running."""
    with Mosquitto(tmp_path_factory.mktemp("mosquitto"), users=USERS) as server:
        yield server


@pytest.fixture(scope="session")
def influxd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Influxd]:
    """Run an InfluxDB 1.x for tests that leave it running; each uses a database of its own."""
    with Influxd(tmp_path_factory.mktemp("influxd")) as server:
        yield server


@pytest.fixture(scope="session")
def victoria(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VictoriaMetrics]:
    """Run a server with /api/v2/write."""
    with VictoriaMetrics(tmp_path_factory.mktemp("victoria")) as server:
        yield server
